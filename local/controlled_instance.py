"""What a run controls of an instance from outside: its IMDS, through the file that the stand-in reads."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import replace
from pathlib import Path

from local.imds import InstanceMetadata
from node_agent.contract.names import ADMIN_PORT, FRONT_DOOR_PORT

_READY_TIMEOUT_S = 2.0


class ControlledInstance:
    """An instance with its metadata. imds_file: what its metadata service reads at every request."""

    def __init__(self, imds_file: Path, metadata: InstanceMetadata) -> None:
        self._imds_file = imds_file
        imds_file.parent.mkdir(parents=True, exist_ok=True)
        self._write_metadata(metadata)

    @property
    def url(self) -> str:
        """The base URL of its client API."""
        return f"http://{self.metadata.address}:{FRONT_DOOR_PORT}"

    @property
    def admin_url(self) -> str:
        """The base URL of its admin listener."""
        return f"http://{self.metadata.address}:{ADMIN_PORT}"

    @property
    def termination_requested(self) -> bool:
        """True if the group has requested its termination."""
        return self.metadata.lifecycle == "Terminated"

    def is_ready(self) -> bool:
        """Return True if its node accepts requests, which a launch hook would wait for."""
        try:
            with urllib.request.urlopen(f"{self.url}/readyz", timeout=_READY_TIMEOUT_S) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def give_notice(self, lead_s: float) -> None:
        """Set IMDS to announce that EC2 reclaims the instance in `lead_s` seconds."""
        self._write_metadata(replace(self.metadata, deadline=time.time() + lead_s))

    def recommend_rebalance(self) -> None:
        """Set IMDS to recommend a rebalance."""
        self._write_metadata(replace(self.metadata, rebalance_at=time.time()))

    def scale_in(self) -> None:
        """Request termination by the group, in IMDS: its node drains."""
        self._write_metadata(replace(self.metadata, lifecycle="Terminated"))

    def _write_metadata(self, metadata: InstanceMetadata) -> None:
        """Write the metadata atomically, because the service reads the file at every request."""
        self.metadata = metadata
        new = self._imds_file.with_suffix(".new")
        new.write_text(metadata.to_json())
        new.replace(self._imds_file)
