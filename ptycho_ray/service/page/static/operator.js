// For who runs the service: queue, replicas, throughput, failures. Needs the role admin where tokens are asked for.
import { html, useState } from "./html.js";
import { json, useRepeated } from "./service.js";
import { duration, figure, moment } from "./units.js";

const Table = ({ caption, heads, rows, none }) =>
  html`<section class="card"><h2>${caption}</h2>${
    rows.length
      ? html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}>
  <table class=${`wide ${heads.length > 3 ? "many" : ""}`}><thead><tr>${heads.map((head) => html`<th scope="col">${head}</th>`)}</tr></thead><tbody>${rows.map((row) => html`<tr>${row.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody></table></div>`
      : html`<p class="quiet">${none}</p>`
  }</section>`;

export function Operator() {
  const [now, setNow] = useState(null),
    [problem, setProblem] = useState(null);
  useRepeated(
    async (wanted) => {
      try {
        const found = await json("v1/overview");
        if (wanted()) {
          setNow(found);
          setProblem(null);
        }
      } catch (error) {
        if (wanted()) setProblem(error);
        return error.status === 403;
      }
    },
    2000,
    [],
  );
  if (!now)
    return html`<section class="card"><h1>Operator</h1>${problem ? html`<p class="failed" role="alert">${problem.message}</p>` : html`<p role="status">Asking ...</p>`}</section>`;
  const tiles = {
    ...Object.fromEntries(Object.entries(now.counts).map(([state, count]) => [state, count])),
    "open streams": now.open_streams,
    "free disk": `${figure(now.free_bytes / 2 ** 30, 3)} GiB`,
  };
  return html`<section class="card"><div class="row"><h1>Operator</h1><span class="quiet">ptycho_ray ${now.version}, every two seconds</span></div>
      ${problem && html`<p class="warning" role="alert">${problem.message}</p>`}
      <dl class="tiles">${Object.entries(tiles).map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`)}</dl></section>
    <div class="pair">
      <${Table} caption="Throughput" heads=${["in the last", "done", "failed", "patterns", "median wait", "median work"]} none=""
        rows=${Object.entries(now.throughput).map(([span, of]) => [span, of.done, of.failed, of.patterns, duration(of.median_wait_s) || "-", duration(of.median_work_s) || "-"])} />
      <${Table} caption="Replicas" heads=${["part", "state", "count"]} none="None are known."
        rows=${Object.entries(now.replicas).flatMap(([part, states]) => Object.entries(states).map(([state, count]) => [part, state.toLowerCase(), count]))} /></div>
    <${Table} caption="Queue" heads=${["scan", "of", "way", "stage", "done", "age", "left"]} none="Nothing waits and nothing runs."
      rows=${now.queue.map((job) => [html`<a href=${`#/job/${job.id}`}>${job.source}</a>`, job.owner, job.way, job.state === "queued" ? "queued" : job.stage, `${Math.round(100 * job.progress)} %`, duration(job.age_s), duration(job.eta_s)])} />
    <${Table} caption="Newest failures" heads=${["scan", "of", "when", "what"]} none="None among the newest thousand jobs."
      rows=${now.failures.map((job) => [html`<a href=${`#/job/${job.id}`}>${job.source}</a>`, job.owner, moment(job.finished), job.detail])} />`;
}
