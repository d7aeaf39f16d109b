// Forms drawn from JSON Schema, and the dialog that starts bots.

import * as api from "./api.js";
import { element, notice, showDialog } from "./dom.js";

/** A value that cannot be sent. */
class Unreadable extends Error {}

let ids = 0;

/** A labelled control with a place for its problem. `read()` gives the value, undefined for none, or raises Unreadable. */
class Field {
  constructor(name, control, { help = "", required = false, read }) {
    const id = `field-${++ids}`;
    this.control = control;
    this.read = read;
    this.problem = element("p", { class: "problem", id: `${id}-problem`, hidden: true });
    control.id = id;
    control.setAttribute("aria-describedby", help ? `${id}-help ${id}-problem` : `${id}-problem`);
    if (required) control.setAttribute("aria-required", "true");
    this.node = element(
      "div",
      { class: control.type === "checkbox" ? "field check" : "field" },
      element(
        "label",
        { for: id },
        name,
        required ? element("span", { class: "required", "aria-hidden": "true" }, " *") : null,
      ),
      control,
      help ? element("p", { class: "help", id: `${id}-help` }, help) : null,
      this.problem,
    );
  }

  complain(text) {
    this.problem.textContent = text;
    this.problem.hidden = !text;
    if (text) this.control.setAttribute("aria-invalid", "true");
    else this.control.removeAttribute("aria-invalid");
  }
}

/** What a schema is without its references, and whether it may be null. */
function resolved(schema, root) {
  const named = schema.$ref ? root.$defs?.[schema.$ref.split("/").at(-1)] : null;
  if (named) schema = { ...named, ...schema, $ref: undefined };
  const choices = schema.anyOf?.map((one) => resolved(one, root));
  if (!choices) return schema;
  const some = choices.filter((one) => one.type !== "null");
  const nullable = some.length < choices.length;
  const scalars = some.every((one) => ["string", "number", "integer", "boolean"].includes(one.type) && !one.enum);
  // Of several scalars text is all of them, as in a command's arguments.
  const one =
    some.length === 1 ? some[0] : scalars && some.some((one) => one.type === "string") ? { type: "string" } : {};
  return { ...one, ...schema, anyOf: undefined, nullable };
}

function number(control, integer) {
  const text = control.value.trim();
  if (text === "") return undefined;
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Unreadable("this is not a number");
  if (integer && !Number.isSafeInteger(value)) throw new Unreadable("this is not an integer, or too large a one");
  return value;
}

function json(control) {
  if (control.value.trim() === "") return undefined;
  try {
    return JSON.parse(control.value);
  } catch (error) {
    throw new Unreadable(`this is not JSON: ${error.message}`);
  }
}

/** The field of one parameter. What is left empty is not sent: it is the default, or the server says what is missing. */
export function fieldOf(name, given, root, required) {
  const schema = resolved(given, root);
  const has = schema.default !== undefined && schema.default !== null;
  const help = [schema.description, limits(schema)].filter(Boolean).join(" · ");
  const options = { help, required };
  const common = { autocomplete: "off", spellcheck: "false" };
  const values = schema.enum ?? (schema.const === undefined ? null : [schema.const]);
  if (values || (schema.type === "boolean" && (schema.nullable || !has))) {
    const choices = values ?? [true, false];
    const empty =
      required || schema.nullable || !has ? [element("option", { value: "" }, required ? "choose…" : "default")] : [];
    const control = element(
      "select",
      {},
      ...empty,
      ...choices.map((value, n) => element("option", { value: n }, String(value))),
    );
    if (has) control.value = String(choices.indexOf(schema.default));
    return new Field(name, control, {
      ...options,
      read: () => (control.value === "" ? undefined : choices[Number(control.value)]),
    });
  }
  if (schema.type === "boolean") {
    const control = element("input", { type: "checkbox" });
    control.checked = schema.default;
    return new Field(name, control, { ...options, read: () => control.checked });
  }
  if (schema.type === "integer" || schema.type === "number") {
    const integer = schema.type === "integer";
    const control = element("input", {
      ...common,
      inputmode: integer ? "numeric" : "decimal",
      value: has ? schema.default : "",
    });
    return new Field(name, control, { ...options, read: () => number(control, integer) });
  }
  if (schema.type === "string") {
    const secret = schema.writeOnly || schema.format === "password";
    const before = has && !secret ? schema.default : "";
    const control = element("input", {
      ...common,
      type: secret ? "password" : "text",
      autocomplete: secret ? "new-password" : "off",
      value: before,
    });
    return new Field(name, control, {
      ...options,
      read: () => (control.value === "" && before === "" ? undefined : control.value),
    });
  }
  const control = element("textarea", { ...common, rows: 2, placeholder: "JSON" });
  if (has) control.value = JSON.stringify(schema.default);
  return new Field(name, control, { ...options, read: () => json(control) });
}

function limits({ type, minimum, maximum, minLength, maxLength }) {
  const safe = (bound) => bound !== undefined && Math.abs(bound) < 2 ** 53;
  const [least, most] = [minimum ?? minLength, maximum ?? maxLength];
  const noun = type === "string" ? " characters" : "";
  if (safe(least) && safe(most)) return `${least} to ${most}${noun}`;
  if (safe(least)) return `at least ${least}${noun}`;
  return safe(most) ? `at most ${most}${noun}` : "";
}

function text(name, help) {
  const control = element("input", { autocomplete: "off", spellcheck: "false" });
  return new Field(name, control, { help, read: () => control.value || undefined });
}

