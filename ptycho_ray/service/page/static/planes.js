// From the numbers of a picture to its colours. A plane is one real number a pixel, with the range that suits its contrast.
import { json } from "./service.js";

let tables;
export const colours = async () => {
  tables ??= json("static/colours.json").then((all) =>
    Object.fromEntries(
      Object.entries(all).map(([name, { kind, rgb }]) => [
        name,
        { kind, rgb: Uint8Array.from(atob(rgb), (letter) => letter.charCodeAt(0)) },
      ]),
    ),
  );
  return tables;
};

export const TITLES = { amplitude: "Amplitude", phase: "Phase", hue: "Complex (hue is phase)", value: "", log: "" };

// kind: "amplitude", "phase", "hue" of a complex picture; "value", "log" of a real one. `phase` may come from elsewhere, unwrapped.
export function planeOf(picture, kind, unwrapped = null) {
  const { rows, columns, data } = picture,
    count = rows * columns;
  if (kind === "phase" && unwrapped) return finished(picture, kind, unwrapped.data, "rad");
  const values = new Float32Array(count);
  if (!picture.complex) {
    for (let k = 0; k < count; k++) values[k] = kind === "log" ? Math.log10(Math.max(data[k], 0)) : data[k];
    if (kind === "log") floor(values);
    return finished(picture, kind, values, kind === "log" ? `log10${picture.unit ? ` ${picture.unit}` : ""}` : picture.unit);
  }
  for (let k = 0; k < count; k++) {
    const re = data[2 * k],
      im = data[2 * k + 1];
    values[k] = re === 0 && im === 0 ? NaN : kind === "phase" ? Math.atan2(im, re) : Math.hypot(re, im);
  }
  return finished(picture, kind, values, kind === "phase" ? "rad" : picture.unit);
}

// Where nothing was counted the logarithm is that of the smallest number that was.
function floor(values) {
  let least = Infinity;
  for (const value of values) if (Number.isFinite(value) && value < least) least = value;
  for (let k = 0; k < values.length; k++) if (values[k] === -Infinity) values[k] = least;
}

function finished(picture, kind, values, unit) {
  const known = values.filter(Number.isFinite).sort();
  const at = (share) => (known.length ? known[Math.round(share * (known.length - 1))] : 0);
  const span = (low, high) => (low < high ? [low, high] : [low - 0.5, low + 0.5]);
  return {
    kind,
    values,
    unit: unit ?? "",
    rows: picture.rows,
    columns: picture.columns,
    step: picture.step_px,
    data: picture.data,
    pixel_m: picture.pixel_size_m,
    extent: span(at(0), at(1)),
    auto: kind === "hue" ? [0, at(0.995) || 1] : span(at(0.005), at(0.995)),
  };
}

export function histogram({ values, extent: [low, high] }, bins = 96) {
  const counts = new Float32Array(bins),
    scale = bins / (high - low);
  for (const value of values) if (Number.isFinite(value)) counts[Math.min(bins - 1, Math.floor((value - low) * scale))]++;
  return counts;
}

// The plane in colours, one pixel a pixel; what is not known stays transparent.
export function painted(plane, table, [low, high]) {
  const canvas = document.createElement("canvas");
  canvas.width = plane.columns;
  canvas.height = plane.rows;
  const image = new ImageData(plane.columns, plane.rows),
    pixels = image.data;
  const scale = 255.999 / (high - low),
    hue = plane.kind === "hue";
  for (let k = 0; k < plane.values.length; k++) {
    const value = plane.values[k];
    if (!Number.isFinite(value)) continue;
    if (hue)
      setHue(
        pixels,
        4 * k,
        Math.atan2(plane.data[2 * k + 1], plane.data[2 * k]),
        Math.min(1, Math.max(0, (value - low) / (high - low))),
      );
    else {
      const at = 3 * Math.min(255, Math.max(0, Math.floor((value - low) * scale)));
      pixels[4 * k] = table.rgb[at];
      pixels[4 * k + 1] = table.rgb[at + 1];
      pixels[4 * k + 2] = table.rgb[at + 2];
    }
    pixels[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Hue, saturation 0.9 and brightness as the pictures of the reports have them.
function setHue(pixels, at, angle, bright) {
  const turn = ((angle / (2 * Math.PI) + 1) % 1) * 6;
  for (const [channel, shift] of [
    [0, 5],
    [1, 3],
    [2, 1],
  ]) {
    const k = (shift + turn) % 6;
    pixels[at + channel] = 255 * bright * (1 - 0.9 * Math.max(0, Math.min(k, 4 - k, 1)));
  }
}

// Values along a line from one point to another ([row, column]), bilinear, one a pixel.
export function along(plane, [from, to]) {
  const n = Math.max(2, Math.round(Math.hypot(to[0] - from[0], to[1] - from[1])) + 1);
  return Array.from({ length: n }, (_, k) => {
    const row = from[0] + (k / (n - 1)) * (to[0] - from[0]),
      column = from[1] + (k / (n - 1)) * (to[1] - from[1]);
    const r = Math.floor(row),
      c = Math.floor(column),
      down = row - r,
      right = column - c;
    const at = (i, j) => (i < 0 || j < 0 || i >= plane.rows || j >= plane.columns ? NaN : plane.values[i * plane.columns + j]);
    const part = (weight, i, j) => (weight ? weight * at(i, j) : 0);
    const value =
      part((1 - down) * (1 - right), r, c) +
      part((1 - down) * right, r, c + 1) +
      part(down * (1 - right), r + 1, c) +
      part(down * right, r + 1, c + 1);
    return Number.isFinite(value) ? value : null;
  });
}
