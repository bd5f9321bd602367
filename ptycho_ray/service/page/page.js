// The page of the reconstruction service. Charts are Plotly's; this file gets data and puts it into them.

const element = (id) => document.getElementById(id);
const COLOURS = ["Greys", "Viridis", "Cividis", "RdBu", "Portland"];
const UNITS = [[1, "m"], [1e-3, "mm"], [1e-6, "µm"], [1e-9, "nm"], [1e-12, "pm"]];
const QUIET = { displaylogo: false, responsive: true };

let shown = null;      // the image on the page
let job = null;        // the job that runs
let cursor = null;     // pixel [row, column]
let watching = null;   // timer of the live view

// ---- talking to the service

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token ? { Authorization: `Bearer ${token}` } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) element("login").hidden = false;
  if (!answer.ok) {
    const text = await answer.text();
    let problem = { detail: `the service answered ${answer.status}` };
    try { problem = JSON.parse(text); } catch { /* a proxy's own words */ }
    throw new Error([problem.detail, problem.hint].filter(Boolean).join(" "));
  }
  return answer;
}

const json = async (path, options) => (await ask(path, options)).json();

function say(text, failed = false) {
  element("status").textContent = text;
  element("status").classList.toggle("failed", failed);
}

async function begin() {
  const models = (await json("v1/models")).filter((model) => model.state === "good");
  const newest = [...new Map(models.reverse().map((model) => [model.name, model])).values()].reverse();
  element("model").replaceChildren(new Option("automatic: decided by the patterns", ""), ...newest.map((model) => new Option(
    `network ${model.name} (${model.N} x ${model.N}, version ${model.version})`, model.name)));
  const demos = await json("v1/demos");
  element("demo").replaceChildren(new Option("no demo", ""),
    ...Object.entries(demos).map(([name, text]) => new Option(text, name)));
  element("login").hidden = true;
}

async function submit(file) {
  const choices = new URLSearchParams({ evaluate: "true" });
  if (element("model").value) choices.set("model", element("model").value);
  const headers = { Prefer: "respond-async", "Idempotency-Key": crypto.randomUUID?.() ?? String(Math.random()) };
  const demo = element("demo").value;
  if (!file && !demo) throw new Error("Choose a file or a demo first.");
  if (file) {
    headers["Content-Type"] = "application/octet-stream";
    headers["X-File-Name"] = file.name.replace(/[^\x20-\x7e]/g, "_");
  } else headers["Content-Type"] = "application/json";
  return json(`v1/reconstructions?${choices}`, { method: "POST", headers, body: file ?? JSON.stringify({ demo }) });
}

// What the automatic reconstruction has found and decided so far.
function showPlan(of) {
  const lines = of?.facts?.plan ?? [];
  element("plan").hidden = !lines.length;
  if (element("plan").childElementCount === lines.length) return;
  element("plan").replaceChildren(...lines.map((text) => {
    const line = document.createElement("li");
    line.textContent = text;
    return line;
  }));
}

async function reconstruct(file) {
  stopWatching();
  showPlan(null);
  element("go").disabled = true;
  element("progress").removeAttribute("value");
  try {
    say(file ? `Sending ${file.name} ...` : "Asking for the demo ...");
    job = await submit(file);
    element("stop").disabled = false;
    while (["queued", "running"].includes(job.state)) {
      element("progress").value = job.progress;
      const left = job.eta_s === undefined || job.eta_s === null ? "" : `, ${Math.ceil(job.eta_s)} s left`;
      say(job.stage === "deciding" ? "deciding by trials" : `${job.stage}, ${Math.round(100 * job.progress)} %${left}`);
      showPlan(job);
      job = await json(`v1/reconstructions/${job.id}?wait_s=0.5`);
    }
    if (job.state === "cancelled") return say("Cancelled.");
    if (job.state !== "done") throw new Error([job.problem.detail, job.problem.hint].filter(Boolean).join(" "));
    element("progress").value = 1;
    showPlan(job);
    const [image, probe] = await Promise.all(["raw", "probe"].map(result));
    show(image, job);
    showProbe(probe);
    say(`Done: ${job.facts.patterns} patterns, ${image.rows} x ${image.columns} pixels, ` +
        `${job.facts.seconds.all.toFixed(2)} s.`);
    element("result").focus();
  } catch (error) {
    say(error.message, true);
  } finally {
    element("go").disabled = false;
    element("stop").disabled = true;
    if (!element("progress").hasAttribute("value")) element("progress").value = 0;
  }
}

