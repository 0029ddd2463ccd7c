// The live view: tree on the left, wall in the middle, camera control and facts on the right, events below.

import { api, query } from "./api.js";
import { clear, h } from "./dom.js";
import { reasonText, t } from "./i18n.js";
import { PtzPad } from "./ptz.js";
import { Ticker } from "./ticker.js";
import { Tree } from "./tree.js";
import { rate, Wall } from "./wall.js";

export class LiveView {
  constructor(me, events) {
    this.names = new Map();
    this.tree = new Tree();
    this.wall = new Wall({ speaks: me.role !== "viewer" });
    this.ptz = new PtzPad({ allowed: me.role !== "viewer" });
    this.ticker = new Ticker((device, channel) => this.names.get(channel || device));
    this.facts = h("dl", { class: "facts narrow" });
    this.info = h("section", { class: "panel info-panel" }, h("h3", {}, t("picture")), this.facts);
    this.about = h("dl", { class: "facts narrow" });
    this.aboutPanel = h("section", { class: "panel info-panel", hidden: true }, h("h3", {}, t("channel")), this.about);
    this.element = h("div", { class: "live" }, this.tree.element, h("div", { class: "center" }, this.wall.element, this.ticker.element), h("aside", { class: "right" }, this.ptz.element, this.info, this.aboutPanel));
    this.tree.addEventListener("open", ({ detail }) => { this.names.set(detail.channel_id, detail.name); this.wall.showNext(detail); this.#picked(); });
    this.wall.addEventListener("pick", () => this.#picked());
    this.wall.addEventListener("change", () => this.#picked());
    events.addEventListener("any", ({ detail }) => {
      this.ticker.add(detail);
      if (detail.name === "talk_changed") this.wall.tiles.forEach((tile) => tile.microphone.heard(detail.data));
      if (/^(device_(online|offline|added|removed)|channel_(status|added|removed)|catalog_collected|dropped)$/.test(detail.name)) this.tree.reloadSoon();
    });
    this.#learnNames();
    this.#picked();
  }

  load() { if (!this.loaded) { this.loaded = true; this.tree.load(); } else this.tree.refresh(); }

  /** Names for the ticker; a small part of a large house is enough. */
  async #learnNames() {
    try {
      const [devices, channels, platforms] = await Promise.all([
        api("GET", `/api/devices${query({ limit: 500 })}`), api("GET", `/api/channels${query({ limit: 1000, kind: "camera" })}`), api("GET", "/api/platforms")]);
      devices.items.forEach((d) => d.name && this.names.set(d.device_id, d.name));
      channels.items.forEach((c) => c.name && this.names.set(c.channel_id, c.name));
      platforms.items.forEach((p) => this.names.set(p.platform_id, p.name));
    } catch { /* codes will do */ }
  }

  #picked() {
    const tile = this.wall.picked;
    this.ptz.select(tile && tile.channel);
    this.tree.mark(this.wall.playing());
    const f = tile ? tile.player.facts : {};
    const fact = (name, value) => h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, value || "—"));
    const channel = tile && tile.channel;
    clear(this.facts,
      fact(t("channel"), channel && channel.name), fact(t("code"), channel && h("code", {}, channel.channel_id)),
      fact(t("codec"), channel && f.codec), fact(t("protocol"), channel && f.protocol),
      fact(t("resolution"), channel && f.width && `${f.width} × ${f.height}`),
      fact(t("bitrate"), channel && f.kbps !== undefined && rate(f.kbps)), fact(t("rate"), channel && f.fps !== undefined && `${f.fps} fps`),
      fact(t("first_picture"), channel && f.firstMs && `${f.firstMs} ms`));
    if (channel?.channel_id !== this.described?.channel_id || channel?.device_id !== this.described?.device_id) this.#describe(channel);
  }

  /** What the catalog says of the picked channel, and why it counts as online or not. */
  async #describe(channel) {
    this.described = channel;
    clear(this.about);
    this.about.parentElement.hidden = true;
    if (!channel) return;
    try {
      const c = await api("GET", `/api/channels/${channel.channel_id}${query({ device_id: channel.device_id })}`);
      if (this.described !== channel) return;
      const fact = (name, value) => h("div", { class: "fact" }, h("dt", {}, name), h("dd", {}, value || "—"));
      clear(this.about,
        fact(t("state"), h("span", { class: c.online ? "" : "bad" }, t(c.online ? "online" : "offline"))), fact(t("catalog_state"), c.evidence.reported),
        !c.online && fact(t("reason"), reasonText(c.evidence.reason)), fact(t("device"), this.names.get(c.device_id) || c.device_id),
        fact(t("maker_model"), [c.manufacturer, c.model].filter(Boolean).join(" ")), fact(t("division"), c.civil_code), fact(t("address"), c.address));
      this.about.parentElement.hidden = false;
    } catch { /* a camera without a catalog has nothing to tell */ }
  }

  shown() { return this.wall.playing(); }
  restore(channels) { channels.forEach((channel) => this.wall.showNext(channel)); }
  close() { this.ptz.select(null); return this.wall.stopAll(); }
}
