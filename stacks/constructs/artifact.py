"""What nodes and image builds download: archives of parts of this repository, versioned by their content.

An archive is made here and not by the CDK, because its SHA-256 has to be known when the template is written: a node
compares it before it unpacks anything. It holds the same bytes wherever it is made: no compression, whose output
differs between versions of zlib, no times, no owners, and always the same order.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aws_cdk import Stage
from aws_cdk import aws_iam as iam
from aws_cdk import aws_s3_assets as assets
from constructs import Construct

ROOT = Path(__file__).parents[2]
_LOCKS = ("requirements/bootstrap.txt", "requirements/agent.txt", "requirements/engine.txt")
"""uv, the agent's packages, vLLM and its packages: what a node installs, every hash checked."""

AGENT = ("node_agent/**/*.py", "node_agent/engine_plugin/pyproject.toml", "stacks/boot/*", *_LOCKS)
"""Everything that a node needs of this repository."""

DEPENDENCIES = ("stacks/boot/install.sh", "stacks/boot/instance.sh", *_LOCKS)
"""What a machine image has installed. The agent is not among it, so that a new agent needs no new image."""

FETCHING = (
    "node_agent/__init__.py",
    "node_agent/fetch_model.py",
    "node_agent/adapters/__init__.py",
    "node_agent/adapters/model_*.py",
    "node_agent/core/__init__.py",
    "node_agent/core/node/__init__.py",
    "node_agent/core/node/model_*.py",
    "node_agent/contract/*.py",
)
"""What downloads a model into a machine image."""


@dataclass(frozen=True)
class Archive:
    """content: a tar archive; sha256: of it, in hexadecimal."""

    content: bytes
    sha256: str


def pack(patterns: Sequence[str], root: Path = ROOT) -> Archive:
    """The files that the patterns name, each below `root`. Raises FileNotFoundError where one names nothing."""
    found = {pattern: [path for path in root.glob(pattern) if path.is_file()] for pattern in patterns}
    for pattern, paths in found.items():
        if not paths:
            raise FileNotFoundError(f"nothing in {root} is {pattern}")
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({path for paths in found.values() for path in paths}):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size = len(content)
            entry.mode = 0o755 if path.suffix == ".sh" else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Archive(held.getvalue(), hashlib.sha256(held.getvalue()).hexdigest())


class Artifact(Construct):
    """Published by `cdk deploy` in the CDK's own bucket, under its hash. `url`: s3://...; `sha256`: of the archive."""

    def __init__(self, scope: Construct, construct_id: str, patterns: Sequence[str]) -> None:
        super().__init__(scope, construct_id)
        archive = pack(patterns)
        stage = Stage.of(self)
        if stage is None:
            raise AssertionError("a construct of an app has a stage")
        file = Path(stage.outdir) / f"{construct_id.lower()}-{archive.sha256[:16]}.tar"
        file.write_bytes(archive.content)
        self._asset = assets.Asset(self, "Archive", path=str(file))
        self.sha256 = archive.sha256
        self.url = self._asset.s3_object_url

    def reading(self) -> iam.PolicyStatement:
        """What reading it takes: this one object, not the bucket."""
        return iam.PolicyStatement(
            sid="ReadAgent",
            actions=["s3:GetObject"],
            resources=[self._asset.bucket.arn_for_objects(self._asset.s3_object_key)],
        )
