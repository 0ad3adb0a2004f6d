"""Restore, in the worker of model runner V1, the sampling state as it was after the ids.

Penalties, bad words and min_tokens are counted over the output ids of a request's state, so the ids are put there. A
seeded request's generator advances by one draw per id; draws do not depend on the logits.

Model runner V2 (the default on GPUs) needs nothing here: it receives all ids of a resumed request, and its noise is a
function of seed and position. That was read in its source, and not run.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.v1.worker.gpu_input_batch import CachedRequestState

from synkti_engine.arguments import RESUME_IDS, ids_in
from synkti_engine.patching import Function, wrap_method

_CUDA_DRAW = 4
"""How far one row of exponential noise advances a Philox generator: vLLM rewinds as much for a discarded row."""


def install() -> None:
    """Wrap vLLM's functions of the worker. Raises AttributeError where vLLM does not have one."""
    wrap_method(CachedRequestState, "__post_init__", _restored)


def _restored(settle: Function) -> Function:
    def __post_init__(self: Any) -> None:
        params = self.sampling_params
        ids = ids_in(params and params.extra_args, RESUME_IDS)
        if ids and not self.output_token_ids:
            self.output_token_ids.extend(ids)
        if self.generator is not None:
            if self.generator.device.type == "cpu":
                self.generator = _CpuGenerator(params.seed, self.output_token_ids)
            else:
                self.generator.set_offset(self.generator.get_offset() + _CUDA_DRAW * len(ids))
        settle(self)

    return __post_init__


class _CpuGenerator(torch.Generator):  # type: ignore[misc] # torch is not in this environment
    """A request's generator on a CPU: its state follows from its seed and from the number of ids of the answer.

    After each chunk of a prefill but the last, vLLM discards the sampled token and rewinds the generator by an offset.
    A CPU's generator has no offset, and a stock engine ends there. Here a rewind starts over from the seed and draws
    once per id.
    """

    def __new__(cls, seed: int, output_ids: list[int]) -> Any:
        return super().__new__(cls, device="cpu")

    def __init__(self, seed: int, output_ids: list[int]) -> None:
        super().__init__()
        self._seed = seed
        self._output_ids = output_ids  # the request's own list: it grows
        self.settle()

    def settle(self) -> None:
        """Set the state that one draw per id leads to."""
        self.manual_seed(self._seed)
        if self._output_ids:
            torch.randint(0, 2**31, (len(self._output_ids),), generator=self, dtype=torch.long)

    def get_offset(self) -> int:
        """Return 0: a CPU's generator has no offset, and `set_offset` needs none."""
        return 0

    def set_offset(self, offset: int) -> None:
        """Rewind to the state after the ids so far, whatever the offset."""
        self.settle()
