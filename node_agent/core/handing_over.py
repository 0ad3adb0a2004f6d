"""How a node that goes tells an entry, in a loss's own words, that it gives a request back, and who has room for it.

handoff                      it is given back
handoff to i-0123456789      and that node has room for it
"""

from __future__ import annotations

HANDOFF = "handoff"
_TO = f"{HANDOFF} to "


def handed_to(instance_id: str | None) -> str:
    """The word for a loss."""
    return HANDOFF if instance_id is None else _TO + instance_id


def read_loss(why: str) -> tuple[str, str | None]:
    """Of a loss's word: the reason alone, and the node that has room, where there is one."""
    return (HANDOFF, why.removeprefix(_TO)) if why.startswith(_TO) else (why, None)
