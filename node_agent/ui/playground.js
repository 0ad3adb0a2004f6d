// Streams a chat and shows, as it happens, which node answers, where a hand-off fell, and what was checked.
//
// The client resumes: it keeps the number of the last event, and continues the stream where its connection is lost.

import { headers } from "/ui/access.js";
import { byId, el, reconcile, setAttribute, setText } from "/ui/dom.js";
import { milliseconds, number, plural } from "/ui/format.js";
import { message } from "/ui/live.js";
import { events } from "/ui/sse.js";
import { REASONS } from "/ui/streams.js";

const CHAT = "/v1/chat/completions";
const CONTINUED = /^synkti continued on (\S+) after (\S+) on (\S+), pause ([\d.]+) ms$/;
const RESUMES = 12;
const RESUME_AFTER_MS = 500;
const RESUMABLE = new Set(["handoff", "engine_lost", "no_ready_node", "journal_behind"]);

let models = [];
let current = null; // the answer that is streamed, or was last

export function init() {
  byId("chat").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => current?.abort.abort());
  byId("compare").addEventListener("click", compare);
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("chat").requestSubmit();
  });
}

/** Offers the models of a snapshot. */
export function show(snapshot) {
  const found = [...new Set(snapshot.nodes.filter((node) => node.model).map((node) => node.model))].sort();
  if (found.join("\n") === models.join("\n")) return;
  models = found;
  reconcile(byId("model"), models, (model) => model, (model) => el("option", { value: model }, model), () => {});
}

/** One answer: what arrived, from which nodes, and what its events' numbers were. */
class Answer {
  constructor(body) {
    this.body = body;
    this.abort = new AbortController();
    this.token = "";
    this.lastId = "";
    this.text = "";
    this.parts = []; // {node, tokens, pause, why, how}: one for each engine
    this.numbers = { next: 1, missing: 0, repeated: 0, events: 0 };
    this.ids = 0;
    this.counted = null; // the engine's own count
    this.finish = null;
    this.isDone = false;
    this.error = null;
  }

  get part() {
    return this.parts[this.parts.length - 1];
  }
}

async function send() {
  current?.abort.abort();
  const answer = (current = new Answer({
    model: byId("model").value,
    messages: [{ role: "user", content: byId("prompt").value }],
    max_tokens: Number(byId("max-tokens").value),
    temperature: Number(byId("temperature").value),
  }));
  begin();
  try {
    await run(answer);
  } catch (error) {
    answer.error ??= error.name === "AbortError" ? "Stopped." : `The connection was lost (${error.message}).`;
  }
  if (answer === current) end(answer);
}

/** Streams an answer to its end, over as many connections as that takes. */
async function run(answer) {
  const first = { ...answer.body, stream: true, stream_options: { include_usage: true }, return_token_ids: true };
  let response = await request(answer, CHAT, first);
  for (let resumes = 0; ; resumes += 1) {
    const isOver = response === null ? false : await read(answer, response);
    if (isOver) return;
    if (!answer.token || resumes >= RESUMES) throw new Error("it could not be resumed");
    setText(byId("chat-status"), "The connection was lost. Resuming the stream …");
    await pause(answer, RESUME_AFTER_MS);
    response = await request(answer, `/v1/streams/${answer.token}`, null);
  }
}

/** Sends a request. Returns its response; null where it is worth another try. Throws where it is not. */
async function request(answer, path, body) {
  const sent = { ...headers(), "x-synkti-event-ids": "true" };
  if (body !== null) sent["content-type"] = "application/json";
  if (answer.lastId) sent["last-event-id"] = answer.lastId;
  let response;
  try {
    response = await fetch(path, {
      method: body === null ? "GET" : "POST", headers: sent, signal: answer.abort.signal, cache: "no-store",
      body: body === null ? undefined : JSON.stringify(body),
    });
  } catch (error) {
    if (answer.token && error.name !== "AbortError") return null;
    throw error;
  }
  if (response.ok) return response;
  const text = await message(response);
  if (answer.token && response.status >= 500) return null;
  answer.error = text;
  throw new Error(text);
}

