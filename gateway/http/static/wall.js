// The wall of live pictures: one or four views, each with its own player, facts and buttons.

import { clear, h, icon, iconButton, toast } from "./dom.js";
import { problemText, t } from "./i18n.js";
import { Player } from "./player.js";
import { Microphone } from "./talk.js";

const SLOTS = 4;

/** Events: "pick" (another view is picked), "change" (its picture or facts changed). */
export class Wall extends EventTarget {
  constructor({ speaks = false } = {}) {
    super();
    this.speaks = speaks;
    this.grid = h("div", { class: "wall-grid quad" });
    this.tiles = Array.from({ length: SLOTS }, (_, number) => new Tile(this, number));
    this.grid.append(...this.tiles.map((tile) => tile.element));
    this.element = h("section", { class: "wall", "aria-label": t("live") }, this.#toolbar(), this.grid);
    this.pick(this.tiles[0]);
  }

  #toolbar() {
    const mode = (name, label, glyph) => iconButton(glyph, label, () => this.layout(name), name === "quad" ? "active" : "");
    this.modes = { single: mode("single", t("single"), "grid1"), quad: mode("quad", t("quad"), "grid4") };
    return h(
      "div", { class: "toolbar" },
      h("h2", {}, t("live")),
      h("div", { class: "spacer" }),
      h("div", { class: "segmented" }, this.modes.single, this.modes.quad),
      iconButton("stop", t("stop_all"), () => this.stopAll()),
      iconButton("full", t("fullscreen"), () => this.element.requestFullscreen().catch(() => {})),
    );
  }

  layout(name) {
    this.grid.className = `wall-grid ${name}`;
    for (const [key, button] of Object.entries(this.modes)) button.classList.toggle("active", key === name);
  }

  get picked() { return this.current; }

  pick(tile) {
    this.current = tile;
    for (const other of this.tiles) other.element.classList.toggle("picked", other === tile);
    this.dispatchEvent(new Event("pick"));
  }

  /** Show a channel in the picked view, then move on to the next empty one. */
  show(channel) {
    const shown = this.tiles.find((tile) => tile.channel && same(tile.channel, channel));
    if (shown) { this.pick(shown); return; }
    const tile = this.current;
    tile.open(channel);
    this.pick(tile);
    if (this.grid.classList.contains("quad")) {
      const free = this.tiles.find((other) => !other.channel);
      if (free) this.next = free;
    }
  }

  /** Where the next channel goes: the picked view, or the first empty one when that is in use. */
  showNext(channel) {
    if (this.current.channel && this.grid.classList.contains("quad")) {
      const free = this.tiles.find((tile) => !tile.channel);
      if (free && !this.tiles.some((tile) => tile.channel && same(tile.channel, channel))) this.pick(free);
    }
    this.show(channel);
  }

  playing() { return this.tiles.filter((tile) => tile.channel).map((tile) => tile.channel); }

  stopAll() { return Promise.all(this.tiles.map((tile) => tile.shut())); }
}

const same = (a, b) => a.channel_id === b.channel_id && a.device_id === b.device_id;

