// The gateway itself: addresses, media nodes, users, tokens, audit log.

import { api, query } from "./api.js";
import { clear, dialog, h, icon, iconButton, toast } from "./dom.js";
import { ask, attempt, confirmed, stateTag, table } from "./forms.js";
import { ago, dateTime, duration, t, word } from "./i18n.js";

const ROLES = ["viewer", "operator", "administrator"];

export class SystemView {
  constructor({ role }) {
    this.admin = role === "administrator";
    this.facts = h("dl", { class: "facts" });
    this.nodes = table([
      { title: t("state"), cell: (n) => stateTag(n.alive ? "on" : "off", t(n.alive ? "online" : "offline")) },
      { title: t("nodes"), cell: (n) => h("code", {}, n.node_id) },
      { title: t("streams"), class: "num", cell: (n) => String(n.streams) },
      { title: t("viewers"), class: "num", cell: (n) => String(n.viewers) },
      { title: t("uppers"), class: "num", cell: (n) => String(n.senders) },
      { title: t("free_ports"), class: "num", cell: (n) => String(n.ports_free) },
      { title: t("lag"), class: "num", cell: (n) => `${Math.round(n.loop_lag_s * 1000)} ms` },
    ], t("nodes"));
    this.users = table([
      { title: t("username"), cell: (u) => h("strong", {}, u.username) },
      { title: t("role"), cell: (u) => word(u.role) },
      { title: t("enabled"), cell: (u) => stateTag(u.enabled ? "on" : "idle", t(u.enabled ? "yes" : "no")) },
      { title: t("created"), cell: (u) => dateTime(u.created_at) },
      { title: t("actions"), class: "actions", cell: (u) => h("div", { class: "button-row" },
        iconButton("edit", t("edit"), () => this.#editUser(u)),
        iconButton("trash", t("delete"), () => this.#remove(`/api/users/${encodeURIComponent(u.username)}`, u.username))) },
    ], t("users"));
    this.tokens = table([
      { title: t("name"), cell: (k) => h("strong", {}, k.name) },
      { title: t("role"), cell: (k) => word(k.role) },
      { title: t("last_used"), cell: (k) => ago(k.last_used_at) },
      { title: t("expires_at"), cell: (k) => (k.expires_at ? dateTime(k.expires_at) : t("unlimited")) },
      { title: t("actions"), class: "actions", cell: (k) => iconButton("trash", t("delete"), () => this.#remove(`/api/tokens/${k.token_id}`, k.name)) },
    ], t("tokens"));
    this.audit = table([
      { title: t("at"), cell: (a) => dateTime(a.at) }, { title: t("who"), cell: (a) => a.who }, { title: t("action"), cell: (a) => h("code", {}, a.action) },
      { title: t("target"), cell: (a) => h("code", {}, a.target) }, { title: t("result"), cell: (a) => h("span", { class: a.result === "ok" ? "" : "bad" }, word(a.result)) },
    ], t("audit"));
    const part = (title, content, button) => h("section", { class: "card" }, h("header", {}, h("h3", {}, title), h("div", { class: "spacer" }), button), content);
    const add = (label, work) => h("button", { type: "button", class: "btn small", onclick: work }, icon("plus"), label);
    this.element = h("section", { class: "view scroll" },
      h("header", { class: "view-head" }, h("h2", {}, t("system")), h("div", { class: "spacer" }), h("a", { class: "btn", href: "/api/docs", target: "_blank", rel: "noopener" }, icon("book"), t("api_docs"))),
      h("div", { class: "columns" },
        h("div", { class: "column" }, part(t("server"), this.facts), part(t("nodes"), this.nodes.element),
          this.admin && part(t("users"), this.users.element, add(t("add_user"), () => this.#addUser())),
          this.admin && part(t("tokens"), this.tokens.element, add(t("add_token"), () => this.#addToken()))),
        this.admin && h("div", { class: "column" }, part(t("audit"), this.audit.element, iconButton("refresh", t("reload"), () => this.load())))));
  }

  async load() {
    await attempt(async () => {
      const s = await api("GET", "/api/system");
      const fact = (name, ...value) => h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, value));
      clear(this.facts, fact(t("server_id"), copyable(s.server_id)), fact(t("domain"), copyable(s.domain)), fact(t("sip_address"), s.sip.map(copyable)),
        fact(t("version"), s.version), fact(t("uptime"), duration(s.uptime_s)));
      this.nodes.fill(s.nodes, t("nothing_found"));
      if (!this.admin) return;
      const [users, tokens, audit] = await Promise.all([api("GET", "/api/users"), api("GET", "/api/tokens"), api("GET", `/api/audit${query({ limit: 60 })}`)]);
      this.users.fill(users.items, "—");
      this.tokens.fill(tokens.items, "—");
      this.audit.fill(audit.items, "—");
    });
  }

  #roles(value) { return { name: "role", label: t("role"), type: "select", value, options: ROLES.map((r) => [r, word(r)]) }; }

  async #addUser() {
    const fields = [{ name: "username", label: t("username") }, { name: "password", label: t("new_password"), type: "password" }, this.#roles("operator")];
    if (await ask(t("add_user"), fields, (v) => api("POST", "/api/users", v))) this.load();
  }

  async #editUser(user) {
    const fields = [this.#roles(user.role), { name: "enabled", label: t("enabled"), type: "checkbox", value: user.enabled }, { name: "password", label: t("reset_password"), type: "password", hint: t("keep_empty") }];
    const done = await ask(`${t("edit")} · ${user.username}`, fields, ({ password, ...v }) =>
      api("PATCH", `/api/users/${encodeURIComponent(user.username)}`, password ? { ...v, password } : v));
    if (done) this.load();
  }

  async #addToken() {
    const made = await ask(t("add_token"), [{ name: "name", label: t("name") }, this.#roles("viewer")], (v) => api("POST", "/api/tokens", v));
    if (!made) return;
    await dialog(t("add_token"), (close) => h("div", { class: "form" }, h("p", { class: "wide" }, t("token_once")), h("p", { class: "wide secret" }, copyable(made.token)),
      h("footer", { class: "dialog-foot wide" }, h("button", { type: "button", class: "btn primary", onclick: () => close() }, t("close")))));
    this.load();
  }

  async #remove(path, name) {
    if (!(await confirmed(`${t("delete")} ${name}?`))) return;
    await attempt(() => api("DELETE", path), t("deleted"));
    this.load();
  }
}

export function copyable(text) {
  return h("button", { type: "button", class: "copy", title: t("copy"), onclick: () => navigator.clipboard?.writeText(text).then(() => toast(t("copied"))) }, h("code", {}, text));
}