/** Reads a response. Returns whether the answer is over. */
async function read(answer, response) {
  answer.token = response.headers.get("x-synkti-stream") ?? answer.token;
  const node = response.headers.get("x-synkti-node");
  if (node !== null) enter(answer, node, null);
  try {
    for await (const event of events(response)) {
      for (const comment of event.comments) onComment(answer, comment);
      if (event.id) count(answer, event.id);
      if (event.data === "[DONE]") {
        answer.isDone = true;
        return true;
      }
      const chunk = JSON.parse(event.data);
      if (chunk.error) return onError(answer, chunk.error);
      onChunk(answer, chunk);
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  return false;
}

function onError(answer, error) {
  if (RESUMABLE.has(error.code) && answer.token) return false;
  answer.error = String(error.message ?? "The stream ended with an error.").slice(0, 500);
  return true;
}

function onComment(answer, comment) {
  const found = CONTINUED.exec(comment);
  if (found === null) return;
  const [, node, why, lost, pauseMs] = found;
  enter(answer, node, { why, lost, pauseMs: Number(pauseMs) });
}

/** Notes which node answers from now on. handOff: null for the first one, or for a resumed connection. */
function enter(answer, node, handOff) {
  if (answer.part && answer.part.node === node && handOff === null) return;
  answer.parts.push({ node, tokens: 0, handOff });
  showRoute(answer);
  appendSeam(answer);
  if (handOff !== null) {
    setText(byId("chat-status"), `Continued on ${node} after a pause of ${milliseconds(handOff.pauseMs)}.`);
  }
}

function count(answer, id) {
  const seq = Number(id.split("/")[1]); // <stream>/<number>, and behind a takeover /<epoch>
  const { numbers } = answer;
  answer.lastId = id;
  numbers.events += 1;
  if (seq < numbers.next) numbers.repeated += 1;
  else numbers.missing += seq - numbers.next;
  numbers.next = Math.max(numbers.next, seq + 1);
}

function onChunk(answer, chunk) {
  if (chunk.usage) answer.counted = chunk.usage.completion_tokens;
  const choice = chunk.choices?.[0];
  if (!choice) return;
  const tokens = choice.token_ids?.length ?? 0;
  answer.ids += tokens;
  if (answer.part) answer.part.tokens += tokens;
  answer.finish = choice.finish_reason ?? answer.finish;
  const text = choice.delta?.content ?? "";
  if (text) {
    answer.text += text;
    appendText(answer, text);
  }
  showRoute(answer);
}

function pause(answer, ms) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    answer.abort.signal.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

// showing it

function begin() {
  byId("answer").replaceChildren();
  byId("answer").hidden = false;
  byId("route").hidden = false;
  reconcile(byId("route"), [], () => "", () => null, () => {});
  reconcile(byId("checks"), [], () => "", () => null, () => {});
  byId("stop").hidden = false;
  byId("compare").hidden = true;
  setAttribute(byId("send"), "disabled", "");
  setText(byId("chat-status"), "Waiting for a node …");
}

function end(answer) {
  byId("stop").hidden = true;
  byId("send").disabled = false;
  const handOffs = answer.parts.filter((part) => part.handOff !== null).length;
  const how = handOffs ? `, across ${plural(handOffs, "hand-off")}` : "";
  setText(byId("chat-status"), answer.error ?? `Complete: ${plural(answer.ids, "token")}${how}.`);
  setAttribute(byId("chat-status"), "data-kind", answer.error ? "bad" : null);
  showRoute(answer);
  if (answer.numbers.events) showChecks(answer, null);
  byId("compare").hidden = !answer.isDone || answer.body.temperature !== 0;
}

function appendSeam(answer) {
  const { handOff } = answer.part;
  const part = el("span", { class: "part", "data-part": answer.parts.length % 2 ? "odd" : "even" });
  if (handOff !== null) {
    byId("answer").append(el("span", { class: "seam" }, `⟶ ${milliseconds(handOff.pauseMs)}`));
  }
  byId("answer").append(part);
}

function appendText(answer, text) {
  const area = byId("answer");
  const followsEnd = area.scrollHeight - area.scrollTop - area.clientHeight < 40;
  if (!(area.lastElementChild?.classList.contains("part"))) area.append(el("span", { class: "part" }));
  area.lastElementChild.append(text);
  if (followsEnd) area.scrollTop = area.scrollHeight;
}

function showRoute(answer) {
  reconcile(byId("route"), answer.parts.map((part, index) => ({ ...part, index })), ({ index }) => index,
    () => el("li", {}, el("span", { class: "why" }), el("strong"), el("span", { class: "tokens" })),
    (element, { node, tokens, handOff, index }) => {
      const [why, name, count_] = element.children;
      setAttribute(element, "data-part", index % 2 ? "even" : "odd");
      setText(why, handOff === null ? "" : `${REASONS[handOff.why] ?? handOff.why} · ${milliseconds(handOff.pauseMs)}`);
      why.hidden = handOff === null;
      setText(name, node);
      setText(count_, plural(tokens, "token"));
    });
}

function showChecks(answer, comparison) {
  const { numbers } = answer;
  const inOrder = numbers.missing === 0 && numbers.repeated === 0;
  const rows = [
    [inOrder, inOrder ? `${plural(numbers.events, "event")} arrived, each once and in order` : `${number(numbers.missing)} events are missing, ${number(numbers.repeated)} came twice`],
  ];
  if (answer.isDone && answer.counted !== null) {
    const same = answer.counted === answer.ids;
    rows.push([same, same ? `${plural(answer.ids, "token")} received, as many as the engine counted` : `${number(answer.ids)} tokens received, the engine counted ${number(answer.counted)}`]);
  }
  rows.push([answer.isDone, answer.isDone ? `The answer ended by itself (${answer.finish})` : "The answer is not complete"]);
  if (comparison !== null) rows.push(comparison);
  reconcile(byId("checks"), rows, ([, text]) => text, ([, text]) => el("li", {}, el("span", { class: "mark", "aria-hidden": "true" }), text),
    (element, [isGood]) => {
      setAttribute(element, "data-kind", isGood ? "good" : "bad");
      setText(element.firstElementChild, isGood ? "✓" : "✗");
    });
}

/** Requests the same answer in one piece, and compares the texts. */
async function compare() {
  const answer = current;
  setAttribute(byId("compare"), "disabled", "");
  setText(byId("chat-status"), "Requesting the answer once more …");
  let comparison;
  try {
    const response = await fetch(CHAT, {
      method: "POST", headers: { ...headers(), "content-type": "application/json" }, cache: "no-store",
      body: JSON.stringify(answer.body),
    });
    if (!response.ok) throw new Error(await message(response));
    const text = (await response.json()).choices[0].message.content ?? "";
    const same = text === answer.text;
    comparison = [same, same ? "The second answer has the same text, to the last character" : "The second answer has another text: batching may change what vLLM computes, or something was lost"];
  } catch (error) {
    comparison = [false, `The second answer failed: ${error.message}`];
  }
  byId("compare").disabled = false;
  if (answer !== current) return;
  setText(byId("chat-status"), "");
  showChecks(answer, comparison);
}
