// Keeps a connection that receives a snapshot of the fleet each second, and reports what becomes of it.

import { headers } from "/ui/access.js";
import { events } from "/ui/sse.js";

const ROUTE = "/v1/synkti/snapshot/events";
const SILENT_MS = 4000;
const RETRY_MS = [500, 1000, 2000, 4000];

export class Live {
  /**
   * onSnapshot(snapshot) receives each one. onState(state, message): `live`; `key`, a key is needed, or the last one
   * was wrong; `refused`, this key or this node serves no snapshots; `gone`, the node does not answer.
   */
  constructor(onSnapshot, onState) {
    this.onSnapshot = onSnapshot;
    this.onState = onState;
    this.run = 0;
  }

  /** Connects, anew where there was a connection. */
  start() {
    this.stop();
    this.connect(++this.run);
  }

  stop() {
    this.run += 1;
    this.abort?.abort();
  }

  async connect(run) {
    for (let failures = 0; run === this.run; ) {
      const next = await this.read(run, () => (failures = 0));
      if (next === "end" || run !== this.run) return;
      if (next === "lost") this.onState("gone", "");
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS[Math.min(failures++, RETRY_MS.length - 1)]));
    }
  }

  /** Reads one connection to its end. Returns `end`; or `lost` or `busy`, to connect again. */
  async read(run, onData) {
    const abort = (this.abort = new AbortController());
    let silence = setTimeout(() => abort.abort(), SILENT_MS);
    try {
      const response = await fetch(ROUTE, { headers: headers(), signal: abort.signal, cache: "no-store" });
      if (!response.ok) return this.refused(run, response.status, await message(response));
      for await (const event of events(response)) {
        clearTimeout(silence);
        silence = setTimeout(() => abort.abort(), SILENT_MS);
        if (run !== this.run) return "end";
        if (event.event === "revoked") return this.refused(run, 401, "This key is no longer accepted.");
        onData();
        this.onState("live", "");
        this.onSnapshot(JSON.parse(event.data));
      }
      return "lost";
    } catch {
      return "lost";
    } finally {
      clearTimeout(silence);
      abort.abort();
    }
  }

  refused(run, status, text) {
    if (run !== this.run) return "end";
    if (status >= 500) return "lost";
    this.onState(status === 401 ? "key" : "refused", text);
    return status === 429 ? "busy" : "end";
  }
}

/** The message of an error response. */
export async function message(response) {
  try {
    const { error } = await response.json();
    return String(error.message ?? `HTTP ${response.status}`).slice(0, 500);
  } catch {
    return `HTTP ${response.status}`;
  }
}
