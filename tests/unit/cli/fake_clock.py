"""Time for commands that wait."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cli.polling import Clock


@dataclass
class FakeClock:
    """Time that passes when somebody sleeps; `then` happens at the second of its key."""

    at: float = 0.0
    then: dict[float, Any] = field(default_factory=dict)

    def sleep(self, seconds: float) -> None:
        self.at += seconds
        for second in [each for each in self.then if each <= self.at]:
            self.then.pop(second)()

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.at, self.sleep)
