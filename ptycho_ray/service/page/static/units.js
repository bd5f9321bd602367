// Numbers for people.
const LENGTHS = [
  [1, "m"],
  [1e-3, "mm"],
  [1e-6, "µm"],
  [1e-9, "nm"],
  [1e-12, "pm"],
];

export const figure = (value, digits = 4) =>
  value === null || value === undefined || Number.isNaN(value) ? "unknown" : String(+Number(value).toPrecision(digits));

export const unitOf = (metres) => LENGTHS.find(([scale]) => Math.abs(metres) >= scale * 0.999) ?? LENGTHS.at(-1);

export function length(metres, digits = 4) {
  const [scale, name] = unitOf(metres);
  return `${figure(metres / scale, digits)} ${name}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 90) return `${seconds < 10 ? figure(seconds, 2) : Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${figure(seconds / 3600, 2)} h`;
}

export const moment = (text) => (text ? new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) : "");

// The longest of 1, 2, 5 times a power of ten that is at most a quarter of `across` (metres, or pixels if `metres` is false).
export function barLength(across, metres) {
  const target = across / 4,
    power = 10 ** Math.floor(Math.log10(target));
  const size = [5, 2, 1].map((step) => step * power).find((candidate) => candidate <= target * 1.000001) ?? power;
  return { size, text: metres ? length(size, 3) : `${figure(size, 3)} px` };
}
