// Once more with changes: the scan of an earlier job is looked at again, read as it was then, with its settings filled in.
import { html, useEffect, useState } from "./html.js";
import { json, jobPath, submit } from "./service.js";
import { READING, settings } from "./settings.js";

export function Again({ words: [id] }) {
  const [error, setError] = useState(null);
  useEffect(() => {
    (async () => {
      const [{ given }, fields] = await Promise.all([json(jobPath(id)), settings()]);
      const reading = fields
        .filter(({ name, group }) => group === READING && name in given)
        .map(({ name }) => [name, given[name]]);
      const look = await submit({ job: id }, { until: "look", ...Object.fromEntries(reading) });
      location.replace(`#/job/${look.id}/from/${id}`);
    })().catch(setError);
  }, [id]);
  return html`<section class="card"><h1>Once more</h1>${error ? html`<p class="failed" role="alert">${error.message}</p>` : html`<p role="status">Looking at the scan ...</p>`}</section>`;
}
