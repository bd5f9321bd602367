// The first place: a scan is dropped, chosen, or named; it is looked at before anything runs.
import { html, useEffect, useRef, useState } from "./html.js";
import { json, submit, useAnswer } from "./service.js";

export function Upload() {
  const [status, setStatus] = useState({ text: "" }),
    [over, setOver] = useState(false),
    file = useRef(null),
    path = useRef(null);
  const demos = useAnswer(() => json("v1/demos"), []).value ?? {};
  const look = async (scan, name) => {
    setStatus({ text: `Sending ${name} ...`, busy: true });
    try {
      const job = await submit(scan, { until: "look" });
      location.hash = `#/job/${job.id}`;
    } catch (error) {
      setStatus({ text: error.message, failed: true });
    }
  };
  useEffect(() => {
    // wherever on the page it is dropped
    const drag = (event) => {
      event.preventDefault();
      setOver(event.type === "dragover");
    };
    const drop = (event) => {
      drag(event);
      const dropped = event.dataTransfer.files[0];
      if (dropped) look(dropped, dropped.name);
    };
    const listeners = [
      ["dragover", drag],
      ["dragleave", drag],
      ["drop", drop],
    ];
    listeners.forEach(([kind, what]) => addEventListener(kind, what));
    return () => listeners.forEach(([kind, what]) => removeEventListener(kind, what));
  }, []);
  return html`<section class="card upload" aria-labelledby="new-title">
    <h1 id="new-title">Reconstruct a scan</h1>
    <p>The file is looked at first. What it holds, what is odd about it and what would be done come before anything runs.</p>
    <div class=${`drop ${over ? "over" : ""}`}>
      <svg viewBox="0 0 48 48" width="56" height="56" aria-hidden="true"><path d="M24 34V10m0 0-9 9m9-9 9 9M8 32v8h32v-8"
        fill="none" stroke="currentColor" stroke-width="3" stroke-linecap="round" stroke-linejoin="round" /></svg>
      <label for="file">Drop a scan here, or choose a file</label>
      <input id="file" ref=${file} type="file" onChange=${() => file.current.files[0] && look(file.current.files[0], file.current.files[0].name)} />
      <p class="quiet">NPZ, HDF5, CXI, NeXus, EMD, MAT, TIFF and others; also compressed.</p>
    </div>
    <p class=${status.failed ? "failed" : "status"} role=${status.failed ? "alert" : "status"}>${status.text}</p>
    <div class="ways">
      <form onSubmit=${(event) => {
        event.preventDefault();
        look({ path: path.current.value }, path.current.value);
      }}>
        <h2>A file of the service</h2>
        <label for="path">Absolute path, in a folder that the service may read</label>
        <div class="row tight"><input id="path" ref=${path} class="wide" placeholder="/data/2026/scan_0042.h5" required /><button>Look</button></div>
      </form>
      <div><h2>A demo</h2>
        <ul class="plain demos">${Object.entries(demos).map(
          ([name, text]) => html`<li>
          <button type="button" disabled=${status.busy} onClick=${() => look({ demo: name }, text)}>${text}</button></li>`,
        )}</ul></div>
    </div>
  </section>`;
}
