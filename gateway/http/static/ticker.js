// The event ticker: the last events, newest first, in words.

import { clear, h } from "./dom.js";
import { clockTime, eventWord, reasonText, t, word } from "./i18n.js";

const KEEP = 80;
const SILENT = new Set(["device_registered", "device_changed", "channel_changed", "first_picture"]);
const KIND = {
  device_online: "on", device_offline: "off", device_fault: "warn", device_conflict: "warn", channel_conflict: "warn", catalog_shrank: "warn", catalog_fault: "warn",
  session_failed: "off", media_fault: "warn", alarm_raised: "warn", security_event: "off", dropped: "warn", session_started: "info", first_picture: "info",
};

/** ``nameOf(device_id, channel_id)`` may know a name. */
export class Ticker {
  constructor(nameOf) {
    this.nameOf = nameOf;
    this.list = h("ol", { class: "ticker-list", "aria-label": t("events"), tabindex: "0" });
    this.element = h("section", { class: "panel ticker" }, h("h3", {}, t("events")), this.list);
    clear(this.list, h("li", { class: "tree-empty" }, t("no_events")));
    this.empty = true;
  }

  add({ name, data }) {
    if (SILENT.has(name)) return;
    if (this.empty) { clear(this.list); this.empty = false; }
    const online = name === "channel_status" ? (data.online ? "on" : "off") : name === "platform_changed" ? (data.status.state === "online" ? "on" : "warn") : KIND[name] || "idle";
    const who = this.#who(data);
    this.list.prepend(h("li", { class: online },
      h("time", {}, clockTime(data.at && data.at.includes("T") ? data.at : undefined)), h("span", { class: `dot ${online}` }), h("span", { class: "event" }, eventWord(name)),
      h("span", { class: "who", title: who }, who), h("span", { class: "what" }, detail(name, data))));
    while (this.list.children.length > KEEP) this.list.lastChild.remove();
  }

  #who(data) {
    const info = data.info || data.status || data;
    if (info.platform_id) return this.nameOf("", info.platform_id) || info.platform_id;
    const id = info.channel_id || info.device_id || "";
    return this.nameOf(info.device_id, info.channel_id) || id;
  }
}

function detail(name, data) {
  switch (name) {
    case "device_offline": case "device_online": return word(data.cause === "heartbeat" ? "heartbeat_" : data.cause);
    case "channel_status": return `${word(data.status)} ${reasonText(data.reason)}`;
    case "session_started": return [data.info.video_codec.toUpperCase(), word(data.info.transport), data.info.first_picture_s && `${t("first_picture")} ${Math.round(data.info.first_picture_s * 1000)} ms`].filter(Boolean).join(" · ");
    case "session_ended": return word(data.info.end_cause);
    case "session_failed": return `${word(data.cause)}`;
    case "platform_changed": return [word(data.status.state), data.status.last_response].filter(Boolean).join(" · ");
    case "catalog_collected": return `${data.items}/${data.sum_num || data.items}`;
    case "media_fault": return `${data.kind} ${data.detail}`;
    case "alarm_raised": return data.description;
    case "security_event": return `${data.kind} ${data.source}`;
    case "dropped": return String(data.count);
    default: return data.reason || data.detail || "";
  }
}
