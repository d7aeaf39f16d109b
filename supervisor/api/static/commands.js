// Start, stop, restart and delete: one bot, or many with a few calls at a time and their progress.

import * as api from "./api.js";
import { element, notice, showDialog } from "./dom.js";
import * as format from "./format.js";

const AT_ONCE = 3; // A browser has six connections, and two of them are held by streams.

export const VERBS = ["start", "stop", "restart", "delete"];
const DONE = { start: "asked to start", stop: "asked to stop", restart: "asked to restart", delete: "deleted" };

export function titled(verb) {
  return verb[0].toUpperCase() + verb.slice(1);
}

/** What can be asked of a bot in this state. */
export function fits(verb, state) {
  const settled = ["stopped", "exited", "failed"].includes(state);
  if (verb === "start") return settled || state === "backoff" || state === "scheduled";
  return verb === "delete" || !settled;
}

// What a bot does then is seen in its state: the call does not wait for it. A delete has nothing to be seen afterwards.
function call(verb, bot_id) {
  return verb === "delete"
    ? api.command("DELETE", `/bots/${bot_id}`)
    : api.command("POST", `/bots/${bot_id}/${verb}?wait=0`);
}

/** Does it for these bots, asking first where that is due. Resolves to those for which it was done. */
export async function run(verb, bots) {
  if ((verb === "delete" || bots.length > 1) && !(await confirmed(verb, bots))) return [];
  const done = [];
  const failed = [];
  const progress = bots.length > 1 ? showProgress(verb, bots.length) : null;
  const waiting = [...bots];
  async function work() {
    for (let bot; (bot = waiting.shift());) {
      try {
        await call(verb, bot.bot_id);
        done.push(bot);
      } catch (error) {
        failed.push({ bot, why: api.reason(error) });
        if (error.status === 403) waiting.length = 0; // It would be the same for each.
      }
      progress?.step();
    }
  }
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  progress?.end();
  for (const { bot, why } of failed.slice(0, 3)) notice(`Cannot ${verb} bot ${bot.bot_id}: ${why}`, { bad: true });
  if (failed.length > 3) notice(`Cannot ${verb} ${failed.length - 3} more bots`, { bad: true });
  else if (!failed.length)
    notice(bots.length === 1 ? `Bot ${bots[0].bot_id}: ${DONE[verb]}` : `${bots.length} bots: ${DONE[verb]}`);
  return done;
}

function confirmed(verb, bots) {
  const [bot] = bots;
  const whom =
    bots.length > 1 ? `${bots.length} bots` : bot.name ? `bot ${bot.bot_id}, ${bot.name}` : `bot ${bot.bot_id}`;
  const why = {
    start: "Those that are up are left alone.",
    stop: "Each gets SIGTERM, its grace, then SIGKILL.",
    restart: "Each is ended, and started again once all of it is gone.",
    delete: "Stopped first, then forgotten with log and data directory. The runs stay in the history.",
  }[verb];
  return new Promise((resolve) => {
    let sure = false;
    const close = (answer) => () => ((sure = answer), dialog.close());
    const dialog = element(
      "dialog",
      { class: "confirm", "aria-labelledby": "confirm-title", onclose: () => resolve(sure) },
      element("h2", { id: "confirm-title" }, `${titled(verb)} ${whom}?`),
      element("p", {}, why),
      element(
        "div",
        { class: "actions" },
        element("button", { type: "button", onclick: close(false) }, "Cancel"),
        element(
          "button",
          { type: "button", class: verb === "delete" || verb === "stop" ? "danger" : "primary", onclick: close(true) },
          titled(verb),
        ),
      ),
    );
    showDialog(dialog);
  });
}

function showProgress(verb, total) {
  const bar = element("progress", {
    max: total,
    value: 0,
    "aria-label": `${titled(verb)} ${format.count(total, "bot")}`,
  });
  const text = element("span", {}, `${titled(verb)}: 0 of ${total}`);
  const box = element("div", { class: "notice", role: "status" }, text, bar);
  document.getElementById("notices").append(box);
  let done = 0;
  return {
    step() {
      bar.value = ++done;
      text.textContent = `${titled(verb)}: ${done} of ${total}`;
    },
    end: () => box.remove(),
  };
}
