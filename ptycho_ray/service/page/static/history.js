// The jobs of this token's name, the newest first; two results can be compared.
import { html, useState } from "./html.js";
import { ask, jobPath, json, useAnswer } from "./service.js";
import { duration, figure, moment } from "./units.js";

const seconds = (job) => (job.started && job.finished ? (new Date(job.finished) - new Date(job.started)) / 1000 : null);

export function History() {
  const [turn, setTurn] = useState(0),
    [looks, setLooks] = useState(false),
    [chosen, setChosen] = useState([]),
    [words, setWords] = useState(""),
    [problem, setProblem] = useState(null);
  const jobs = useAnswer(() => json("v1/reconstructions?limit=200"), [turn]);
  const shown = (jobs.value ?? []).filter(
    (job) =>
      (looks || job.model !== "look") && `${job.source} ${job.model} ${job.state}`.toLowerCase().includes(words.toLowerCase()),
  );
  const choose = (id) => setChosen(chosen.includes(id) ? chosen.filter((each) => each !== id) : [...chosen.slice(-1), id]);
  const remove = (job) => ask(jobPath(job.id), { method: "DELETE" }).then(() => setTurn(turn + 1), setProblem);
  return html`<section class="card" aria-labelledby="history-title">
    <div class="row"><h1 id="history-title">History</h1><span class="push"></span>
      <label>Find <input type="search" value=${words} onInput=${(event) => setWords(event.target.value)} /></label>
      <label><input type="checkbox" checked=${looks} onChange=${(event) => setLooks(event.target.checked)} /> with looks</label>
      <button type="button" class="small" onClick=${() => setTurn(turn + 1)}>Renew</button>
      <button type="button" class="main" disabled=${chosen.length !== 2} onClick=${() => {
        location.hash = `#/compare/${chosen.join("/")}`;
      }}>Compare two</button></div>
    ${(jobs.error ?? problem) && html`<p class="failed" role="alert">${(jobs.error ?? problem).message}</p>`}
    ${jobs.value && !shown.length && html`<p>Nothing yet. <a href="#/">Begin a scan</a>.</p>`}
    ${
      shown.length > 0 &&
      html`<div class="scroll" tabindex="0" role="region" aria-label="Jobs"><table class="wide many">
      <thead><tr><th scope="col"><span class="hidden">Choose</span></th><th scope="col">Scan</th><th scope="col">Way</th><th scope="col">State</th><th scope="col" class="number">R unseen</th>
        <th scope="col" class="number">Time</th><th scope="col">Begun</th><th scope="col"><span class="hidden">Do</span></th></tr></thead>
      <tbody>${shown.map(
        (job) => html`<tr key=${job.id}>
        <td>${job.links.npz && html`<input type="checkbox" aria-label=${`Choose ${job.source} of ${moment(job.created)}`} checked=${chosen.includes(job.id)} onChange=${() => choose(job.id)} />`}</td>
        <td><a href=${`#/job/${job.id}`}>${job.source}</a></td><td>${job.model}</td>
        <td><span class=${`state ${job.state}`}>${job.state}</span>${job.state === "running" ? ` ${Math.round(100 * job.progress)} %` : ""}
          ${job.facts?.trusted === false ? html` <span class="failed">not to be trusted</span>` : ""}</td>
        <td class="number">${job.facts?.figures ? figure(job.facts.figures.r_factor, 3) : ""}</td><td class="number">${duration(seconds(job))}</td><td>${moment(job.created)}</td>
        <td><button type="button" class="small" aria-label=${`${["queued", "running"].includes(job.state) ? "Cancel" : "Delete"} ${job.source} of ${moment(job.created)}`}
          onClick=${() => remove(job)}>${["queued", "running"].includes(job.state) ? "Cancel" : "Delete"}</button></td></tr>`,
      )}</tbody></table></div>`
    }
  </section>`;
}
