// A scan while it is measured: the live image of an open stream.
import { html, useCallback, useMemo, useState } from "./html.js";
import { json, picture, useRepeated } from "./service.js";
import { Viewer } from "./viewer.js";

export function Live() {
  const [streams, setStreams] = useState([]),
    [chosen, setChosen] = useState(""),
    [image, setImage] = useState(null),
    [problem, setProblem] = useState(null);
  useRepeated(
    async (wanted) => {
      try {
        const open = await json("v1/streams");
        if (!wanted()) return;
        setStreams(open);
        const id = open.some((stream) => stream.id === chosen) ? chosen : open[0]?.id;
        const got = id
          ? await picture(`v1/streams/${id}/preview`).catch((error) => {
              if (error.status === 404) return null;
              throw error;
            })
          : null;
        if (wanted() && (got || !id)) setImage(got);
        if (wanted()) setProblem(null);
      } catch (error) {
        if (wanted()) setProblem(error);
      }
    },
    700,
    [chosen],
  );
  const load = useCallback(async () => image, [image]),
    layers = useMemo(() => [{ name: "live image", group: "now" }], []);
  return html`<section class="card" aria-labelledby="live-title"><h1 id="live-title">Live</h1>
    <div class="row"><label for="stream">Scan that is being measured</label>
      <select id="stream" value=${chosen} disabled=${!streams.length} onChange=${(event) => setChosen(event.target.value)}>
        ${streams.length ? streams.map((one) => html`<option value=${one.id}>${one.model}, ${one.patterns} patterns</option>`) : html`<option value="">none is open</option>`}</select>
      <span role="status">${image ? `${image.patterns} patterns` : ""}</span></div>
    ${problem && html`<p class="failed" role="alert">${problem.message}</p>`}
    ${
      image
        ? html`<${Viewer} layers=${layers} load=${load} label="Live image" />`
        : html`<p class="quiet">The image appears here as soon as somebody streams: <code>ptycho-ray watch</code>, or <code>client.stream()</code> in Python.</p>`
    }
  </section>`;
}
