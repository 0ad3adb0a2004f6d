"""The fake engine's settings."""

from __future__ import annotations

from dataclasses import dataclass

from local.fake_engine.triggers import Trigger


@dataclass(frozen=True)
class Config:
    """Settings of one fake engine."""

    model: str
    seconds_per_token: float = 0.02
    max_model_len: int = 4096
    shutdown_timeout_s: float = 0.0
    """vLLM's --shutdown-timeout."""

    faults: bool = False
    """Accept faults at /standin/faults and core changes at /standin/core."""

    max_num_seqs: int = 1_024
    """vLLM's --max-num-seqs: so many requests are generated at once, the others wait."""

    has_plugin: bool = False
    """Behave as with the plug-in, which can resume an answer."""

    seconds_per_request: float = 0.0
    """How much longer a token takes for each active request, as in a large batch."""

    triggers: tuple[Trigger, ...] = ()
    """Requests that fail."""

    also_named: tuple[str, ...] = ()
    """Further names of the model."""

    @property
    def model_names(self) -> tuple[str, ...]:
        """All names that requests may have."""
        return (self.model, *self.also_named)
