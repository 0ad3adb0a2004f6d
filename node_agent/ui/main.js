// The page of a node: reads the fleet's state each second, and shows it.

import * as access from "/ui/access.js";
import { byId, el, reconcile, setAttribute, setText } from "/ui/dom.js";
import * as fleet from "/ui/fleet.js";
import { clock } from "/ui/format.js";
import { Live } from "/ui/live.js";
import * as playground from "/ui/playground.js";
import * as streams from "/ui/streams.js";

let last = null; // the newest snapshot
let announced = new Map(); // what was said of each node

const live = new Live(onSnapshot, onState);

function onSnapshot(snapshot) {
  if (last?.self !== snapshot.self) announced = new Map(snapshot.nodes.map((node) => [node.id, fleet.kind(node)]));
  last = snapshot;
  access.granted();
  show();
  announce(snapshot);
}

function show() {
  if (last === null) return;
  setText(byId("cluster"), last.cluster === "synkti" ? "" : last.cluster);
  document.title = `Synkti ${last.cluster === "synkti" ? "" : last.cluster} – ${last.self}`;
  fleet.show(last);
  streams.show(last);
  playground.show(last);
  const prices = last.cost.dated ? ` Prices: AWS on demand, ${last.cost.region}, ${last.cost.dated}; spot costs less.` : "";
  setText(byId("foot"), `Seen from ${last.self} at ${clock(last.at)}. Every node has this page.${prices}`);
}

/** Says in words, for screen readers, what has changed for a node: not its load. */
function announce(snapshot) {
  const words = { draining: "is interrupted and drains", dead: "is lost", "at-risk": "is at risk", suspect: "does not answer" };
  const said = [];
  for (const node of snapshot.nodes) {
    const kind = fleet.kind(node);
    if (announced.get(node.id) !== kind && words[kind]) said.push(`${node.id} ${words[kind]}.`);
    announced.set(node.id, kind);
  }
  if (said.length) setText(byId("announcement"), said.slice(0, 3).join(" "));
}

function onState(state, message) {
  const pill = byId("connection");
  setAttribute(pill, "data-state", state);
  setText(pill, { live: "Live", key: "Locked", refused: "Refused", gone: "No answer" }[state]);
  document.body.classList.toggle("stale", state === "gone");
  if (state === "key") access.ask(access.key() ? message : "");
  if (state === "refused") refused(message);
  else if (state === "gone" && last !== null) gone();
  else if (state === "gone") banner("warn", "This node does not answer. Trying again.", []);
  else byId("banner").hidden = true;
}

/** Shows why this key, or this node, shows no snapshots. The playground may work all the same. */
function refused(message) {
  banner("warn", message, []);
  byId("forget-key").hidden = !access.key();
}

/** Shows where else the page is: this node does not answer. */
function gone() {
  const others = last.nodes.filter((node) => node.id !== last.self && node.liveness === "alive" && node.state !== "gone");
  const text = `Node ${last.self} does not answer. What is shown is of ${clock(last.at)}. The fleet serves on; this page is on every node:`;
  banner("bad", others.length ? text : `Node ${last.self} does not answer. What is shown is of ${clock(last.at)}.`, others.slice(0, 5));
}

function banner(kind, text, nodes) {
  setAttribute(byId("banner"), "data-kind", kind);
  setText(byId("banner-text"), text);
  reconcile(byId("banner-links"), nodes, (node) => node.id, () => el("li", {}, el("a")), (item, node) => {
    setText(item.firstElementChild, node.address);
    setAttribute(item.firstElementChild, "href", pageOf(node));
  });
  byId("banner-links").hidden = nodes.length === 0;
  byId("banner").hidden = false;
}

/** The page of another node. Its address was checked by this one; anything but host:port gives no link. */
function pageOf(node) {
  return /^[A-Za-z0-9._-]+:[0-9]{1,5}$/.test(node.address) ? `${last.scheme === "https" ? "https" : "http"}://${node.address}/ui` : null;
}

access.init(() => live.start(), () => {
  last = null;
  live.start();
});
fleet.init(show);
playground.init();
live.start();
