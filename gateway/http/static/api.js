// The gateway's API: one function to ask, one class for what goes wrong, one event source.

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || String(status));
    this.status = status;
    this.cause = problem.cause || "";
    this.field = problem.field || "";
    this.errors = problem.errors || (problem.field ? [{ field: problem.field, detail: problem.detail }] : []);
  }
}

export const session = new EventTarget();

/** JSON in, JSON out; ``more.raw`` gives the Response. Raises ApiError. */
export async function api(method, path, body, more = {}) {
  const headers = { "X-Requested-By": "console", ...(more.headers || {}) };
  let payload;
  if (body !== undefined && body !== null) {
    payload = typeof body === "string" ? body : JSON.stringify(body);
    if (!headers["Content-Type"]) headers["Content-Type"] = "application/json";
  }
  let response;
  try {
    response = await fetch(path, { method, headers, body: payload, signal: more.signal, keepalive: more.keepalive, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, { title: "unreachable", cause: "unreachable" });
  }
  if (!response.ok) {
    let problem = {};
    try { problem = await response.json(); } catch { problem = { title: response.statusText }; }
    if (response.status === 401 && problem.cause === "not_logged_in") session.dispatchEvent(new Event("ended"));
    throw new ApiError(response.status, problem);
  }
  if (more.raw) return response;
  return response.status === 204 ? null : response.json();
}

export const query = (values) => {
  const text = new URLSearchParams(Object.entries(values).filter(([, v]) => v !== "" && v !== null && v !== undefined)).toString();
  return text ? `?${text}` : "";
};

const NAMES = [
  "device_added", "device_changed", "device_removed", "device_registered", "device_online", "device_offline", "device_moved",
  "device_fault", "device_conflict", "device_conflict_ended", "channel_added", "channel_changed", "channel_removed", "channel_status", "channel_conflict",
  "catalog_collected", "catalog_shrank", "catalog_fault", "subscription_changed", "session_started", "session_ended",
  "session_failed", "media_fault", "first_picture", "talk_changed", "platform_changed", "alarm_raised", "security_event", "dropped",
];

/** Events of the gateway, as ``CustomEvent``s of this target by name, and all of them as "any". */
export class Events extends EventTarget {
  open() {
    this.close();
    this.source = new EventSource("/api/events");
    this.source.onopen = () => this.dispatchEvent(new CustomEvent("link", { detail: true }));
    this.source.onerror = () => {
      this.dispatchEvent(new CustomEvent("link", { detail: false }));
      if (this.source && this.source.readyState === EventSource.CLOSED) {
        this.close();
        api("GET", "/api/me").then(() => setTimeout(() => this.open(), 3000), () => setTimeout(() => this.wanted && this.open(), 5000));
      }
    };
    for (const name of NAMES) {
      this.source.addEventListener(name, (message) => {
        const data = JSON.parse(message.data);
        this.dispatchEvent(new CustomEvent(name, { detail: data }));
        this.dispatchEvent(new CustomEvent("any", { detail: { name, data } }));
      });
    }
    this.wanted = true;
  }

  close() {
    this.wanted = false;
    if (this.source) this.source.close();
    this.source = null;
  }
}
