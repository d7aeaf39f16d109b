// #/bots/7: everything of one bot.

import * as api from "./api.js";
import * as chart from "./chart.js";
import * as commands from "./commands.js";
import { badge, element } from "./dom.js";
import * as format from "./format.js";
import { logOf } from "./log.js";
import * as runs from "./runs.js";

const POLL_MS = 2000;
const EVENTS = 200;
const ROWS = 50;

export async function show(view, signal, bot_id) {
  const state = element("span", {});
  const buttons = element("div", { class: "group", role: "group", "aria-label": "Commands" });
  const { heading, body } = runs.begin(view, `Bot ${bot_id}`, state, element("span", { class: "grow" }), buttons);
  const reason = element("p", { class: "reason" });
  const facts = element("div");
  const past = element("div");
  const events = element("ol", { class: "events", reversed: true });
  const reader = new runs.Reader(`/bots/${bot_id}/runs`);
  let bot = null;
  let known = "";

  for (const verb of commands.VERBS) {
    const act = async () => {
      const done = await commands.run(verb, [bot]);
      if (!done.length || signal.aborted) return;
      if (verb === "delete") location.hash = "#/";
      else await refresh();
    };
    buttons.append(
      element("button", { type: "button", "data-verb": verb, disabled: true, onclick: act }, commands.titled(verb)),
    );
  }
  body.replaceChildren(
    reason,
    facts,
    element("h2", {}, "Log"),
    logOf(bot_id, signal),
    element("h2", {}, "Runs"),
    past,
    element("h2", {}, "Events"),
    events,
  );

  function draw() {
    heading.textContent = bot.name ? `Bot ${bot_id} · ${bot.name}` : `Bot ${bot_id}`;
    document.title = `${bot.name ?? `Bot ${bot_id}`} · bot-supervisor`;
    const colour = bot.frozen ? "frozen" : bot.state;
    if (state.firstChild?.dataset.is !== colour) state.replaceChildren(badge(bot.state, colour));
    reason.textContent = bot.reason;
    for (const button of buttons.children) button.disabled = !commands.fits(button.dataset.verb, bot.state);
    facts.replaceChildren(runs.factsOf(factsOf(bot)));
  }

  async function drawRuns() {
    const all = await reader.read(signal);
    const table = runs.tableOf(all.slice(-ROWS), { caption: `Runs of bot ${bot_id}`, withBot: false });
    const more =
      all.length > ROWS
        ? [element("p", { class: "help" }, `The latest ${ROWS} of ${all.length >= 500 ? "many" : all.length}.`)]
        : [];
    past.replaceChildren(
      ...(all.length
        ? [
            chart.timeline(all),
            element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Runs" }, table),
            ...more,
          ]
        : []),
    );
  }

  /** Reads the bot again; false once there is none. */
  async function refresh() {
    try {
      bot = await api.get(`/bots/${bot_id}`, signal);
      draw();
      // Runs change with the bot's state, and with nothing else.
      const now = `${bot.run_id} ${bot.state} ${bot.restarts} ${bot.last_exit?.at}`;
      if (now !== known) {
        await drawRuns();
        known = now;
      }
    } catch (error) {
      if (signal.aborted || error.status !== 404) return true; // The banner says that nobody answers.
      reason.textContent = "There is no such bot any more. Its runs are kept.";
      state.replaceChildren();
      for (const button of buttons.children) button.disabled = true;
      await drawRuns().catch(() => {}); // Or there never was one.
      return false;
    }
    return true;
  }

  api
    .follow(`/events?bot_id=${bot_id}&since=0`, signal, (messages) => {
      for (const { event, data } of messages) {
        const told = JSON.parse(data);
        const what = event === "deleted" ? "deleted" : told.state;
        events.prepend(
          element(
            "li",
            {},
            element("time", { datetime: told.at }, format.time(told.at)),
            badge(what),
            element("span", {}, told.reason),
          ),
        );
      }
      while (events.childElementCount > EVENTS) events.lastElementChild.remove();
      refresh();
    })
    .catch((error) => {
      // The feed of a bot that is deleted ends, and what it said is still true.
      if (error.status !== 404)
        events.replaceChildren(element("li", {}, `The events cannot be read: ${api.reason(error)}`));
    });

  while (!signal.aborted && (await refresh())) {
    await api.sleep(POLL_MS, signal);
    await api.visible(signal);
  }
}

function factsOf(bot) {
  const json = (value) => (Object.keys(value).length ? element("code", {}, JSON.stringify(value)) : null);
  const last = bot.last_exit;
  const limits = Object.fromEntries(
    Object.entries(bot.limits).filter(([, limit]) => limit !== null && limit !== false),
  );
  return {
    "Kind": bot.kind,
    "Wanted": bot.goal,
    "Pid": bot.pid && String(bot.pid),
    "CPU": bot.pid && format.percent(bot.cpu_percent),
    "Memory": bot.pid && format.bytes(bot.rss_bytes),
    "Uptime": bot.pid && format.duration(bot.uptime_s),
    "Threads": bot.threads && String(bot.threads),
    "Descendants": bot.descendants ? String(bot.descendants) : null,
    "Restarts": String(bot.restarts),
    "Waits for": bot.waiting_for,
    "Next start": bot.next_start_at && format.time(bot.next_start_at),
    "Heartbeat": bot.heartbeat_age_s === null ? null : `${format.duration(bot.heartbeat_age_s)} ago`,
    "Says": bot.status,
    "Last exit": last && `${last.cause}, ${format.ending(last)}, ${format.time(last.at)}`,
    "Started": bot.started_at && format.time(bot.started_at),
    "Labels": Object.entries(bot.labels)
      .map((pair) => pair.join(":"))
      .join("  "),
    "Params": json(bot.params),
    "Restart policy": `${bot.restart.policy}, at most ${bot.restart.max_restarts} in ${format.duration(bot.restart.within_s)}`,
    "Grace": format.duration(bot.grace_s),
    "Overrides": Object.keys(bot.overrides).join("  "),
    "Node": bot.node,
    "Limits": json(limits),
    "Schedule": bot.schedule && `${bot.schedule.cron} (${bot.schedule.timezone})`,
  };
}
