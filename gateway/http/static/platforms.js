// Upper platforms: how each link stands, its settings, and which channels it sees.

import { api, query } from "./api.js";
import { clear, debounce, dialog, h, icon, iconButton } from "./dom.js";
import { ask, attempt, confirmed, pager, stateTag } from "./forms.js";
import { dateTime, duration, problemText, t, word } from "./i18n.js";

const KIND = { online: "on", registering: "warn", waiting: "warn", offline: "off", disabled: "idle" };
const RIGHTS = ["play", "ptz", "playback", "download", "broadcast", "config"];
const PAGE = 100;

export class PlatformsView {
  constructor({ role }) {
    this.operator = role !== "viewer";
    this.cards = h("div", { class: "cards" });
    this.element = h("section", { class: "view" },
      h("header", { class: "view-head" }, h("h2", {}, t("platforms")), h("div", { class: "spacer" }),
        this.operator && h("button", { type: "button", class: "btn primary", onclick: () => this.add() }, icon("plus"), t("add_platform"))),
      this.cards);
  }

  async load() {
    await attempt(async () => {
      const { items } = await api("GET", "/api/platforms");
      clear(this.cards, items.length ? items.map((p) => this.#card(p)) : h("p", { class: "empty" }, t("no_platforms")));
    });
  }

  #card(p) {
    const s = p.status;
    const fact = (name, value, extra = "") => h("div", { class: "fact" }, h("dt", {}, name), h("dd", { class: extra }, value));
    const next = s.next_try_in_s !== null && s.state === "waiting" ? duration(s.next_try_in_s) : null;
    return h("article", { class: "card" },
      h("header", {}, stateTag(KIND[s.state], word(s.state)), h("h3", {}, p.name), h("div", { class: "spacer" }),
        this.operator && h("div", { class: "button-row" },
          iconButton("share", t("shares"), () => this.shares(p)),
          iconButton("edit", t("edit"), () => this.edit(p)),
          iconButton("power", t(p.enabled ? "disable" : "enable"), () => this.#switch(p)),
          iconButton("trash", t("delete"), () => this.remove(p)))),
      h("dl", { class: "facts" },
        fact(t("code"), h("code", {}, p.platform_id)),
        fact(t("address"), h("code", {}, `${p.transport}:${p.host}:${p.port}`)),
        fact(t("last_response"), s.last_response || "—", s.state === "online" || !s.last_response ? "" : "bad"),
        fact(t("registered_at"), dateTime(s.registered_at)),
        next && fact(t("next_try"), next),
        fact(t("shared"), p.share_all ? t("all") : String(p.shares)),
        fact(t("streams"), String(s.streams)),
        fact(t("subscriptions"), String(s.subscriptions)),
        fact(t("rights"), p.rights.map(word).join(" · ") || "—")));
  }

  #fields(p) {
    return [
      { name: "platform_id", label: t("platform_id"), value: p?.platform_id, fixed: Boolean(p), required: true },
      { name: "name", label: t("name"), value: p?.name },
      { name: "host", label: t("host"), value: p?.host },
      { name: "port", label: t("port"), type: "number", value: p?.port ?? 5060 },
      { name: "transport", label: t("transport"), type: "select", value: p?.transport ?? "udp", options: [["udp", "UDP"], ["tcp", "TCP"]] },
      { name: "domain", label: t("domain"), value: p?.domain, hint: t("domain_hint") },
      { name: "password", label: t("password"), type: "password", hint: p?.password_set ? t("keep_empty") : "" },
      { name: "username", label: t("digest_user"), value: p?.username },
      { name: "our_id", label: t("our_id"), value: p?.our_id },
      { name: "edition", label: t("edition"), type: "select", value: p?.edition ?? "3.0", options: [["3.0", "2022"], ["2.0", "2016"]] },
      { name: "charset", label: t("charset"), type: "select", value: p?.charset ?? "GB18030", options: [["GB18030", "GB18030"], ["GB2312", "GB2312"], ["UTF-8", "UTF-8"]] },
      { name: "expires_s", label: t("expires"), type: "number", value: p?.expires_s ?? 86400 },
      { name: "heartbeat_interval_s", label: t("heartbeat"), type: "number", value: p?.heartbeat_interval_s ?? 60 },
      { name: "max_streams", label: t("max_streams"), type: "number", value: p?.max_streams ?? 0 },
      { name: "rights", label: t("rights"), type: "checks", wide: true, value: p?.rights ?? ["play", "ptz"], options: RIGHTS.map((r) => [r, word(r)]) },
      { name: "share_all", label: t("share_all"), type: "checkbox", value: p?.share_all ?? false },
      { name: "enabled", label: t("enabled"), type: "checkbox", value: p?.enabled ?? true },
    ];
  }

  async add() {
    if (await ask(t("add_platform"), this.#fields(null), (v) => api("POST", "/api/platforms", v), { wide: true })) this.load();
  }

  async edit(p) {
    const done = await ask(t("edit_platform"), this.#fields(p), ({ platform_id, password, ...v }) =>
      api("PATCH", `/api/platforms/${platform_id}`, password ? { ...v, password } : v), { wide: true });
    if (done) this.load();
  }

  async #switch(p) {
    await attempt(() => api("PATCH", `/api/platforms/${p.platform_id}`, { enabled: !p.enabled }), t("saved"));
    this.load();
  }

  async remove(p) {
    if (!(await confirmed(`${t("delete_platform")} ${p.name}`))) return;
    await attempt(() => api("DELETE", `/api/platforms/${p.platform_id}`), t("deleted"));
    this.load();
  }

  async shares(p) {
    if (await dialog(`${t("shares")} · ${p.name}`, (close) => new Shares(p, close).element, { wide: true })) this.load();
  }
}

/** The selection of one upper: a searchable list of cameras with ticks and the code upward. */
class Shares {
  constructor(platform, close) {
    this.platform = platform;
    this.picked = new Map();
    this.count = h("strong");
    this.fault = h("p", { class: "form-error wide", role: "alert" });
    this.rows = h("div", { class: "share-rows" });
    this.search = h("input", { type: "search", placeholder: t("search_channel"), "aria-label": t("search_channel") });
    this.search.addEventListener("input", debounce(250, () => { this.pages.reset(); this.load(); }));
    this.pages = pager(PAGE, () => this.load());
    this.element = h("div", { class: "form share-dialog" },
      platform.share_all && h("p", { class: "hint" }, `${t("share_all")}: ${t("yes")}`),
      h("div", { class: "view-head" }, h("div", { class: "search-box" }, icon("search"), this.search),
        h("button", { type: "button", class: "btn small", onclick: () => this.#pickPage() }, t("select_page")), h("div", { class: "spacer" }),
        h("span", {}, `${t("selected")} `, this.count)),
      this.rows, this.pages.element, this.fault,
      h("footer", { class: "dialog-foot wide" }, h("button", { type: "button", class: "btn", onclick: () => close() }, t("cancel")),
        h("button", { type: "button", class: "btn primary", onclick: () => this.#save(close) }, t("save"))));
    this.#begin();
  }

  async #begin() {
    await attempt(async () => {
      for (let offset = 0; ; offset += 1000) {
        const page = await api("GET", `/api/platforms/${this.platform.platform_id}/shares${query({ limit: 1000, offset })}`);
        page.items.forEach((s) => this.picked.set(`${s.device_id}/${s.channel_id}`, s.exported_id));
        if (offset + page.items.length >= page.total || !page.items.length) break;
      }
      await this.load();
    });
  }

  async load() {
    await attempt(async () => {
      const page = await api("GET", `/api/channels${query({ kind: "camera", q: this.search.value.trim(), limit: PAGE, offset: this.pages.offset })}`);
      this.shown = page.items;
      clear(this.rows, page.items.map((c) => this.#row(c)));
      this.pages.show(page.total);
      this.#tally();
    });
  }

  #row(channel) {
    const key = `${channel.device_id}/${channel.channel_id}`;
    const code = h("input", { type: "text", class: "code", placeholder: channel.channel_id, value: this.picked.get(key) || "", "aria-label": t("exported"), oninput: () => this.picked.has(key) && this.picked.set(key, code.value.trim()) });
    const box = h("input", { type: "checkbox", checked: this.picked.has(key), onchange: () => {
      if (box.checked) this.picked.set(key, code.value.trim());
      else this.picked.delete(key);
      this.#tally();
    } });
    return h("div", { class: "share-row" }, h("label", {}, box, h("span", { class: `dot ${channel.online ? "on" : "off"}` }), h("span", { class: "share-name" }, channel.name || channel.channel_id), h("code", {}, channel.channel_id)), code);
  }

  #tally() { this.count.textContent = String(this.picked.size); }

  #pickPage() {
    const keys = this.shown.map((c) => `${c.device_id}/${c.channel_id}`);
    const all = keys.every((key) => this.picked.has(key));
    keys.forEach((key) => (all ? this.picked.delete(key) : this.picked.has(key) || this.picked.set(key, "")));
    this.load();
  }

  async #save(close) {
    const items = [...this.picked].map(([key, exported_id]) => {
      const [device_id, channel_id] = key.split("/");
      return { device_id, channel_id, exported_id };
    });
    try {
      await api("PUT", `/api/platforms/${this.platform.platform_id}/shares`, { items });
      close(true);
    } catch (error) {
      this.fault.textContent = problemText(error);
    }
  }
}