function labelsField() {
  const control = element("input", { autocomplete: "off", spellcheck: "false", placeholder: "team:a customer:17" });
  const read = () => {
    const pairs = control.value.split(/[\s,]+/).filter(Boolean);
    if (!pairs.length) return undefined;
    if (pairs.some((pair) => !/^[^:]+:/.test(pair))) throw new Unreadable("a label is key:value");
    return Object.fromEntries(
      pairs.map((pair) => [pair.slice(0, pair.indexOf(":")), pair.slice(pair.indexOf(":") + 1)]),
    );
  };
  return new Field("Labels", control, { help: "key:value, with spaces between them", read });
}

function countField() {
  const control = element("input", { inputmode: "numeric", value: 1, autocomplete: "off" });
  const read = () => {
    const value = number(control, true) ?? 1;
    if (value < 1) throw new Unreadable("at least 1");
    return value;
  };
  return new Field("How many", control, { read });
}

/** Asks what to start, and starts it. */
export async function startDialog() {
  let kinds;
  try {
    ({ kinds } = await api.get("/kinds"));
  } catch (error) {
    notice(`Cannot read the kinds: ${api.reason(error)}`, { bad: true });
    return;
  }
  const chosen = element(
    "select",
    { id: "start-kind" },
    ...kinds.map(({ name }) => element("option", { value: name }, name)),
  );
  const about = element("p", { class: "help" });
  const place = element("fieldset", {}, element("legend", {}, "Parameters"));
  const fields = { name: text("Name", "no two bots have the same"), labels: labelsField(), count: countField() };
  const params = new Map();
  const problem = element("p", { class: "problem", role: "alert", hidden: true });
  const submit = element("button", { type: "submit", class: "primary" }, "Start");
  const form = element(
    "form",
    { novalidate: true, onsubmit: send },
    element("h2", { id: "start-title" }, "Start a bot"),
    element("div", { class: "field" }, element("label", { for: "start-kind" }, "Kind"), chosen, about),
    place,
    fields.name.node,
    fields.labels.node,
    fields.count.node,
    problem,
    element(
      "div",
      { class: "actions" },
      element("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
      submit,
    ),
  );
  const dialog = element("dialog", { "aria-labelledby": "start-title" }, form);
  chosen.addEventListener("change", draw);
  draw();
  showDialog(dialog);

  function draw() {
    const kind = kinds.find(({ name }) => name === chosen.value);
    const schema = kind.params_schema ?? { properties: {} };
    about.textContent = kind.description || kind.target || (kind.command ?? []).join(" ");
    params.clear();
    for (const [name, described] of Object.entries(schema.properties ?? {})) {
      params.set(name, fieldOf(name, described, schema, schema.required?.includes(name) ?? false));
    }
    place.replaceChildren(place.firstElementChild, ...[...params.values()].map(({ node }) => node));
    place.hidden = params.size === 0;
  }

  /** The values of the fields; null if one of them cannot be read, which it then says. */
  function read(named) {
    const values = {};
    let good = true;
    for (const [name, field] of named) {
      field.complain("");
      try {
        const value = field.read();
        if (value !== undefined) values[name] = value;
      } catch (error) {
        if (!(error instanceof Unreadable)) throw error;
        field.complain(error.message);
        good = false;
      }
    }
    return good ? values : null;
  }

  async function send(event) {
    event.preventDefault();
    problem.hidden = true;
    const [told, asked] = [read(params), read(Object.entries(fields))];
    if (!told || !asked) return focusFirst();
    const { count, ...others } = asked;
    const body = { kind: chosen.value, params: told, ...others };
    submit.disabled = true;
    try {
      const made =
        count === 1
          ? [await api.command("POST", "/bots", body)]
          : (await api.command("POST", "/bots/batch", { count, ...body })).bots;
      dialog.close();
      const [bot] = made;
      const link = made.length === 1 ? element("a", { href: `#/bots/${bot.bot_id}` }, "Look") : null;
      notice(made.length === 1 ? `Bot ${bot.bot_id} is ${bot.state}` : `${made.length} bots started`, { link });
    } catch (error) {
      complain(error);
    } finally {
      submit.disabled = false;
    }
  }

  /** Each problem at its field; what belongs to none, below. */
  function complain(error) {
    const left = [];
    for (const { loc, msg } of error.errors ?? []) {
      const [, first, second] = loc;
      const field = first === "params" ? params.get(second) : fields[first];
      const where = loc.slice(first === "params" ? 3 : 2).join(".");
      if (field) field.complain(where ? `${where}: ${msg}` : msg);
      else left.push(`${loc.slice(1).join(".")}: ${msg}`);
    }
    if (!error.errors?.length) left.push(api.reason(error));
    problem.textContent = left.join("; ");
    problem.hidden = !left.length;
    focusFirst();
  }

  function focusFirst() {
    form.querySelector("[aria-invalid]")?.focus();
  }
}

/** Asks for a token until there is one. */
export function tokenDialog() {
  return new Promise((resolve) => {
    const control = element("input", { type: "password", id: "token-value", autocomplete: "off", autofocus: true });
    const form = element(
      "form",
      { novalidate: true, onsubmit: take },
      element("h2", { id: "token-title" }, "A token, please"),
      element("p", {}, "The supervisor asks for one. It is kept until this tab is closed."),
      element("div", { class: "field" }, element("label", { for: "token-value" }, "Token"), control),
      element("div", { class: "actions" }, element("button", { type: "submit", class: "primary" }, "Continue")),
    );
    const dialog = showDialog(
      element("dialog", { class: "confirm", "aria-labelledby": "token-title", onclose: () => resolve() }, form),
    );

    function take(event) {
      event.preventDefault();
      // A header takes no other characters, and no token has them.
      const value = control.value.replace(/[^!-~]/g, "");
      if (!value) return;
      api.token.set(value);
      dialog.close();
    }
  });
}
