// The channel tree: levels are fetched when they are opened; search goes through the whole catalog.

import { api, query } from "./api.js";
import { clear, debounce, h, icon } from "./dom.js";
import { problemText, reasonText, t } from "./i18n.js";

const LEVEL = 500;
/** What can be watched; microphones, loudspeakers and alarm inputs cannot. */
const WATCHABLE = new Set(["camera", "device", "other"]);
const GLYPH = { audio_in: "speaker", audio_out: "speaker", alarm: "bell", device: "recorder", division: "folder", business_group: "folder", virtual_organisation: "folder", system: "folder" };

/** Event "open" with a channel {device_id, channel_id, name, ptz_type}. */
export class Tree extends EventTarget {
  constructor() {
    super();
    this.by = localStorage.getItem("tree") || "device";
    this.list = h("ul", { class: "tree", role: "tree", "aria-label": t("channels"), onkeydown: (event) => this.#key(event) });
    this.search = h("input", { type: "search", placeholder: t("search_channel"), "aria-label": t("search_channel"), autocomplete: "off" });
    this.search.addEventListener("input", debounce(250, () => this.load()));
    this.tabs = ["device", "division"].map((by) =>
      h("button", { type: "button", role: "tab", class: by === this.by ? "active" : "", "aria-selected": String(by === this.by), onclick: () => this.#order(by) }, t(`by_${by}`)),
    );
    this.element = h(
      "aside", { class: "panel side", "aria-label": t("channels") },
      h("div", { class: "search-box" }, icon("search"), this.search),
      h("div", { class: "segmented wide", role: "tablist" }, this.tabs),
      this.list,
    );
    this.reloadSoon = debounce(1200, () => this.refresh());
  }

  #order(by) {
    this.by = by;
    localStorage.setItem("tree", by);
    this.tabs.forEach((tab, i) => {
      const active = ["device", "division"][i] === by;
      tab.classList.toggle("active", active);
      tab.setAttribute("aria-selected", String(active));
    });
    this.search.value = "";
    this.load();
  }

  async load() {
    const text = this.search.value.trim();
    const asked = (this.asked = Symbol("load"));
    try {
      const rows = text ? await this.#found(text) : await this.#level("", 0);
      if (asked !== this.asked) return;
      const empty = h("li", { class: "tree-empty" }, t(text ? "nothing_found" : "empty_tree"));
      clear(this.list, rows.length ? rows : empty);
      const first = this.list.querySelector(".tree-row");
      if (first) first.tabIndex = 0;
      if (!text) await this.#openFirst();
    } catch (error) {
      if (asked === this.asked) clear(this.list, h("li", { class: "tree-empty" }, problemText(error)));
    }
  }

  /** A small house is shown opened. */
  async #openFirst() {
    let nodes = [...this.list.querySelectorAll(":scope > .tree-node")];
    if (nodes.length > 12) return;
    while (nodes.length) {
      const asked = this.asked;
      const folded = nodes.filter((node) => !node.classList.contains("leaf") && node.dataset.online === "true");
      for (const node of folded) await this.#expand(node);
      if (asked !== this.asked || folded.length !== 1) return;
      nodes = [...folded[0].querySelectorAll(":scope > ul > .tree-node")];
    }
  }

  async #found(text) {
    const page = await api("GET", `/api/channels${query({ q: text, kind: "camera", limit: 200 })}`);
    return page.items.map((channel) => this.#node({
      id: `channel:${channel.device_id}/${channel.channel_id}`, label: channel.name || channel.channel_id, kind: channel.kind, leaf: true,
      online: channel.online, device_id: channel.device_id, channel_id: channel.channel_id, ptz_type: channel.ptz_type,
      reason: channel.online ? "" : channel.evidence.reason,
    }, 1));
  }

  async #level(parent, depth, offset = 0) {
    const level = await api("GET", `/api/tree${query({ by: this.by, parent, limit: LEVEL, offset })}`);
    const rows = level.nodes.map((node) => this.#node(node, depth + 1));
    if (offset + level.nodes.length < level.total) {
      const more = h("li", { class: "tree-empty" }, h("button", { type: "button", class: "link", onclick: async () => {
        more.replaceWith(...await this.#level(parent, depth, offset + LEVEL));
      } }, `${t("more")} (${level.total - offset - level.nodes.length})`));
      rows.push(more);
    }
    return rows;
  }

  #node(node, depth) {
    const playable = Boolean(node.channel_id) && node.leaf && WATCHABLE.has(node.kind);
    const label = node.label === "unassigned" ? t("unassigned") : node.label;
    const count = node.total_count !== null && node.total_count !== undefined
      ? h("span", { class: "tree-count" }, `${node.online_count}/${node.total_count}`) : null;
    const row = h(
      "div", {
        class: `tree-row ${node.online ? "on" : "off"} ${playable ? "playable" : ""}`, tabIndex: -1,
        title: [label, node.channel_id || node.device_id || "", node.online ? "" : reasonText(node.reason)].filter(Boolean).join("\n"),
      },
      node.leaf ? h("span", { class: "twist" }) : h("span", { class: "twist" }, icon("chevron")),
      h("span", { class: `dot ${node.online ? "on" : "off"}`, role: "img", "aria-label": t(node.online ? "online" : "offline") }),
      icon(GLYPH[node.kind] && !playable ? GLYPH[node.kind] : "camera", "kind"),
      h("span", { class: "tree-label" }, label),
      count,
    );
    const item = h("li", { class: `tree-node ${node.leaf ? "leaf" : ""}`, role: "treeitem", "aria-level": String(depth), dataset: { id: node.id, online: String(node.online) } }, row);
    if (!node.leaf) item.setAttribute("aria-expanded", "false");
    row.style.setProperty("--depth", String(depth - 1)); // through the object model: the policy forbids style attributes only in markup
    item.info = node;
    row.addEventListener("click", () => {
      this.#focus(row);
      if (playable) this.#play(node);
      else if (!node.leaf) this.#toggle(item);
    });
    return item;
  }

  #play(node) {
    this.dispatchEvent(new CustomEvent("open", { detail: { device_id: node.device_id, channel_id: node.channel_id, name: node.label, ptz_type: node.ptz_type } }));
  }

  #toggle(item) { return item.getAttribute("aria-expanded") === "true" ? this.#fold(item) : this.#expand(item); }

  #fold(item) {
    item.setAttribute("aria-expanded", "false");
    item.querySelector(":scope > ul")?.remove();
  }

  async #expand(item) {
    if (item.querySelector(":scope > ul")) return;
    item.setAttribute("aria-expanded", "true");
    const list = h("ul", { role: "group" });
    item.append(list);
    try {
      const rows = await this.#level(item.dataset.id, Number(item.getAttribute("aria-level")));
      clear(list, rows.length ? rows : h("li", { class: "tree-empty" }, t("nothing_found")));
    } catch (error) {
      clear(list, h("li", { class: "tree-empty" }, problemText(error)));
    }
  }

  /** Fetch what is shown again, with the same levels open. */
  async refresh() {
    if (this.search.value.trim()) { this.load(); return; }
    const open = [...this.list.querySelectorAll('[aria-expanded="true"]')].map((item) => item.dataset.id);
    const scroll = this.list.scrollTop;
    const focused = this.list.querySelector(".tree-row:focus")?.parentElement.dataset.id;
    try {
      const fresh = h("ul");
      fresh.append(...await this.#level("", 0));
      const asked = (this.asked = Symbol("refresh"));
      for (const id of open) {
        const item = [...fresh.querySelectorAll(".tree-node")].find((node) => node.dataset.id === id);
        if (item && !item.classList.contains("leaf")) await this.#expand(item);
        if (asked !== this.asked) return;
      }
      const rows = [...fresh.children];
      clear(this.list, rows.length ? rows : h("li", { class: "tree-empty" }, t("empty_tree")));
      this.list.scrollTop = scroll;
      const back = focused && [...this.list.querySelectorAll(".tree-node")].find((node) => node.dataset.id === focused);
      if (back) this.#focus(back.firstChild);
      this.mark(this.marked || []);
    } catch { /* the header shows that the link is lost */ }
  }

  /** Mark the channels that are on the wall. */
  mark(channels) {
    this.marked = channels;
    const ids = new Set(channels.map((c) => `channel:${c.device_id}/${c.channel_id}`));
    for (const node of this.list.querySelectorAll(".tree-node")) node.firstChild.classList.toggle("shown", ids.has(node.dataset.id));
  }

  #focus(row) {
    this.list.querySelectorAll('.tree-row[tabindex="0"]').forEach((other) => { other.tabIndex = -1; });
    row.tabIndex = 0;
    row.focus();
  }

  #key(event) {
    const rows = [...this.list.querySelectorAll(".tree-row")];
    const at = rows.indexOf(document.activeElement);
    if (at < 0) return;
    const item = rows[at].parentElement;
    const expanded = item.getAttribute("aria-expanded");
    const go = (row) => row && this.#focus(row);
    const keys = {
      ArrowDown: () => go(rows[at + 1]),
      ArrowUp: () => go(rows[at - 1]),
      Home: () => go(rows[0]),
      End: () => go(rows[rows.length - 1]),
      ArrowRight: () => (expanded === "false" ? this.#expand(item) : go(item.querySelector("ul .tree-row"))),
      ArrowLeft: () => (expanded === "true" ? this.#fold(item) : go(item.parentElement.closest(".tree-node")?.firstChild)),
      Enter: () => rows[at].click(),
      " ": () => rows[at].click(),
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  }
}
