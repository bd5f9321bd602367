// One picture on a canvas: zoom, pan, cursor, line, scale bar. What is seen (`view`), cursor and line belong to who shows
// several panes, so that they are linked. view: {zoom: 1 is the whole picture, row, column: middle, as shares of the sides}.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./html.js";
import { barLength } from "./units.js";
import { useTheme } from "./appearance.js";

export const WHOLE = { zoom: 1, row: 0.5, column: 0.5 };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function placing(width, height, { rows, columns, step }, view) {
  const tall = step[0] / step[1],
    across = Math.min(width / columns, height / (rows * tall)) * view.zoom,
    down = across * tall;
  return { across, down, left: width / 2 - view.column * columns * across, top: height / 2 - view.row * rows * down };
}

export const zoomed = (view, factor, row = view.row, column = view.column) => {
  const zoom = clamp(view.zoom * factor, 1, 64),
    share = 1 - view.zoom / zoom;
  return zoom === 1
    ? WHOLE
    : {
        zoom,
        row: clamp(view.row + (row - view.row) * share, 0, 1),
        column: clamp(view.column + (column - view.column) * share, 0, 1),
      };
};

function drawn(context, size, plane, canvases, split, view, cursor, line) {
  const [width, height] = size,
    at = placing(width, height, plane, view);
  const place = (canvas) => context.drawImage(canvas, at.left, at.top, plane.columns * at.across, plane.rows * at.down);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = at.across < 1;
  place(canvases[0]);
  if (canvases[1]) {
    const edge = at.left + split * plane.columns * at.across;
    context.save();
    context.beginPath();
    context.rect(edge, 0, width, height);
    context.clip();
    context.clearRect(edge, 0, width, height);
    place(canvases[1]);
    context.restore();
    stroke(
      context,
      [
        [edge, 0],
        [edge, height],
      ],
      "#ffffff",
      2,
    );
  }
  const middle = ([row, column]) => [at.left + (column + 0.5) * at.across, at.top + (row + 0.5) * at.down];
  if (line) {
    stroke(context, line.map(middle), "#000000", 4);
    stroke(context, line.map(middle), "#ff4d4d", 2);
  }
  if (cursor) {
    const [x, y] = middle(cursor);
    for (const ends of [
      [
        [x, 0],
        [x, height],
      ],
      [
        [0, y],
        [width, y],
      ],
    ]) {
      stroke(context, ends, "rgba(0,0,0,.55)", 3);
      stroke(context, ends, "#ffb000", 1);
    }
  }
  scaleBar(context, width, height, plane, at);
}

function stroke(context, points, colour, width) {
  context.beginPath();
  points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
  Object.assign(context, { strokeStyle: colour, lineWidth: width });
  context.stroke();
}

function scaleBar(context, width, height, plane, at) {
  const pixel = plane.pixel_m ? plane.pixel_m * plane.step[1] : plane.step[1];
  const { size, text } = barLength(Math.min(width / at.across, plane.columns) * pixel, Boolean(plane.pixel_m));
  const long = (size / pixel) * at.across,
    left = 12,
    base = height - 14;
  context.font = "600 13px system-ui, sans-serif";
  const wide = Math.max(long, context.measureText(text).width);
  context.fillStyle = "rgba(0,0,0,.62)";
  context.beginPath();
  context.roundRect(left - 6, base - 22, wide + 12, 30, 4);
  context.fill();
  context.fillStyle = "#fff";
  context.fillText(text, left, base - 7);
  context.fillRect(left, base, long, 3);
}

// Width over height of the box: that of the picture, within reason.
const shape = ({ rows, columns, step }) => clamp((columns * step[1]) / (rows * step[0]), 0.6, 2);

