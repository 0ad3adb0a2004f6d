"""Read nodes' metrics: from their admin listeners where they can be reached, else by a command of Systems Manager."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from cli.adapters.results import result_of
from cli.core.node_figures import MAX_BYTES, NAMES, NodeFigures, parse_figures
from cli.core.nodes import Node
from cli.core.result import Result, Unavailable
from cli.errors import Failed
from node_agent.contract.names import ADMIN_PORT

_REACHABLE_S = 2.0
_AT_ONCE = 32
_PATTERN = f"^({'|'.join(NAMES)})[{{ ]"
_COMMAND = f"curl --silent --max-time 5 http://127.0.0.1:{ADMIN_PORT}/metrics | grep --extended-regexp '{_PATTERN}'"

RunCommand = Callable[[str, str], str]
"""instance id, command -> its output, as `Commands.run`."""


class NodeMetrics:
    """Reads the metrics of nodes at the same time, each the way that worked before.

    headers: of requests, with a client's key that has the scope metrics; run: None where there is no Systems Manager.
    """

    def __init__(self, headers: Mapping[str, str], run: RunCommand | None) -> None:
        self._headers = dict(headers)
        self._run = run
        self._unreachable: set[str] = set()

    def read(self, nodes: Sequence[Node]) -> dict[str, Result[NodeFigures]]:
        """Return the figures of each node, by its instance id; of one that cannot be read, the reason."""
        with ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="metrics") as pool:
            return dict(zip((node.instance_id for node in nodes), pool.map(self._read, nodes), strict=True))

    def _read(self, node: Node) -> Result[NodeFigures]:
        found = result_of(lambda: self._text(node))
        if isinstance(found, Unavailable):
            return found
        try:
            return parse_figures(found)
        except ValueError as error:
            return Unavailable(f"its answer cannot be read: {error}")

    def _text(self, node: Node) -> str:
        """Return the exposition. Raises CliError, AWS's errors."""
        if node.instance_id not in self._unreachable and node.private_host is not None:
            try:
                return self._request(f"http://{node.private_host}:{ADMIN_PORT}/metrics")
            except (OSError, ValueError) as error:  # URLError is an OSError
                if self._run is None:
                    raise Failed(f"its admin listener does not answer: {_reason(error)}") from error
                self._unreachable.add(node.instance_id)
        if self._run is None:
            raise Failed("it has no address")
        return self._run(node.instance_id, _COMMAND)

    def _request(self, url: str) -> str:
        request = urllib.request.Request(url, headers=self._headers)  # noqa: S310 # http, to an address of EC2's
        with urllib.request.urlopen(request, timeout=_REACHABLE_S) as answer:  # noqa: S310
            body: bytes = answer.read(MAX_BYTES + 1)
        if len(body) > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES} bytes")
        return body.decode("utf-8", "replace")


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        key = "; SYNKTI_API_KEY needs a key with the scope metrics" if error.code in (401, 403) else ""
        return f"{error.code} {error.reason}{key}"
    return str(error.reason) if isinstance(error, urllib.error.URLError) else str(error) or type(error).__name__
