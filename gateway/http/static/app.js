// The console: log-in, frame, views. Everything shown comes from the gateway's API.

import { api, Events, session } from "./api.js";
import { clear, debounce, h, icon, iconButton, toast } from "./dom.js";
import { ask } from "./forms.js";
import { language, problemText, setLanguage, t, word } from "./i18n.js";
import { DevicesView } from "./devices.js";
import { LiveView } from "./live.js";
import { PlatformsView } from "./platforms.js";
import { SessionsView } from "./sessions.js";
import { SystemView } from "./system.js";

const root = document.getElementById("app");
const VIEWS = { live: LiveView, devices: DevicesView, platforms: PlatformsView, sessions: SessionsView, system: SystemView };
let frame = null;

class Frame {
  constructor(me) {
    this.me = me;
    this.events = new Events();
    this.views = {};
    this.main = h("main", { id: "main" });
    this.tabs = Object.keys(VIEWS).map((name) => h("button", { type: "button", class: "tab", dataset: { view: name }, onclick: () => this.go(name) }, t(name)));
    this.counts = h("div", { class: "counts", role: "status", "aria-live": "off" });
    this.link = h("span", { class: "link-state", role: "status" });
    root.replaceChildren(
      h("header", { class: "top" },
        h("div", { class: "brand" }, h("img", { src: "/static/icon.svg", alt: "", width: "26", height: "26" }), h("div", {}, h("strong", {}, t("title")), h("small", {}, "GB/T 28181"))),
        h("nav", { "aria-label": t("title") }, this.tabs), h("div", { class: "spacer" }), this.counts, this.link,
        h("button", { type: "button", class: "btn quiet", lang: language() === "zh" ? "en" : "zh", onclick: () => this.switchLanguage() }, language() === "zh" ? "EN" : "中文"),
        h("div", { class: "user" }, icon("user"), h("span", {}, me.name), h("small", {}, word(me.role)),
          iconButton("key", t("change_password"), () => this.changePassword()),
          h("button", { type: "button", class: "btn small quiet", onclick: () => this.logout() }, t("logout")))),
      this.main);
    this.countSoon = debounce(600, () => this.count());
    this.reloadSoon = debounce(900, () => this.current && this.current !== this.views.live && this.current.load());
    this.events.addEventListener("any", ({ detail }) => this.#happened(detail));
    this.events.addEventListener("link", ({ detail }) => this.#linked(detail));
    this.events.open();
    this.clock = setInterval(() => { if (!document.hidden) { this.count(); if (this.current?.constructor === SessionsView) this.current.load(); } }, 5000);
    this.count();
    this.go(location.hash.slice(1) in VIEWS ? location.hash.slice(1) : "live");
  }

  go(name) {
    history.replaceState(null, "", `#${name}`);
    for (const tab of this.tabs) {
      const active = tab.dataset.view === name;
      tab.classList.toggle("active", active);
      if (active) tab.setAttribute("aria-current", "page");
      else tab.removeAttribute("aria-current");
    }
    this.view(name);
    for (const [key, view] of Object.entries(this.views)) view.element.hidden = key !== name;
    this.current = this.views[name];
    this.current.load();
  }

  /** The view of this name, made when it is first needed. */
  view(name) {
    if (!this.views[name]) {
      this.views[name] = new VIEWS[name](this.me, this.events);
      this.views[name].element.hidden = true;
      this.main.append(this.views[name].element);
    }
    return this.views[name];
  }

  async count() {
    try {
      const { counts } = await api("GET", "/api/system");
      const chip = (label, online, total) => h("span", { class: "chip", title: label }, h("small", {}, label), h("b", {}, total === undefined ? String(online) : `${online}/${total}`));
      clear(this.counts, chip(t("devices"), counts.devices.online, counts.devices.total), chip(t("cameras"), counts.cameras.online, counts.cameras.total),
        chip(t("platforms"), counts.platforms.online, counts.platforms.total), chip(t("sessions"), counts.sessions));
    } catch { /* the link state tells it */ }
  }

  #happened({ name }) {
    if (name.startsWith("device") || name.startsWith("channel") || name.startsWith("session") || name.startsWith("platform") || name.startsWith("catalog") || name === "dropped") {
      this.countSoon();
      this.reloadSoon();
    }
  }

  #linked(good) {
    this.link.className = `link-state ${good ? "good" : "bad"}`;
    this.link.title = t(good ? "link_good" : "link_lost");
    this.link.textContent = good ? "" : t("link_lost");
    if (good && this.wasLost) { this.current.load(); this.count(); }
    this.wasLost = !good;
  }

  async close() {
    clearInterval(this.clock);
    this.events.close();
    await this.views.live?.close();
  }

  async switchLanguage() {
    const shown = this.views.live?.shown() ?? [];
    await this.close();
    setLanguage(language() === "zh" ? "en" : "zh");
    frame = new Frame(this.me);
    if (shown.length) frame.view("live").restore(shown);
  }

  async changePassword() {
    const fields = [{ name: "current", label: t("current_password"), type: "password" }, { name: "new", label: t("new_password"), type: "password" }];
    if (await ask(t("change_password"), fields, (v) => api("POST", "/api/me/password", v))) toast(t("password_changed"), "good");
  }

  async logout() {
    await this.close();
    await api("POST", "/api/logout").catch(() => {});
    showLogin();
  }
}

function showLogin() {
  frame = null;
  localStorage.removeItem("logged-in");
  const name = h("input", { id: "login-name", autocomplete: "username", spellcheck: false, required: true });
  const password = h("input", { id: "login-password", type: "password", autocomplete: "current-password", required: true });
  const fault = h("p", { class: "form-error", role: "alert" });
  const button = h("button", { type: "submit", class: "btn primary block" }, t("login"));
  const form = h("form", { class: "login-card" },
    h("div", { class: "brand big" }, h("img", { src: "/static/icon.svg", alt: "", width: "44", height: "44" }), h("div", {}, h("strong", {}, t("title")), h("small", {}, t("subtitle")))),
    h("label", { for: "login-name" }, t("username")), name, h("label", { for: "login-password" }, t("password")), password, fault, button,
    h("p", { class: "hint" }, t("first_hint")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    fault.textContent = "";
    try {
      enter(await api("POST", "/api/login", { username: name.value.trim(), password: password.value }));
    } catch (error) {
      fault.textContent = problemText(error);
      password.select();
    } finally {
      button.disabled = false;
    }
  });
  root.replaceChildren(h("div", { class: "login" },
    h("button", { type: "button", class: "btn quiet corner", onclick: () => { setLanguage(language() === "zh" ? "en" : "zh"); showLogin(); } }, language() === "zh" ? "EN" : "中文"), form));
  name.focus();
}

function enter(me) {
  localStorage.setItem("logged-in", "yes");
  frame = new Frame(me);
}

session.addEventListener("ended", async () => {
  if (!frame) return;
  const old = frame;
  frame = null;
  await old.close();
  showLogin();
});
window.addEventListener("pagehide", () => { frame?.close(); });
window.addEventListener("hashchange", () => { const name = location.hash.slice(1); if (frame && name in VIEWS) frame.go(name); });

// Without a log-in of this browser on record there is no need to ask who it is.
if (localStorage.getItem("logged-in")) api("GET", "/api/me").then(enter, showLogin);
else showLogin();
