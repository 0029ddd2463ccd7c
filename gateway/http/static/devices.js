// The device list: state with its reason, catalog, and what each device needs.

import { api, query } from "./api.js";
import { debounce, h, icon, iconButton } from "./dom.js";
import { ask, attempt, confirmed, pager, stateTag, table } from "./forms.js";
import { ago, dateTime, t, word } from "./i18n.js";
import { showWire } from "./wire.js";

const PAGE = 50;

export class DevicesView {
  constructor({ role }) {
    this.operator = role !== "viewer";
    this.search = h("input", { type: "search", placeholder: t("search_device"), "aria-label": t("search_device") });
    this.search.addEventListener("input", debounce(250, () => { this.pages.reset(); this.load(); }));
    this.state = h("select", { "aria-label": t("state"), onchange: () => { this.pages.reset(); this.load(); } },
      [["", t("all")], ["online", t("online")], ["offline", t("offline")]].map(([value, text]) => h("option", { value }, text)));
    this.pages = pager(PAGE, () => this.load());
    this.table = table([
      { title: t("state"), cell: (d) => stateTag(d.fault ? "warn" : d.state === "online" ? "on" : "off", word(d.state), "") },
      { title: t("name"), cell: (d) => h("div", { class: "two-lines" }, h("strong", {}, d.name || "—"), h("code", {}, d.device_id)) },
      { title: t("maker"), cell: (d) => h("div", { class: "two-lines" }, h("span", {}, d.manufacturer || "—"), h("small", {}, d.model || word(d.kind))) },
      { title: t("address"), cell: (d) => h("code", {}, d.address || "—") },
      { title: t("edition"), cell: (d) => (d.edition === "3.0" ? "2022" : d.edition === "2.0" ? "2016" : d.edition) },
      { title: t("channels"), class: "num", cell: (d) => h("span", { title: d.catalog_at ? `${t("refresh_catalog")}: ${dateTime(d.catalog_at)}` : "" }, `${d.channels_online} / ${d.channels}`) },
      { title: t("last_seen"), cell: (d) => h("span", { title: dateTime(d.last_seen_at) }, ago(d.last_seen_at)) },
      { title: t("reason"), class: "reason", cell: (d) => (d.state === "online" ? "" : word(d.offline_cause || "never_registered")) },
      { title: t("actions"), class: "actions", cell: (d) => (this.operator ? h("div", { class: "button-row" },
        iconButton("refresh", t("refresh_catalog"), () => attempt(() => api("POST", `/api/devices/${d.device_id}/catalog`), t("catalog_asked"))),
        iconButton("book", t("profile_and_wire"), () => showWire(d)),
        iconButton("edit", t("edit"), () => this.edit(d)),
        iconButton("trash", t("delete"), () => this.remove(d))) : "") },
    ], t("devices"));
    this.element = h("section", { class: "view" },
      h("header", { class: "view-head" }, h("h2", {}, t("devices")), h("div", { class: "search-box" }, icon("search"), this.search), this.state, h("div", { class: "spacer" }),
        this.operator && h("button", { type: "button", class: "btn primary", onclick: () => this.add() }, icon("plus"), t("add_device"))),
      this.table.element, this.pages.element);
  }

  async load() {
    await attempt(async () => {
      const page = await api("GET", `/api/devices${query({ q: this.search.value.trim(), state: this.state.value, limit: PAGE, offset: this.pages.offset })}`);
      this.table.fill(page.items, t("empty_tree"));
      this.pages.show(page.total);
    });
  }

  #fields(device) {
    const profile = device ? device.profile : {};
    return [
      { name: "device_id", label: t("device_id"), value: device ? device.device_id : "", fixed: Boolean(device), required: true },
      { name: "name", label: t("name"), value: device ? device.name : "" },
      { name: "password", label: t("device_password"), type: "password", hint: device && device.password_set ? t("keep_empty") : t("domain_password") },
      { name: "media_transport", label: t("media_transport"), type: "select", value: profile.media_transport || "", options: [["", t("default")], ["udp", word("udp")], ["tcp_passive", word("tcp_passive")], ["tcp_active", word("tcp_active")]] },
      { name: "charset", label: t("charset"), type: "select", value: profile.charset || "", options: [["", t("default")], ["GB2312", "GB2312"], ["GB18030", "GB18030"], ["UTF-8", "UTF-8"]] },
      { name: "sdp_form", label: t("sdp_form"), type: "select", value: profile.sdp_form || "standard", options: [["standard", t("default")], ["long", "long"], ["plain", "plain"]] },
    ];
  }

  async add() {
    const done = await ask(t("add_device"), this.#fields(null), (v) => api("POST", "/api/devices", {
      device_id: v.device_id, name: v.name, password: v.password || null, profile: profileOf(v, {}),
    }));
    if (done) this.load();
  }

  async edit(device) {
    const done = await ask(t("edit_device"), this.#fields(device), (v) => api("PATCH", `/api/devices/${device.device_id}`, {
      name: v.name, ...(v.password ? { password: v.password } : {}), profile: profileOf(v, device.profile),
    }));
    if (done) this.load();
  }

  async remove(device) {
    if (!(await confirmed(`${t("delete_device")} ${device.name || ""} ${device.device_id}`))) return;
    await attempt(() => api("DELETE", `/api/devices/${device.device_id}`), t("deleted"));
    this.load();
  }
}

// Only what was changed here is an operator's word: what was learned, or is known of the make, stays what it is.
const profileOf = (v, now) => Object.fromEntries(["media_transport", "charset", "sdp_form"]
  .filter((name) => (v[name] || "") !== (now[name] || (name === "sdp_form" ? "standard" : "")))
  .map((name) => [name, v[name] || null]));
