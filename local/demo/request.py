"""A request of the demo, apart from what sends it: the SDK takes a second to import."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from local.certificate import Output


@dataclass(frozen=True)
class DemoRequest:
    """A request for a streamed answer."""

    chat: bool
    """True for a conversation of one message, False for a plain prompt."""

    text: str
    max_tokens: int

    def limited(self, max_tokens: int) -> DemoRequest:
        """Return the same request for at most so many tokens."""
        return DemoRequest(self.chat, self.text, max_tokens)


Reference = Callable[[DemoRequest], Output | None]
"""Returns the expected output if it is known without a request."""
