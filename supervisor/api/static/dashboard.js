// The page: which view is shown, the fleet in the first one, and what holds for all of them.

import * as api from "./api.js";
import * as bot from "./bot.js";
import * as chart from "./chart.js";
import * as commands from "./commands.js";
import { byId, element, say } from "./dom.js";
import { Fleet, STATES } from "./fleet.js";
import { startDialog, tokenDialog } from "./form.js";
import * as format from "./format.js";
import * as runs from "./runs.js";
import { Table } from "./table.js";

const ANNOUNCE_MS = 4000;

const fleet = new Fleet();
const table = new Table(byId("bots"));

// ---- the token

api.token.ask = async () => {
  await tokenDialog();
  byId("token").hidden = !api.token.get();
};
byId("token").hidden = !api.token.get();
byId("token").addEventListener("click", () => tokenDialog());

// ---- filters

const states = new Set();
const search = byId("search");
const [kind, label] = [byId("kind"), byId("label")];
const chips = new Map();

byId("filters").addEventListener("submit", (event) => event.preventDefault());
for (const control of [search, kind, label]) control.addEventListener("input", draw);

for (const state of [null, ...STATES]) {
  const many = element("strong", {}, "0");
  const press = () => {
    if (state === null) states.clear();
    else if (!states.delete(state)) states.add(state);
    draw();
  };
  const chip = element(
    "button",
    { type: "button", class: "chip", "data-is": state, "aria-pressed": "false", onclick: press },
    many,
    state ?? "all",
  );
  chips.set(state, { chip, many });
  byId("totals").append(chip);
}

