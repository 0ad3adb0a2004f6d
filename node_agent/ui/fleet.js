// Shows the nodes: a summary, those that need attention, and all of them as a map or as a table.

import { byId, el, reconcile, setAttribute, setBar, setText } from "/ui/dom.js";
import { duration, milliseconds, money, number, percent, plural, shortId } from "/ui/format.js";

const DENSE_ABOVE = 36;
const FULL_AT_REQUESTS = 32;
const NOTICE_S = 120;
const LABELS = {
  starting: "Starting", ready: "Ready", "at-risk": "At risk", draining: "Draining", gone: "Leaving",
  suspect: "Not answering", dead: "Lost",
};
const ORDER = ["draining", "dead", "suspect", "at-risk", "gone", "starting", "ready"];

let view = null; // what a person chose; else by the number of nodes

/** The one word that describes a node: its liveness where that is in doubt, else its state. */
export const kind = (node) => (node.liveness === "alive" ? node.state : node.liveness);
const label = (node) => LABELS[kind(node)] ?? kind(node);
const requests = (node) => node.running + node.waiting;
const serves = (node) => ["ready", "at-risk"].includes(kind(node));

/** Connects the buttons. show(): draws the last snapshot again. */
export function init(show) {
  for (const name of ["map", "table"]) {
    byId(`show-${name}`).addEventListener("click", () => {
      view = name;
      show();
    });
  }
}

/** Shows a snapshot. */
export function show(snapshot) {
  const nodes = snapshot.nodes;
  showSummary(snapshot);
  showAttention(nodes.filter((node) => kind(node) !== "ready").sort(byUrgency), snapshot.at);
  const isTable = view === "table";
  for (const [name, chosen] of [["map", !isTable], ["table", isTable]]) {
    setAttribute(byId(`show-${name}`), "aria-pressed", chosen);
    byId(`fleet-${name}`).hidden = !chosen;
  }
  if (isTable) showTable(snapshot);
  else showMap(snapshot);
  setText(byId("fleet-note"), note(snapshot));
}

function note({ unvouched, nodes }) {
  const legend = nodes.length > DENSE_ABOVE && view !== "table" ? "A tile has its node's number of requests, and is filled as far as the node is. " : "";
  return legend + (unvouched ? `${plural(unvouched, "node waits", "nodes wait")} until EC2 vouches for it.` : "");
}

function byUrgency(one, other) {
  return ORDER.indexOf(kind(one)) - ORDER.indexOf(kind(other)) || (one.deadline ?? 0) - (other.deadline ?? 0);
}

// the summary

function showSummary({ nodes, streams, continuity, cost }) {
  const present = nodes.filter((node) => node.liveness !== "dead");
  const continued = Object.values(continuity.continued).reduce((sum, count) => sum + count, 0);
  const unpriced = cost.unpriced.length ? `, without ${cost.unpriced.join(", ")}` : "";
  const items = [
    ["Nodes that serve", `${number(present.filter(serves).length)} of ${number(present.length)}`, ""],
    ["Requests in the fleet", number(present.reduce((sum, node) => sum + requests(node), 0)), ""],
    ["Streams at this node", number(streams.open), ""],
    ["Continued at this node", number(continued), continuity.pause_ms ? `median pause ${milliseconds(continuity.pause_ms.p50)}` : ""],
    ["Cost an hour, at most", money(cost.dollars_per_hour),
      cost.dollars_per_hour === null ? "no prices for these types" : `on demand, ${cost.region}${unpriced}`],
  ];
  reconcile(byId("summary"), items, ([name]) => name,
    ([name]) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" }), el("dd", { class: "note" })),
    (element, [, value, more]) => {
      setText(element.children[1], value);
      setText(element.children[2], more);
    });
}

// nodes that end or need attention

const MAX_OF_A_KIND = { draining: 6, dead: 4, suspect: 4 };
const MAX_OF_OTHERS = 3;

/** One row for each node; of a kind with many, one row for those beyond the first. */
function attentionRows(nodes) {
  return [...grouped(nodes, kind).values()].flatMap((same) => {
    const most = MAX_OF_A_KIND[kind(same[0])] ?? MAX_OF_OTHERS;
    if (same.length <= most) return same;
    const shown = most === MAX_OF_OTHERS ? [] : same.slice(0, most);
    return [...shown, { id: `more ${kind(same[0])}`, of: same[0], more: same.length - shown.length, isAll: !shown.length }];
  });
}

function showAttention(nodes, at) {
  const rows = attentionRows(nodes).sort((one, other) => ORDER.indexOf(kind(one.of ?? one)) - ORDER.indexOf(kind(other.of ?? other)));
  byId("attention").hidden = rows.length === 0;
  reconcile(byId("attention"), rows, (node) => node.id, () => {
    const bar = el("span", { class: "bar" }, el("span", { class: "fill" }));
    return el("li", {}, el("span", { class: "dot", "aria-hidden": "true" }), el("strong"), el("span", { class: "what" }), bar);
  }, (element, node) => {
    const [, name, what, bar] = element.children;
    setAttribute(element, "data-kind", kind(node.of ?? node));
    setText(name, node.more ? `${number(node.more)} ${node.isAll ? "" : "more "}nodes` : node.id);
    setText(what, node.more ? `${label(node.of).toLowerCase()}` : describe(node, at));
    const left = node.deadline === null || node.more ? null : node.deadline - at;
    bar.hidden = left === null;
    setBar(bar.firstElementChild, (left ?? 0) / NOTICE_S);
  });
}