const result = async (output) =>
  unpack(await (await ask(`v1/reconstructions/${job.id}/result?output=${output}`)).arrayBuffer());

// The binary image: length of the header, header (JSON), pixels (complex64).
function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const pixels = new Float32Array(buffer, 4 + length);
  const [rows, columns] = header.shape;
  const amplitude = [], phase = [];
  for (let row = 0; row < rows; row++) {
    const a = new Float32Array(columns), p = new Float32Array(columns);
    for (let column = 0; column < columns; column++) {
      const at = 2 * (row * columns + column), re = pixels[at], im = pixels[at + 1];
      const outside = re === 0 && im === 0;
      a[column] = outside ? NaN : Math.hypot(re, im);
      p[column] = outside ? NaN : Math.atan2(im, re);
    }
    amplitude.push(a);
    phase.push(p);
  }
  return { ...header, rows, columns, amplitude, phase };
}

// ---- the image

// Limits that leave out the outermost half percent, often a hot border.
function range(values) {
  const all = values.flatMap((row) => Array.from(row.filter(Number.isFinite))).sort((a, b) => a - b);
  if (!all.length) return [0, 1];
  const at = (share) => all[Math.round(share * (all.length - 1))];
  return at(0.005) < at(0.995) ? [at(0.005), at(0.995)] : [at(0) - 0.5, at(0) + 0.5];
}

function scaleBar(image) {
  const size = image.pixel_size_m ? image.pixel_size_m * (image.step ?? 1) : null;
  const target = (image.columns / 5) * (size ?? 1);
  const power = 10 ** Math.floor(Math.log10(target));
  const length = [5, 2, 1].map((step) => step * power).find((candidate) => candidate <= target * 1.000001);
  const [unit, name] = size ? UNITS.find(([scale]) => length >= scale * 0.999) ?? UNITS.at(-1) : [1, "px"];
  const pixels = length / (size ?? 1), start = 0.05 * image.columns, row = 0.95 * image.rows;
  const parts = { shapes: [], annotations: [] };
  for (const axis of ["", "2"]) {
    for (const [width, color] of [[7, "black"], [4, "white"]]) {
      parts.shapes.push({ type: "line", xref: `x${axis}`, yref: `y${axis}`, x0: start, x1: start + pixels, y0: row,
                          y1: row, line: { color, width }, name: "bar" });
    }
    parts.annotations.push({ xref: `x${axis}`, yref: `y${axis}`, x: start + pixels / 2, y: row, yshift: 12,
      showarrow: false, text: `${+(length / unit).toPrecision(3)} ${name}`, font: { color: "white", size: 13 },
      bgcolor: "rgba(0,0,0,.6)" });
  }
  return parts;
}

function cross() {
  if (!cursor) return [];
  const [row, column] = cursor, line = { color: "#f0a000", width: 1 };
  return ["", "2"].flatMap((axis) => [
    { type: "line", xref: `x${axis}`, yref: `y${axis}`, x0: -0.5, x1: shown.columns - 0.5, y0: row, y1: row, line },
    { type: "line", xref: `x${axis}`, yref: `y${axis}`, y0: -0.5, y1: shown.rows - 0.5, x0: column, x1: column, line },
  ]);
}