class Tile {
  constructor(wall, number) {
    this.wall = wall;
    this.channel = null;
    this.video = h("video", { muted: true, autoplay: true, playsInline: true, tabindex: "-1", "aria-hidden": "true" });
    this.video.setAttribute("playsinline", "");
    this.player = new Player(this.video);
    this.message = h("div", { class: "tile-message" });
    this.caption = h("div", { class: "tile-name" });
    this.badges = h("div", { class: "tile-badges" });
    this.soundButton = iconButton("mute", t("unmute"), (event) => { event.stopPropagation(); this.sound(); });
    this.microphone = new Microphone();
    this.talkButton = iconButton("mic", t("speak"), (event) => { event.stopPropagation(); this.talk(); });
    this.talkButton.hidden = !wall.speaks;
    this.microphone.addEventListener("change", () => this.#speaking());
    this.microphone.addEventListener("failed", ({ detail }) => toast(problemText(detail), "error"));
    this.buttons = h(
      "div", { class: "tile-buttons" },
      this.soundButton,
      this.talkButton,
      iconButton("photo", t("snapshot"), (event) => { event.stopPropagation(); this.snapshot(); }),
      iconButton("full", t("fullscreen"), (event) => { event.stopPropagation(); this.element.requestFullscreen().catch(() => {}); }),
      iconButton("close", t("close"), (event) => { event.stopPropagation(); this.shut(); }),
    );
    this.element = h(
      "article", { class: "tile", tabindex: "0", "aria-label": `${t("slot")} ${number + 1}`, dataset: { slot: number } },
      this.video, this.message, h("div", { class: "tile-top" }, this.caption, this.buttons), h("div", { class: "tile-bottom" }, this.badges),
    );
    this.element.addEventListener("click", () => wall.pick(this));
    this.element.addEventListener("dblclick", () => wall.layout(wall.grid.classList.contains("quad") ? "single" : "quad"));
    this.element.addEventListener("keydown", (event) => { if (event.key === "Enter") wall.pick(this); });
    const listen = (name, work) => this.player.addEventListener(name, work);
    listen("opening", (event) => this.#state("opening", event.detail && event.detail.again ? t("reconnecting") : t("opening")));
    listen("playing", () => this.#state("playing"));
    listen("stats", () => this.#facts());
    listen("failed", (event) => this.#failed(event.detail));
    listen("stopped", () => this.#state("empty"));
    this.#state("empty");
  }

  open(channel) {
    this.microphone.stop();
    this.channel = channel;
    this.caption.textContent = channel.name;
    this.player.noWebRtc = false;
    this.player.start(channel);
    this.#changed();
  }

  async shut() {
    if (!this.channel) return;
    this.microphone.stop();
    this.channel = null;
    this.caption.textContent = "";
    this.#changed();
    await this.player.stop();
  }

  sound() {
    this.video.muted = !this.video.muted;
    this.soundButton.replaceChildren(icon(this.video.muted ? "mute" : "sound"));
    const label = this.video.muted ? t("unmute") : t("mute");
    this.soundButton.title = label;
    this.soundButton.setAttribute("aria-label", label);
  }

  /** Begin to speak to the camera, or stop. */
  talk() {
    if (!Microphone.possible) { toast(t("no_microphone"), "error"); return; }
    if (this.microphone.speaking) this.microphone.stop();
    else if (this.channel) this.microphone.start(this.channel);
  }

  #speaking() {
    const { speaking } = this.microphone;
    const label = speaking ? t("speak_stop") : t("speak");
    this.talkButton.classList.toggle("speaking", speaking);
    this.talkButton.title = label;
    this.talkButton.setAttribute("aria-label", label);
    this.talkButton.setAttribute("aria-pressed", String(speaking));
  }

  snapshot() {
    if (!this.video.videoWidth) return;
    const canvas = h("canvas", { width: this.video.videoWidth, height: this.video.videoHeight });
    canvas.getContext("2d").drawImage(this.video, 0, 0);
    canvas.toBlob((blob) => {
      const url = URL.createObjectURL(blob);
      const stamp = new Date().toISOString().replace(/[:.]/g, "-").slice(0, 19);
      h("a", { href: url, download: `${this.channel.channel_id}_${stamp}.jpg` }).click();
      setTimeout(() => URL.revokeObjectURL(url), 2000);
      toast(t("snapshot"));
    }, "image/jpeg", 0.92);
  }

  #state(name, text = "") {
    this.element.dataset.state = name;
    const hint = name === "empty" ? [icon("camera", "big"), h("span", {}, t("pick"))] : [];
    const busy = name === "opening" ? [h("span", { class: "spinner" }), h("span", {}, text)] : [];
    clear(this.message, hint, busy);
    this.#facts();
  }

  #failed(error) {
    this.element.dataset.state = "failed";
    const undecodable = error.cause === "codec_unsupported";
    const text = undecodable ? `${t("codec_unsupported")} ${codecName(error.message)}` : problemText(error);
    const more = undecodable ? t("codec_hint") : error.message !== text && error.cause !== error.message ? error.message : "";
    clear(
      this.message,
      h("span", { class: "tile-error" }, text),
      more && h("small", { class: "tile-detail" }, more),
      h("button", { type: "button", class: "btn small", onclick: (event) => { event.stopPropagation(); this.open(this.channel); } }, icon("refresh"), t("retry")),
    );
    clear(this.badges);
    this.#changed();
  }

  #facts() {
    const f = this.player.facts;
    const shown = this.element.dataset.state === "playing"
      ? [f.codec, f.protocol, f.width && `${f.width}×${f.height}`, f.kbps !== undefined && rate(f.kbps), f.fps !== undefined && `${f.fps} fps`, f.firstMs && `${t("first_short")} ${f.firstMs} ms`]
      : [];
    clear(this.badges, shown.filter(Boolean).map((text) => h("span", { class: "badge" }, text)));
    this.#changed();
  }

  #changed() { if (this.wall.current === this) this.wall.dispatchEvent(new Event("change")); }
}

const codecName = (text) => (/^h(vc|ev)1/.test(text) ? "H.265" : text);

export const rate = (kbps) => (kbps >= 1000 ? `${(kbps / 1000).toFixed(1)} Mbit/s` : `${kbps} kbit/s`);
