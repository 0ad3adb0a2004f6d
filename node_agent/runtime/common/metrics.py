"""The agent's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from node_agent.core.failure.loss import LossReason
from node_agent.runtime.common.generation_metrics import GenerationMetrics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAUSES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_LAGS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)


# A time at which each counter began is a series more for each counter, and Prometheus's text format has no use for it.
disable_created_metrics()  # type: ignore[no-untyped-call] # the library's, without annotations

MAX_KEY_LABELS = 100
OTHER_KEYS = "other"
_MAX_HELD_COUNTERS = 1_000


class Metrics:
    """The node's metrics. Labels are few and bounded: states, reasons, routes; of ids only those of clients' keys."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._add_client_api()
        self._add_key_limits()
        self._add_streams()
        self.generations = GenerationMetrics(self._registry)
        self._add_failures()
        self._add_replication()
        self._add_kv()
        self._add_fleet()
        self._add_engine()
        self._add_agent()

        # Looked up once: the library's own way takes longer than the rest of a small request's bookkeeping.
        self._requests: dict[tuple[str, int], Counter] = {}
        self._routes: dict[str, Counter] = {}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self._registry)

    def _add_client_api(self) -> None:
        self.requests = self._counter("synkti_requests", "Requests answered by the client API", "route", "status")
        self.routes = self._counter("synkti_routes", "Why an engine was chosen", "reason")
        self.waiting = self._gauge("synkti_requests_waiting", "Requests that wait until a node can take them")
        self.refused = self._counter(
            "synkti_connections_refused",
            "Connections that were refused or cut off, by the error's code, or unread, or pipelined",
            "listener",
            "code",
        )
        self._add_keys()
        self.body_bytes = self._gauge(
            "synkti_body_bytes", "Bytes of large request bodies that are held until they are answered"
        )
        self.certificate_days = self._gauge(
            "synkti_certificate_days", "Days until the client API's certificate ends; 0 where it has none"
        )
        self.certificate_loads = self._counter(
            "synkti_certificate_loads", "Certificates found after the start, by what became of them", "outcome"
        )

    def _add_key_limits(self) -> None:
        self.key_requests = self._counter(
            "synkti_key_requests", "Requests of a client's key, by whether its limits admitted them", "key", "outcome"
        )
        self.key_tokens = self._counter(
            "synkti_key_tokens", "Tokens of prompts and answers of a client's key on this node", "key"
        )
        self._key_labels: dict[str, str] = {}
        self._key_requests: dict[tuple[str, str], Counter] = {}  # looked up once, as below
        self._key_tokens: dict[str, Counter] = {}

    def _add_keys(self) -> None:
        self.keys = self._gauge("synkti_client_keys", "Clients' keys in force")
        self.keys_off = self._gauge("synkti_client_keys_off", "1 where no key is required of clients")
        self.keys_age = self._gauge("synkti_client_keys_age_seconds", "Seconds since the key document was last read")
        self.key_reads = self._counter(
            "synkti_client_key_reads", "Reads of the key document: changed, unchanged, unavailable, unusable", "outcome"
        )
        self.refused_callers = self._counter(
            "synkti_refused_callers", "Requests refused for their key, by the error's code", "code"
        )
        self.audit_lines = self._counter("synkti_audit_lines", "Lines of the audit log", "outcome")

    def _add_streams(self) -> None:
        self.streams = self._gauge("synkti_streams_open", "Clients' streams open on this node")
        self.tokens = self._counter("synkti_tokens_delivered", "Tokens sent to clients")
        self.losses = self._counter("synkti_engine_losses", "Engines lost while they generated a stream", "reason")
        self.continuations = self._counter(
            "synkti_continuations", "Streams continued by another engine, by why the last one was lost", "reason"
        )
        self.continuation_methods = self._counter(
            "synkti_continuation_methods", "Continuations, by the method that was requested of the engine", "method"
        )
        self.pause = self._histogram(
            "synkti_continuation_pause_seconds",
            "From the last byte of the lost engine to the first byte of the next",
            _PAUSES_S,
        )
        self.broken = self._counter("synkti_streams_broken", "Streams ended with an error", "code")
        self.moved = self._counter(
            "synkti_connections_moved", "Connections that ended because their stream continues on another one", "code"
        )

    def _add_failures(self) -> None:
        self.failures = self._counter(
            "synkti_hop_failures", "Failures between an entry and an engine, by whose fault it was", "fault", "reason"
        )
        self.engine_deaths = self._counter(
            "synkti_engine_deaths_by_request", "Engines that died while they had a request that they had not answered"
        )
        self.fatal_refused = self._counter("synkti_fatal_requests_refused", "Requests refused because they end engines")
        self.fatal_known = self._gauge(
            "synkti_fatal_requests_known",
            "Contents of requests that are suspected of ending engines, or refused for it, now",
        )

    def _add_replication(self) -> None:
        self.unreplicated_events = self._counter(
            "synkti_unreplicated_events", "Events sent to clients although no replica had their record"
        )
        self.streams_unreplicated = self._counter(
            "synkti_streams_unreplicated", "Streams too large for any replica", "reason"
        )
        self.replica_losses = self._counter("synkti_replica_losses", "Connections to replicas that broke", "reason")
        self.replica_bytes = self._gauge(
            "synkti_replica_bytes", "Bytes of the journals that this node holds as a replica"
        )
        self.resumes = self._counter("synkti_resumes", "Streams that clients came back for, by the outcome", "outcome")
        self.checkpoints = self._counter(
            "synkti_checkpoints", "Journals left when this node went, by the outcome", "outcome"
        )
        self.stream_records = self._counter(
            "synkti_stream_records", "Writes of which streams this node owns, by the outcome", "outcome"
        )

    def _add_kv(self) -> None:
        self.contexts = self._counter(
            "synkti_contexts", "Contexts of streams that were continued here, by where they came from", "source"
        )
        self.context_bytes = self._counter(
            "synkti_context_bytes", "Bytes of KV blocks that were fetched, by where from", "source"
        )
        self.contexts_uploaded = self._counter(
            "synkti_contexts_uploaded", "Contexts of streams handed off, by whether they were uploaded to S3", "outcome"
        )
        self.prefill_rate = self._gauge(
            "synkti_prefill_tokens_per_second", "Prefill of the idle engine, in tokens per second; 0 while not measured"
        )

    def _add_fleet(self) -> None:
        self.peer_rejections = self._counter(
            "synkti_peer_rejections", "TLS connections to or from a peer that was not the expected one", "reason"
        )
        self.peers = self._gauge("synkti_peers", "Peers, by their state in membership", "state")
        self.peer_changes = self._counter(
            "synkti_peer_state_changes", "Peers that entered a state in membership", "state"
        )
        self.refused_peers = self._counter(
            "synkti_peer_messages_refused", "Requests and connections of other nodes that were refused", "reason"
        )
        self.unsent_to_peers = self._counter(
            "synkti_peer_requests_unsent",
            "Requests that were not sent, because no key is shared with the node",
            "reason",
        )
        self.cluster_key_reads = self._counter(
            "synkti_cluster_key_reads", "Reads of the cluster's keys, by the outcome", "outcome"
        )
        self.foreign_nodes = self._gauge(
            "synkti_foreign_key_nodes", "Nodes of this cluster that accept none of this node's cluster keys"
        )
        self.health = self._gauge("synkti_gossip_health_penalty", "Gossip health penalty (0 = healthy)")
        self.clock_off = self._gauge("synkti_clock_off_seconds", "How far this node's clock is ahead of most peers'")
        self.clock_is_off = self._gauge(
            "synkti_clock_is_off", "1 while this node is at risk because several peers have another time"
        )

    def _add_engine(self) -> None:
        self.served = self._gauge("synkti_engine_requests", "Requests under way at this node's engine")
        self.engine_starts = self._counter("synkti_engine_starts", "Starts of the local engine")
        self.engine_states = self._counter(
            "synkti_engine_states", "Times that the local engine entered a state", "state"
        )
        self.engine_probes = self._counter(
            "synkti_engine_probes", "Completions of one token requested of the local engine", "outcome"
        )

    def _add_agent(self) -> None:
        self.loop_lag = self._histogram(
            "synkti_loop_lag_seconds", "How much later than due the agent's event loop ran a timer", _LAGS_S
        )
        self.unexpected = self._counter(
            "synkti_unexpected_errors", "Bugs that ended a turn of a loop, by the loop", "where"
        )

    def count_request(self, route: str, status: int) -> None:
        """Count an answered request."""
        counter = self._requests.get((route, status))
        if counter is None:
            counter = self._requests[route, status] = self.requests.labels(route, str(status))
        counter.inc()

    def count_key_request(self, key_id: str, outcome: str) -> None:
        """Count a request of a key; one without a key is not counted. outcome: of a few."""
        if key_id:
            counter = self._key_requests.get((key_id, outcome))
            if counter is None:
                counter = self.key_requests.labels(self._key_label(key_id), outcome)
                if len(self._key_requests) < _MAX_HELD_COUNTERS:
                    self._key_requests[key_id, outcome] = counter
            counter.inc()

    def count_key_tokens(self, key_id: str, tokens: int) -> None:
        """Count tokens of a key's request; one without a key is not counted."""
        if key_id:
            counter = self._key_tokens.get(key_id)
            if counter is None:
                counter = self.key_tokens.labels(self._key_label(key_id))
                if len(self._key_tokens) < _MAX_HELD_COUNTERS:
                    self._key_tokens[key_id] = counter
            counter.inc(tokens)

    def _key_label(self, key_id: str) -> str:
        """Return the label of a key: its id for the first MAX_KEY_LABELS of them, `other` for the rest."""
        label = self._key_labels.get(key_id)
        if label is None:
            if len(self._key_labels) >= MAX_KEY_LABELS:
                return OTHER_KEYS
            label = self._key_labels[key_id] = key_id
        return label

    def refusal_counter(self, listener: str) -> Callable[[str], None]:
        """Return a function that counts the connections that this API refuses, by their codes."""
        return lambda code: self.refused.labels(listener, code).inc()

    def count_route(self, reason: str) -> None:
        """Count a routing decision."""
        counter = self._routes.get(reason)
        if counter is None:
            counter = self._routes[reason] = self.routes.labels(reason)
        counter.inc()

    def watch_members(self, figures: Callable[[], Mapping[str, int]], suspects: Callable[[], int]) -> None:
        """Read membership's counts whenever the metrics are scraped."""
        self.peers.labels("alive").set_function(lambda: figures()["present"] - suspects())
        self.peers.labels("suspect").set_function(suspects)
        self.peers.labels("unvouched").set_function(lambda: figures()["unvouched"])
        self.peers.labels("dead").set_function(lambda: figures()["dead"])
        self.health.set_function(lambda: figures()["health"])

    def continuity_figures(self) -> dict[str, int]:
        """Return what the counters have of the continuity of streams at this node, for its page."""
        differed = _total(self.losses, reason=LossReason.DIVERGED.value)
        return {
            "tokens": _total(self.tokens),
            "differed": differed,
            "behind": _total(self.resumes, outcome="journal_behind"),
            "unreplicated_events": _total(self.unreplicated_events),
        }

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)


def _total(counter: Counter, **labels: str) -> int:
    """Return the sum of a counter's samples that have these labels."""
    return int(
        sum(
            sample.value
            for metric in counter.collect()
            for sample in metric.samples
            if sample.name.endswith("_total") and labels.items() <= sample.labels.items()
        )
    )
