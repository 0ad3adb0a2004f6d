"""Report a stream's interruptions once it continues: in metrics, in the log, and to the client as a comment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from node_agent.core.openai import sse
from node_agent.runtime.common.metrics import Metrics

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Interruption:
    """A loss after which the stream has not continued yet."""

    instance_id: str
    """The node that was lost."""

    code: str
    """The verdict's code, or that of ENTRY_LOST."""

    since: float
    """Loop time since which the client has waited, in seconds."""

    def describe_end(self, instance_id: str, now: float) -> str:
        """Return a sentence for people and for the client. instance_id: the node where the stream continues."""
        pause_ms = (now - self.since) * 1000
        return f"synkti continued on {instance_id} after {self.code} on {self.instance_id}, pause {pause_ms:.1f} ms"


class InterruptionReport:
    """The interruptions of one stream.

    wants_comments: whether its client accepts comments. on_continued: receives the node that was lost, why, the node
    where the stream continues, and the pause in seconds.
    """

    def __init__(
        self,
        stream_id: str,
        metrics: Metrics,
        *,
        wants_comments: bool,
        on_continued: Callable[[str, str, str, float], None] = lambda lost, code, node, pause_s: None,
    ) -> None:
        self.pending: Interruption | None = None
        """What is to be reported; None while the stream is not interrupted."""

        self._stream_id = stream_id
        self._metrics = metrics
        self._wants_comments = wants_comments
        self._on_continued = on_continued

    def on_interrupted(self, instance_id: str, code: str, since: float) -> None:
        """Record a loss; a further one until the stream continues is a part of the same interruption.

        Args:
            instance_id: the node that was lost.
            code: of the loss.
            since: loop time of the last bytes, in seconds: a silence is part of the client's pause.
        """
        if self.pending is None:
            self.pending = Interruption(instance_id, code, since)

    def on_continued(self, instance_id: str, now: float, *, has_begun: bool) -> bytes:
        """Report the end of the interruption, if there was one.

        Args:
            instance_id: the node where the stream continues.
            now: loop time, in seconds.
            has_begun: whether the stream has an event; without one, nothing was interrupted that its client saw.

        Returns:
            The comment to write before the next event, b"" for none.
        """
        interruption, self.pending = self.pending, None
        if interruption is None or not has_begun:
            return b""
        self._metrics.continuations.labels(interruption.code).inc()
        self._metrics.pause.observe(now - interruption.since)
        self._on_continued(interruption.instance_id, interruption.code, instance_id, now - interruption.since)
        comment = interruption.describe_end(instance_id, now)
        _log.info("stream %s: %s", self._stream_id, comment)
        return sse.comment(comment) if self._wants_comments else b""
