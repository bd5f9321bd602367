// Pictures beside each other with one view, one cursor and one line: `layers` are {name, group}, `load(name, {ramp, unwrap})`
// gives the picture of one.
import { html, useEffect, useMemo, useState } from "./html.js";
import { useAnswer } from "./service.js";
import { along, colours, painted, planeOf, TITLES } from "./planes.js";
import { Chart } from "./chart.js";
import { Contrast } from "./contrast.js";
import { Pane, WHOLE, zoomed } from "./pane.js";
import { figure, length, unitOf } from "./units.js";

const FIRST_COLOURS = { amplitude: "gray", phase: "viridis", value: "viridis", log: "magma", hue: "gray" };
const SHOWN = {
  "amplitude and phase": ["amplitude", "phase"],
  amplitude: ["amplitude"],
  phase: ["phase"],
  "hue (complex)": ["hue"],
  "all three": ["amplitude", "phase", "hue"],
};

export function Viewer({ layers, load, first, tools = true, label = "Image" }) {
  const [name, setName] = useState(first ?? layers[0].name),
    [shown, setShown] = useState("amplitude and phase");
  const [flat, setFlat] = useState(false),
    [unwrap, setUnwrap] = useState(false),
    [logarithm, setLogarithm] = useState(null);
  const [view, setView] = useState(WHOLE),
    [cursor, setCursor] = useState(null),
    [line, setLine] = useState(null),
    [drawing, setDrawing] = useState(false);
  useEffect(() => {
    if (!layers.some((layer) => layer.name === name)) setName(layers[0].name);
  }, [layers]);
  const tables = useAnswer(colours, []).value;
  const got = useAnswer(async () => {
    const picture = await load(name, { ramp: !flat });
    const smooth = unwrap && picture.complex ? await load(name, { ramp: !flat, unwrap: true }) : null;
    return { name, picture, smooth };
  }, [name, flat, unwrap, load]);
  const planes = useMemo(() => {
    if (!got.value) return [];
    const { picture, smooth } = got.value;
    const kinds = picture.complex ? SHOWN[shown] : [(logarithm ?? picture.logarithmic) ? "log" : "value"];
    return kinds.map((kind) => planeOf(picture, kind, smooth));
  }, [got.value, shown, logarithm]);
  useEffect(() => {
    setLine(null);
    setCursor(null);
    setView(WHOLE);
  }, [got.value?.name]);
  if (got.error) return html`<p class="failed" role="alert">${got.error.message}</p>`;
  if (!planes.length || !tables)
    return html`<div class="viewer busy" aria-busy="true"><p role="status">Getting ${name} ...</p></div>`;
  const { picture } = got.value,
    groups = [...new Set(layers.map((layer) => layer.group))];
  return html`<div class="viewer" aria-busy=${got.busy}>
    <div class="row tools" role="group" aria-label=${`${label}: what is shown`}>
      ${
        layers.length > 1 &&
        html`<label>Layer <select aria-label="Layer" value=${name} onChange=${(event) => setName(event.target.value)}>
        ${groups.map(
          (group) =>
            html`<optgroup label=${group}>${layers
              .filter((layer) => layer.group === group)
              .map((layer) => html`<option value=${layer.name}>${layer.name}</option>`)}</optgroup>`,
        )}</select></label>`
      }
      ${
        picture.complex &&
        html`<label>Show <select aria-label="Show" value=${shown} onChange=${(event) => setShown(event.target.value)}>
        ${Object.keys(SHOWN).map((key) => html`<option>${key}</option>`)}</select></label>`
      }
      ${
        picture.complex &&
        tools &&
        html`<label><input type="checkbox" checked=${flat} onChange=${(event) => setFlat(event.target.checked)} /> remove ramp</label>
        <label><input type="checkbox" checked=${unwrap} onChange=${(event) => setUnwrap(event.target.checked)} /> unwrap phase</label>`
      }
      ${
        !picture.complex &&
        html`<label><input type="checkbox" checked=${logarithm ?? picture.logarithmic}
        onChange=${(event) => setLogarithm(event.target.checked)} /> logarithm</label>`
      }
      <span class="push"></span>
      <span class="together">${tools && html`<button type="button" class="small" aria-pressed=${drawing} onClick=${() => setDrawing(!drawing)}>Line</button>`}
      <button type="button" class="small" aria-label="Zoom in" onClick=${() => setView(zoomed(view, 1.5))}>+</button>
      <button type="button" class="small" aria-label="Zoom out" onClick=${() => setView(zoomed(view, 1 / 1.5))}>−</button>
      <button type="button" class="small" onClick=${() => setView(WHOLE)}>All</button></span>
    </div>
    <div class="panes" data-count=${planes.length}>
      ${planes.map(
        (
          plane,
        ) => html`<${Coloured} key=${plane.kind} ...${{ plane, tables, view, setView, cursor, setCursor, line, setLine, drawing }}
        title=${TITLES[plane.kind] || name} label=${label} />`,
      )}
    </div>
    <${Readout} planes=${planes} cursor=${cursor} picture=${picture} />
    ${tools && html`<${Profile} planes=${planes} line=${line} setLine=${setLine} picture=${picture} />`}
  </div>`;
}

