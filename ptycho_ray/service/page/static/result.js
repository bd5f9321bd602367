// A finished reconstruction: verdict, pictures, figures, files, and what can be done next.
import { html, useCallback, useMemo, useState } from "./html.js";
import { jobPath, json, picture, save, useAnswer } from "./service.js";
import { Chart } from "./chart.js";
import { Again } from "./job.js";
import { duration, figure, length, moment } from "./units.js";
import { Viewer } from "./viewer.js";

const FILES = {
  hdf5: ["HDF5 product", "h5"],
  cxi: ["CXI", "cxi"],
  npz: ["NPZ", "npz"],
  tiff: ["TIFF, 32 bit", "tif"],
  png: ["PNG", "png"],
  report: ["Report", "html"],
  scan: ["Scan as refined", "scan.npz"],
};

export function Result({ job, share }) {
  const { facts } = job;
  const load = useCallback(
    (name, { ramp = true, unwrap = false }) =>
      picture(`${jobPath(job.id)}/layers/${encodeURIComponent(name)}?ramp=${ramp}&unwrap=${unwrap}`, { share }),
    [job.id],
  );
  const layers = useAnswer(() => json(`${jobPath(job.id)}/layers`, { share }), [job.id]);
  const shown = useMemo(() => (layers.value ?? []).filter(({ name }) => name !== "positions"), [layers.value]);
  return html`<section class="card" aria-labelledby="result-title">
      <div class="row"><h1 id="result-title">${job.source}</h1><span class="quiet">${job.model}, ${moment(job.finished)}</span></div>
      ${facts.verdict && html`<p class=${facts.trusted === false ? "verdict failed" : "verdict"}>${facts.verdict}</p>`}
      ${facts.uncertainty && html`<p class="verdict">${facts.uncertainty.sentence}</p>`}
      ${layers.error ? html`<p class="failed" role="alert">${layers.error.message}</p>` : shown.length > 0 && html`<${Viewer} layers=${shown} load=${load} label="Image" />`}
    </section>
    <div class="pair flow">
      <section class="card"><h2>Files</h2><${Files} job=${job} share=${share} /></section>
      <section class="card"><h2>Next</h2><div class="row"><${Again} job=${job} /><${Share} job=${job} share=${share} /></div>
        <${Beside} job=${job} /></section>
      ${facts.held_out?.length > 1 && html`<section class="card"><h2>Patterns that took no part</h2><${HeldOut} judged=${facts.held_out} /></section>`}
      <${Correlation} facts=${facts} pixel=${facts.pixel_size_m} />
      <section class="card"><h2>Figures</h2><${Figures} job=${job} /></section>
      ${facts.plan?.length > 0 && html`<section class="card"><h2>What was found and decided</h2><ol>${facts.plan.map((line) => html`<li>${line}</li>`)}</ol></section>`}
    </div>`;
}

function HeldOut({ judged }) {
  const chart = useMemo(
    () => ({
      x: judged.map(([at]) => at),
      lines: [{ label: "R of unseen patterns", values: judged.map(([, value]) => value) }],
    }),
    [judged],
  );
  return html`<${Chart} ...${chart} xTitle="iteration" yTitle="R-factor" label="R-factor of unseen patterns" />`;
}

function Files({ job, share }) {
  const [problem, setProblem] = useState(null);
  const get = (form) =>
    save(
      `${jobPath(job.id)}/result?output=${form}`,
      `${job.source.replace(/\.[^.]*$/, "")}-${job.id.slice(0, 6)}.${FILES[form][1]}`,
      { share },
    ).then(() => setProblem(null), setProblem);
  return html`<div class="row">${Object.keys(FILES)
    .filter((form) => job.links[form])
    .map((form) => html`<button type="button" onClick=${() => get(form)}>${FILES[form][0]}</button>`)}</div>
    ${problem && html`<p class="failed" role="alert">${problem.message}</p>`}`;
}

function Share({ job, share }) {
  const [text, setText] = useState("");
  if (share) return null;
  const make = async () => {
    try {
      const { key } = await json(`${jobPath(job.id)}/share`, { method: "POST" });
      const link = `${location.href.split("#")[0]}#/job/${job.id}/${key}`;
      await navigator.clipboard?.writeText(link).catch(() => {});
      setText(link);
    } catch (error) {
      setText(error.message);
    }
  };
  return html`<button type="button" onClick=${make}>Share by link</button>
    ${
      text &&
      html`<label class="wide">Who may use this service can look at this job with it:
      <input class="wide" readonly value=${text} onFocus=${(event) => event.target.select()} /></label>`
    }`;
}

