// All bots as they were last told of: a listing every two seconds for the figures, the feed for each change at once.

import * as api from "./api.js";

const POLL_MS = 2000;
const KEPT_MS = 5 * 60_000;

export const STATES = ["starting", "running", "stopping", "killing", "backoff", "scheduled", "stopped", "exited", "failed"];

/** The facts of a process, which a bot without one does not have. */
const NO_PROCESS = { pid: null, uptime_s: null, cpu_percent: null, rss_bytes: null, frozen: null };
const WITHOUT_PROCESS = new Set(["backoff", "scheduled", "stopped", "exited", "failed"]);

export class Fleet extends EventTarget {
  /** By bot_id, as GET /bots has them. */
  bots = new Map();
  /** {at, cpu, rss} of all bots together, over the last minutes. */
  samples = [];
  connected = true;
  /** What the feed said of a bot, and when: a listing that was asked for before does not undo it. */
  #heard = new Map();

  /** Polls until the signal aborts; never twice at once, and not while nobody sees the page. */
  async poll(signal) {
    while (!signal.aborted) {
      await api.visible(signal);
      try {
        await this.#list();
        this.#connection(true);
      } catch (error) {
        // Refused is answered, too.
        this.#connection(error instanceof api.Problem && error.status < 500);
      }
      await api.sleep(POLL_MS, signal);
    }
  }

  /** Follows the feed until the signal aborts. */
  async follow(signal) {
    await api.follow("/events", signal, (messages) => {
      const at = performance.now();
      const changed = new Map();
      for (const { event, data } of messages) {
        const told = JSON.parse(data);
        if (this.#take(event, told, at)) changed.set(told.bot_id, told);
      }
      this.#tell([...changed.values()]);
      this.#changed();
    });
  }

  async #list() {
    const asked = performance.now();
    const bots = new Map((await api.list("/bots?state=all&limit=1000")).map((bot) => [bot.bot_id, bot]));
    for (const [bot_id, { at, facts }] of this.#heard) {
      if (at <= asked) this.#heard.delete(bot_id);
      else if (facts === null) bots.delete(bot_id);
      else bots.set(bot_id, { ...(bots.get(bot_id) ?? this.bots.get(bot_id)), ...facts });
    }
    // What the listing is the first to know.
    this.#tell([...bots.values()].filter((bot) => (this.bots.get(bot.bot_id)?.state ?? bot.state) !== bot.state));
    this.bots = bots;
    const now = Date.now();
    const sample = { at: now, cpu: 0, rss: 0 };
    for (const bot of bots.values()) {
      sample.cpu += bot.cpu_percent ?? 0;
      sample.rss += bot.rss_bytes ?? 0;
    }
    this.samples = [...this.samples.filter(({ at }) => at > now - KEPT_MS), sample];
    this.#changed();
  }

  /** Whether the message says something new. */
  #take(event, { bot_id, run_id, kind, name, state, goal, reason }, at) {
    const before = this.bots.get(bot_id);
    if (event === "deleted") {
      this.#heard.set(bot_id, { at, facts: null });
      return this.bots.delete(bot_id);
    }
    if (before && before.state === state && before.reason === reason) return false;
    const facts = { bot_id, run_id, kind, name, state, goal, reason, ...(WITHOUT_PROCESS.has(state) && NO_PROCESS) };
    this.#heard.set(bot_id, { at, facts });
    this.bots.set(bot_id, { ...NO_PROCESS, restarts: 0, labels: {}, ...before, ...facts });
    return true;
  }

  #tell(changed) {
    if (changed.length) this.dispatchEvent(new CustomEvent("told", { detail: changed }));
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }

  #connection(good) {
    if (good === this.connected) return;
    this.connected = good;
    this.dispatchEvent(new Event("connection"));
  }
}
