// Media sessions that run now.

import { api } from "./api.js";
import { h, iconButton } from "./dom.js";
import { attempt, stateTag, table } from "./forms.js";
import { dateTime, t, word } from "./i18n.js";

const KIND = { streaming: "on", opening: "warn", ending: "warn", ended: "idle" };

export class SessionsView {
  constructor({ role }) {
    this.table = table([
      { title: t("state"), cell: (s) => stateTag(KIND[s.state], word(s.state)) },
      { title: t("channel"), cell: (s) => h("div", { class: "two-lines" }, h("strong", {}, s.channel_name || "—"), h("code", {}, s.channel_id)) },
      { title: t("device"), cell: (s) => h("code", {}, s.device_id) },
      { title: t("transport"), cell: (s) => word(s.transport) },
      { title: t("codec"), cell: (s) => [s.video_codec, s.audio_codec].filter(Boolean).join(" + ").toUpperCase() || "—" },
      { title: "SSRC", cell: (s) => h("code", {}, s.ssrc || "—") },
      { title: t("first_picture"), class: "num", cell: (s) => (s.first_picture_s === null ? "—" : `${Math.round(s.first_picture_s * 1000)} ms`) },
      { title: t("viewers"), class: "num", cell: (s) => String(s.viewers) },
      { title: t("uppers"), class: "num", cell: (s) => String(s.uppers.length) },
      { title: t("started"), cell: (s) => dateTime(s.started_at) },
      { title: t("actions"), class: "actions", cell: (s) => (role === "viewer" ? "" : iconButton("stop", t("stop_session"), async () => {
        await attempt(() => api("DELETE", `/api/sessions/${s.session_id}`));
        this.load();
      })) },
    ], t("sessions"));
    this.element = h("section", { class: "view" }, h("header", { class: "view-head" }, h("h2", {}, t("sessions"))), this.table.element);
  }

  async load() {
    await attempt(async () => this.table.fill((await api("GET", "/api/sessions")).items, t("no_sessions")));
  }
}
