// Forms in dialogs: fields from a description, faults shown at the field that the gateway named.

import { clear, dialog, h, toast } from "./dom.js";
import { faultText, problemText, t } from "./i18n.js";

let serial = 0;

/**
 * Ask for values. ``fields``: {name, label, type (text|password|number|select|checkbox|checks), value, options, hint, required, pattern, wide}.
 * ``submit(values)`` does the work and may raise ApiError; the dialog stays open until it succeeds. Resolves to its result or null.
 */
export function ask(title, fields, submit, { label = t("save"), wide = false, intro = "" } = {}) {
  return dialog(title, (close) => {
    const inputs = new Map();
    const general = h("p", { class: "form-error", role: "alert" });
    const rows = fields.map((field) => {
      const id = `f${(serial += 1)}`;
      const input = control(field, id);
      const fault = h("small", { class: "form-error", id: `${id}e` });
      inputs.set(field.name, { field, input, fault });
      if (field.type === "checkbox") return h("div", { class: `form-row check ${field.wide ? "wide" : ""}` }, h("label", { for: id }, input, h("span", {}, field.label)), fault);
      return h("div", { class: `form-row ${field.wide ? "wide" : ""}` }, h("label", { for: id }, field.label), input, field.hint && h("small", { class: "hint" }, field.hint), fault);
    });
    const button = h("button", { type: "submit", class: "btn primary" }, label);
    const form = h("form", { class: wide ? "form two" : "form", autocomplete: "off", novalidate: true },
      intro && h("p", { class: "hint wide" }, intro), rows, general,
      h("footer", { class: "dialog-foot wide" }, h("button", { type: "button", class: "btn", onclick: () => close() }, t("cancel")), button));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      general.textContent = "";
      for (const { input, fault } of inputs.values()) { fault.textContent = ""; input.removeAttribute("aria-invalid"); }
      const values = {};
      for (const [name, { field, input }] of inputs) values[name] = read(field, input);
      button.disabled = true;
      try {
        close((await submit(values)) || true);
      } catch (error) {
        let placed = false;
        for (const entry of error.errors || []) {
          const found = inputs.get(entry.field) || inputs.get(entry.field.split(".").pop());
          if (!found) continue;
          found.fault.textContent = faultText(entry);
          found.input.setAttribute("aria-invalid", "true");
          placed = true;
        }
        if (!placed) general.textContent = problemText(error);
      } finally {
        button.disabled = false;
      }
    });
    return form;
  }, { wide });
}

function control(field, id) {
  if (field.type === "select") {
    return h("select", { id }, field.options.map(([value, text]) => h("option", { value, selected: String(value) === String(field.value ?? "") }, text)));
  }
  if (field.type === "checks") {
    return h("div", { id, class: "checks", role: "group", "aria-label": field.label }, field.options.map(([value, text]) =>
      h("label", {}, h("input", { type: "checkbox", value, checked: field.value.includes(value) }), h("span", {}, text))));
  }
  if (field.type === "checkbox") return h("input", { id, type: "checkbox", checked: Boolean(field.value) });
  return h("input", { id, type: field.type || "text", value: String(field.value ?? ""), required: Boolean(field.required), autocomplete: field.type === "password" ? "new-password" : "off", spellcheck: false, readOnly: Boolean(field.fixed) });
}

function read(field, input) {
  if (field.type === "checkbox") return input.checked;
  if (field.type === "checks") return [...input.querySelectorAll("input:checked")].map((box) => box.value);
  if (field.type === "number") return input.value === "" ? null : Number(input.value);
  return field.type === "password" ? input.value : input.value.trim();
}

/** Ask whether to do something that cannot be undone. */
export function confirmed(text, label = t("delete")) {
  return dialog(t("confirm"), (close) => h("div", { class: "form" },
    h("p", { class: "wide" }, text),
    h("footer", { class: "dialog-foot wide" },
      h("button", { type: "button", class: "btn", autofocus: true, onclick: () => close(false) }, t("cancel")),
      h("button", { type: "button", class: "btn danger", onclick: () => close(true) }, label))));
}

/** Run an action of a button; its failure is told in a toast. */
export async function attempt(work, good = "") {
  try {
    await work();
    if (good) toast(good, "good");
    return true;
  } catch (error) {
    toast(problemText(error), "error");
    return false;
  }
}

/** A table: columns {title, cell(row), class}. ``fill(rows, emptyText)`` shows rows. */
export function table(columns, label) {
  const body = h("tbody");
  const element = h("div", { class: "table-wrap" }, h("table", { "aria-label": label }, h("thead", {}, h("tr", {}, columns.map((c) => h("th", { class: c.class || "", scope: "col" }, c.title)))), body));
  return {
    element,
    fill(rows, empty) {
      clear(body, rows.length
        ? rows.map((row) => h("tr", {}, columns.map((c) => h("td", { class: c.class || "" }, c.cell(row)))))
        : h("tr", {}, h("td", { class: "empty", colspan: String(columns.length) }, empty)));
    },
  };
}

/** Previous and next page for lists with a total. */
export function pager(size, load) {
  let offset = 0;
  const text = h("span", { class: "hint" });
  const prev = h("button", { type: "button", class: "btn small", onclick: () => { offset = Math.max(0, offset - size); load(); } }, t("prev"));
  const next = h("button", { type: "button", class: "btn small", onclick: () => { offset += size; load(); } }, t("next"));
  return {
    element: h("div", { class: "pager" }, text, prev, next),
    get offset() { return offset; },
    reset() { offset = 0; },
    show(total) {
      if (offset && offset >= total) offset = Math.max(0, Math.floor((total - 1) / size) * size);
      text.textContent = total ? `${offset + 1}–${Math.min(offset + size, total)} / ${total}` : "0";
      prev.disabled = offset === 0;
      next.disabled = offset + size >= total;
    },
  };
}

export const stateTag = (kind, text, title = "") => h("span", { class: `tag ${kind}`, title }, h("span", { class: `dot ${kind}` }), text);
