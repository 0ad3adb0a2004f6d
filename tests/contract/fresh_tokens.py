"""A stateful logits processor, as an operator of vLLM would write it.

The answer to a request with `vllm_xargs: {"fresh": N}` never repeats one of its last N tokens. It is loaded
by the engine of the contract tests (`--logits-processors`), and is no part of what is deployed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

ARGUMENT = "fresh"


@dataclass
class _RequestState:
    """ids: the request's own list, which grows; last: the tokens that are forbidden now; taken: ids read so far."""

    ids: list[int]
    last: deque[int]
    taken: int = 0

    def catch_up(self) -> None:
        self.last.extend(self.ids[self.taken :])
        self.taken = len(self.ids)


class FreshTokens(LogitsProcessor):  # type: ignore[misc] # vLLM has no types here
    """Forbids recent tokens. requests: state of each request, by its index in the batch."""

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._requests: dict[int, _RequestState] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(self._requests, batch_update, self._begin)

    def _begin(self, params: Any, prompt: Any, output_ids: list[int]) -> _RequestState | None:
        number = (params.extra_args or {}).get(ARGUMENT)
        return _RequestState(output_ids, deque(maxlen=int(number))) if number else None

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for place, state in self._requests.items():
            state.catch_up()
            logits[place, list(state.last)] = float("-inf")
        return logits
