"""The agent's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAUSES_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

_LAGS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)


class Metrics:
    """The node's metrics. Labels are few and bounded: states, reasons, routes, never ids."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "synkti_requests", "Requests answered at the front door", ["route", "status"], registry=registry
        )
        self.routes = Counter("synkti_routes", "Why an engine was chosen", ["reason"], registry=registry)
        self.tokens = Counter("synkti_tokens_delivered", "Tokens handed to clients", registry=registry)
        self.streams = Gauge("synkti_streams_open", "Clients' streams open on this node", registry=registry)
        self.served = Gauge("synkti_engine_requests", "Requests under way at this node's engine", registry=registry)
        self.losses = Counter("synkti_engine_losses", "Engines lost under a stream", ["why"], registry=registry)
        self.failures = Counter(
            "synkti_hop_failures", "Failures between an entry and an engine", ["fault", "why"], registry=registry
        )
        self.deadly_deaths = Counter(
            "synkti_deadly_deaths", "Engines that died under a request they had not answered", registry=registry
        )
        self.deadly_refused = Counter(
            "synkti_deadly_refused", "Requests refused because they end engines", registry=registry
        )
        self.deadly_cases = Gauge(
            "synkti_deadly_cases", "Contents of requests suspected or refused now", registry=registry
        )
        self.continuations = Counter(
            "synkti_continuations", "Streams that went on in another engine", ["why"], registry=registry
        )
        self.continuation_methods = Counter(
            "synkti_ways", "Continuations, by the method that the engine was asked for", ["way"], registry=registry
        )
        self.pause = Histogram(
            "synkti_continuation_pause_seconds",
            "From the last byte of the lost engine to the first of the next",
            buckets=_PAUSES_S,
            registry=registry,
        )
        self.loop_lag = Histogram(
            "synkti_loop_lag_seconds",
            "How much later than due the agent's event loop ran a timer",
            buckets=_LAGS_S,
            registry=registry,
        )
        self.broken = Counter("synkti_streams_broken", "Streams ended with an error", ["code"], registry=registry)
        self.gaps = Counter(
            "synkti_write_ahead_gaps", "Events sent to clients although no replica had their record", registry=registry
        )
        self.unkept = Counter(
            "synkti_streams_unkept", "Streams too large to be kept by any peer", ["why"], registry=registry
        )
        self.keeper_losses = Counter(
            "synkti_keeper_losses", "Connections to keepers that broke", ["why"], registry=registry
        )
        self.kept_bytes = Gauge("synkti_kept_bytes", "Journals kept here for other nodes", registry=registry)
        self.resumes = Counter(
            "synkti_resumes", "Streams that clients came back for, by the outcome", ["outcome"], registry=registry
        )
        self.checkpoints = Counter(
            "synkti_checkpoints",
            "Journals left when this node went, by the outcome",
            ["outcome"],
            registry=registry,
        )
        self.contexts = Counter(
            "synkti_contexts", "Contexts of streams that went on here, by the way they came", ["way"], registry=registry
        )
        self.context_bytes = Counter(
            "synkti_context_bytes", "Bytes of KV blocks that came here, by their way", ["way"], registry=registry
        )
        self.contexts_left = Counter(
            "synkti_contexts_left",
            "Contexts handed off, and whether left in S3",
            ["outcome"],
            registry=registry,
        )
        self.prefill_rate = Gauge(
            "synkti_prefill_tokens_per_second", "Of the idle engine; 0 while not measured", registry=registry
        )
        self.peers = Gauge("synkti_peers", "Peers known, by what is held of them", ["held"], registry=registry)
        self.member_changes = Counter(
            "synkti_member_changes", "Peers that came to be held for this", ["held"], registry=registry
        )
        self.health = Gauge("synkti_local_health", "How far this node mistrusts itself, 0 is well", registry=registry)
        self.waiting = Gauge(
            "synkti_requests_waiting", "Requests that wait until a node can take them", registry=registry
        )
        self.clock_off = Gauge(
            "synkti_clock_off_seconds", "How far this node's clock is ahead of most peers'", registry=registry
        )
        self.clock_is_off = Gauge(
            "synkti_clock_is_off",
            "1 while this node is at risk because several peers have another time",
            registry=registry,
        )
        self.refused = Counter(
            "synkti_connections_refused",
            "Connections that a door refused or cut off, by the error's code, or unread, or pipelined",
            ["door", "code"],
            registry=registry,
        )
        self.body_bytes = Gauge("synkti_body_bytes", "Large bodies that the doors hold", registry=registry)
        self.unexpected = Counter(
            "synkti_unexpected_errors", "Bugs that ended a turn of a loop, by the loop", ["where"], registry=registry
        )
        self.engine_starts = Counter("synkti_engine_starts", "Starts of the local engine", registry=registry)
        self.engine_states = Counter(
            "synkti_engine_states", "Times that the local engine was judged so", ["state"], registry=registry
        )
        self.engine_probes = Counter(
            "synkti_engine_probes", "Completions of one token asked of the local engine", ["outcome"], registry=registry
        )

        # Looked up once: the library's own way takes longer than the rest of a small request's bookkeeping.
        self._requests: dict[tuple[str, int], Counter] = {}
        self._routes: dict[str, Counter] = {}

    def count_request(self, route: str, status: int) -> None:
        """Count an answered request."""
        counter = self._requests.get((route, status))
        if counter is None:
            counter = self._requests[route, status] = self.requests.labels(route, str(status))
        counter.inc()

    def refusal_counter(self, door: str) -> Callable[[str], None]:
        """Return a function that counts the connections that this API refuses, by their codes."""
        return lambda code: self.refused.labels(door, code).inc()

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
        self.peers.labels("dead").set_function(lambda: figures()["dead"])
        self.health.set_function(lambda: figures()["health"])

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus's text format."""
        return generate_latest(self._registry)
