// A form made from the schema of a request: meaning, unit and default of every setting. What is left empty is not sent.
import { html, useState } from "./html.js";
import { json } from "./service.js";

export const READING = "Reading the file";
const SOLVER = "refinement.",
  NOT_SHOWN = ["model", "output", "until", "path", "job", "again", "refined", "demo"];
const UNITS = {
  px: "px",
  px2: "px²",
  m: "m",
  eV: "eV",
  kV: "kV",
  nm: "nm",
  mrad: "mrad",
  angstrom: "Å",
  s: "s",
  GB: "GB",
  slices: "slices",
  fraction: "share",
};
const PARTS = [
  ["Probe", /^(probe|eigenmode|centre|hold_probe)/],
  ["Positions", /^position/],
  ["Intensities and background", /^(intensity|background)/],
  ["Thick samples, near field", /^(slice|thickness|tilt|depth|near_field)/],
  ["Computation", /^(batch|precision|memory|patience|check_every|held_out)/],
  ["Object and method", /./],
];

let schema;
export const settings = async () => {
  schema ??= json("openapi.json").then((document) => {
    const body = document.paths["/v1/reconstructions"].post.requestBody.content["application/json"].schema;
    return Object.entries(body.properties)
      .filter(([name]) => !NOT_SHOWN.includes(name))
      .map(([name, field]) => described(name, field));
  });
  return schema;
};

function described(name, field) {
  const kinds = field.anyOf ?? [field],
    real = kinds.filter(({ type }) => type !== "null");
  const own = name.replace(SOLVER, ""),
    unit = UNITS[own.split("_").at(-1)];
  const options = real.flatMap((kind) => kind.enum ?? (kind.const ? [kind.const] : []));
  const solver = name.startsWith(SOLVER);
  return {
    name,
    unit,
    nullable: real.length < kinds.length,
    only: field.only,
    options,
    kind: options.length ? "choice" : real[0].type,
    group: solver ? PARTS.find(([, pattern]) => pattern.test(own))[0] : (field.group ?? "Reconstruction"),
    title: (unit ? own.slice(0, own.lastIndexOf("_")) : own).replaceAll("_", " "),
    help: (field.description ?? "").replace(/ Default: [^.]*(\.\d+)?\.$/, ""),
    default: field.default,
  };
}

const worded = (value) =>
  value === null || value === undefined ? "none" : value === true ? "yes" : value === false ? "no" : String(value);

// What was typed as it is sent: numbers, words, yes or no.
export function sent(given) {
  return Object.fromEntries(
    Object.entries(given)
      .filter(([, value]) => value !== "")
      .map(([name, value]) => [
        name,
        value === "yes"
          ? true
          : value === "no"
            ? false
            : value !== true && value !== false && value.trim?.() !== "" && !Number.isNaN(Number(value))
              ? Number(value)
              : value,
      ]),
  );
}

export function Settings({ fields, way, given, setGiven, proposed, problem, open }) {
  const [words, setWords] = useState(""),
    wanted = words.toLowerCase().split(" ").filter(Boolean);
  const found = fields.filter(
    ({ name, help, only }) => (!only || only === way) && wanted.every((word) => `${name} ${help}`.toLowerCase().includes(word)),
  );
  const groups = [...new Set(["Reconstruction", "Object and method", ...found.map(({ group }) => group)])];
  const changed = Object.keys(given).filter((name) => given[name] !== "").length;
  return html`<section class="settings" aria-labelledby="settings-title">
    <div class="row"><h2 id="settings-title">Settings</h2>
      <span class="quiet">${changed ? `${changed} changed` : "Nothing has to be set: what is left empty is decided, or has its default."}</span>
      <span class="push"></span>
      <label>Find <input type="search" value=${words} onInput=${(event) => setWords(event.target.value)} placeholder="probe, position ..." /></label>
      ${changed > 0 && html`<button type="button" class="small" onClick=${() => setGiven({})}>Reset all</button>`}</div>
    ${groups.map((group) => {
      const members = found.filter((field) => field.group === group),
        count = members.filter(({ name }) => (given[name] ?? "") !== "").length;
      const decided = members.some(({ name }) => proposed && name.startsWith(SOLVER) && name.replace(SOLVER, "") in proposed);
      const bad = members.some(({ name }) => name === problem?.field);
      return (
        members.length > 0 &&
        html`<details key=${group} open=${wanted.length > 0 || count > 0 || bad || decided || open === group}>
        <summary>${group} <span class="quiet">${members.length} setting${members.length > 1 ? "s" : ""}${count ? `, ${count} changed` : ""}</span></summary>
        <div class="fields">${members.map(
          (field) => html`<${Setting} key=${field.name} field=${field} value=${given[field.name] ?? ""}
          proposed=${proposed?.[field.name.replace(SOLVER, "")]} decided=${proposed && field.name.startsWith(SOLVER) && field.name.replace(SOLVER, "") in proposed}
          problem=${field.name === problem?.field ? problem.message : ""}
          change=${(value) => setGiven({ ...given, [field.name]: value })} />`,
        )}</div></details>`
      );
    })}
  </section>`;
}

function Setting({ field, value, proposed, decided, problem, change }) {
  const id = `set-${field.name.replace(".", "-")}`;
  const otherwise = decided ? `proposed: ${worded(proposed)}` : `default: ${worded(field.default)}`;
  const more = { id, "aria-describedby": `${id}-help`, "aria-invalid": problem ? "true" : undefined };
  const options = field.kind === "boolean" ? ["yes", "no"] : field.options;
  return html`<div class=${`field ${decided ? "decided" : ""} ${value === "" ? "" : "changed"}`}>
    <label for=${id}>${field.title}${field.unit && html` <span class="unit">/ ${field.unit}</span>`}</label>
    ${
      options.length
        ? html`<select ...${more} value=${value} onChange=${(event) => change(event.target.value)}>
        <option value="">${otherwise}</option>${options.map((option) => html`<option value=${option}>${worded(option)}</option>`)}
        ${field.nullable && field.kind === "choice" && html`<option>none</option>`}</select>`
        : html`<input ...${more} type="text" inputmode=${["integer", "number"].includes(field.kind) ? "decimal" : "text"} value=${value}
          placeholder=${otherwise} onInput=${(event) => change(event.target.value)} />`
    }
    <p id=${`${id}-help`} class="help">${field.help}${problem && html` <strong class="failed">${problem}</strong>`}</p></div>`;
}
