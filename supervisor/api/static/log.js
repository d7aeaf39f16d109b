// What a bot prints, as it prints it. At most 2,000 lines are in the document; whoever scrolls up is left in peace.

import * as api from "./api.js";
import { element } from "./dom.js";
import * as format from "./format.js";

const MOST = 2000;

/** The log of a bot, followed until the signal aborts. */
export function logOf(bot_id, signal) {
  const lines = element("div", { class: "lines" });
  const more = element("button", {
    type: "button",
    class: "more",
    hidden: true,
    onclick: () => ((more.hidden = true), toEnd()),
  });
  // Not a live region: a reader of the screen would hear every line.
  const box = element("div", { class: "log", role: "region", "aria-label": "Log", tabindex: "0" }, lines);
  box.addEventListener("scroll", () => atEnd() && draw(), { passive: true });
  let waiting = [];
  let frame = 0;

  const atEnd = () => box.scrollHeight - box.scrollTop - box.clientHeight < 24;
  const toEnd = () => (box.scrollTop = box.scrollHeight);

  function add(text, kind = "") {
    waiting.push({ text, kind });
    if (waiting.length > MOST) waiting.splice(0, waiting.length - MOST);
    frame ||= requestAnimationFrame(() => ((frame = 0), follow()));
  }

  function follow() {
    if (atEnd()) return draw();
    more.textContent = `${format.count(waiting.length, "new line")} ↓`;
    more.hidden = false;
  }

  function draw() {
    more.hidden = true;
    if (!waiting.length) return;
    lines.append(...waiting.map(({ text, kind }) => element("div", { class: kind || null }, text || "\u200b")));
    waiting = [];
    while (lines.childElementCount > MOST) lines.firstElementChild.remove();
    toEnd();
  }

  api
    .follow(`/bots/${bot_id}/logs?tail=500`, signal, (messages) => {
      for (const { event, data } of messages) {
        if (event === "skipped") add(`${format.bytes(Number(data))} of the log are gone`, "aside");
        else add(data);
      }
    })
    .catch((error) => add(`the log cannot be followed: ${api.reason(error)}`, "aside"));
  return element("div", { class: "log-frame" }, box, more);
}