function passes() {
  const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
  const [wantedKind, wantedLabel] = [kind.value, label.value];
  return (bot) => {
    if (states.size && !states.has(bot.state)) return false;
    if (wantedKind && bot.kind !== wantedKind) return false;
    const labels = Object.entries(bot.labels).map((pair) => pair.join(":"));
    if (wantedLabel && !labels.includes(wantedLabel)) return false;
    if (!words.length) return true;
    const text = [bot.bot_id, bot.name, bot.kind, bot.state, bot.reason, ...labels].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
}

/** The choices of a select, changed only when there are others; what was chosen stays. */
function offer(select, all, values) {
  const wanted = [...new Set([...values, ...(select.value ? [select.value] : [])])].sort();
  if (select.dataset.has === JSON.stringify(wanted)) return;
  const { value } = select;
  select.replaceChildren(
    element("option", { value: "" }, all),
    ...wanted.map((one) => element("option", { value: one }, one)),
  );
  select.value = value;
  select.dataset.has = JSON.stringify(wanted);
}

function draw() {
  const bots = [...fleet.bots.values()];
  const totals = new Map([[null, bots.length]]);
  const kinds = new Set();
  const labels = new Set();
  for (const bot of bots) {
    totals.set(bot.state, (totals.get(bot.state) ?? 0) + 1);
    kinds.add(bot.kind);
    for (const pair of Object.entries(bot.labels)) labels.add(pair.join(":"));
  }
  offer(kind, "Any kind", kinds);
  offer(label, "Any label", labels);
  for (const [state, { chip, many }] of chips) {
    say(many, String(totals.get(state) ?? 0));
    const pressed = state === null ? states.size === 0 : states.has(state);
    chip.setAttribute("aria-pressed", String(pressed));
    chip.hidden = state !== null && !totals.has(state) && !pressed;
  }
  table.show(bots, passes());
}

// ---- what is selected

const selected = element("strong", {});
byId("selection").append(
  selected,
  ...commands.VERBS.map((verb) =>
    element("button", { type: "button", onclick: () => commandSelected(verb) }, commands.titled(verb)),
  ),
  element("button", { type: "button", class: "plain", onclick: () => table.clearSelection() }, "Clear"),
);

async function commandSelected(verb) {
  const bots = table.bots.filter((bot) => table.selected.has(bot.bot_id) && commands.fits(verb, bot.state));
  if (bots.length && (await commands.run(verb, bots)).length) table.clearSelection();
}

table.addEventListener("drawn", () => {
  const [many, all] = [table.bots.length, fleet.bots.size];
  say(byId("shown"), many === all ? "" : `${many} of ${format.count(all, "bot")}`);
  byId("selection").hidden = table.selected.size === 0;
  say(selected, `${table.selected.size} selected`);
  byId("empty").hidden = many > 0 || !fleet.samples.length;
  say(byId("empty"), all === 0 ? "There is no bot yet. Start one." : "No bot passes the filter.");
});

// ---- totals over time, changes in words, the connection

const cpu = chart.spark("CPU", "cpu", format.percent);
const memory = chart.spark("Memory", "rss", format.bytes);
byId("charts").append(cpu.node, memory.node);

fleet.addEventListener("change", () => {
  draw();
  cpu.show(fleet.samples);
  memory.show(fleet.samples);
});
fleet.addEventListener("connection", () => (byId("lost").hidden = fleet.connected));

const told = new Map();
let announcing = 0;
fleet.addEventListener("told", ({ detail }) => {
  for (const change of detail) told.set(change.bot_id, change);
  announcing ||= setTimeout(announce, ANNOUNCE_MS);
});

/** A screen reader hears of changes now and then, and of many in one sentence. */
function announce() {
  announcing = 0;
  const changes = [...told.values()].filter(({ bot_id }) => fleet.bots.has(bot_id));
  told.clear();
  if (!changes.length) return;
  const numbers = new Map();
  for (const { state } of changes) numbers.set(state, (numbers.get(state) ?? 0) + 1);
  const [only] = changes;
  byId("announcements").textContent =
    changes.length === 1
      ? `Bot ${only.bot_id} is ${only.state}: ${only.reason}`
      : `${changes.length} bots changed: ${[...numbers].map(([state, many]) => `${many} ${state}`).join(", ")}`;
}

// ---- views

const VIEWS = [
  [/^#\/bots\/(\d+)$/, bot.show],
  [/^#\/runs\/(\d+)$/, runs.one],
  [/^#\/history$/, runs.history],
  [/^#\/crashes$/, runs.crashes],
];

let current = new AbortController();
let feed = new AbortController();
let scrolled = 0;

function route({ first = false } = {}) {
  const [pattern, show] = VIEWS.find(([pattern]) => pattern.test(location.hash)) ?? [];
  const section = byId("view");
  if (!byId("fleet").hidden) scrolled = scrollY;
  current.abort();
  current = new AbortController();
  byId("fleet").hidden = Boolean(show);
  section.hidden = !show;
  for (const link of document.querySelectorAll(".bar nav a")) {
    const here = link.getAttribute("href") === (show ? location.hash : "#/");
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  feed.abort();
  if (show) {
    show(section, current.signal, pattern.exec(location.hash)[1]);
    scrollTo(0, 0);
  } else {
    section.replaceChildren();
    document.title = "bot-supervisor";
    feed = new AbortController();
    followFleet(feed.signal);
    draw();
    scrollTo(0, scrolled);
  }
  // Whoever uses a keyboard or hears the page goes on where the new view begins.
  if (!first) document.querySelector("section:not([hidden]) h1").focus({ preventScroll: true });
}

// A page of a bot follows that bot instead: two streams are all that one page holds.
function followFleet(signal) {
  fleet.follow(signal).catch(() => {}); // Refused: the listing says so, too.
}

addEventListener("hashchange", () => route());
byId("start").addEventListener("click", startDialog);
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});

addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog");
  if (event.key === "/" && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    if (byId("fleet").hidden) location.hash = "#/";
    setTimeout(() => search.focus());
  } else if (event.key === "Escape" && event.target === search) {
    search.value = "";
    search.blur();
    draw();
  } else if (event.key === "Escape" && !typing && table.selected.size) {
    table.clearSelection();
  }
});

route({ first: true });
fleet.poll(new AbortController().signal);
