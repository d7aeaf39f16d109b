// The fleet as a table: filtered, sorted, and of a thousand rows only those in the document that can be seen.

import * as commands from "./commands.js";
import { element, icon, say } from "./dom.js";
import * as format from "./format.js";

const OVERSCAN = 8; // Rows beyond both edges, so that Tab and a slow scroll find the next one.
const words = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

const COLUMNS = [
  {
    key: "bot_id",
    title: "Id",
    sort: (bot) => bot.bot_id,
    text: (bot) => String(bot.bot_id),
    link: true,
  },
  { key: "name", title: "Name", sort: (bot) => bot.name, text: (bot) => bot.name ?? "" },
  { key: "kind", title: "Kind", sort: (bot) => bot.kind, text: (bot) => bot.kind },
  { key: "state", title: "State", sort: (bot) => bot.state, text: (bot) => bot.state },
  { key: "reason", title: "Reason", sort: (bot) => bot.reason, text: (bot) => bot.reason },
  {
    key: "pid",
    title: "Pid",
    sort: (bot) => bot.pid,
    text: (bot) => (bot.pid === null ? format.NONE : String(bot.pid)),
  },
  {
    key: "cpu",
    title: "CPU",
    sort: (bot) => bot.cpu_percent,
    text: (bot) => format.percent(bot.cpu_percent),
    descending: true,
  },
  {
    key: "memory",
    title: "Memory",
    sort: (bot) => bot.rss_bytes,
    text: (bot) => format.bytes(bot.rss_bytes),
    descending: true,
  },
  {
    key: "uptime",
    title: "Uptime",
    sort: (bot) => bot.uptime_s,
    text: (bot) => format.duration(bot.uptime_s),
    descending: true,
  },
  {
    key: "restarts",
    title: "Restarts",
    sort: (bot) => bot.restarts,
    text: (bot) => String(bot.restarts),
    descending: true,
  },
];

/** One row. It touches only the cells whose text differs. */
class Row {
  constructor(bot_id, table) {
    this.bot_id = bot_id;
    this.box = element("input", {
      type: "checkbox",
      "aria-label": `Select bot ${bot_id}`,
      onchange: () => table.select(bot_id, this.box.checked),
    });
    this.state = element("span", { class: "badge" });
    this.cells = COLUMNS.map((column) => {
      const inner = column.link
        ? element("a", { href: `#/bots/${bot_id}`, "aria-label": `Bot ${bot_id}` })
        : column.key === "state"
          ? this.state
          : null;
      const tag = column.link ? "th" : "td";
      const cell = element(tag, { class: column.key, scope: column.link ? "row" : null }, inner);
      return { column, cell, text: inner ?? cell };
    });
    // The first is start or stop: a button that changes keeps the focus that one of two would lose.
    this.buttons = ["start", "restart", "delete"].map(() =>
      element("button", {
        type: "button",
        class: "icon",
        onclick: (event) => commands.run(event.currentTarget.dataset.verb, [this.bot]),
      }),
    );
    this.node = element(
      "tr",
      {},
      element("td", { class: "select" }, this.box),
      ...this.cells.map(({ cell }) => cell),
      element("td", { class: "commands" }, ...this.buttons),
    );
  }

  show(bot, selected, index) {
    this.bot = bot;
    if (this.box.checked !== selected) this.box.checked = selected;
    if (this.index !== index) this.node.setAttribute("aria-rowindex", (this.index = index));
    for (const { column, cell, text } of this.cells) {
      const told = column.text(bot);
      if (text.textContent === told) continue;
      text.textContent = told;
      if (column.key === "reason" || column.key === "name") cell.title = told;
    }
    const colour = bot.frozen ? "frozen" : bot.state;
    if (this.state.dataset.is !== colour) this.state.dataset.is = colour;
    if (this.offered === bot.state) return;
    this.offered = bot.state;
    const verbs = [commands.fits("stop", bot.state) ? "stop" : "start", "restart", "delete"];
    this.buttons.forEach((button, n) => this.#offer(button, verbs[n]));
  }

  #offer(button, verb) {
    button.disabled = !commands.fits(verb, this.bot.state);
    if (button.dataset.verb === verb) return;
    button.dataset.verb = verb;
    button.title = `${commands.titled(verb)} bot ${this.bot_id}`;
    button.setAttribute("aria-label", button.title);
    button.replaceChildren(icon(verb));
  }
}

export class Table extends EventTarget {
  /** The bots that pass the filter, in the order of the table. */
  bots = [];
  selected = new Set();
  #order = { column: COLUMNS[0], descending: false };
  #rows = new Map();
  #all = [];
  #keep = () => true;
  #frame = 0;

