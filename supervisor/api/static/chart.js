// Two pictures in SVG: a quantity over the last minutes, and the runs of a bot in time. Both say in words what they are.

import { element, say, svg } from "./dom.js";
import * as format from "./format.js";

const WIDTH = 200;
const HEIGHT = 40;
const SPAN_MS = 5 * 60_000;

/** A small chart with its name and its last value; `show(samples)` draws {at, [key]} anew. */
export function spark(name, key, written) {
  const line = svg("path", { class: "line" });
  const area = svg("path", { class: "area" });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" },
    area,
    line,
  );
  const value = element("strong");
  const node = element(
    "figure",
    { class: "spark" },
    element("figcaption", {}, element("span", {}, name), value),
    picture,
  );

  function show(samples) {
    const last = samples.at(-1);
    if (!last) return;
    const most = Math.max(...samples.map((sample) => sample[key]));
    const scale = (HEIGHT - 3) / (most * 1.15 || 1);
    const points = samples.map(({ at, [key]: amount }) => {
      const x = WIDTH - ((last.at - at) / SPAN_MS) * WIDTH;
      return `${x.toFixed(1)},${(HEIGHT - 1.5 - amount * scale).toFixed(1)}`;
    });
    line.setAttribute("d", `M${points.join("L")}`);
    const left = points[0].split(",")[0];
    area.setAttribute("d", `M${left},${HEIGHT}L${points.join("L")}L${WIDTH},${HEIGHT}Z`);
    say(value, written(last[key]));
    picture.setAttribute(
      "aria-label",
      `${name} over the last 5 minutes: now ${written(last[key])}, at most ${written(most)}`,
    );
  }
  return { node, show };
}

/** The runs as bars from start to end, each in the colour of its cause. The table beside it has the same in words. */
export function timeline(runs) {
  const now = Date.now();
  const spans = runs.map((run) => ({
    run,
    from: Date.parse(run.started_at),
    to: run.ended_at ? Date.parse(run.ended_at) : now,
  }));
  const first = Math.min(now - 1000, ...spans.map(({ from }) => from));
  const place = (at) => ((at - first) / (now - first)) * 1000;
  const bars = spans.map(({ run, from, to }) => {
    const what = run.cause ?? "running";
    const title = `run ${run.run_id}: ${what}, ${format.duration((to - from) / 1000)} from ${format.time(run.started_at)}`;
    // A run too short to be seen is three thousandths wide.
    const width = Math.max(3, place(to) - place(from) - 1);
    const x = Math.min(place(from), 1000 - width);
    return svg("rect", { class: "run", "data-is": what, x, width, y: 4, height: 24, rx: 1 }, svg("title", {}, title));
  });
  const causes = new Map();
  for (const { cause } of runs) causes.set(cause ?? "running", (causes.get(cause ?? "running") ?? 0) + 1);
  const told = [...causes].map(([cause, many]) => `${many} ${cause}`).join(", ");
  return element(
    "figure",
    { class: "timeline" },
    svg(
      "svg",
      { viewBox: "0 0 1000 32", preserveAspectRatio: "none", role: "img", "aria-label": `Timeline of runs: ${told}` },
      ...bars,
    ),
    element(
      "div",
      { class: "ends" },
      element("span", {}, format.time(new Date(first).toISOString())),
      element("span", {}, "now"),
    ),
    element(
      "figcaption",
      {},
      ...[...causes].map(([cause, many]) => element("span", { class: "badge", "data-is": cause }, `${cause} ${many}`)),
    ),
  );
}
