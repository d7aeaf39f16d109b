// Runs: the history of all bots, one run, and the runs that failed in the same way.

import * as api from "./api.js";
import { badge, element } from "./dom.js";
import * as format from "./format.js";

const SHOWN = 500;
const CAUSES = [
  "exited",
  "crashed",
  "killed",
  "stopped",
  "restarted",
  "stop-timeout",
  "start-timeout",
  "heartbeat",
  "oom",
  "spawn-failed",
  "lost",
];
const PERIODS = { "the last hour": 3600, "the last day": 86400, "the last week": 604800, "ever": null };

/** Reads runs, oldest first as they come, and keeps the newest. Asked again, it reads only what may have changed. */
export class Reader {
  runs = [];
  #before = [];
  #cursor = null;

  constructor(path, query = {}) {
    this.path = path;
    this.query = query;
  }

  async read(signal) {
    for (;;) {
      const query = new URLSearchParams({ limit: 500, ...this.query, ...(this.#cursor && { cursor: this.#cursor }) });
      const { runs, next_cursor } = await api.get(`${this.path}?${query}`, signal);
      this.runs = [...this.#before, ...runs].slice(-SHOWN);
      if (!next_cursor) return this.runs;
      this.#before = this.runs;
      this.#cursor = next_cursor;
    }
  }
}

/** A table of runs, the newest first. */
export function tableOf(runs, { caption, withBot = true }) {
  const heads = [
    "Run",
    withBot && "Bot",
    withBot && "Kind",
    "Cause",
    "Ended with",
    "Started",
    "Lasted",
    "CPU",
    "Memory",
  ].filter(Boolean);
  const rows = [...runs].reverse().map((run) => {
    const to = run.ended_at ? Date.parse(run.ended_at) : Date.now();
    const cells = [
      element(
        "td",
        { class: "number" },
        element("a", { href: `#/runs/${run.run_id}`, "aria-label": `Run ${run.run_id}` }, String(run.run_id)),
      ),
      withBot &&
        element(
          "td",
          { class: "number" },
          element("a", { href: `#/bots/${run.bot_id}`, "aria-label": `Bot ${run.bot_id}` }, String(run.bot_id)),
        ),
      withBot && element("td", { class: "wide" }, run.kind),
      element("td", {}, badge(run.cause ?? "running")),
      element("td", { class: "wide" }, format.ending(run)),
      element("td", {}, format.time(run.started_at)),
      element("td", { class: "number" }, format.duration((to - Date.parse(run.started_at)) / 1000)),
      element(
        "td",
        { class: "number wide" },
        run.cpu_seconds === null ? format.NONE : `${run.cpu_seconds.toFixed(2)} s`,
      ),
      element("td", { class: "number wide" }, format.bytes(run.max_rss_bytes)),
    ];
    return element("tr", {}, ...cells.filter(Boolean));
  });
  const wide = new Set(["Kind", "Ended with", "CPU", "Memory"]);
  const numbers = new Set(["Run", "Bot", "Lasted", "CPU", "Memory"]);
  const head = heads.map((title) =>
    element(
      "th",
      { scope: "col", class: `${wide.has(title) ? "wide" : ""} ${numbers.has(title) ? "number" : ""}` },
      title,
    ),
  );
  return element(
    "table",
    { class: "plain" },
    element("caption", { class: "visually-hidden" }, caption),
    element("thead", {}, element("tr", {}, ...head)),
    element("tbody", {}, ...rows),
  );
}

/** Facts as a list of names and values; what is null is left out. */
export function factsOf(facts) {
  const pairs = Object.entries(facts).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return element(
    "dl",
    { class: "facts" },
    ...pairs.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}

/** Shows a view's heading and what it says when it cannot say anything. */
export function begin(view, title, ...beside) {
  const heading = element("h1", { tabindex: "-1" }, title);
  const body = element("div", {});
  view.replaceChildren(element("div", { class: "heading" }, heading, ...beside), body);
  document.title = `${title} · bot-supervisor`;
  return { heading, body };
}

export function unreadable(body, error, signal) {
  if (signal.aborted) return;
  body.replaceChildren(element("p", { class: "empty", role: "alert" }, `Cannot show it: ${api.reason(error)}`));
}

function choice(label, options, changed) {
  return element(
    "select",
    { "aria-label": label, onchange: changed },
    ...options.map((option) => element("option", {}, option)),
  );
}

/** #/history: all runs. */
export async function history(view, signal) {
  const period = choice("Started in", Object.keys(PERIODS), draw);
  const cause = choice("Cause", ["any cause", ...CAUSES], draw);
  const again = element("button", { type: "button", onclick: draw }, "Read again");
  const { body } = begin(view, "History", period, cause, again);
  period.value = "the last day";
  let turn = 0;

  async function draw() {
    const mine = ++turn;
    const query = {};
    const seconds = PERIODS[period.value];
    if (seconds) query.since = new Date(Date.now() - seconds * 1000).toISOString();
    if (cause.selectedIndex) query.cause = cause.value;
    try {
      const runs = await new Reader("/runs", query).read(signal);
      if (mine !== turn) return;
      const told = runs.length ? `${format.count(runs.length, "run")}, the newest first` : "No run was started then.";
      body.replaceChildren(
        element("p", { class: "help", role: "status" }, told),
        ...(runs.length ? [tableOf(runs, { caption: "Runs of all bots" })] : []),
      );
    } catch (error) {
      if (mine === turn) unreadable(body, error, signal);
    }
  }
  await draw();
}

/** #/runs/12: one run. */
export async function one(view, signal, run_id) {
  const { body } = begin(view, `Run ${run_id}`);
  try {
    const run = await api.get(`/runs/${run_id}`, signal);
    const params = JSON.stringify(run.params);
    body.replaceChildren(
      factsOf({
        "Bot": element("a", { href: `#/bots/${run.bot_id}` }, `bot ${run.bot_id}`),
        "Kind": run.kind,
        "Cause": badge(run.cause ?? "running"),
        "Ended with": run.ended_at ? format.ending(run) : null,
        "Pid": run.pid && String(run.pid),
        "Started": format.time(run.started_at),
        "Ready": run.ready_at && format.time(run.ready_at),
        "Ended": run.ended_at && format.time(run.ended_at),
        "CPU": run.cpu_seconds === null ? null : `${run.cpu_seconds.toFixed(2)} s`,
        "Peak memory": run.max_rss_bytes && format.bytes(run.max_rss_bytes),
        "Descendants ended": run.descendants_killed ? String(run.descendants_killed) : null,
        "Log": run.log_bytes === null ? null : format.bytes(run.log_bytes),
        "Raised": run.raised && `${run.raised.type}: ${run.raised.message}`,
        "Params": params === "{}" ? null : element("code", {}, params),
      }),
      ...(run.detail
        ? [element("h2", {}, "What is known"), element("pre", { class: "text", tabindex: "0" }, run.detail)]
        : []),
      ...(run.last_lines.length
        ? [
            element("h2", {}, "Its last lines"),
            element("pre", { class: "text", tabindex: "0" }, run.last_lines.join("\n")),
          ]
        : []),
    );
  } catch (error) {
    unreadable(body, error, signal);
  }
}

/** #/crashes: the failed runs in groups. */
export async function crashes(view, signal) {
  const { body } = begin(view, "Crashes");
  try {
    const { crashes, next_cursor } = await api.get("/crashes?limit=200", signal);
    if (!crashes.length) {
      body.replaceChildren(element("p", { class: "empty" }, "No run has failed."));
      return;
    }
    const heads = [
      ["Times", "number"],
      ["Kind", ""],
      ["Cause", "wide"],
      ["What", "what"],
      ["First", "wide"],
      ["Latest", ""],
      ["Bot", "number wide"],
    ];
    const rows = crashes.map((crash) =>
      element(
        "tr",
        {},
        element("td", { class: "number" }, String(crash.count)),
        element("td", { class: "what" }, crash.kind),
        element("td", { class: "wide" }, badge(crash.cause)),
        element(
          "td",
          { class: "what" },
          element(
            "a",
            { href: `#/runs/${crash.run_id}` },
            crash.type ? `${crash.type}: ${crash.message}` : crash.detail || crash.fingerprint,
          ),
        ),
        element("td", { class: "wide" }, format.time(crash.first_at)),
        element("td", {}, format.time(crash.last_at)),
        element(
          "td",
          { class: "number wide" },
          element("a", { href: `#/bots/${crash.bot_id}`, "aria-label": `Bot ${crash.bot_id}` }, String(crash.bot_id)),
        ),
      ),
    );
    body.replaceChildren(
      element(
        "p",
        { class: "help" },
        next_cursor
          ? "The latest 200 groups of runs that failed in the same way."
          : "Runs that failed in the same way, the latest first.",
      ),
      element(
        "table",
        { class: "plain crashes" },
        element("caption", { class: "visually-hidden" }, "Groups of failed runs"),
        element(
          "thead",
          {},
          element("tr", {}, ...heads.map(([title, kind]) => element("th", { scope: "col", class: kind }, title))),
        ),
        element("tbody", {}, ...rows),
      ),
    );
  } catch (error) {
    unreadable(body, error, signal);
  }
}
