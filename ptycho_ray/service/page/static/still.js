// A small picture that only shows: a layer of a look, or positions as dots in the order they were measured.
import { html, useLayoutEffect, useMemo, useRef, useState } from "./html.js";
import { useAnswer } from "./service.js";
import { colours, painted, planeOf } from "./planes.js";
import { useTheme } from "./appearance.js";
import { figure, length } from "./units.js";
import { Pane, WHOLE } from "./pane.js";

const kindOf = (picture, name) =>
  picture.complex ? (name.startsWith("direct") ? "phase" : "hue") : picture.logarithmic ? "log" : "value";
const nothing = () => {};

export function Still({ name, load, choose, chosen }) {
  const tables = useAnswer(colours, []).value,
    got = useAnswer(() => load(name, {}), [name, load]);
  const plane = useMemo(
    () => (got.value && name !== "positions" ? planeOf(got.value, kindOf(got.value, name)) : null),
    [got.value],
  );
  const canvases = useMemo(
    () =>
      plane && tables
        ? [painted(plane, tables[plane.kind === "log" ? "magma" : plane.unit === "rad" ? "viridis" : "gray"], plane.auto)]
        : [],
    [plane, tables],
  );
  const size = got.value && (name === "positions" ? `${got.value.rows}` : `${got.value.rows} x ${got.value.columns}`);
  const range =
    plane && plane.kind !== "hue" && plane.kind !== "log"
      ? `${figure(plane.auto[0], 3)} to ${figure(plane.auto[1], 3)} ${plane.unit}`
      : "";
  return html`<figure class="still">
    <figcaption><strong>${name}</strong></figcaption>
    ${
      got.error
        ? html`<p class="failed">${got.error.message}</p>`
        : !got.value || !tables
          ? html`<div class="pane busy"></div>`
          : name === "positions"
            ? html`<${Positions} picture=${got.value} />`
            : html`<div inert><${Pane} plane=${plane} canvases=${canvases} view=${WHOLE} setView=${nothing} setCursor=${nothing} setLine=${nothing} label=${name} /></div>`
    }
    <p class="quiet">${name === "positions" ? "" : [size, range].filter(Boolean).join(", ")}</p>
    ${choose && name !== "positions" && html`<button type="button" class="small" aria-pressed=${chosen} aria-label=${`Look closer at ${name}`} onClick=${choose}>Closer</button>`}
  </figure>`;
}

function Positions({ picture }) {
  const place = useRef(null),
    theme = useTheme(),
    [size, setSize] = useState([0, 0]);
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([{ contentRect }]) => setSize([contentRect.width, contentRect.height]));
    watch.observe(place.current);
    return () => watch.disconnect();
  }, []);
  const extent = useMemo(() => {
    const ends = [
      [Infinity, -Infinity],
      [Infinity, -Infinity],
    ];
    for (let k = 0; k < picture.rows; k++)
      for (const axis of [0, 1]) {
        ends[axis] = [Math.min(ends[axis][0], picture.data[2 * k + axis]), Math.max(ends[axis][1], picture.data[2 * k + axis])];
      }
    return ends;
  }, [picture]);
  useLayoutEffect(() => {
    const [width, height] = size,
      ratio = devicePixelRatio || 1;
    if (!width) return;
    place.current.width = width * ratio;
    place.current.height = height * ratio;
    const context = place.current.getContext("2d"),
      [[top, bottom], [left, right]] = extent;
    context.scale(ratio, ratio);
    const scale = Math.min((width - 16) / (right - left || 1), (height - 16) / (bottom - top || 1));
    const radius = Math.min(3, Math.max(0.7, 60 / Math.sqrt(picture.rows) / 2));
    for (let k = 0; k < picture.rows; k++) {
      context.fillStyle = `hsl(${220 - (190 * k) / picture.rows} 80% ${theme === "dark" ? 62 : 42}%)`;
      context.beginPath();
      context.arc(
        width / 2 + (picture.data[2 * k + 1] - (left + right) / 2) * scale,
        height / 2 + (picture.data[2 * k] - (top + bottom) / 2) * scale,
        radius,
        0,
        7,
      );
      context.fill();
    }
  }, [size, extent, theme]);
  const text = extent
    .map(([low, high]) =>
      picture.pixel_size_m ? length((high - low) * picture.pixel_size_m, 3) : `${figure(high - low, 3)} px`,
    )
    .join(" x ");
  return html`<canvas ref=${place} class="pane plain" role="img" aria-label=${`${picture.rows} positions over ${text}, the first blue, the last orange`}></canvas>
    <p class="quiet">${text}; the first blue, the last orange</p>`;
}
