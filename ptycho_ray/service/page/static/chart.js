// A line chart (uPlot): `lines` are {label, values, colour?, axis?}; it has a table of its numbers for screen readers' users.
import uPlot from "./vendor/uplot.js";
import { html, useEffect, useRef } from "./html.js";
import { useTheme } from "./appearance.js";
import { figure } from "./units.js";

const shown = (chart, value) => (value === null || value === undefined ? "" : figure(value));

export function Chart({ x, lines, xTitle, yTitle, y2Title, range, height = 220, label }) {
  const place = useRef(null),
    theme = useTheme();
  useEffect(() => {
    const style = getComputedStyle(document.documentElement),
      colour = (name) => style.getPropertyValue(name).trim();
    const palette = [colour("--first"), colour("--second"), colour("--third")];
    const axis = {
      stroke: colour("--ink"),
      grid: { stroke: colour("--faint"), width: 1 },
      ticks: { stroke: colour("--faint") },
    };
    const width = () => Math.max(200, place.current.clientWidth);
    const chart = new uPlot(
      {
        width: width(),
        height,
        legend: { live: true },
        cursor: { drag: { x: true, y: false } },
        scales: { x: { time: false }, y: range ? { range } : {} },
        axes: [
          { ...axis, label: xTitle, size: 44, labelSize: 20 },
          { ...axis, label: yTitle, size: 56, labelSize: 20 },
          ...(y2Title
            ? [{ ...axis, label: y2Title, scale: "y2", side: 1, size: 56, labelSize: 20, grid: { show: false } }]
            : []),
        ],
        series: [
          { label: xTitle, value: shown },
          ...lines.map(({ label: name, dash, axis: scale }, k) => ({
            label: name,
            stroke: palette[k % 3],
            width: 2,
            dash,
            scale: scale ?? "y",
            value: shown,
            points: { show: x.length < 30 },
          })),
        ],
      },
      [x, ...lines.map(({ values }) => values)],
      place.current,
    );
    const watch = new ResizeObserver(() =>
      requestAnimationFrame(() => place.current && chart.setSize({ width: width(), height })),
    );
    watch.observe(place.current);
    return () => {
      watch.disconnect();
      chart.destroy();
    };
  }, [x, lines, theme, height]);
  const last = lines
    .map(({ label: name, values }) => `${name} ends at ${values.at(-1)?.toPrecision?.(3) ?? "nothing"}`)
    .join(", ");
  return html`<figure class="chart" role="img" aria-label=${`${label}: ${last}`}><div ref=${place}></div></figure>`;
}
