// One job at its link, #/job/ID (with /KEY, if it was shared; with /from/ID, settings to begin with): waiting, running, or ended.
import { html, useCallback, useEffect, useMemo, useRef, useState } from "./html.js";
import { ask, jobPath, json, picture, useRepeated } from "./service.js";
import { Chart } from "./chart.js";
import { Look } from "./look.js";
import { Result } from "./result.js";
import { duration } from "./units.js";
import { Viewer } from "./viewer.js";

const active = (job) => ["queued", "running"].includes(job.state);

export function Job({ words: [id, ...more] }) {
  const share = more.length === 1 ? more[0] : undefined,
    from = more[0] === "from" ? more[1] : null;
  const [job, setJob] = useState(null),
    [error, setError] = useState(null),
    [before, setBefore] = useState(null);
  useRepeated(
    async (wanted) => {
      try {
        const now = await json(`${jobPath(id)}${job ? "?wait_s=1" : ""}`, { share });
        const earlier = from && now.model === "look" ? await json(jobPath(from)) : null;
        if (!wanted()) return true;
        if (earlier) setBefore(earlier);
        setError(null);
        setJob(now);
        return !active(now);
      } catch (problem) {
        if (wanted()) setError(problem);
        return ![0, 429, 502, 503, 504, undefined].includes(problem.status); // a service that is away comes back
      }
    },
    300,
    [id],
  );
  useEffect(() => {
    if (job) document.title = `${active(job) ? `${Math.round(100 * job.progress)} % ` : ""}${job.source} - ptycho_ray`;
  }, [job]);
  if (!job)
    return html`<section class="card"><h1>Scan</h1>${error ? html`<p class="failed" role="alert">${error.message}</p>` : html`<p role="status">Asking ...</p>`}</section>`;
  const trouble = error && html`<p class="warning" role="alert">${error.message} Trying again ...</p>`;
  if (active(job)) return html`${trouble}<${Running} job=${job} share=${share} />`;
  if (job.state === "failed") return html`<${Failed} job=${job} />`;
  if (job.state === "cancelled")
    return html`<section class="card"><h1>${job.source}</h1><p class="status">Cancelled.</p><${Again} job=${job} /></section>`;
  if (job.model === "look") return html`<${Look} job=${job} before=${before} />`;
  if (!job.links.npz)
    return html`<section class="card"><h1>${job.source}</h1><h2>Plan</h2><${Plan} job=${job} /><${Again} job=${job} /></section>`;
  return html`<${Result} job=${job} share=${share} />`;
}

const Plan = ({ job }) =>
  html`<ol class="plan" aria-label="What was found and decided">${(job.facts?.plan ?? []).map((line) => html`<li key=${line}>${line}</li>`)}</ol>`;
export const Again = ({ job }) => html`<a class="button" href=${`#/again/${job.id}`}>Run again with changes</a>`;

function Failed({ job }) {
  const { detail, hint, field, found, expected } = job.problem,
    rows = { field, found, expected };
  return html`<section class="card"><h1>${job.source}</h1>
    <div class="failure" role="alert"><h2>This reconstruction failed</h2><p>${detail}</p>${hint && !detail.includes(hint.replace(/\.$/, "")) && html`<p>${hint}</p>`}</div>
    <dl class="facts">${Object.entries(rows)
      .filter(([, value]) => value !== undefined && value !== null)
      .map(
        ([name, value]) =>
          html`<div><dt>${name}</dt><dd>${typeof value === "string" ? value : JSON.stringify(value)}</dd></div>`,
      )}</dl>
    <${Again} job=${job} /></section>`;
}

const STAGES = {
  waiting: "Waiting for its turn",
  reading: "Reading the scan",
  looking: "Looking at the scan",
  "waiting for workers": "Waiting for workers",
  "waiting for memory": "Waiting for memory",
  deciding: "Deciding by trials what is unknown",
  solving: "Solving",
  reconstructing: "Reconstructing",
  refining: "Refining",
  evaluating: "Comparing with the true object",
  writing: "Writing",
};

// Seconds to the end of the stage, by how fast it went since this page began to watch it.
function useRemaining({ stage, progress }) {
  const begun = useRef({});
  const now = Date.now() / 1000;
  if (begun.current.stage !== stage || progress < begun.current.progress) begun.current = { stage, progress, at: now };
  const done = progress - begun.current.progress;
  return done > 0.02 ? ((now - begun.current.at) / done) * (1 - progress) : null;
}

function Running({ job, share }) {
  const judged = job.facts?.held_out,
    [image, setImage] = useState(null),
    [problem, setProblem] = useState(null);
  useEffect(() => {
    // whenever those held out have judged it, there is a new image
    let wanted = true;
    if (judged?.length)
      picture(`${jobPath(job.id)}/preview`, { share }).then(
        (got) => wanted && got && setImage(got),
        () => {},
      );
    return () => {
      wanted = false;
    };
  }, [judged?.length]);
  const chart = useMemo(
    () =>
      judged?.length > 1 && {
        x: judged.map(([at]) => at),
        lines: [{ label: "R of unseen patterns", values: judged.map(([, value]) => value) }],
      },
    [judged?.length],
  );
  const load = useCallback(async () => image, [image]),
    layers = useMemo(() => [{ name: "image", group: "now" }], []);
  const stop = () => ask(jobPath(job.id), { method: "DELETE" }).catch(setProblem);
  const counted = job.progress > 0,
    seconds_left = useRemaining(job),
    left = seconds_left ? `, about ${duration(seconds_left)} left` : "";
  return html`<section class="card" aria-labelledby="running-title">
    <div class="row"><h1 id="running-title">${job.source}</h1><span class="push"></span><button type="button" onClick=${stop}>Cancel</button></div>
    <p class="status" role="status">${STAGES[job.stage] ?? job.stage}${counted ? `, ${Math.round(100 * job.progress)} %${left}` : " ..."}</p>
    ${job.facts?.waiting && html`<p class="quiet">${job.facts.waiting}</p>`}
    <progress aria-label="Progress" max="1" value=${counted ? job.progress : undefined}></progress>
    ${problem && html`<p class="failed" role="alert">${problem.message}</p>`}
    <div class="pair"><div><h2>What was found and decided</h2><${Plan} job=${job} /></div>
      ${chart && html`<div><h2>Patterns that take no part</h2><${Chart} ...${chart} xTitle="iteration" yTitle="R-factor" label="R-factor of unseen patterns" /></div>`}</div>
    ${image && html`<h2>The image ${image.name}</h2><${Viewer} layers=${layers} load=${load} tools=${false} label="Image in the making" />`}
  </section>`;
}
