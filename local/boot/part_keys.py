"""Who may use the fleet, and who may read what nodes send: clients' keys, the audit log, TLS between nodes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl

from local.boot.machine import BootedInstance
from local.boot.scene import Scene, require
from local.errors import LocalRunError
from node_agent.contract.names import PEER_DOOR_PORT

AUDIT_LOG = "/var/lib/synkti/audit.log"
_TOKENS = 50
_CHANGE_WITHIN_S = 60.0
"""docs/security.md promises 30 s; a node here has a share of two cores."""

_AUDITED_WITHIN_S = 10.0
_PROBE_TIMEOUT_S = 10.0
_PROBE_BYTES = 4_096


async def keys(scene: Scene) -> None:
    """Requests need a key, nodes talk to each other in TLS only, the audit log has who did what.

    Raises LocalRunError.
    """
    instances = await scene.fleet()
    await _require_keys(scene, instances)
    await scene.stream(instances[0], _TOKENS)
    for instance in instances:
        await asyncio.to_thread(_check_peer_tls, instance)
    scene.screen.log("peers speak TLS 1.3, with nodes only")
    await _check_audit_log(scene, instances[0])
    await _revoke(scene, instances)


async def _require_keys(scene: Scene, instances: list[BootedInstance]) -> None:
    for instance in instances:
        for api_key, status in (("", 401), (f"{scene.api_key[:-1]}-", 401), (scene.api_key, 200)):
            answer = await scene.get(instance, "/v1/models", api_key)
            require(answer.status_code == status, f"{instance.instance_id}: {answer.status_code}, not {status}")
    scene.screen.log("without a key, and with a wrong one, requests are refused")


def _check_peer_tls(instance: BootedInstance) -> None:
    """Require that the peer API serves neither a client without TLS, nor one without a node's certificate."""
    address = instance.metadata.address
    answer = _read(address, None)
    require(not answer or b"TLS" in answer, f"the peer API at {address} answers without TLS: {answer!r}")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.check_hostname, stranger.verify_mode = False, ssl.CERT_NONE
    answer = _read(address, stranger)
    require(not answer, f"the peer API at {address} answers a client without a certificate: {answer!r}")


def _read(address: str, context: ssl.SSLContext | None) -> bytes:
    """Send a request to the peer API.

    Args:
        address: the node's.
        context: None to send it without TLS.

    Returns:
        The first part of the answer; empty where the connection is closed instead.

    Raises:
        LocalRunError: nothing listens, TLS is not of version 1.3, or nothing happens.
    """
    peer = f"the peer API at {address}"
    try:
        plain = socket.create_connection((address, PEER_DOOR_PORT), _PROBE_TIMEOUT_S)
    except OSError as error:
        raise LocalRunError(f"{peer} cannot be connected to: {error}") from error
    try:
        with plain if context is None else context.wrap_socket(plain) as connection:
            if isinstance(connection, ssl.SSLSocket):
                require(connection.version() == "TLSv1.3", f"{peer} uses {connection.version()}")
            connection.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            return connection.recv(_PROBE_BYTES)
    except TimeoutError as error:
        raise LocalRunError(f"{peer} neither answers nor closes the connection") from error
    except OSError:  # of TLS, too: it refuses the client after the handshake
        return b""


async def _check_audit_log(scene: Scene, instance: BootedInstance) -> None:
    """Require a line of a stream in the entry's audit log, which its agent alone may read."""
    key_id = scene.api_key.split("-")[2]

    async def has_line() -> bool:
        lines = [json.loads(line) for line in (await scene.inside(instance, f"cat {AUDIT_LOG}")).splitlines()]
        return any(line.get("key") == key_id and line.get("tokens_out") == _TOKENS for line in lines)

    await scene.until(f"the audit log has the stream of key {key_id}", has_line, _AUDITED_WITHIN_S)
    mode = await scene.inside(instance, f"stat --format '%a %U' {AUDIT_LOG}")
    require(mode.strip() == "600 synkti", f"the audit log's mode and user are {mode}")


async def _revoke(scene: Scene, instances: list[BootedInstance]) -> None:
    """Require that a new key is accepted, and that it is refused once it is revoked, by each node."""
    name = "revoked"
    api_key = await scene.create_key(name)

    def answered(status: int) -> str:
        return f"each node answers {status} to the key {name!r}"

    async def all_answer(status: int) -> bool:
        answers = [await scene.get(instance, "/v1/models", api_key) for instance in instances]
        return [answer.status_code for answer in answers] == [status] * len(instances)

    accepted = await scene.until(answered(200), lambda: all_answer(200), _CHANGE_WITHIN_S)
    await scene.command("keys", "revoke", name)
    refused = await scene.until(answered(401), lambda: all_answer(401), _CHANGE_WITHIN_S)
    scene.screen.log(f"a new key is accepted after {accepted:.0f} s, and refused {refused:.0f} s after its revocation")
