// The documentation page: draws /api/openapi.json, without anything from outside.

import { clear, h } from "./dom.js";

const response = await fetch("/api/openapi.json", { cache: "no-store" });
if (response.status === 401) location.replace("/");
const api = await response.json();
const content = document.getElementById("content");
const menu = document.getElementById("menu");
document.getElementById("version").textContent = `${api.info.title} ${api.info.version} · OpenAPI ${api.openapi}`;

const resolve = (schema) => (schema && schema.$ref ? { ...api.components.schemas[schema.$ref.split("/").pop()], name: schema.$ref.split("/").pop() } : schema || {});

function typeOf(raw) {
  const schema = resolve(raw);
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((v) => JSON.stringify(v)).join(" | ");
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" | ");
  if (schema.type === "array") return `${typeOf(schema.items)}[]`;
  if (schema.name) return schema.name;
  const limits = [schema.minimum !== undefined && `≥ ${schema.minimum}`, schema.maximum !== undefined && `≤ ${schema.maximum}`, schema.pattern, schema.format].filter(Boolean).join(", ");
  return `${schema.type || "any"}${limits ? ` (${limits})` : ""}`;
}

function inner(raw) {
  const schema = resolve(raw);
  if (schema.properties) return schema;
  if (schema.type === "array") return inner(schema.items);
  const option = (schema.anyOf || []).map(inner).find((s) => s && s.properties);
  return option || null;
}

function fields(raw, depth = 0) {
  const schema = inner(raw);
  if (!schema || depth > 3) return [];
  const required = new Set(schema.required || []);
  return Object.entries(schema.properties).flatMap(([name, value]) => [
    h("tr", {}, h("td", {}, h("code", {}, `${"· ".repeat(depth)}${name}`), required.has(name) && h("span", { class: "required", title: "required" }, " *")), h("td", { class: "type" }, typeOf(value)),
      h("td", {}, [resolve(value).description || value.description || "", value.default !== undefined ? ` Default ${JSON.stringify(value.default)}.` : ""])),
    ...fields(value, depth + 1),
  ]);
}

const list = (title, rows) => (rows.length ? [h("h4", {}, title), h("table", {}, h("tbody", {}, rows))] : []);

function body(operation) {
  const parts = [h("p", {}, (operation.description || "").replaceAll("**", "").replaceAll("`", ""))];
  parts.push(list("Parameters", (operation.parameters || []).map((p) => h("tr", {}, h("td", {}, h("code", {}, p.name), p.required && h("span", { class: "required" }, " *")), h("td", { class: "type" }, `${p.in} · ${typeOf(p.schema)}`), h("td", {}, [p.description || "", p.schema.default !== undefined ? ` Default ${JSON.stringify(p.schema.default)}.` : ""])))));
  for (const [type, media] of Object.entries(operation.requestBody?.content || {})) parts.push(list(`Body · ${type}`, fields(media.schema)));
  for (const [status, answer] of Object.entries(operation.responses)) {
    const [type, media] = Object.entries(answer.content || {})[0] || ["", null];
    if (Number(status) < 400) parts.push(h("h4", {}, `${status} · ${answer.description} ${type}`), media ? h("table", {}, h("tbody", {}, fields(media.schema))) : "");
  }
  parts.push(list("Errors", Object.entries(operation.responses).filter(([status]) => Number(status) >= 400).map(([status, answer]) => h("tr", {}, h("td", {}, h("code", {}, status)), h("td", {}, answer.description)))));
  return h("div", { class: "op-body" }, parts);
}

function draw(text = "") {
  const wanted = text.toLowerCase();
  clear(content);
  clear(menu);
  for (const tag of api.tags) {
    const operations = Object.entries(api.paths).flatMap(([path, item]) => Object.entries(item).filter(([, op]) => op.tags[0] === tag.name).map(([method, op]) => ({ path, method, op })))
      .filter(({ path, op }) => `${path} ${op.summary}`.toLowerCase().includes(wanted));
    if (!operations.length) continue;
    menu.append(h("h3", {}, tag.name));
    content.append(h("h2", {}, tag.name), h("p", {}, tag.description));
    for (const { path, method, op } of operations) {
      const entry = h("details", { class: "op", id: op.operationId }, h("summary", {}, h("span", { class: `method ${method}` }, method.toUpperCase()), h("code", {}, path), h("span", {}, op.summary), h("span", { class: "role" }, op["x-role"] || "open")));
      entry.addEventListener("toggle", () => { if (entry.open && entry.children.length === 1) entry.append(body(op)); });
      content.append(entry);
      menu.append(h("a", { href: `#${op.operationId}`, onclick: () => { entry.open = true; } }, op.summary));
    }
  }
}

document.getElementById("filter").addEventListener("input", (event) => draw(event.target.value));
draw();
const first = location.hash && document.getElementById(location.hash.slice(1));
(first || content.querySelector("details")).open = true;
