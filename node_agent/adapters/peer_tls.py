"""TLS between nodes: both sides present a certificate of their own key, and both check that it is the one on record.

TLS 1.3 only. The authority of the certificates is derived from the cluster's key (`adapters/peer_authority`), so a
stranger does not finish a handshake; after it, the key in the certificate decides which node the other side is
(`core/access/peer_identity`). There are no session tickets: connections between nodes are kept, and a resumed session
would have no certificate to check.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime

from node_agent.adapters.node_key import NodeKey, public_key_of_certificate
from node_agent.adapters.peer_authority import PeerAuthority
from node_agent.core.access.peer_identity import Rejection, identify
from node_agent.core.common.address import Address
from node_agent.core.common.log_limit import LogLimit
from node_agent.ports import PeerKeys

_NO_CHECK_TIME = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME: nodes' clocks may be wrong, and these certificates do not end by a date."""

_log = logging.getLogger(__name__)


class PeerTls:
    """The TLS of this node's connections to and from peers.

    Args:
        key: this run's.
        node_id: this node's.
        cluster_keys: the newest first: it signs this node's certificate, and those by all of them are accepted.
        peers: the keys on record.
        nodes_at: returns the ids of the nodes that membership has at an address.
        on_rejected: receives the reason, one of few words, for each peer that is rejected.
        clock: monotonic seconds, of the limit on log lines.
    """

    def __init__(
        self,
        key: NodeKey,
        node_id: str,
        cluster_keys: Sequence[bytes],
        peers: PeerKeys,
        *,
        nodes_at: Callable[[Address], Collection[str]],
        on_rejected: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._key = key
        self._node_id = node_id
        self._peers = peers
        self._nodes_at = nodes_at
        self._on_rejected = on_rejected
        self._clock = clock
        self._limit = LogLimit(burst=5.0, per_s=1 / 60)
        self._accepted: dict[asyncio.BaseTransport, str] = {}
        self.server, self.client = self._contexts(cluster_keys)

    def use_cluster_keys(self, cluster_keys: Sequence[bytes]) -> None:
        """Use other keys of the cluster for new connections, the newest first."""
        self.server, self.client = self._contexts(cluster_keys)

    def _contexts(self, cluster_keys: Sequence[bytes]) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        authorities = [PeerAuthority(key) for key in cluster_keys]
        own = self._key.certificate(self._node_id, datetime.now(UTC))
        chain = authorities[0].issue(own.certificate) + own.private_key
        trusted = b"".join(authority.certificate for authority in authorities).decode()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        server.num_tickets = 0
        client.check_hostname = False  # the key is checked instead: addresses change hands
        for context in (server, client):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.verify_mode = ssl.CERT_REQUIRED
            context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
            context.load_verify_locations(cadata=trusted)
            _load_chain(context, chain)
        return server, client

    # the side that is connected to

    def identify(self, transport: asyncio.BaseTransport) -> str | None:
        """Return the id of the node that has connected; None for one that is rejected."""
        public_key = _public_key(transport)
        node = identify(public_key, self._peers.node_of)
        if isinstance(node, Rejection) or public_key is None:
            self._reject(str(node), "a connection", transport)
            return None
        self._accepted[transport] = public_key
        return node

    def close_rejected(self) -> None:
        """Abort the connections of nodes whose keys are not on record any more. Called about once a second."""
        for transport, public_key in list(self._accepted.items()):
            if transport.is_closing():
                del self._accepted[transport]
            elif self._peers.node_of(public_key) is None:
                del self._accepted[transport]
                self._reject(Rejection.UNKNOWN_KEY, "an open connection", transport)
                transport.abort()  # type: ignore[attr-defined] # a server's is a Transport

    # the side that connects

    def accepts_server(self, transport: asyncio.BaseTransport | None, address: Address) -> bool:
        """Return whether a new connection to an address ends at a node that is expected there."""
        if transport is None:
            return False
        node = identify(_public_key(transport), self._peers.node_of, self._nodes_at(address))
        if isinstance(node, Rejection):
            self._reject(node, f"the connection to {address}", transport)
            return False
        return True

    def _reject(self, why: str, what: str, transport: asyncio.BaseTransport) -> None:
        self._on_rejected(why)
        left_out = self._limit.suppressed_before((what, why), self._clock())
        if left_out is not None:
            more = f" ({left_out} more since the last line)" if left_out else ""
            name = transport.get_extra_info("peername")
            _log.warning("peers' TLS: %s is closed%s: %s of %s", what, more, why, name[0] if name else "a peer")


def _public_key(transport: asyncio.BaseTransport) -> str | None:
    connection = transport.get_extra_info("ssl_object")
    der = connection.getpeercert(binary_form=True) if connection is not None else None
    return public_key_of_certificate(der) if der else None


def _load_chain(context: ssl.SSLContext, chain: bytes) -> None:
    """Load a certificate and its key. The library takes files only; this one is in memory, and has no name."""
    descriptor = os.memfd_create("synkti-peer-certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(chain)
        file.flush()
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
