// What a device needs and why, and its last SIP messages: the dialog behind "profile and signalling" in the device list.

import { api } from "./api.js";
import { dialog, h } from "./dom.js";
import { attempt, table } from "./forms.js";
import { dateTime, t } from "./i18n.js";

const LAST = 100;
const shown = (value) => (value === null || value === undefined ? "—" : Array.isArray(value) ? value.join(", ") : String(value));

function profilePart(profile) {
  const told = profile.settings.filter((setting) => setting.origin !== "default");
  const settings = table([
    { title: t("setting"), cell: (s) => h("code", { title: s.description }, s.name) },
    { title: t("value"), cell: (s) => shown(s.value) },
    { title: t("origin"), cell: (s) => t(`origin_${s.origin}`) },
  ], t("profile"));
  settings.fill(told, t("all_default"));
  const facts = [
    ...profile.observed.map((seen) => h("li", { title: seen.detail }, `${seen.text} × ${seen.count} (${dateTime(seen.last_at)})`)),
    ...profile.notes.map((note) => h("li", {}, note.text)),
  ];
  return h("section", {}, h("h3", {}, `${t("profile")} ${profile.vendor_name}`), settings.element, facts.length > 0 && h("ul", {}, facts));
}

function step(message) {
  const what = [message.fault ? message.start_line : message.status || "", message.fault ? "" : message.method, message.command].filter(Boolean).join(" ");
  const after = message.answered_ms === null ? "" : ` · ${message.answered_ms} ms`;
  const time = message.at.slice(11, 23);
  const head = message.headers.map(([name, value]) => `${name}: ${value}`).join("\n");
  return h("details", { class: "wire-step" },
    h("summary", {}, h("code", {}, `${time} ${message.direction === "in" ? "←" : "→"} ${what}${after}`)),
    h("pre", {}, `${message.start_line}\n${head}\n\n${message.body}`));
}

/** Opens the dialog of one device. */
export async function showWire(device) {
  await attempt(async () => {
    const base = `/api/devices/${device.device_id}`;
    const [profile, wire] = await Promise.all([api("GET", `${base}/profile`), api("GET", `${base}/messages?limit=${LAST}`)]);
    await dialog(`${t("profile_and_wire")} ${device.name || device.device_id}`, () => h("div", { class: "wire" },
      profilePart(profile),
      h("section", {}, h("h3", {}, `${t("signalling")} (${wire.items.length} / ${wire.kept})`),
        h("p", {}, h("a", { class: "btn", href: `${base}/messages.pcap`, download: "" }, t("capture"))),
        wire.items.reverse().map(step))), { wide: true });
  });
}
