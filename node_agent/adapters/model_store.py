"""The models bucket, as a node reads it: in parallel, and never a byte that is not what the manifest says.

Not a port of the agent: a node fetches its model before its agent starts (`python -m node_agent.fetch`).
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from boto3.s3.transfer import TransferConfig
from botocore.exceptions import BotoCoreError, ClientError

from node_agent.contract.errors import PermanentError, StoreUnavailable
from node_agent.contract.models import (
    MAX_MANIFEST_BYTES,
    ModelFile,
    manifest_digest,
    manifest_key,
    model_prefix,
    parse_manifest,
)

FILES_AT_ONCE = 4
_PART_BYTES = 16 * 1024 * 1024
_TRANSFER = TransferConfig(multipart_chunksize=_PART_BYTES, multipart_threshold=_PART_BYTES, max_concurrency=12)
"""Parts at once of each file: one S3 connection gives 85-90 MB/s, and a GPU instance's network 10 Gb/s and more."""

_READ_BYTES = 4 * 1024 * 1024
_MISSING = frozenset({"404", "NoSuchKey", "NotFound"})


class ModelMissing(PermanentError):
    """The model, or a file of it, is not in the bucket."""


class ModelDamaged(PermanentError):
    """What is in the bucket is not what the manifest, or the deployment, says."""


class ModelStore:
    """client: a boto3 S3 client; its pool should have at least 48 connections."""

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def manifest(self, name: str, sha256: str = "") -> tuple[ModelFile, ...]:
        """The model's files; sha256: what the manifest has to be, where that was said.

        Raises ModelMissing, ModelDamaged, StoreUnavailable.
        """
        key = manifest_key(name)
        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            text = answer["Body"].read(MAX_MANIFEST_BYTES + 1).decode()
            files = parse_manifest(text)
        except ValueError as error:
            raise ModelDamaged(f"s3://{self._bucket}/{key}: {error}") from error
        except (BotoCoreError, ClientError) as error:
            raise self._why(error, key) from error
        if sha256 and manifest_digest(text) != sha256:
            raise ModelDamaged(
                f"the manifest of {name} has the SHA-256 {manifest_digest(text)}, and {sha256} was deployed; "
                "push the model again, or set model_sha256 to what is there"
            )
        return files

    def check(self, name: str, files: tuple[ModelFile, ...]) -> None:
        """That every file is there, in its size. Raises ModelMissing, ModelDamaged, StoreUnavailable."""
        prefix = model_prefix(name)
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
            sizes = {each["Key"]: each["Size"] for page in pages for each in page.get("Contents", [])}
        except (BotoCoreError, ClientError) as error:
            raise self._why(error, prefix) from error
        for file in files:
            size = sizes.get(prefix + file.path)
            if size is None:
                raise ModelMissing(self._push_again(name, f"{file.path} is missing"))
            if size != file.size:
                raise ModelDamaged(self._push_again(name, f"{file.path} has {size} bytes, not {file.size}"))

    def fetch(self, name: str, files: tuple[ModelFile, ...], folder: Path) -> int:
        """All files into `folder`, and nothing else left there; how many bytes had to be downloaded.

        A file that is there already is read, and left where it is right. Raises as `check` does.
        """
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {folder / file.path for file in files}
        for found in [path for path in folder.rglob("*") if path.is_file() and path not in wanted]:
            found.unlink()
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            return sum(pool.map(lambda file: self._fetch_one(name, file, folder / file.path), files))

    def _fetch_one(self, name: str, file: ModelFile, path: Path) -> int:
        if path.is_file() and path.stat().st_size == file.size and sha256_of(path) == file.sha256:
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".part")
        key = model_prefix(name) + file.path
        try:
            self._client.download_file(self._bucket, key, str(part), Config=_TRANSFER)
        except (BotoCoreError, ClientError) as error:
            raise self._why(error, key) from error
        if sha256_of(part) != file.sha256:
            part.unlink()
            raise ModelDamaged(self._push_again(name, f"{file.path} is not what the manifest says"))
        part.replace(path)
        return file.size

    def _why(self, error: Exception, key: str) -> Exception:
        code = error.response.get("Error", {}).get("Code", "") if isinstance(error, ClientError) else ""
        if code in _MISSING:
            return ModelMissing(f"s3://{self._bucket}/{key} does not exist; `synkti model push` brings a model there")
        return StoreUnavailable(f"s3://{self._bucket}/{key} cannot be read: {error}")

    def _push_again(self, name: str, what: str) -> str:
        return f"{what} in s3://{self._bucket}/{model_prefix(name)}; run `synkti model push` again"


def sha256_of(path: Path) -> str:
    """In hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()
