"""Plan, in the scheduler, which blocks of its requests to store, and which need not be computed. Imports no vLLM.

Rules kept here:

* a block is stored once all of its ids are known *and* the step that computes the last of them is running: then the
  worker copies it behind that step. With asynchronous scheduling the ids lag, and the block with them;
* the folder is queried for a block when it matters: a block that was dropped, evicted or found damaged is stored again
  by the next request that has it;
* a request is matched with stored blocks once in its life: where loading them fails it is computed, and not matched
  again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from node_agent.core.kv.blocks import block_names, chain_root, next_key

PROBE = "synkti-probe"
"""A request with this in its id measures the engine: none of its blocks is stored or loaded."""


class KnownRequest(Protocol):
    """The part of vLLM's request that is needed here."""

    @property
    def request_id(self) -> str:
        """The id under which the scheduler has it."""
        ...

    @property
    def num_tokens(self) -> int:
        """The number of known ids, of the prompt and the answer."""
        ...

    @property
    def num_computed_tokens(self) -> int:
        """The number of tokens in the engine's cache before this step."""
        ...

    @property
    def all_token_ids(self) -> Sequence[int]:
        """The known ids, of the prompt and then of the answer."""
        ...


@dataclass
class _Chain:
    """The keys of one request's blocks, as far as they were needed."""

    root: bytes
    block_tokens: int
    keys: list[bytes] = field(default_factory=list)

    def keys_up_to(self, count: int, tokens: Sequence[int]) -> list[bytes]:
        """Return the first `count` keys. tokens: at least that many blocks."""
        while len(self.keys) < count:
            at = len(self.keys) * self.block_tokens
            self.keys.append(next_key(self.parent(len(self.keys)), tokens[at : at + self.block_tokens]))
        return self.keys

    def parent(self, place: int) -> bytes:
        """Return the key in front of a block's: the root for the first block. place: the block's number."""
        return self.keys[place - 1] if place else self.root


@dataclass(frozen=True)
class Save:
    """A block to store: its place in the engine's cache, and its identity.

    request: the one whose latest block it is.
    """

    block_id: int
    key: bytes
    parent: bytes
    place: int
    request: str


@dataclass(frozen=True)
class Load:
    """Blocks to load into the engine's cache for one request: (block id, key)."""

    request: str
    blocks: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True)
class SavePlan:
    """What to store behind a step.

    saves: blocks to store.
    last_block: the request's last full block, where that one is stored already.
    """

    saves: tuple[Save, ...] = ()
    last_block: bytes | None = None


_NOTHING = SavePlan()


@dataclass
class _Tracked:
    request: KnownRequest
    chain: _Chain
    planned: int = 0  # blocks that are stored, or planned to be


class Requests:
    """Tracks the scheduler's requests.

    has: returns whether a block's file of this name exists.
    shards: files per block.
    secret: for the names of blocks, b"" for none.
    """

    def __init__(
        self,
        fingerprint: bytes,
        block_tokens: int,
        has: Callable[[str], bool],
        shards: int = 1,
        secret: bytes = b"",
    ) -> None:
        self._secret = secret
        self._fingerprint = fingerprint
        self._block_tokens = block_tokens
        self._has = has
        self._shards = shards
        self._tracked: dict[str, _Tracked] = {}
        self._chains: dict[str, _Chain] = {}  # of requests that were looked at and not scheduled yet
        self._matches: dict[str, tuple[int, int]] = {}  # from where to where, in blocks; while not scheduled yet
        self._loaded: set[str] = set()  # were scheduled with blocks to load

    def __len__(self) -> int:
        """Return the number of requests with recorded state."""
        return len(self._tracked.keys() | self._chains.keys() | self._matches.keys() | self._loaded)

    def match(self, request: KnownRequest, salt: str, computed: int, max_tokens: int) -> int:
        """Return how many tokens behind the first `computed` need not be computed.

        It is called again while the request waits, and looks at the folder again only for another `computed`.

        max_tokens: the limit in all, the computed ones included.
        """
        name = request.request_id
        if name in self._loaded:
            return 0
        start = computed // self._block_tokens
        if (before := self._matches.get(name)) is not None and before[0] == start:
            return (before[1] - start) * self._block_tokens
        chain = self._chain(request, salt)
        max_blocks = max_tokens // self._block_tokens
        end = start
        while end < max_blocks and self._is_there(chain.keys_up_to(end + 1, request.all_token_ids)[end]):
            end += 1
        self._matches[name] = start, end
        return (end - start) * self._block_tokens

    def _chain(self, request: KnownRequest, salt: str) -> _Chain:
        chain = self._chains.get(request.request_id)
        if chain is None:
            root = chain_root(self._fingerprint, salt, self._secret)
            chain = self._chains[request.request_id] = _Chain(root, self._block_tokens)
        return chain

    def _is_there(self, key: bytes) -> bool:
        return all(map(self._has, block_names(key, self._shards)))

    def on_scheduled(
        self, request: KnownRequest, salt: str, block_ids: Sequence[int], external_tokens: int
    ) -> Load | None:
        """Record that the request got its blocks in the cache.

        block_ids: all of the request's.
        external_tokens: of the match, those that it got blocks for.

        Returns:
            What to load into its blocks; None where there is nothing.
        """
        name = request.request_id
        if name not in self._tracked:
            self._tracked[name] = _Tracked(request, self._chain(request, salt))
        start, _ = self._matches.pop(name, (0, 0))
        if not external_tokens:
            return None
        self._loaded.add(name)
        tracked = self._tracked[name]
        end = start + external_tokens // self._block_tokens
        keys = tracked.chain.keys_up_to(end, request.all_token_ids)
        return Load(name, tuple(zip(block_ids[start:end], keys[start:end], strict=True)))

    def plan_saves(self, name: str, computing: int, block_ids: Callable[[str], Sequence[Sequence[int]]]) -> SavePlan:
        """Return what to store of a request behind this step.

        computing: how many of its tokens the step computes.
        block_ids: returns all of a request's, group by group; called only where there is something to store.
        """
        tracked = self._tracked.get(name)
        if tracked is None:
            return _NOTHING
        request, planned = tracked.request, tracked.planned
        full = min(request.num_computed_tokens + computing, request.num_tokens) // self._block_tokens
        if full <= planned:
            return _NOTHING
        tracked.planned = full
        chain = tracked.chain
        keys = chain.keys_up_to(full, request.all_token_ids)
        new = [place for place in range(planned, full) if not self._is_there(keys[place])]
        last_block = keys[full - 1] if full - 1 not in new else None
        if not new:
            return SavePlan(last_block=last_block)
        ids = block_ids(name)[0]
        saves = (Save(ids[place], keys[place], chain.parent(place), place, name) for place in new)
        return SavePlan(tuple(saves), last_block)

    def remove(self, name: str) -> None:
        """Remove a request that finished, or was aborted."""
        self._tracked.pop(name, None)
        self._chains.pop(name, None)
        self._matches.pop(name, None)
        self._loaded.discard(name)
