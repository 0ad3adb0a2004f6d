"""Build the archives of this repository that nodes and image builds download.

The archive is built here and not by the CDK, because the template contains its SHA-256, which a node verifies before it
unpacks anything. Archives are reproducible: they have no compression (whose output differs between versions of zlib),
no times, no owners, and a fixed order.
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
_LOCKS = (
    "requirements/bootstrap.txt",
    "requirements/python.txt",
    "requirements/agent.txt",
    "requirements/engine.txt",
)
"""What a node installs with verified hashes: uv, CPython, the agent's packages, vLLM and its packages."""

AGENT = (
    "node_agent/**/*.py",
    "node_agent/contract/instance_prices.json",
    "node_agent/engine_plugin/pyproject.toml",
    "node_agent/ui/*",
    "stacks/boot/*",
    *_LOCKS,
)
"""All files of this repository that a node needs."""

DEPENDENCIES = ("stacks/boot/install.sh", "stacks/boot/instance.sh", *_LOCKS)
"""Files that install a machine image's packages. The agent is not included, so that a new agent needs no new image."""

MODEL_DOWNLOADER = (
    "node_agent/__init__.py",
    "node_agent/fetch_model.py",
    "node_agent/adapters/__init__.py",
    "node_agent/adapters/model_*.py",
    "node_agent/core/__init__.py",
    "node_agent/core/node/__init__.py",
    "node_agent/core/node/model_*.py",
    "node_agent/core/sizing/*.py",
    "node_agent/contract/*.py",
)
"""Files that download a model into a machine image."""

HUB_JOB = (
    "cli/__init__.py",
    "cli/hub_job.py",
    "cli/hub_copy.py",
    "cli/errors.py",
    "cli/exit_codes.py",
    "cli/aws_errors.py",
    "cli/core/__init__.py",
    "cli/core/hub.py",
    "cli/core/model_check.py",
    "cli/core/model_source.py",
    "cli/core/upload_plan.py",
    "cli/adapters/__init__.py",
    "cli/adapters/buckets.py",
    "cli/adapters/hub.py",
    "cli/adapters/models_bucket.py",
    "node_agent/__init__.py",
    "node_agent/adapters/__init__.py",
    "node_agent/adapters/model_store.py",
    "node_agent/core/__init__.py",
    "node_agent/core/sizing/*.py",
    "node_agent/contract/*.py",
)
"""Files that copy a model from a hub into the models bucket: parts of the `synkti` command, which the build runs."""


@dataclass(frozen=True)
class Archive:
    """A tar archive and its SHA-256 in hexadecimal."""

    content: bytes
    sha256: str


def pack(patterns: Sequence[str], root: Path = ROOT) -> Archive:
    """Archive the files below `root` that match the patterns. Raises FileNotFoundError where a pattern matches none."""
    found = {pattern: [path for path in root.glob(pattern) if path.is_file()] for pattern in patterns}
    for pattern, paths in found.items():
        if not paths:
            raise FileNotFoundError(f"nothing in {root} matches {pattern}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path in sorted({path for paths in found.values() for path in paths}):
            content = path.read_bytes()
            entry = tarfile.TarInfo(path.relative_to(root).as_posix())
            entry.size = len(content)
            entry.mode = 0o755 if path.suffix == ".sh" else 0o644
            archive.addfile(entry, io.BytesIO(content))
    return Archive(buffer.getvalue(), hashlib.sha256(buffer.getvalue()).hexdigest())


class Artifact(Construct):
    """An archive that `cdk deploy` uploads to the CDK's bucket under its hash. `url`: s3://...; `sha256`: its hash."""

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

    def read_policy(self) -> iam.PolicyStatement:
        """Return a statement that allows reading this object only."""
        return iam.PolicyStatement(
            sid="ReadArchive",
            actions=["s3:GetObject"],
            resources=[self._asset.bucket.arn_for_objects(self._asset.s3_object_key)],
        )
