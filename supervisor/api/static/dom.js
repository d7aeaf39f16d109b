// Elements without any HTML: what bots, their names and their logs say is text and nothing else.

const SVG = "http://www.w3.org/2000/svg";

const ICONS = {
  start: "M4 2.5v11l9.5-5.5z",
  stop: "M3.5 3.5h9v9h-9z",
  restart:
    "M8 2.5a5.5 5.5 0 1 0 5.4 6.5h-1.8A3.8 3.8 0 1 1 8 4.2c1 0 1.9.4 2.6 1L8.5 7.3H14V1.8l-2.2 2.2A5.5 5.5 0 0 0 8 2.5z",
  delete: "M4.2 3 3 4.2 6.8 8 3 11.8 4.2 13 8 9.2 11.8 13 13 11.8 9.2 8 13 4.2 11.8 3 8 6.8z",
};

function build(node, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element. Properties are attributes, or listeners (`onclick`); children are nodes or text. */
export function element(tag, properties = {}, ...children) {
  return build(document.createElement(tag), properties, children);
}

/** An SVG element, in the same way. */
export function svg(tag, properties = {}, ...children) {
  return build(document.createElementNS(SVG, tag), properties, children);
}

export function icon(name) {
  return svg("svg", { viewBox: "0 0 16 16", "aria-hidden": "true" }, svg("path", { d: ICONS[name] }));
}

/** Sets the text if it differs: a row that did not change costs no layout. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** The state of a bot, or the cause of a run's end: a dot in its colour, or in that of another word, and the word. */
export function badge(word, colour = word) {
  return element("span", { class: "badge", "data-is": colour }, word);
}

export const byId = (id) => document.getElementById(id);

/** Shows a modal dialog until it closes, and then removes it. Escape closes it, and focus goes back by itself. */
export function showDialog(dialog) {
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove());
  dialog.showModal();
  return dialog;
}

/** A message that stays until it is dismissed; a good one goes by itself. */
export function notice(text, { bad = false, link = null } = {}) {
  const close = element(
    "button",
    { type: "button", class: "icon", "aria-label": "Dismiss", onclick: () => box.remove() },
    icon("delete"),
  );
  const box = element(
    "div",
    { class: bad ? "notice bad" : "notice", role: bad ? "alert" : "status" },
    element("span", {}, text),
    link,
    close,
  );
  const notices = byId("notices");
  notices.append(box);
  while (notices.childElementCount > 4) notices.firstElementChild.remove();
  if (!bad) setTimeout(() => box.remove(), 6000);
  return box;
}
