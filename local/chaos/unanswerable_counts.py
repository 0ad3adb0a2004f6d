"""Counts the requests that no engine can answer, whose clients must get an error."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class UnanswerableCounts:
    """Requests that cannot be answered, and their results. answered: a violation if not 0."""

    sent: int = 0
    refused: int = 0
    answered: int = 0
    codes: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, object]:
        """Return the part of the report about these requests."""
        return {"requests": self.sent, "refused": self.refused, "codes": sorted(self.codes)}
