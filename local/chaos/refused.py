"""The account of requests that no engine can answer: their clients get an error, and nobody else does."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class UnanswerableCounts:
    """Requests that cannot be answered, and what became of them. answered: those that were, which is a fault."""

    sent: int = 0
    refused: int = 0
    answered: int = 0
    codes: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, object]:
        return {"requests": self.sent, "refused": self.refused, "codes": sorted(self.codes)}