export function Pane({ plane, canvases, split = 0.5, view, setView, cursor, setCursor, line, setLine, drawing, label }) {
  const canvas = useRef(null),
    held = useRef(null),
    fingers = useRef(new Map()),
    [size, setSize] = useState([0, 0]),
    theme = useTheme();
  useLayoutEffect(() => {
    const watch = new ResizeObserver(([{ contentRect }]) => setSize([contentRect.width, contentRect.height]));
    watch.observe(canvas.current);
    return () => watch.disconnect();
  }, []);
  useLayoutEffect(() => {
    if (!size[0] || !canvases[0]) return;
    const ratio = devicePixelRatio || 1,
      context = canvas.current.getContext("2d");
    canvas.current.width = Math.round(size[0] * ratio);
    canvas.current.height = Math.round(size[1] * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    drawn(context, size, plane, canvases, split, view, cursor, line);
  }, [size, plane, canvases, split, view, cursor, line, theme]);

  const at = () => placing(size[0], size[1], plane, view);
  const pixelOf = (event) => {
    const box = canvas.current.getBoundingClientRect(),
      { left, top, across, down } = at();
    return [(event.clientY - box.top - top) / down - 0.5, (event.clientX - box.left - left) / across - 0.5];
  };
  const inside = ([row, column]) => [
    clamp(Math.round(row), 0, plane.rows - 1),
    clamp(Math.round(column), 0, plane.columns - 1),
  ];
  const shares = ([row, column]) => [(row + 0.5) / plane.rows, (column + 0.5) / plane.columns];

  useEffect(() => {
    // not passive: the page must not scroll under a wheel that zooms
    const wheel = (event) => {
      event.preventDefault();
      setView(zoomed(view, Math.exp(-event.deltaY * 0.0015), ...shares(pixelOf(event))));
    };
    canvas.current.addEventListener("wheel", wheel, { passive: false });
    return () => canvas.current?.removeEventListener("wheel", wheel);
  });

  const down = (event) => {
    canvas.current.setPointerCapture(event.pointerId);
    fingers.current.set(event.pointerId, [event.clientX, event.clientY]);
    const pixel = pixelOf(event);
    held.current = drawing || event.shiftKey ? { from: pixel } : { x: event.clientX, y: event.clientY, view };
    setCursor(inside(pixel));
  };
  const move = (event) => {
    const pixel = pixelOf(event);
    if (fingers.current.size === 2 && fingers.current.has(event.pointerId)) {
      const apart = () => {
        const [a, b] = [...fingers.current.values()];
        return Math.hypot(a[0] - b[0], a[1] - b[1]);
      };
      const before = apart();
      fingers.current.set(event.pointerId, [event.clientX, event.clientY]);
      setView(zoomed(view, apart() / Math.max(before, 1), ...shares(pixel)));
    } else if (held.current?.from)
      setLine([held.current.from, pixel].map((end) => end.map((value) => Math.round(value * 10) / 10)));
    else if (held.current) {
      const { across, down: tall } = at(),
        { x, y, view: first } = held.current;
      if (first.zoom > 1)
        setView({
          ...first,
          row: clamp(first.row - (event.clientY - y) / (tall * plane.rows), 0, 1),
          column: clamp(first.column - (event.clientX - x) / (across * plane.columns), 0, 1),
        });
    } else setCursor(inside(pixel));
  };
  const up = (event) => {
    fingers.current.delete(event.pointerId);
    held.current = null;
  };
  const key = (event) => {
    const far = event.shiftKey ? 10 : 1;
    const step = { ArrowUp: [-far, 0], ArrowDown: [far, 0], ArrowLeft: [0, -far], ArrowRight: [0, far] }[event.key];
    const [row, column] = cursor ?? [plane.rows / 2, plane.columns / 2];
    if (step) setCursor(inside([row + step[0], column + step[1]]));
    else if (event.key === "+" || event.key === "=") setView(zoomed(view, 1.5, ...shares([row, column])));
    else if (event.key === "-") setView(zoomed(view, 1 / 1.5));
    else if (event.key === "Home" || event.key === "0") setView(WHOLE);
    else return;
    event.preventDefault();
  };
  const touch = view.zoom > 1 || drawing ? "none" : "pan-y";
  return html`<canvas ref=${canvas} class="pane" tabindex="0" role="application" aria-label=${label} style=${`touch-action: ${touch}; aspect-ratio: ${shape(plane)}`}
    onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${key}
    onDblClick=${(event) => setView(zoomed(view, 2, ...shares(pixelOf(event))))}></canvas>`;
}