function describe(node, at) {
  const open = requests(node);
  const busy = open ? `, ${plural(open, "request")} still there` : "";
  switch (kind(node)) {
    case "draining":
      return node.deadline === null
        ? `draining for ${duration(at - node.since)}${busy}`
        : `draining, ends in ${duration(node.deadline - at)}${busy}`;
    case "dead": return `lost ${duration(at - node.since)} ago`;
    case "suspect": return `not answering for ${duration(at - node.since)}; it gets no new requests`;
    case "at-risk": return `at risk of an interruption; it is chosen last${busy}`;
    case "starting": return `starting for ${duration(at - node.since)}`;
    default: return `leaving${busy}`;
  }
}

// the map: zones, pools, nodes

function showMap({ nodes, self }) {
  const map = byId("fleet-map");
  map.classList.toggle("dense", nodes.length > DENSE_ABOVE);
  const models = new Set(nodes.map((node) => node.model));
  reconcile(map, [...grouped(nodes, (node) => node.zone)], ([zone]) => zone, makeZone, (element, [zone, inZone]) => {
    const [heading, pools] = element.children;
    setText(heading.firstElementChild, zone);
    setText(heading.lastElementChild, plural(inZone.length, "node"));
    reconcile(pools, [...grouped(inZone, (node) => node.type)], ([type]) => type, makePool, (pool, [type, inPool]) => {
      setText(pool.firstElementChild, type);
      reconcile(pool.lastElementChild, inPool.sort(byName), (node) => node.id, makeNode,
        (tile, node) => showNode(tile, node, node.id === self, models.size > 1));
    });
  });
}

const byName = (one, other) => (one.id < other.id ? -1 : 1);

function grouped(nodes, name) {
  const groups = new Map();
  for (const node of nodes) {
    if (!groups.has(name(node))) groups.set(name(node), []);
    groups.get(name(node)).push(node);
  }
  return new Map([...groups].sort(([one], [other]) => (one < other ? -1 : 1)));
}

const makeZone = () =>
  el("section", { class: "zone" }, el("h3", {}, el("span"), el("span", { class: "count" })), el("div", { class: "pools" }));
const makePool = () => el("div", { class: "pool" }, el("h4"), el("ul", { class: "nodes" }));
const makeNode = () =>
  el("li", { class: "node" },
    el("span", { class: "fill", "aria-hidden": "true" }),
    el("span", { class: "id" }), el("span", { class: "state" }),
    el("span", { class: "load" }, el("span"), el("span", { class: "unit" })), el("span", { class: "model" }));

function showNode(tile, node, isSelf, showsModel) {
  const [fill, id, state, load, model] = tile.children;
  setAttribute(tile, "data-kind", kind(node));
  setAttribute(tile, "data-self", isSelf ? "true" : null);
  setAttribute(tile, "title", `${node.id}: ${label(node)}, ${plural(requests(node), "request")}`);
  setBar(fill, fullness(node));
  setText(id, isSelf ? `${shortId(node.id)} (this node)` : shortId(node.id));
  setText(state, label(node));
  const waiting = node.waiting ? `, ${number(node.waiting)} waiting` : "";
  setText(load.firstElementChild, node.liveness === "dead" ? "" : number(requests(node)));
  setText(load.lastElementChild, node.liveness === "dead" ? "" : ` ${requests(node) === 1 ? "request" : "requests"}${waiting}`);
  setText(model, showsModel ? node.model : "");
}

const fullness = (node) => Math.max(node.kv_use, Math.min(1, requests(node) / FULL_AT_REQUESTS));

// the table

const COLUMNS = [
  ["Node", (node) => node.id],
  ["Zone", (node) => node.zone],
  ["Type", (node) => node.type],
  ["State", (node) => label(node)],
  ["Model", (node) => node.model],
  ["Running", (node) => number(node.running)],
  ["Waiting", (node) => number(node.waiting)],
  ["KV cache", (node) => percent(node.kv_use)],
  ["A token", (node) => (node.token_ms ? milliseconds(node.token_ms) : "–")],
  ["Ends in", (node, at) => (node.deadline === null ? "–" : duration(node.deadline - at))],
];
const NUMERIC = 5; // the first column with figures

function showTable({ nodes, at, self }) {
  const parent = byId("fleet-table");
  const table = parent.firstElementChild ?? parent.appendChild(makeTable("Nodes of the fleet", COLUMNS.map(([name]) => name)));
  const sorted = [...nodes].sort((one, other) => byUrgency(one, other) || (one.zone < other.zone ? -1 : one.zone > other.zone ? 1 : byName(one, other)));
  reconcile(table.tBodies[0], sorted, (node) => node.id, () => makeRow(COLUMNS.length), (row, node) => {
    setAttribute(row, "data-kind", kind(node));
    COLUMNS.forEach(([name, text], column) => {
      setText(row.cells[column], text(node, at) + (column === 0 && node.id === self ? " (this node)" : ""));
      setAttribute(row.cells[column], "class", column >= NUMERIC ? "figure" : name === "State" ? "state" : null);
    });
  });
}

/** Makes a table with a caption for screen readers and a row of headings. */
export function makeTable(caption, names) {
  const head = el("tr", {}, ...names.map((name) => el("th", { scope: "col" }, name)));
  return el("table", {}, el("caption", { class: "visually-hidden" }, caption), el("thead", {}, head), el("tbody"));
}

/** Makes a row whose first cell is its heading. */
export function makeRow(columns) {
  return el("tr", {}, el("th", { scope: "row" }), ...Array.from({ length: columns - 1 }, () => el("td")));
}