  constructor(node) {
    super();
    this.node = node;
    this.selectAll = element("input", {
      type: "checkbox",
      "aria-label": "Select all bots shown",
      onchange: () => this.#selectAll(),
    });
    this.heads = COLUMNS.map((column) => {
      const button = element("button", { type: "button", onclick: () => this.sort(column) }, column.title);
      return element("th", { scope: "col", class: column.key }, button);
    });
    const head = element(
      "tr",
      { "aria-rowindex": 1 },
      element("th", { class: "select" }, this.selectAll),
      ...this.heads,
      element("th", { scope: "col", class: "commands" }, element("span", { class: "visually-hidden" }, "Commands")),
    );
    // What is above and below the rows that can be seen is two empty rows of that height.
    const spacer = () => element("tr", { class: "spacer", "aria-hidden": "true" }, element("td"));
    this.above = spacer();
    this.below = spacer();
    this.body = element("tbody", {}, this.above, this.below);
    node.append(element("thead", {}, head), this.body);
    addEventListener("scroll", () => this.#later(), { passive: true });
    addEventListener("resize", () => this.#later());
    this.#markOrder();
  }

  /** Shows those of these bots that `keep` is true of. */
  show(all, keep) {
    this.#all = all;
    this.#keep = keep;
    this.#later();
  }

  /** Sorts by a column; by the one that it is sorted by, the other way round. */
  sort(column) {
    const descending = this.#order.column === column ? !this.#order.descending : Boolean(column.descending);
    this.#order = { column, descending };
    this.#markOrder();
    this.#later();
  }

  select(bot_id, chosen) {
    if (chosen) this.selected.add(bot_id);
    else this.selected.delete(bot_id);
    this.#later();
  }

  clearSelection() {
    this.selected.clear();
    this.#later();
  }

  #selectAll() {
    this.selected = new Set(this.selectAll.checked ? this.bots.map((bot) => bot.bot_id) : []);
    this.#later();
  }

  #markOrder() {
    const { column, descending } = this.#order;
    COLUMNS.forEach((other, n) =>
      this.heads[n].setAttribute("aria-sort", other !== column ? "none" : descending ? "descending" : "ascending"),
    );
  }

  /** However much happens, the document changes once a frame. */
  #later() {
    this.#frame ||= requestAnimationFrame(() => {
      this.#frame = 0;
      if (this.node.checkVisibility()) this.#draw();
    });
  }

  #draw() {
    this.bots = this.#all.filter(this.#keep).sort(this.#compare());
    // A command is for what can be seen: who no longer passes the filter is no longer selected.
    const there = new Set(this.bots.map((bot) => bot.bot_id));
    for (const bot_id of this.selected) if (!there.has(bot_id)) this.selected.delete(bot_id);
    this.selectAll.checked = this.bots.length > 0 && this.selected.size === this.bots.length;
    this.selectAll.indeterminate = this.selected.size > 0 && this.selected.size < this.bots.length;
    this.node.setAttribute("aria-rowcount", this.bots.length + 1);
    this.#drawRows();
    this.dispatchEvent(new Event("drawn"));
  }

  #compare() {
    const { column, descending } = this.#order;
    const sign = descending ? -1 : 1;
    return (a, b) => {
      const [x, y] = [column.sort(a), column.sort(b)];
      // Nothing comes last, whichever way.
      if (x === null || y === null) return x === y ? a.bot_id - b.bot_id : x === null ? 1 : -1;
      return sign * (typeof x === "string" ? words.compare(x, y) : x - y) || a.bot_id - b.bot_id;
    };
  }

  #drawRows() {
    const measured = this.#rows.values().next().value?.node.offsetHeight;
    if (!measured && this.bots.length) this.#later(); // The first rows are made to be measured.
    const height = measured || 32;
    const top = this.body.getBoundingClientRect().top;
    const first = Math.max(0, Math.min(Math.floor(-top / height) - OVERSCAN, this.bots.length - 1));
    const shown = this.bots.slice(first, first + Math.ceil(innerHeight / height) + 2 * OVERSCAN);
    const focused = document.activeElement;
    const stay = new Set(shown.map((bot) => bot.bot_id));
    for (const [bot_id, row] of this.#rows) {
      if (stay.has(bot_id)) continue;
      row.node.remove();
      this.#rows.delete(bot_id);
    }
    let place = this.above;
    shown.forEach((bot, n) => {
      let row = this.#rows.get(bot.bot_id);
      if (!row) this.#rows.set(bot.bot_id, (row = new Row(bot.bot_id, this)));
      row.show(bot, this.selected.has(bot.bot_id), first + n + 2);
      if (place.nextSibling !== row.node) place.after(row.node);
      place = row.node;
    });
    stretch(this.above, first * height);
    stretch(this.below, (this.bots.length - first - shown.length) * height);
    // A row that has moved has lost the focus that was in it.
    if (focused !== document.activeElement && focused?.isConnected) focused.focus({ preventScroll: true });
  }
}

function stretch(spacer, height) {
  const wanted = `${Math.max(0, height)}px`;
  const { style } = spacer.firstElementChild;
  if (style.height !== wanted) style.height = wanted;
}
