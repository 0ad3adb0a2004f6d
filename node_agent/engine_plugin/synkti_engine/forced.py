"""Generate an answer's first ids once more, each forced on its step: the other method of continuation.

Grammar, penalties and random numbers then repeat the steps of the first time. It costs one decode step per id, and
needs no private function of vLLM, but a custom logits processor, which vLLM loads from its command line:
`--logits-processors synkti_engine.forced:ForcedReplay`. Model runner V2 and speculative decoding refuse those.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor, process_dict_updates

from synkti_engine.arguments import FORCED_IDS, BadArguments, ids_in


class ForcedReplay(LogitsProcessor):  # type: ignore[misc] # vLLM has no types here
    """Forces ids.

    _requests: place in the batch -> (ids to force, the request's own list of output ids, which grows).
    """

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Raises ValueError, which becomes the request's 400."""
        ids = ids_in(sampling_params.extra_args, FORCED_IDS)
        if ids and sampling_params.max_tokens is not None and len(ids) > sampling_params.max_tokens:
            raise BadArguments(f"{FORCED_IDS}: {len(ids)} ids are more than max_tokens")

    def __init__(self, vllm_config: Any, device: Any, is_pin_memory: bool) -> None:
        self._vocabulary = vllm_config.model_config.get_vocab_size()
        self._requests: dict[int, tuple[list[int], list[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        """Return False: it changes which id is the likeliest, so greedy requests must not bypass it."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """Apply a step's changes of the batch, None for no change, and drop requests whose ids are all forced."""
        process_dict_updates(self._requests, batch_update, self._begin)
        for place in [place for place, (ids, output) in self._requests.items() if len(output) >= len(ids)]:
            del self._requests[place]

    def _begin(self, params: Any, prompt: Any, output_ids: list[int]) -> tuple[list[int], list[int]] | None:
        ids = ids_in(params.extra_args, FORCED_IDS)
        # An id outside the vocabulary would end the engine; unforced, the comparison of the answer's ids detects it.
        if len(output_ids) >= len(ids) or max(ids) >= self._vocabulary:
            return None
        return ids, output_ids

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Leave a single possible id in the rows of requests with ids to force; return the logits, changed in place."""
        for place, (ids, output) in self._requests.items():
            if len(output) < len(ids):
                logits[place].fill_(float("-inf"))
                logits[place][ids[len(output)]] = 0.0
        return logits
