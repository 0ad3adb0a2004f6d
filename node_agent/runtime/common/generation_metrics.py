"""The histograms of OpenTelemetry's conventions for generative AI: how long requests, first tokens and tokens take.

Names, units, buckets and operations are those of the conventions' server metrics, so that dashboards for them work.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Histogram

from node_agent.core.openai.generation_request import ApiRoute

OPERATION = "gen_ai_operation_name"
_OPERATIONS = {route: "text_completion" if route is ApiRoute.COMPLETION else "chat" for route in ApiRoute}
_DURATIONS_S = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST_TOKENS_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_TOKENS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)


class GenerationMetrics:
    """The histograms, with the operation as their label. Each request is observed once, at its end."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"gen_ai_server_{name}_seconds", text, (OPERATION,), buckets=buckets, registry=registry)

        self.durations = histogram("request_duration", "From a request's head to the end of its answer", _DURATIONS_S)
        self.first_tokens = histogram(
            "time_to_first_token", "From a streamed request's head to its first output", _FIRST_TOKENS_S
        )
        self.tokens = histogram(
            "time_per_output_token", "Between the tokens of a stream after its first, pauses included", _TOKENS_S
        )

        self._of_route = {
            route.value: [each.labels(_OPERATIONS[route]) for each in (self.durations, self.first_tokens, self.tokens)]
            for route in ApiRoute
        }

    def observe(
        self, path: str, now: float, began_at: float, first_output_at: float | None, tokens: int | None
    ) -> None:
        """Observe an answered request.

        path: one of ApiRoute's.
        now, began_at, first_output_at: monotonic seconds; the last is None where nothing was streamed.
        tokens: of the stream; None where they are not known.
        """
        duration, first_token, each_token = self._of_route[path]
        duration.observe(now - began_at)
        if first_output_at is None:
            return
        first_token.observe(first_output_at - began_at)
        if tokens is not None and tokens > 1:
            each_token.observe((now - first_output_at) / (tokens - 1))
