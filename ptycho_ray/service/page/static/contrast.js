// Which colours values get: a table of colours, and the range between its ends, chosen on the histogram of the values.
import { html, useLayoutEffect, useMemo, useRef } from "./html.js";
import { histogram } from "./planes.js";
import { figure } from "./units.js";
import { useTheme } from "./appearance.js";

export function Contrast({ plane, tables, look, setLook, name }) {
  const { map, range } = look,
    hue = plane.kind === "hue";
  const counts = useMemo(() => histogram(plane), [plane]);
  const place = useRef(null),
    theme = useTheme();
  const [least, most] = plane.extent,
    step = (most - least) / 500;
  useLayoutEffect(() => {
    const canvas = place.current,
      context = canvas.getContext("2d"),
      { width, height } = canvas;
    const style = getComputedStyle(document.documentElement),
      top = Math.log1p(Math.max(...counts));
    context.clearRect(0, 0, width, height);
    counts.forEach((count, k) => {
      const value = least + ((k + 0.5) / counts.length) * (most - least),
        tall = (Math.log1p(count) / top) * (height - 8);
      context.fillStyle = style.getPropertyValue(value >= range[0] && value <= range[1] ? "--first" : "--line");
      context.fillRect((k / counts.length) * width, height - 8 - tall, width / counts.length - 0.5, tall);
    });
    const table = tables[hue ? "gray" : map].rgb;
    for (let x = 0; x < width; x++) {
      const share = Math.min(1, Math.max(0, (least + (x / width) * (most - least) - range[0]) / (range[1] - range[0])));
      const at = 3 * Math.round(255 * share);
      context.fillStyle = `rgb(${table[at]},${table[at + 1]},${table[at + 2]})`;
      context.fillRect(x, height - 6, 1, 6);
    }
  }, [counts, range, map, theme, tables]);
  const chosen = (end, value) => {
    const next = end ? [Math.min(range[0], value - step), value] : [value, Math.max(range[1], value + step)];
    setLook({ map, range: next, own: true });
  };
  const pick = (event) => {
    const kind = tables[event.target.value].kind,
      around = Math.max(...plane.auto.map(Math.abs));
    const fitting = look.own
      ? range
      : kind === "cyclic" && plane.unit === "rad"
        ? [-Math.PI, Math.PI]
        : kind === "diverging"
          ? [-around, around]
          : plane.auto;
    setLook({ ...look, map: event.target.value, range: fitting });
  };
  const kinds = [...new Set(Object.values(tables).map((table) => table.kind))];
  return html`<div class="contrast">
    <canvas ref=${place} width="384" height="44" aria-hidden="true"></canvas>
    ${[0, 1].map(
      (end) => html`<input type="range" min=${least} max=${most} step=${step} value=${range[end]}
      aria-label=${`${name}: ${end ? "upper" : "lower"} end of the colours`} aria-valuetext=${`${figure(range[end], 3)} ${plane.unit}`}
      onInput=${(event) => chosen(end, +event.target.value)} />`,
    )}
    <div class="row tight">
      ${
        !hue &&
        html`<label class="quiet-label">Colours
        <select value=${map} aria-label=${`${name}: colours`} onChange=${pick}>${kinds.map(
          (kind) => html`<optgroup label=${kind}>
          ${Object.keys(tables)
            .filter((key) => tables[key].kind === kind)
            .map((key) => html`<option value=${key}>${key}</option>`)}
        </optgroup>`,
        )}</select></label>`
      }
      <button type="button" class="small" aria-label=${`${name}: contrast of 99 % of the pixels`}
        onClick=${() => setLook({ ...look, range: plane.auto, own: false })}>Auto</button>
      <output class="numbers">${figure(range[0], 3)} to ${figure(range[1], 3)} ${plane.unit}</output>
    </div></div>`;
}
