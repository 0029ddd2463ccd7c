// Small tools to build the page: elements, icons, dialogs, toasts. No markup is ever made from text.

const SVG = "http://www.w3.org/2000/svg";

/** h("button", {class: "btn", onclick}, "text", child …) */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "dataset") Object.assign(element.dataset, value);
    else if (key in element && typeof value !== "string" && key !== "list") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return element;
}

const ICONS = {
  camera: "M4 7.5A1.5 1.5 0 0 1 5.5 6h8A1.5 1.5 0 0 1 15 7.5v9a1.5 1.5 0 0 1-1.5 1.5h-8A1.5 1.5 0 0 1 4 16.5zM15 10.5l5-3v9l-5-3",
  recorder: "M4 7h16v4H4zM4 13h16v4H4zM7 9h.01M7 15h.01",
  folder: "M3.5 7A1.5 1.5 0 0 1 5 5.5h4l2 2.5h8A1.5 1.5 0 0 1 20.5 9.5v7.5a1.5 1.5 0 0 1-1.5 1.5H5A1.5 1.5 0 0 1 3.5 17z",
  chevron: "M9 6l6 6-6 6",
  search: "M11 5a6 6 0 1 0 0 12 6 6 0 0 0 0-12zM15.5 15.5 20 20",
  close: "M6 6l12 12M18 6 6 18",
  play: "M8 5.5v13l10-6.5z",
  stop: "M7 7h10v10H7z",
  sound: "M5 10v4h3l4 3.5v-11L8 10zM15.5 9a4 4 0 0 1 0 6M18 6.5a8 8 0 0 1 0 11",
  mute: "M5 10v4h3l4 3.5v-11L8 10zM16 10l4 4M20 10l-4 4",
  mic: "M12 4a2.5 2.5 0 0 0-2.5 2.5v5a2.5 2.5 0 0 0 5 0v-5A2.5 2.5 0 0 0 12 4zM6.5 11a5.5 5.5 0 0 0 11 0M12 16.5V20",
  photo: "M5 8h3l1.5-2h5L16 8h3v10H5zM12 10a3 3 0 1 0 0 6 3 3 0 0 0 0-6z",
  refresh: "M19 12a7 7 0 1 1-2-5M19 4v4h-4",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  trash: "M5 7h14M9 7V5h6v2M7 7l1 12h8l1-12M10.5 10.5v5M13.5 10.5v5",
  plus: "M12 5v14M5 12h14",
  share: "M7 12a2 2 0 1 0 0 .01M17 6a2 2 0 1 0 0 .01M17 18a2 2 0 1 0 0 .01M8.700 11 15.300 7M8.700 13l6.600 4",
  user: "M12 5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM5 19.5c.8-3.5 3.5-5 7-5s6.200 1.5 7 5",
  full: "M5 9V5h4M15 5h4v4M19 15v4h-4M9 19H5v-4",
  grid1: "M5 5h14v14H5z",
  grid4: "M5 5h6v6H5zM13 5h6v6h-6zM5 13h6v6H5zM13 13h6v6h-6z",
  up: "M12 6l6 8H6z",
  zoomin: "M10.5 5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM15 15l5 5M8 10.5h5M10.5 8v5",
  zoomout: "M10.5 5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM15 15l5 5M8 10.5h5",
  key: "M8 10.5a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM11 11.5 19 3.5M16 6.5l3 3M13.5 9l2 2",
  power: "M12 4v8M7.5 6.5a7.5 7.5 0 1 0 9 0",
  speaker: "M5 10v4h3l4 3.5v-11L8 10zM15.5 9a4 4 0 0 1 0 6",
  bell: "M6.5 16.5v-5a5.5 5.5 0 0 1 11 0v5l1.5 1.5H5zM10.5 20.5h3",
  book: "M5 5.5c3-1 5-.5 7 1 2-1.5 4-2 7-1v12.5c-3-1-5-.5-7 1-2-1.5-4-2-7-1zM12 6.5V19",
};

export function icon(name, extra = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", `icon ${extra}`);
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that shows only an icon; the label is for tooltips and screen readers. */
export function iconButton(name, label, onclick, extra = "") {
  return h("button", { type: "button", class: `icon-btn ${extra}`, title: label, "aria-label": label, onclick }, icon(name));
}

export function clear(element, ...children) {
  element.replaceChildren(...children.flat(Infinity).filter(Boolean));
  return element;
}

export function toast(text, kind = "info") {
  const box = h("div", { class: `toast ${kind}` }, text);
  const area = document.getElementById("toasts");
  area.append(box);
  while (area.children.length > 4) area.firstChild.remove();
  setTimeout(() => box.remove(), kind === "error" ? 8000 : 4000);
}

/** A modal dialog; resolves when it is closed. ``build(close)`` makes the content. */
export function dialog(title, build, { wide = false } = {}) {
  return new Promise((resolve) => {
    const box = h("dialog", { class: `dialog ${wide ? "wide" : ""}`, "aria-label": title });
    let result = null;
    const close = (value = null) => { result = value; box.close(); };
    box.addEventListener("close", () => { box.remove(); resolve(result); });
    box.addEventListener("mousedown", (event) => { if (event.target === box) close(); });
    box.append(
      h("header", { class: "dialog-head" }, h("h2", {}, title), iconButton("close", "×", () => close())),
      build(close),
    );
    document.body.append(box);
    box.showModal();
    const first = box.querySelector("[autofocus]") || box.querySelector("form input, form select");
    if (first) first.focus();
  });
}

export function debounce(ms, work) {
  let timer = 0;
  return (...args) => { clearTimeout(timer); timer = setTimeout(() => work(...args), ms); };
}
