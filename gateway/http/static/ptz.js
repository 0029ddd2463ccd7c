// The PTZ pad: a button held moves the camera, letting go stops it, whatever happens in between.

import { api, query } from "./api.js";
import { h, icon, toast } from "./dom.js";
import { problemText, t } from "./i18n.js";

const RENEW_MS = 2000;
const KEYS = {
  ArrowLeft: [-1, 0, 0], ArrowRight: [1, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0],
  "+": [0, 0, 1], "=": [0, 0, 1], "-": [0, 0, -1],
};
const PAD = [
  ["up_left", [-1, 1, 0], 315], ["up", [0, 1, 0], 0], ["up_right", [1, 1, 0], 45],
  ["left", [-1, 0, 0], 270], null, ["right", [1, 0, 0], 90],
  ["down_left", [-1, -1, 0], 225], ["down", [0, -1, 0], 180], ["down_right", [1, -1, 0], 135],
];

export class PtzPad {
  constructor({ allowed }) {
    this.allowed = allowed;
    this.channel = null;
    this.held = null;
    this.speed = h("input", { type: "range", min: "1", max: "10", value: "5", id: "ptz-speed" });
    this.preset = h("input", { type: "number", min: "1", max: "255", value: "1", id: "ptz-preset", class: "short" });
    this.note = h("p", { class: "hint" });
    this.pad = h("div", { class: "ptz-pad", tabindex: "0", role: "group", "aria-label": `${t("ptz")}: ${t("ptz_hint")}`, onkeydown: (e) => this.#keyDown(e), onkeyup: (e) => this.#keyUp(e), onblur: () => this.#release() },
      PAD.map((entry) => (entry ? this.#direction(...entry) : this.#stopButton())));
    this.body = h("fieldset", { class: "ptz" },
      h("legend", { class: "sr" }, t("ptz")),
      h("div", { class: "ptz-upper" }, this.pad, h("div", { class: "ptz-side" },
        this.#pair("zoom", ["zoomout", { pan: 0, tilt: 0, zoom: -1 }], ["zoomin", { pan: 0, tilt: 0, zoom: 1 }]),
        this.#lens("focus", ["near", "focus_near"], ["far", "focus_far"]),
        this.#lens("iris", ["close", "iris_close"], ["open", "iris_open"]))),
      h("label", { class: "field-row", for: "ptz-speed" }, h("span", {}, t("speed")), this.speed),
      h("div", { class: "field-row" }, h("label", { for: "ptz-preset" }, t("preset")), this.preset,
        h("div", { class: "button-row" }, this.#presetButton("call", "preset_call"), this.#presetButton("set", "preset_set"), this.#presetButton("remove", "preset_delete"))),
    );
    this.element = h("section", { class: "panel ptz-panel" }, h("h3", {}, t("ptz")), this.body, this.note);
    window.addEventListener("blur", () => this.#release());
    window.addEventListener("pagehide", () => this.#release());
    this.select(null);
  }

  select(channel) {
    if (this.channel && (!channel || channel.channel_id !== this.channel.channel_id || channel.device_id !== this.channel.device_id)) this.#release();
    this.channel = channel;
    const usable = Boolean(channel) && this.allowed;
    this.body.disabled = !usable;
    this.pad.tabIndex = usable ? 0 : -1;
    this.element.classList.toggle("disabled", !usable);
    this.note.textContent = !this.allowed ? t("ptz_viewer") : channel ? t("ptz_hint") : t("ptz_none");
  }

  #direction(name, axes, angle) {
    const glyph = icon("up");
    glyph.style.transform = `rotate(${angle}deg)`;
    return this.#hold(h("button", { type: "button", class: "pad-btn", tabindex: "-1", "aria-label": t(name), title: t(name) }, glyph), () => this.#move(axes));
  }

  #stopButton() {
    return h("button", { type: "button", class: "pad-btn center", tabindex: "-1", "aria-label": t("stop"), title: t("stop"), onclick: () => this.#send({ command: "stop" }) }, icon("stop"));
  }

  #pair(label, ...entries) {
    return h("div", { class: "pair" }, h("span", {}, t(label)), entries.map(([glyph, axes]) =>
      this.#hold(h("button", { type: "button", class: "icon-btn", "aria-label": `${t(label)} ${glyph === "zoomin" ? "+" : "−"}` }, icon(glyph)), () => this.#move([axes.pan, axes.tilt, axes.zoom]))));
  }

  #lens(label, ...entries) {
    return h("div", { class: "pair" }, h("span", {}, t(label)), entries.map(([text, command]) =>
      this.#hold(h("button", { type: "button", class: "btn tiny" }, t(text)), () => ({ command, speed: Number(this.speed.value) / 10 }), { command: "lens_stop" })));
  }

  #presetButton(text, command) {
    return h("button", { type: "button", class: "btn tiny", onclick: () => {
      const preset = Number(this.preset.value);
      if (preset >= 1 && preset <= 255) this.#send({ command, preset }).then((good) => good && toast(`${t("preset")} ${preset}: ${t(text)}`));
    } }, t(text));
  }

  #move([pan, tilt, zoom]) {
    const speed = Number(this.speed.value) / 10;
    return { command: "move", pan: pan * speed, tilt: tilt * speed, zoom: zoom * speed };
  }

  #hold(button, begin, end = { command: "stop" }) {
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      button.setPointerCapture(event.pointerId);
      this.#start(begin(), end, button);
    });
    for (const name of ["pointerup", "pointercancel", "lostpointercapture"]) button.addEventListener(name, () => this.#release());
    button.addEventListener("keydown", (event) => {
      if ((event.key === " " || event.key === "Enter") && !event.repeat) { event.preventDefault(); this.#start(begin(), end, button); }
    });
    button.addEventListener("keyup", (event) => { if (event.key === " " || event.key === "Enter") this.#release(); });
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    return button;
  }

  #start(command, end, button) {
    this.#release();
    if (!this.channel || !this.allowed) return;
    const sent = this.#send(command);
    this.held = { end, button, sent, channel: this.channel, timer: setInterval(() => this.#send(command), RENEW_MS) };
    button?.classList.add("held");
  }

  /** Stop: after the start left, or soon in any case. */
  #release() {
    const held = this.held;
    if (!held) return;
    this.held = null;
    clearInterval(held.timer);
    held.button?.classList.remove("held");
    Promise.race([held.sent, new Promise((resolve) => setTimeout(resolve, 250))]).then(() => this.#send(held.end, held.channel));
  }

  #keyDown(event) {
    const axes = KEYS[event.key];
    if (!axes || event.repeat || event.target !== this.pad) return;
    event.preventDefault();
    this.key = event.key;
    this.#start(this.#move(axes), { command: "stop" }, null);
  }

  #keyUp(event) {
    if (event.key === this.key) { this.key = null; this.#release(); }
  }

  async #send(body, channel = this.channel) {
    if (!channel) return false;
    const { channel_id, device_id } = channel;
    try {
      await api("POST", `/api/channels/${channel_id}/ptz${query({ device_id })}`, body, { keepalive: true });
      return true;
    } catch (error) {
      if (error.message !== this.lastError || Date.now() - this.lastAt > 5000) toast(problemText(error), "error");
      this.lastError = error.message;
      this.lastAt = Date.now();
      return false;
    }
  }
}
