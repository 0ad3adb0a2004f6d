"""Count what became of the streams at this node since its start: the node's part of a continuity certificate.

What a node can know: which streams it ended, and how; which continued, and after which pause; whether an engine that
continued repeated what the client already had; how many events no replica had. It cannot compare an answer with the one
that no interruption would have given: only a run that generates both can (`local/certificate`). So there is no count of
lost or repeated tokens here.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from node_agent.core.snapshot.percentiles import pauses_to_json

MAX_PAUSES = 1_000
"""The newest pauses, of which the percentiles are."""


class Continuity:
    """The counts. since: unix seconds of the node's start."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.begun = 0
        """Streams that clients began here."""

        self.resumed = 0
        """Streams that clients continued here after their connection elsewhere was lost."""

        self.complete = 0
        """Streams whose client has the complete answer."""

        self.left = 0
        """Streams whose client left before the end."""

        self._continued: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        self._pauses_s: deque[float] = deque(maxlen=MAX_PAUSES)

    def count_continued(self, code: str, pause_s: float) -> None:
        """Count a stream that continued. code: why it had to; pause_s: what its client waited, in seconds."""
        self._continued[code] += 1
        self._pauses_s.append(pause_s)

    def count_ended(self, code: str) -> None:
        """Count a stream that ended with an error. code: of the error that its client received."""
        self._ended[code] += 1

    def to_json(self) -> dict[str, Any]:
        """Convert to a value for JSON."""
        return {
            "since": round(self.since, 1),
            "streams": {
                "begun": self.begun,
                "resumed": self.resumed,
                "complete": self.complete,
                "client_left": self.left,
                "ended_with_error": dict(self._ended),
            },
            "continued": dict(self._continued),
            "pause_ms": pauses_to_json(self._pauses_s),
        }