function show(image, of) {
  shown = image;
  cursor = null;
  element("result").hidden = false;
  const traces = ["amplitude", "phase"].map((kind, number) => {
    const [zmin, zmax] = range(image[kind]);
    const axis = number ? "2" : "";
    return { type: "heatmap", name: kind, z: image[kind], zmin, zmax, xaxis: `x${axis}`, yaxis: `y${axis}`,
      colorscale: element(`${kind}-colours`).value, hovertemplate: "row %{y}, column %{x}: %{z:.4f}<extra></extra>",
      colorbar: { x: number ? 1.0 : 0.45, thickness: 12, title: { text: number ? "phase / rad" : "amplitude" } } };
  });
  const bar = scaleBar(image), plain = { showgrid: false, zeroline: false, showticklabels: false, ticks: "", constrain: "domain" };
  const layout = {
    margin: { l: 10, r: 70, t: 30, b: 10 }, dragmode: "zoom", uirevision: of?.id ?? "live", plot_bgcolor: "#d9d9d9",
    xaxis: { ...plain, domain: [0, 0.44] }, xaxis2: { ...plain, domain: [0.56, 1], matches: "x" },
    yaxis: { ...plain, autorange: "reversed", scaleanchor: "x" },
    yaxis2: { ...plain, autorange: "reversed", anchor: "x2", scaleanchor: "x2", matches: "y" },
    newshape: { line: { color: "#d00000", width: 2 } }, ...bar,
  };
  const buttons = { ...QUIET, modeBarButtonsToAdd: ["drawline", "eraseshape"], scrollZoom: true };
  Plotly.react("image", traces, layout, buttons);
  if (!element("image").dataset.ready) listen();
  element("readout").textContent = `Amplitude from ${range(image.amplitude).map((x) => x.toFixed(3)).join(" to ")}, ` +
    `phase from ${range(image.phase).map((x) => x.toFixed(3)).join(" to ")} rad (99 % of the pixels).`;
  showFacts(of);
  if (of) {
    const ends = [0.5 * image.rows, 0.1 * image.columns, 0.5 * image.rows, 0.9 * image.columns].map(Math.round);
    ["row0", "column0", "row1", "column1"].forEach((id, at) => { element(id).value = ends[at]; });
    showProfile();
  }
}

function moveCursor(row, column) {
  cursor = [Math.min(Math.max(row, 0), shown.rows - 1), Math.min(Math.max(column, 0), shown.columns - 1)];
  const [r, c] = cursor, value = (kind) => shown[kind][r][c];
  element("readout").textContent = Number.isFinite(value("amplitude"))
    ? `row ${r}, column ${c}: amplitude ${value("amplitude").toFixed(4)}, phase ${value("phase").toFixed(4)} rad`
    : `row ${r}, column ${c}: not measured`;
  const drawn = (element("image").layout.shapes ?? []).filter((shape) => shape.line.color === "#d00000");
  Plotly.relayout("image", { shapes: [...scaleBar(shown).shapes, ...cross(), ...drawn] });
}

function listen() {
  const image = element("image");
  image.dataset.ready = "yes";
  image.on("plotly_hover", ({ points: [point] }) => moveCursor(point.y, point.x));
  image.on("plotly_relayout", (change) => {
    const line = (change.shapes ?? []).findLast((shape) => shape.line?.color === "#d00000");
    if (line) {
      [["row0", "y0"], ["column0", "x0"], ["row1", "y1"], ["column1", "x1"]].forEach(([id, name]) => {
        element(id).value = (+line[name]).toFixed(1);
      });
      showProfile();
    }
  });
  image.addEventListener("keydown", (event) => {
    const far = event.shiftKey ? 10 : 1, steps = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far],
                                                   ArrowRight: [0, far] };
    if (steps[event.key]) {
      const [row, column] = cursor ?? [Math.floor(shown.rows / 2), Math.floor(shown.columns / 2)];
      moveCursor(row + steps[event.key][0], column + steps[event.key][1]);
    } else if (event.key === "+" || event.key === "-") zoom(event.key === "+" ? 0.5 : 2);
    else if (event.key === "Home") showWhole();
    else return;
    event.preventDefault();
  });
}

