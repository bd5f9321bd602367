// Talking to the service: JSON, pictures, files. What goes wrong is a Problem with the words of the service.
import { useEffect, useState } from "./html.js";

export class Problem extends Error {
  constructor(status, document) {
    super([document.detail, document.hint].filter(Boolean).join(" "));
    Object.assign(this, { status, field: document.field });
  }
}

// The page listens to this to ask for a token.
export const refused = new EventTarget();
export const setToken = (text) => sessionStorage.setItem("token", text);

export async function ask(path, { share, ...options } = {}) {
  const token = sessionStorage.getItem("token");
  const headers = {
    ...options.headers,
    ...(token && { Authorization: `Bearer ${token}` }),
    ...(share && { "X-Share-Key": share }),
  };
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  if (answer.status === 401) refused.dispatchEvent(new Event("token"));
  const text = await answer.text();
  let document = { detail: `The service answered ${answer.status}.` };
  try {
    document = JSON.parse(text);
  } catch {
    /* a proxy's own words */
  }
  throw new Problem(answer.status, document);
}

export const json = async (path, options) => {
  const answer = await ask(path, options);
  return answer.status === 204 ? null : answer.json();
};

export const jobPath = (id) => `v1/reconstructions/${id}`;

// A scan (a File, or what names one: {demo}, {path}, {job}) becomes a job; choices are settings by name.
export function submit(scan, choices = {}) {
  const headers = {
    Prefer: "respond-async",
    "Idempotency-Key": Array.from(crypto.getRandomValues(new Uint32Array(4))).join("-"),
  };
  if (scan instanceof File) {
    headers["Content-Type"] = "application/octet-stream";
    headers["X-File-Name"] = scan.name.replace(/[^\x20-\x7e]/g, "_");
    return json(`v1/reconstructions?${new URLSearchParams(choices)}`, { method: "POST", headers, body: scan });
  }
  headers["Content-Type"] = "application/json";
  return json("v1/reconstructions", { method: "POST", headers, body: JSON.stringify({ ...scan, ...choices }) });
}

// A picture as it is sent, null if there is none: length of the header, header (JSON), float32 pixels, of a complex one real and imaginary part in turn.
export async function picture(path, options) {
  const answer = await ask(path, options);
  if (answer.status === 204) return null;
  const buffer = await answer.arrayBuffer();
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const [rows, columns] = header.shape;
  return {
    step_px: [header.step ?? 1, header.step ?? 1],
    ...header,
    rows,
    columns,
    complex: header.dtype === "complex64",
    data: new Float32Array(buffer, 4 + length),
  };
}

export async function save(path, name, options) {
  const blob = await (await ask(path, options)).blob();
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// What a request gives: {value, error, busy}; it is sent again when one of the inputs changes. A late answer is forgotten.
export function useAnswer(request, inputs) {
  const [state, setState] = useState({ busy: true });
  useEffect(() => {
    let wanted = true;
    setState((before) => ({ ...before, busy: true, error: undefined }));
    Promise.resolve()
      .then(request)
      .then(
        (value) => wanted && setState({ value, busy: false }),
        (error) => wanted && setState({ error, busy: false }),
      );
    return () => {
      wanted = false;
    };
  }, inputs);
  return state;
}

// Called again and again, the next time so long after it has ended, until it returns true or the component goes.
export function useRepeated(action, pause_ms, inputs) {
  useEffect(() => {
    let timer,
      wanted = true;
    const turn = async () => {
      const over = await action(() => wanted);
      if (wanted && !over) timer = setTimeout(turn, pause_ms);
    };
    turn();
    return () => {
      wanted = false;
      clearTimeout(timer);
    };
  }, inputs);
}