// A pane with its colours; they stay as chosen while pictures of the same kind follow each other.
export function Coloured({ plane, tables, title, label, other, split, firstMap, ...shared }) {
  const [look, setLook] = useState({ map: firstMap ?? FIRST_COLOURS[plane.kind], range: plane.auto, own: false });
  const now = look.own ? look : { ...look, range: tables[look.map].kind === "linear" ? plane.auto : look.range };
  const key = `${now.map} ${now.range}`;
  const canvases = useMemo(
    () => [plane, other].filter(Boolean).map((each) => painted(each, tables[now.map], now.range)),
    [plane, other, key],
  );
  return html`<figure class="coloured">
    <figcaption>${title}${plane.unit && html` <span class="unit">/ ${plane.unit}</span>`}</figcaption>
    <${Pane} plane=${plane} canvases=${canvases} split=${split} ...${shared}
      label=${`${label}, ${title}. Arrow keys move the cursor, plus and minus zoom, Home shows all.`} />
    <${Contrast} plane=${plane} tables=${tables} look=${now} setLook=${setLook} name=${title} />
  </figure>`;
}

export function Readout({ planes, cursor, picture }) {
  const [row, column] = cursor ?? [];
  const place =
    cursor && picture.pixel_size_m
      ? ` (${length(row * picture.step_px[0] * picture.pixel_size_m)}, ${length(column * picture.step_px[1] * picture.pixel_size_m)})`
      : "";
  const values =
    cursor &&
    planes.map((plane) => {
      const value = plane.values[row * plane.columns + column];
      return `${(TITLES[plane.kind] || "value").split(" ")[0].toLowerCase()} ${Number.isFinite(value) ? `${figure(value)} ${plane.unit}`.trim() : "not measured"}`;
    });
  return html`<p class="readout" role="status">${
    cursor
      ? `row ${row}, column ${column}${place}: ${values.join(", ")}`
      : html`<span class="quiet">
    ${picture.rows} x ${picture.columns} pixels${picture.pixel_size_m ? ` of ${length(picture.pixel_size_m * picture.step_px[1])}` : ""}.
    Point at the image, or use its arrow keys.</span>`
  }</p>`;
}

function Profile({ planes, line, setLine, picture }) {
  const pixel = picture.pixel_size_m ? picture.pixel_size_m * picture.step_px[1] : null;
  const shown = planes.filter((plane) => plane.kind !== "hue");
  const ends =
    line ??
    [
      [picture.rows / 2, picture.columns * 0.1],
      [picture.rows / 2, picture.columns * 0.9],
    ].map((end) => end.map(Math.round));
  const chart = useMemo(() => {
    if (!line || !shown.length) return null;
    const far = Math.hypot(line[1][0] - line[0][0], line[1][1] - line[0][1]);
    const [scale, unit] = pixel ? unitOf(far * pixel || pixel) : [1, "px"];
    const lines = shown.map((plane, k) => ({
      label: (TITLES[plane.kind] || "value") + (plane.unit ? ` / ${plane.unit}` : ""),
      values: along(plane, line),
      axis: k ? "y2" : "y",
      dash: k ? [6, 4] : undefined,
    }));
    const n = lines[0].values.length;
    return {
      lines,
      x: Array.from({ length: n }, (_, k) => ((k / (n - 1)) * far * (pixel ?? 1)) / scale),
      xTitle: `distance / ${unit}`,
    };
  }, [line, planes]);
  const change = (end, axis) => (event) => {
    const next = ends.map((each) => [...each]);
    next[end][axis] = +event.target.value;
    setLine(next);
  };
  return html`<details class="profile" open=${Boolean(line)}><summary>Line profile</summary>
    <p class="quiet">Draw a line (the button Line, or Shift and drag), or give its ends in pixels.</p>
    <div class="row tight">${[0, 1].map((end) =>
      ["row", "column"].map(
        (word, axis) => html`<label>${end ? "to" : "from"} ${word}
      <input type="number" step="any" value=${ends[end][axis]} onChange=${change(end, axis)} /></label>`,
      ),
    )}
      <button type="button" class="small" onClick=${() => setLine(ends)}>Show</button></div>
    ${chart && html`<${Chart} ...${chart} yTitle=${chart.lines[0].label} y2Title=${chart.lines[1]?.label} label="Line profile" />`}
  </details>`;
}
