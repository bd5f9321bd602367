// Two results, #/compare/ID/ID: side by side with one view and cursor, under a swipe, or their difference. The service has
// fitted factor, ramp and shift of the second to the first.
import { html, useMemo, useState } from "./html.js";
import { jobPath, json, picture, useAnswer } from "./service.js";
import { colours, planeOf } from "./planes.js";
import { Correlation } from "./result.js";
import { WHOLE, zoomed } from "./pane.js";
import { figure, moment } from "./units.js";
import { Coloured, Readout } from "./viewer.js";

const WAYS = ["side by side", "swipe", "difference"];

export function Compare({ words: [first, second] }) {
  const jobs = useAnswer(() => Promise.all([first, second].map((id) => json(jobPath(id)))), [first, second]);
  const found = useAnswer(async () => {
    const base = `${jobPath(first)}/comparison/${second}`,
      facts = await json(base);
    const pictures = await Promise.all(facts.layers.map(({ name }) => picture(`${base}/${encodeURIComponent(name)}`)));
    return { facts, ...Object.fromEntries(facts.layers.map(({ name }, k) => [name, pictures[k]])) };
  }, [first, second]);
  const error = jobs.error ?? found.error;
  if (error) return html`<section class="card"><h1>Compare</h1><p class="failed" role="alert">${error.message}</p></section>`;
  if (!jobs.value || !found.value)
    return html`<section class="card"><h1>Compare</h1><p role="status">Aligning the two images ...</p></section>`;
  const { figures, frc } = found.value.facts,
    names = jobs.value.map((job, k) => `${"AB"[k]}: ${job.source}, ${job.model}`);
  const rows = {
    "Complex difference (NRMSE)": figure(figures.complex_nrmse, 3),
    "Amplitude, mean difference": figure(figures.amplitude_mae, 3),
    "Phase, mean difference": `${figure(figures.phase_mae, 3)} rad`,
    "SSIM of the amplitude": figure(figures.amplitude_ssim, 3),
    "SSIM of the phase": figure(figures.phase_ssim, 3),
    "Shift of B, fitted": `${figure(figures.shift_row_px, 2)}, ${figure(figures.shift_column_px, 2)} px`,
    "Pixels compared": figures.pixels,
  };
  return html`<section class="card" aria-labelledby="compare-title"><h1 id="compare-title">Compare</h1>
      <ul class="plain">${jobs.value.map((job, k) => html`<li><a href=${`#/job/${job.id}`}>${names[k]}</a> <span class="quiet">${moment(job.finished)}. ${job.facts.verdict ?? ""}</span></li>`)}</ul>
      <${Both} found=${found.value} names=${names} /></section>
    <div class="pair flow"><section class="card"><h2>Figures</h2><p class="quiet">B after factor, phase ramp and shift are fitted to A.</p>
      <dl class="facts">${Object.entries(rows).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></section>
      <${Correlation} frc=${frc} title="Fourier ring correlation of A and B" pixel=${found.value.first.pixel_size_m} />
      <${Given} jobs=${jobs.value} /></div>`;
}

function Given({ jobs }) {
  const names = [...new Set(jobs.flatMap((job) => Object.keys(job.given ?? {})))].filter((name) => name !== "evaluate");
  const word = (job, name) => (name in (job.given ?? {}) ? String(job.given[name] ?? "none") : "decided, or default");
  return html`<section class="card"><h2>Settings that were given</h2>${
    names.length
      ? html`<table><thead><tr><th scope="col">setting</th><th scope="col">A</th><th scope="col">B</th></tr></thead>
    <tbody>${names.map((name) => html`<tr><th scope="row">${name}</th>${jobs.map((job) => html`<td>${word(job, name)}</td>`)}</tr>`)}</tbody></table>`
      : html`<p class="quiet">None in either.</p>`
  }</section>`;
}

function Both({ found, names }) {
  const [way, setWay] = useState(WAYS[0]),
    [kind, setKind] = useState("phase"),
    [split, setSplit] = useState(0.5);
  const [view, setView] = useState(WHOLE),
    [cursor, setCursor] = useState(null),
    tables = useAnswer(colours, []).value;
  const planes = useMemo(() => [found.first, found.second].map((each) => planeOf(each, kind)), [found, kind]);
  const difference = useMemo(() => {
    const plane = planeOf(found[`${kind} difference`], "value"),
      most = Math.max(...plane.auto.map(Math.abs));
    return { ...plane, auto: [-most, most] };
  }, [found, kind]);
  if (!tables) return null;
  const range = [Math.min(...planes.map(({ auto }) => auto[0])), Math.max(...planes.map(({ auto }) => auto[1]))];
  const shared = { tables, view, setView, cursor, setCursor, line: null, setLine: () => {}, label: "Comparison" };
  const common = planes.map((plane) => ({ ...plane, auto: range }));
  return html`<div class="viewer">
    <div class="row tools" role="group" aria-label="How they are compared">
      ${WAYS.map((each) => html`<button type="button" aria-pressed=${way === each} onClick=${() => setWay(each)}>${each}</button>`)}
      <label>of the <select value=${kind} onChange=${(event) => setKind(event.target.value)}><option>phase</option><option>amplitude</option></select></label>
      <span class="push"></span>
      <span class="together"><button type="button" class="small" aria-label="Zoom in" onClick=${() => setView(zoomed(view, 1.5))}>+</button>
      <button type="button" class="small" aria-label="Zoom out" onClick=${() => setView(zoomed(view, 1 / 1.5))}>−</button>
      <button type="button" class="small" onClick=${() => setView(WHOLE)}>All</button></span></div>
    <div class="panes" data-count=${way === WAYS[0] ? 2 : 1}>
      ${way === WAYS[0] && common.map((plane, k) => html`<${Coloured} key=${`${k}${kind}`} plane=${plane} title=${`${names[k]}, ${kind}`} ...${shared} />`)}
      ${
        way === WAYS[1] &&
        html`<div><${Coloured} key=${kind} plane=${common[0]} other=${common[1]} split=${split} title=${`${kind}: A left, B right of the line`} ...${shared} />
        <label class="wide">Swipe <input class="wide" type="range" min="0" max="1" step="0.005" value=${split} aria-label="Share of the width that shows A"
          onInput=${(event) => setSplit(+event.target.value)} /></label></div>`
      }
      ${way === WAYS[2] && html`<${Coloured} key=${kind} plane=${difference} firstMap="coolwarm" title=${`${kind}: B minus A`} ...${shared} />`}</div>
    <${Readout} planes=${way === WAYS[2] ? [difference] : common} cursor=${cursor} picture=${found.first} /></div>`;
}
