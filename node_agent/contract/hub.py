"""The name of a model on a hub, as settings, commands and the job that fetches it spell it: owner/name[@revision]."""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(
    r"(?P<repository>[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?)"
    r"(?:@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,127}))?"
)
DEFAULT_HUB = "https://huggingface.co"


@dataclass(frozen=True)
class HubName:
    """A model on a hub. revision: a branch, a tag or a commit; "" is the hub's default branch."""

    repository: str
    revision: str = ""

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository

    @property
    def model_name(self) -> str:
        """The repository's name without its owner."""
        return self.repository.rpartition("/")[2]


def parse_hub_name(text: str) -> HubName:
    """Parse owner/name or owner/name@revision. Raises ValueError."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in text or "--" in match["repository"]:
        raise ValueError("must be a model's name on the hub: owner/name, or owner/name@revision")
    return HubName(match["repository"], match["revision"] or "")
