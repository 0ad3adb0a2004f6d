// Shows the streams of this node, the timeline of interruptions, and the continuity of its streams.

import { byId, el, reconcile, setAttribute, setText } from "/ui/dom.js";
import { makeRow, makeTable } from "/ui/fleet.js";
import { clock, duration, milliseconds, number, plural, shortId } from "/ui/format.js";

/** Shows a snapshot. */
export function show(snapshot) {
  showTimeline(snapshot.timeline);
  showCertificate(snapshot.continuity);
  showStreams(snapshot.streams, snapshot.at);
}

// the timeline

const CHANGES = {
  joined: "joined", ready: "is ready", starting: "starts its engine", "at-risk": "is at risk of an interruption",
  draining: "is interrupted: it drains", left: "left", suspect: "does not answer", dead: "is lost", returned: "answers again",
};
export const REASONS = {
  handoff: "handed off", eof: "its connection ended", reset: "its connection broke", refused: "it refused connections",
  unreachable: "it could not be reached", silence: "it fell silent", "entry-lost": "the client's node was lost",
  diverged: "another engine's output differed", aborted: "its engine stopped",
};

function showTimeline(entries) {
  reconcile(byId("timeline"), entries, (entry) => entry.number,
    () => el("li", {}, el("time"), el("p")),
    (element, entry) => {
      const [time, text] = element.children;
      setAttribute(element, "data-kind", entry.kind);
      setText(time, clock(entry.at));
      setAttribute(time, "datetime", new Date(entry.at * 1000).toISOString());
      setText(text, sentence(entry));
    });
  setText(byId("timeline-note"), entries.length ? "As this node saw it, the newest first." : "Nothing has happened since this node's start.");
}

function sentence(entry) {
  const { kind, node, code, streams } = entry;
  const why = REASONS[code] ?? code;
  if (kind === "continued") {
    const more = entry.more_targets ? ` and ${number(entry.more_targets)} more` : "";
    const pause = streams === 1
      ? `after a pause of ${milliseconds(entry.pause_ms.p50)}`
      : `pauses ${milliseconds(entry.pause_ms.p50)} (median) to ${milliseconds(entry.pause_ms.longest)}`;
    return `${plural(streams, "stream")} of ${shortId(node)} continued on ${entry.targets.map(shortId).join(", ")}${more}, ${pause} (${why})`;
  }
  if (kind === "broken") return `${plural(streams, "stream")} ended with an error: ${code}`;
  if (kind === "closed") return `${plural(streams, "client")} sent on to another node (${code})`;
  return `${node} ${CHANGES[kind] ?? kind}${entry.pool ? `, ${entry.pool}` : ""}`;
}

// the certificate so far

function showCertificate(continuity) {
  const { streams, continued, pause_ms: pauses } = continuity;
  const moved = sum(continued);
  const resumable = (streams.ended_with_error.handoff ?? 0) + (streams.ended_with_error.stream_taken ?? 0);
  const broken = sum(streams.ended_with_error) - resumable;
  const rows = [
    ["Streams", `${number(streams.begun)} begun, ${number(streams.complete)} complete`, streams.resumed ? `${number(streams.resumed)} more resumed here` : ""],
    ["Continued", plural(moved, "time"), reasons(continued)],
    ["Pause", pauses ? `${milliseconds(pauses.p50)} median` : "–", pauses ? `95 %: ${milliseconds(pauses.p95)}, longest ${milliseconds(pauses.longest)}` : ""],
    ["Ended with an error", number(broken), broken ? reasons(streams.ended_with_error) : ""],
    ["Sent on to another node", number(resumable), ""],
    ["Tokens of ended streams", number(continuity.tokens), ""],
    ["Continuations that differed", number(continuity.differed), continuity.differed ? "not sent, and tried on another engine" : ""],
    ["Events without a replica", number(continuity.unreplicated_events), continuity.unreplicated_events ? "lost if this node had died just then" : ""],
    ["Resumes that lacked events", number(continuity.behind), ""],
  ];
  reconcile(byId("certificate"), rows, ([name]) => name,
    ([name]) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" }), el("dd", { class: "note" })),
    (element, [name, value, more]) => {
      setText(element.children[1], value);
      setText(element.children[2], more);
      setAttribute(element, "data-kind", name === "Ended with an error" && broken ? "bad" : null);
    });
}

const sum = (counts) => Object.values(counts).reduce((total, count) => total + count, 0);
const reasons = (counts) => Object.entries(counts).map(([code, count]) => `${number(count)} ${REASONS[code] ?? code}`).join(", ");

// the streams

const COLUMNS = ["Stream", "Model", "Engine", "Tokens", "Open for", "Replicas", "State"];

function showStreams({ open, oldest }, at) {
  const parent = byId("streams");
  const table = parent.firstElementChild ?? parent.appendChild(makeTable("Streams at this node", COLUMNS));
  reconcile(table.tBodies[0], oldest, (stream) => stream.id, () => makeRow(COLUMNS.length), (row, stream) => {
    const state = stream.interrupted ? "interrupted" : stream.engines_used > 1 ? `continued, engine ${number(stream.engines_used)}` : "first engine";
    const texts = [stream.id.slice(0, 12), stream.model, stream.engine || "–", number(stream.tokens), duration(at - stream.began), number(stream.replicas), state];
    texts.forEach((text, column) => setText(row.cells[column], text));
    [3, 4, 5].forEach((column) => setAttribute(row.cells[column], "class", "figure"));
    setAttribute(row, "data-kind", stream.interrupted ? "interrupted" : null);
  });
  table.hidden = oldest.length === 0;
  const note = parent.querySelector("p") ?? parent.appendChild(el("p", { class: "note" }));
  setText(note, open === 0 ? "No client streams through this node now." : open > oldest.length ? `${number(open)} streams; the ${number(oldest.length)} oldest are shown.` : "");
}
