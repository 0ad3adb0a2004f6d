"""Rewrite vLLM's metrics for the admin listener: its own names, each series with the node as a label.

What is passed on is checked line by line, because the engine is a process that clients' requests reach.
"""

from __future__ import annotations

import re

MAX_LINES = 10_000
"""Bounds the time that a scrape takes in the agent's event loop."""

_SERIES = re.compile(
    rb"(?P<name>vllm:[a-zA-Z0-9_:]+)"
    rb"(?:\{(?P<labels>(?:[a-zA-Z_][a-zA-Z0-9_]*=\"(?:[^\"\\\n]|\\[\\n\"])*\",?)*)\})?"
    rb" (?P<value>[-+]?(?:[0-9.]+(?:[eE][-+]?[0-9]+)?|Inf|NaN))(?: [0-9]+)?"
)
_COMMENT = re.compile(rb"# (?:HELP|TYPE) (?P<name>vllm:[a-zA-Z0-9_:]+) [^\r\n]*")
_NODE_LABEL = re.compile(rb"(?:^|,)node=")
_CREATED = b"_created"


def with_node_label(text: bytes, node: str) -> bytes:
    """Return vLLM's series with the label `node`, in Prometheus's text format.

    Args:
        text: the engine's answer to /metrics.
        node: the instance's id.

    Returns:
        The lines of names that begin with vllm:, without the times at which series began (`_created`), and without
        what has another form. The first MAX_LINES lines are read.
    """
    label = b'node="%s"' % node.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").encode()
    lines = (_line(line, label) for line in text.split(b"\n", MAX_LINES)[:MAX_LINES])
    return b"".join(line + b"\n" for line in lines if line)


def _line(line: bytes, label: bytes) -> bytes:
    if (comment := _COMMENT.fullmatch(line)) is not None:
        return b"" if comment["name"].endswith(_CREATED) else line
    series = _SERIES.fullmatch(line)
    if series is None or series["name"].endswith(_CREATED):
        return b""
    labels = series["labels"] or b""
    if _NODE_LABEL.search(labels):  # two labels of one name make the whole answer invalid
        return b""
    joined = label + b"," + labels if labels else label
    return b"%s{%s} %s" % (series["name"], joined, series["value"])