function zoom(factor) {
  const { xaxis, yaxis } = element("image").layout;
  const [row, column] = cursor ?? [shown.rows / 2, shown.columns / 2];
  const around = ([low, high], middle) => {
    const half = (factor * (high - low)) / 2;
    return [middle - half, middle + half];
  };
  Plotly.relayout("image", { "xaxis.range": around(xaxis.range, column), "yaxis.range": around(yaxis.range, row) });
}

const showWhole = () => Plotly.relayout("image", { "xaxis.autorange": true, "yaxis.autorange": "reversed" });

// ---- what stands beside the image

function showProfile() {
  const [row0, column0, row1, column1] = ["row0", "column0", "row1", "column1"].map((id) => +element(id).value);
  const length = Math.hypot(row1 - row0, column1 - column0), n = Math.max(2, Math.round(length) + 1);
  const size = shown.pixel_size_m ? shown.pixel_size_m * (shown.step ?? 1) : null;
  const [unit, name] = size ? UNITS.find(([scale]) => length * size >= scale) ?? UNITS.at(-1) : [1, "px"];
  const along = Array.from({ length: n }, (_, k) => k / (n - 1));
  const value = (kind) => along.map((t) => shown[kind][Math.round(row0 + t * (row1 - row0))]?.[
    Math.round(column0 + t * (column1 - column0))] ?? NaN);
  const x = along.map((t) => (t * length * (size ?? 1)) / unit);
  Plotly.react("profile", [
    { x, y: value("amplitude"), name: "amplitude", line: { color: "#0b5cad" } },
    { x, y: value("phase"), name: "phase / rad", yaxis: "y2", line: { color: "#b35900", dash: "dash" } },
  ], { margin: { l: 50, r: 50, t: 10, b: 40 }, xaxis: { title: { text: `distance / ${name}` } },
       yaxis: { title: { text: "amplitude" } }, yaxis2: { title: { text: "phase / rad" }, overlaying: "y", side: "right" },
       legend: { orientation: "h", y: 1.15 } }, QUIET);
}

function showProbe(probe) {
  element("illumination").hidden = false;
  Plotly.react("probe", [{ type: "heatmap", z: probe.amplitude.map((row) => row.map((x) => (Number.isFinite(x) ? x : 0))),
    colorscale: "Viridis", colorbar: { thickness: 12 } }],
    { margin: { l: 10, r: 10, t: 10, b: 10 }, xaxis: { visible: false },
      yaxis: { visible: false, autorange: "reversed", scaleanchor: "x" } }, QUIET);
}

