// A scan that was looked at: what its file holds, its pictures, the settings, and what would be done with them.
import { html, useCallback, useState } from "./html.js";
import { jobPath, json, picture, submit, useAnswer, useRepeated } from "./service.js";
import { READING, sent, Settings, settings } from "./settings.js";
import { Still } from "./still.js";
import { Viewer } from "./viewer.js";

export function Look({ job, before }) {
  const facts = job.facts,
    load = useCallback((name) => picture(`${jobPath(job.id)}/layers/${encodeURIComponent(name)}`), [job.id]);
  const layers = useAnswer(() => (facts.readable ? json(`${jobPath(job.id)}/layers`) : []), [job.id]),
    [closer, setCloser] = useState(null);
  const found = layers.value ?? [],
    images = found.filter(({ name }) => name !== "positions");
  return html`<section class="card" aria-labelledby="look-title">
      <h1 id="look-title">${job.source}</h1>
      <p class=${facts.readable ? "verdict" : "verdict failed"}>${facts.verdict}</p>
      ${(facts.problems ?? []).map((text) => html`<p class="warning"><span aria-hidden="true">▲</span> ${text}</p>`)}
      ${facts.notes?.length > 0 && html`<details><summary>${facts.notes.length} notes on how it was read</summary><ul>${facts.notes.map((note) => html`<li>${note}</li>`)}</ul></details>`}
      <div class="stills">${found.map(
        ({ name }) => html`<${Still} key=${name} name=${name} load=${load} chosen=${closer === name}
        choose=${() => setCloser(closer === name ? null : name)} />`,
      )}</div>
      ${closer && html`<${Viewer} layers=${images} load=${load} first=${closer} key=${closer} tools=${false} label="Look" />`}
      ${
        facts.lines
          ? html`<details open><summary>What the file says</summary><dl class="facts">${Object.entries(facts.lines).map(
              ([name, text]) => html`<div><dt>${name}</dt><dd>${text}</dd></div>`,
            )}</dl></details>`
          : html`<${Unreadable} facts=${facts} />`
      }
    </section>
    <${Wishes} job=${job} before=${before} />`;
}

function Unreadable({ facts }) {
  return html`${facts.missing?.length > 0 && html`<p>Missing: ${facts.missing.join("; ")}.</p>`}
    ${
      facts.largest_arrays?.length > 0 &&
      html`<table><caption>Largest arrays in the file</caption>
      <thead><tr><th scope="col">name</th><th scope="col">shape</th></tr></thead>
      <tbody>${facts.largest_arrays.map(({ name, shape }) => html`<tr><td>${name}</td><td>${shape.join(" x ")}</td></tr>`)}</tbody></table>`
    }`;
}

function Wishes({ job, before }) {
  const readable = job.facts.readable,
    fields = useAnswer(settings, []).value;
  const models = useAnswer(() => json("v1/models"), []).value ?? [];
  const { model: earlier, ...wished } = { ...job.given, ...before?.given };
  const [given, setGiven] = useState(
    Object.fromEntries(
      Object.entries(wished)
        .filter(([name]) => name !== "evaluate")
        .map(([name, value]) => [name, value === true ? "yes" : value === false ? "no" : String(value ?? "none")]),
    ),
  );
  const [model, setModel] = useState((earlier ?? "").split("@")[0]),
    [plan, setPlan] = useState(null),
    [problem, setProblem] = useState(null);
  const newest = [
    ...new Map(
      models
        .filter(({ state }) => state === "good")
        .reverse()
        .map((each) => [each.name, each]),
    ).values(),
  ].reverse();
  const ask = (more) => submit({ job: job.id }, { ...more, ...sent(given), ...(model && { model }) });
  const go = (more) => async (event) => {
    event?.preventDefault();
    setProblem(null);
    try {
      location.hash = `#/job/${(await ask(more)).id}`;
    } catch (error) {
      setProblem(error);
    }
  };
  const propose = async () => {
    setProblem(null);
    try {
      setPlan(await ask({ until: "plan" }));
    } catch (error) {
      setProblem(error);
    }
  };
  useRepeated(
    async (wanted) => {
      if (!plan || !["queued", "running"].includes(plan.state)) return true;
      try {
        const now = await json(`${jobPath(plan.id)}?wait_s=1`);
        if (wanted()) setPlan(now);
      } catch (error) {
        if (wanted()) setProblem(error);
      }
      return true; // the new plan begins the next turn
    },
    200,
    [plan],
  );
  const deciding = plan && ["queued", "running"].includes(plan.state);
  return html`<form class="card" aria-label="Settings of the reconstruction" onSubmit=${go(readable ? { evaluate: true } : { until: "look" })}>
    ${
      readable &&
      html`<div class="row"><label for="way"><strong>Way</strong></label>
      <select id="way" value=${model} onChange=${(event) => setModel(event.target.value)}>
        <option value="">automatic: decided by the patterns</option>
        ${newest.map(({ name, N, version }) => html`<option value=${name}>network ${name} (${N} x ${N}, version ${version})</option>`)}</select>
      <button class="main">Reconstruct</button>
      ${!model && html`<button type="button" disabled=${deciding} onClick=${propose}>${deciding ? "Deciding by trials ..." : "Propose settings"}</button>`}
    </div>`
    }
    ${!readable && html`<div class="row"><p>Say how it is read, under "Reading the file", and look again.</p><button class="main">Look again</button></div>`}
    ${problem && html`<p class="failed" role="alert">${problem.message}</p>`}
    ${
      plan &&
      !model &&
      html`<div class="plan" aria-live="polite"><h2>Proposed plan</h2>
      <ol>${(plan.facts?.plan ?? []).map((text) => html`<li key=${text}>${text}</li>`)}</ol>
      ${deciding && html`<progress aria-label="Deciding by trials"></progress>`}
      ${plan.state === "failed" && html`<p class="failed" role="alert">${plan.problem.detail}</p>`}
      ${plan.state === "done" && html`<p class="quiet">${plan.facts.trials.length} trials. What was decided stands in the fields below; change what you know better.</p>`}</div>`
    }
    ${fields && html`<${Settings} ...${{ fields, given, setGiven, problem }} way=${model ? "model" : "automatic"} proposed=${model ? null : plan?.facts?.settings} open=${readable ? "" : READING} />`}
  </form>`;
}
