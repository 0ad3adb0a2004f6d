"""Sign requests for peers: with the key that is shared with each, for the run of its agent, in its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from node_agent.core.common.cluster_keys import ClusterKey
from node_agent.core.common.request_auth import UNKNOWN_RUN, Refusal, read_clock, receiver_name, sign
from node_agent.core.node.peer_clocks import PeerClocks


class PeerName(NamedTuple):
    """The node at an address. run: the boot id of its agent in hexadecimal digits, None where it is not known."""

    instance_id: str
    run: str | None


class SignedRequest(NamedTuple):
    """A signature, and what its answer is verified with."""

    header: str
    key: ClusterKey
    nonce: str


class RequestSigner:
    """Signs this node's requests.

    Args:
        instance_id: this node's.
        key_for: the key to sign with for a peer, by its instance id; or why there is none.
        name_at: the node at an address (host:port), as members and EC2's tags name it; None where none does.
        clocks: measured clocks of peers, updated here.
    """

    def __init__(
        self,
        instance_id: str,
        key_for: Callable[[str], ClusterKey | Refusal],
        name_at: Callable[[str], PeerName | None],
        clocks: PeerClocks,
    ) -> None:
        self._instance_id = instance_id
        self._key_for = key_for
        self._name_at = name_at
        self._clocks = clocks

    def sign(
        self, address: str, content: str, now: float, nonce: str, *, is_retry: bool = False
    ) -> SignedRequest | Refusal:
        """Sign a request to the peer at an address.

        Args:
            address: of its API, host:port.
            content: as `request_content` returns it.
            now: unix seconds.
            nonce: unique.
            is_retry: the peer has just sent its boot id, which is newer than the one that gossip has.

        Returns:
            The signature; or why no key is shared with that peer.
        """
        name = self._name_at(address)
        if name is None:
            return Refusal.UNKNOWN_NODE
        key = self._key_for(name.instance_id)
        if isinstance(key, Refusal):
            return key
        measured = self._clocks.run_at(address)
        run = (measured or name.run) if is_retry else (name.run or measured)
        receiver = receiver_name(name.instance_id, run or UNKNOWN_RUN)
        at = self._clocks.time_at(address, now)
        return SignedRequest(sign(key, content, at, self._instance_id, receiver, nonce), key, nonce)

    def record_sync_clock(
        self, address: str, keys: Iterable[ClusterKey], line: str, nonce: str, took_s: float, now: float
    ) -> None:
        """Record the time that a peer sent in answer to a request that membership authenticates.

        keys: those that are shared with the peer; nonce: of the request (`runtime/node/gossip`).
        """
        for key in keys:
            clock = read_clock(key, line, nonce)
            if clock is not None:
                self._clocks.record(address, clock, took_s, now)

    def record_clock(self, address: str, line: str, signed: SignedRequest, took_s: float, now: float) -> bool:
        """Record the time that a peer sent in answer to a request; return whether it is authentic, and exact enough."""
        clock = read_clock(signed.key, line, signed.nonce)
        return clock is not None and self._clocks.record(address, clock, took_s, now)