function showFacts(of) {
  const facts = of?.facts ?? {}, found = facts.evaluation, judged = facts.figures;
  element("verdict").hidden = !facts.verdict;
  element("verdict").textContent = facts.verdict ?? "";
  element("verdict").classList.toggle("failed", facts.trusted === false);
  const rows = of ? { Way: of.model, Scan: of.source, Patterns: facts.patterns, "Pattern side": facts.N,
    Pixels: facts.shape?.join(" x "), "Pixel size / nm": facts.pixel_size_m ? (facts.pixel_size_m * 1e9).toPrecision(4) : "unknown",
    "Seconds": facts.seconds?.all } : { Patterns: shown.patterns };
  if (judged) {
    Object.assign(rows, { "R-factor of unseen patterns": judged.r_factor.toPrecision(3),
      "R-factor of a flat object": judged.r_factor_of_a_flat_object.toPrecision(3),
      "Times the photon noise": judged.times_noise?.toPrecision(3) ?? "unknown" });
  }
  if (found?.amplitude) {
    Object.assign(rows, { "Amplitude error (mean)": found.amplitude.mae.toPrecision(3),
      "Phase error (mean) / rad": found.phase.mae.toPrecision(3), "Amplitude SSIM": found.amplitude.ssim.toPrecision(3) });
  }
  element("facts").tBodies[0].replaceChildren(...Object.entries(rows).map(([name, value]) => {
    const row = document.createElement("tr"), head = document.createElement("th"), cell = document.createElement("td");
    head.scope = "row";
    head.textContent = name;
    cell.textContent = value ?? "";
    row.append(head, cell);
    return row;
  }));
  element("truth").hidden = !found?.frc;
  if (found?.frc) {
    const line = (y, name, more) => ({ x: found.frc.frequency, y, name, ...more });
    Plotly.react("frc", [line(found.frc.correlation, "correlation"),
      ...(found.frc.half_bit ? [line(found.frc.half_bit, "half-bit threshold", { line: { dash: "dot", color: "#555" } })] : [])],
      { margin: { l: 50, r: 10, t: 10, b: 40 }, xaxis: { title: { text: "spatial frequency / cycles per pixel" } },
        yaxis: { range: [-0.1, 1.05] }, legend: { orientation: "h", y: 1.15 } }, QUIET);
  }
  const forms = [["npz", "NPZ"], ["hdf5", "HDF5"], ["png", "PNG"], ["report", "report"], ["scan", "scan as refined"]];
  element("downloads").replaceChildren(...forms.filter(([output]) => of?.links[output]).map(
    ([output, name]) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Save ${name}`;
      button.addEventListener("click", () => save(of.id, output));
      return button;
    }));
}

async function save(id, output) {
  try {
    const blob = await (await ask(`v1/reconstructions/${id}/result?output=${output}`)).blob();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `reconstruction-${id.slice(0, 8)}.${{ hdf5: "h5", report: "html", scan: "scan.npz" }[output] ?? output}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) { say(error.message, true); }
}

// ---- the live view

async function listStreams() {
  const streams = await json("v1/streams");
  const before = element("stream").value;
  element("stream").replaceChildren(...(streams.length ? streams.map((one) => new Option(
    `${one.model}, ${one.patterns} patterns`, one.id)) : [new Option("none", "")]));
  if (streams.some((one) => one.id === before)) element("stream").value = before;
}

function watch() {
  if (watching) return stopWatching();
  element("watch").setAttribute("aria-pressed", "true");
  element("watch").textContent = "Stop watching";
  let last = null;
  const look = async () => {
    try {
      const id = element("stream").value;
      if (id) {
        const answer = await ask(`v1/streams/${id}/preview`);
        const tag = answer.headers.get("ETag");
        if (tag !== last) {
          last = tag;
          show(unpack(await answer.arrayBuffer()), null);
          say(`Live: ${shown.patterns} patterns.`);
        }
      }
    } catch (error) { say(error.message, true); }
    if (watching) watching = setTimeout(look, 700);
  };
  watching = setTimeout(look, 0);
}

function stopWatching() {
  clearTimeout(watching);
  watching = null;
  element("watch").setAttribute("aria-pressed", "false");
  element("watch").textContent = "Watch";
}

// ---- the controls

for (const [id, first] of [["amplitude-colours", "Greys"], ["phase-colours", "Viridis"]]) {
  element(id).replaceChildren(...COLOURS.map((name) => new Option(name, name, name === first, name === first)));
  element(id).addEventListener("change", () =>
    Plotly.restyle("image", { colorscale: element(id).value }, [id.startsWith("amplitude") ? 0 : 1]));
}
element("request").addEventListener("submit", (event) => {
  event.preventDefault();
  reconstruct(element("demo").value ? null : element("file").files[0]);
});
element("file").addEventListener("change", () => { element("demo").value = ""; });
element("stop").addEventListener("click", () => job && ask(`v1/reconstructions/${job.id}`, { method: "DELETE" }));
element("whole").addEventListener("click", showWhole);
element("draw").addEventListener("click", showProfile);
element("watch").addEventListener("click", watch);
element("stream").addEventListener("focus", () => listStreams().catch((error) => say(error.message, true)));
element("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", element("token").value);
  begin().catch((error) => say(error.message, true));
});
for (const kind of ["dragover", "dragleave", "drop"]) {
  element("drop").addEventListener(kind, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files.length) {
      element("demo").value = "";
      reconstruct(event.dataTransfer.files[0]);
    }
  });
}
begin().catch((error) => say(error.message, true));
listStreams().catch(() => {});