function Beside({ job }) {
  const jobs = useAnswer(() => json("v1/reconstructions?limit=100"), [job.id]).value ?? [];
  const others = jobs.filter((each) => each.id !== job.id && each.links.npz),
    [other, setOther] = useState("");
  return html`<form class="row" onSubmit=${(event) => {
    event.preventDefault();
    location.hash = `#/compare/${job.id}/${other || others[0].id}`;
  }}>
    <label for="beside">Compare with</label>
    <select id="beside" class="shrink" disabled=${!others.length} value=${other || others[0]?.id} onChange=${(event) => setOther(event.target.value)}>
      ${others.length ? others.map((each) => html`<option value=${each.id}>${each.source}, ${each.model}, ${moment(each.finished)}</option>`) : html`<option>no other result yet</option>`}</select>
    <button disabled=${!others.length}>Compare</button></form>`;
}

export function Correlation({ facts, frc: given, title, pixel }) {
  const [frc, name] = given
    ? [given, title]
    : facts.evaluation?.frc
      ? [facts.evaluation.frc, "Fourier ring correlation with the object in the file"]
      : facts.uncertainty?.half_data?.frequency
        ? [facts.uncertainty.half_data, "Fourier ring correlation of two halves of the data"]
        : [];
  const chart = useMemo(
    () =>
      frc && {
        x: frc.frequency.map((each) => (pixel ? each / (pixel * 1e9) : each)),
        lines: [
          { label: "correlation", values: frc.correlation },
          ...(frc.half_bit
            ? [{ label: "half-bit threshold", values: frc.half_bit.map((each) => Math.min(each, 1.05)), dash: [4, 4] }]
            : []),
        ],
      },
    [frc],
  );
  if (!frc) return null;
  const fine = frc.frc_half_bit_resolution_px;
  return html`<section class="card"><h2>${name}</h2>
    <${Chart} ...${chart} range=${[Math.min(-0.1, ...frc.correlation), 1.05]} xTitle=${pixel ? "spatial frequency / 1/nm" : "spatial frequency / cycles a pixel"} yTitle="correlation" label=${name} />
    ${fine && html`<p class="quiet">Above the half-bit threshold down to half periods of ${pixel ? length(fine * pixel, 3) : `${figure(fine, 3)} px`}.</p>`}</section>`;
}

function Figures({ job }) {
  const { facts } = job,
    judged = facts.figures,
    found = facts.evaluation,
    bars = facts.uncertainty;
  const rows = {
    Way: job.model,
    Patterns: facts.patterns,
    "Side of a pattern": `${facts.N} px`,
    Image: `${facts.shape?.join(" x ")} px`,
    "Object pixel": facts.pixel_size_m ? length(facts.pixel_size_m) : "unknown",
    Time: duration(facts.seconds?.all),
  };
  if (judged) {
    Object.assign(rows, {
      "R-factor of unseen patterns": figure(judged.r_factor, 3),
      "of a flat object": figure(judged.r_factor_of_a_flat_object, 3),
      "of photon noise alone": figure(judged.r_factor_of_noise, 3),
      "Times the noise": figure(judged.times_noise, 3),
    });
  }
  if (bars)
    Object.assign(rows, {
      "Deviation of the amplitude (median)": figure(bars.amplitude_std_median, 2),
      "Deviation of the phase (median)": `${figure(bars.phase_std_rad_median, 2)} rad`,
    });
  if (found?.amplitude) {
    Object.assign(rows, {
      "Amplitude, difference to the object in the file (mean)": figure(found.amplitude.mae, 3),
      "Phase, the same": `${figure(found.phase.mae, 3)} rad`,
      "SSIM of the amplitude": figure(found.amplitude.ssim, 3),
    });
  }
  for (const [name, value] of Object.entries(job.given ?? {}))
    if (name !== "evaluate") rows[`Given: ${name}`] = String(value ?? "none");
  return html`<dl class="facts">${Object.entries(rows).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value ?? ""}</dd></div>`)}</dl>
    ${(facts.notes ?? []).map((note) => html`<p class="quiet">${note}</p>`)}`;
}
