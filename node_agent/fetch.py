"""`python -m node_agent.fetch --into FOLDER`: the model from S3 to the disk, before the agent starts.

`--check` only looks whether it is all there, for an engine that reads from S3 by itself. Told by the environment:
SYNKTI_MODELS_BUCKET, SYNKTI_MODEL_NAME, SYNKTI_MODEL_SHA256 (may be empty). Exit codes: 0 there; 69 the model is
missing or damaged, or does not fit on the disk; 75 S3 does not answer; 78 the environment is wrong. One line on
stderr says what.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import boto3
from botocore.config import Config

from node_agent.adapters.model_store import ModelStore
from node_agent.contract.errors import ConfigurationError, PermanentError, TransientError
from node_agent.contract.models import ModelFile

_EXIT_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h
_EXIT_TEMPORARY = 75  # EX_TEMPFAIL
_EXIT_CONFIGURATION = 78  # EX_CONFIG
_S3 = Config(max_pool_connections=64, retries={"mode": "adaptive", "max_attempts": 8})
_SPARE_BYTES = 2 * 2**30
"""Left free on the disk: logs, and whatever the engine compiles."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m node_agent.fetch", description="The model, from S3.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--into", type=Path, metavar="FOLDER", help="download it there, every file's SHA-256 compared")
    what.add_argument("--check", action="store_true", help="only look whether all of it is there")
    given = parser.parse_args(argv)
    try:
        print(_fetch(given.into, environ))
    except ConfigurationError as error:
        return _told(_EXIT_CONFIGURATION, error)
    except PermanentError as error:
        return _told(_EXIT_UNAVAILABLE, error)
    except TransientError as error:
        return _told(_EXIT_TEMPORARY, error)
    return 0


def _fetch(folder: Path | None, environ: Mapping[str, str]) -> str:
    """What was done, in a sentence; folder: None where the model is only looked for."""
    missing = [name for name in ("SYNKTI_MODELS_BUCKET", "SYNKTI_MODEL_NAME") if not environ.get(name)]
    if missing:
        raise ConfigurationError([f"{name} is not set" for name in missing])
    name = environ["SYNKTI_MODEL_NAME"]
    store = ModelStore(boto3.client("s3", config=_S3), environ["SYNKTI_MODELS_BUCKET"])
    files = store.manifest(name, environ.get("SYNKTI_MODEL_SHA256", ""))
    gib = sum(file.size for file in files) / 2**30
    store.check(name, files)
    if folder is None:
        return f"{name}: {len(files)} files, {gib:.2f} GiB, all in S3"
    _require_space(folder, files)
    began = time.monotonic()
    fetched = store.fetch(name, files, folder)
    took = time.monotonic() - began
    return f"{name}: {len(files)} files, {gib:.2f} GiB, {fetched / 2**30:.2f} GiB of it downloaded; {took:.1f} s"


def _require_space(folder: Path, files: Sequence[ModelFile]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    held = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    needed = sum(file.size for file in files if held.get(folder / file.path) != file.size)
    free = shutil.disk_usage(folder).free
    if needed and needed + _SPARE_BYTES > free:
        raise PermanentError(
            f"the model needs {needed / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free; "
            "set root_gib higher, or take instance types with a disk of their own"
        )


def _told(code: int, error: Exception) -> int:
    print(f"model: {error}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
