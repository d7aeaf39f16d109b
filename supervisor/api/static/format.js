// Numbers and times for people.

export const NONE = "–";

const UNITS = ["B", "KB", "MB", "GB", "TB"];

export function bytes(number) {
  if (number === null || number === undefined) return NONE;
  let unit = 0;
  let amount = number;
  for (; amount >= 1000 && unit < UNITS.length - 1; unit++) amount /= 1000;
  return `${amount >= 100 || unit === 0 ? Math.round(amount) : amount.toFixed(1)} ${UNITS[unit]}`;
}

export function percent(number) {
  return number === null || number === undefined ? NONE : `${number >= 100 ? Math.round(number) : number.toFixed(1)} %`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return two(s, 60, "min", 1, "s");
  if (s < 86400) return two(s, 3600, "h", 60, "min");
  return two(s, 86400, "d", 3600, "h");
}

function two(seconds, large, name, small, rest) {
  const more = Math.floor((seconds % large) / small);
  return `${Math.floor(seconds / large)} ${name}${more ? ` ${more} ${rest}` : ""}`;
}

const TODAY = new Intl.DateTimeFormat(undefined, { timeStyle: "medium", hourCycle: "h23" });
const OTHER_DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

/** A time of the API in the viewer's own time zone, without the date if it is today's. */
export function time(text) {
  if (!text) return NONE;
  const at = new Date(text);
  return (at.toDateString() === new Date().toDateString() ? TODAY : OTHER_DAY).format(at);
}

/** How a run ended: "exit code 3", "SIGKILL", or neither. */
export function ending(run) {
  if (run.signal) return run.signal;
  return run.exit_code === null ? NONE : `exit code ${run.exit_code}`;
}

export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
