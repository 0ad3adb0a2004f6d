"""Read the models bucket: manifests, lists, ranges of objects.

Foreign exceptions become the project's own here: a missing model is ModelMissing, an unreadable manifest is
ModelDamaged, an S3 that does not answer is StoreUnavailable. Called from threads; a boto3 client allows that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from node_agent.contract.errors import ModelDamaged, ModelMissing, StoreUnavailable
from node_agent.contract.models import (
    MANIFEST,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    ModelFile,
    manifest_digest,
    manifest_key,
    model_prefix,
    parse_manifest,
)

_CHUNK_BYTES = 1024 * 1024
_GONE = frozenset({"NoSuchKey", "404", "NotFound"})
_REFUSED = frozenset({"AccessDenied", "403", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


def s3_client(region: str | None, connections: int) -> Any:
    """Make a boto3 client of S3. connections: the maximum of concurrent requests."""
    config = Config(
        connect_timeout=5,
        read_timeout=30,
        retries={"mode": "standard", "max_attempts": 5},
        max_pool_connections=connections,
    )
    return boto3.session.Session(region_name=region).client("s3", config=config)


@dataclass(frozen=True)
class Manifest:
    """files: what the model is made of; digest: the SHA-256 of the manifest itself, which names the weights."""

    files: tuple[ModelFile, ...]
    digest: str

    @property
    def total_bytes(self) -> int:
        """The size of all files together."""
        return sum(file.size for file in self.files)


class ModelStore:
    """Reads models. bucket: the cluster's models bucket."""

    def __init__(self, client: Any, bucket: str) -> None:
        self.bucket = bucket
        self._client = client

    def manifest(self, name: str) -> Manifest:
        """Read a model's manifest. Raises ModelMissing, ModelDamaged, StoreUnavailable."""
        key = manifest_key(name)
        with self._errors(key):
            body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read(MAX_MANIFEST_BYTES + 1)
        try:
            return _manifest(body)
        except ValueError as error:
            raise ModelDamaged(f"s3://{self.bucket}/{key} cannot be read: {error}; push the model again") from error

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes of the objects below the model's prefix, by path, without the manifest.

        A failure of S3 is StoreUnavailable.

        Raises:
            ModelDamaged: there are more objects than a model may have files.
        """
        prefix, found = model_prefix(name), {}
        with self._errors(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix):
                for entry in page.get("Contents", ()):
                    found[entry["Key"].removeprefix(prefix)] = int(entry["Size"])
                if len(found) > MAX_FILES + 1:
                    raise ModelDamaged(f"s3://{self.bucket}/{prefix} holds more than {MAX_FILES} objects")
        found.pop(MANIFEST, None)
        return found

    def read(self, name: str, path: str, start: int, end: int, sink: Callable[[bytes], None]) -> None:
        """Pass the bytes from start to end (exclusive) to `sink`, in pieces. Raises ModelMissing, StoreUnavailable."""
        key = model_prefix(name) + path
        with self._errors(key):
            answer = self._client.get_object(Bucket=self.bucket, Key=key, Range=f"bytes={start}-{end - 1}")
            received = 0
            for piece in answer["Body"].iter_chunks(_CHUNK_BYTES):
                received += len(piece)
                sink(piece)
        if received != end - start:
            raise StoreUnavailable(f"s3://{self.bucket}/{key}: {received} bytes came of {end - start}")

    def _is_known_absent(self, key: str) -> bool:
        """Return whether S3 lists no object of this key; False where the list is refused or fails, too."""
        if key.endswith("/"):  # a prefix, which was listed itself
            return False
        try:
            listed = self._client.list_objects_v2(Bucket=self.bucket, Prefix=key, MaxKeys=1)
        except (BotoCoreError, ClientError):
            return False
        return all(entry.get("Key") != key for entry in listed.get("Contents", ()))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        what = f"s3://{self.bucket}/{key}"
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            # S3 refuses to read an object that does not exist, unless the whole bucket may be listed (s3:ListBucket).
            # A node may list the prefix of its model only, so the list has to tell a missing object from a refused one.
            if code in _GONE or (code in _REFUSED and self._is_known_absent(key)):
                raise ModelMissing(f"{what} is not there; push the model with `synkti model push`") from error
            if code == "NoSuchBucket":
                raise ModelMissing(f"the bucket {self.bucket} is not there; is the cluster's name right?") from error
            if code == "InvalidRange":
                raise ModelDamaged(f"{what} is shorter than its manifest says; push the model again") from error
            if code in _REFUSED:
                raise StoreUnavailable(f"{what}: S3 refuses ({code}); see this role's permissions") from error
            raise StoreUnavailable(f"{what}: {error}") from error
        except BotoCoreError as error:
            raise StoreUnavailable(f"{what}: {error}") from error


def _manifest(body: bytes) -> Manifest:
    if len(body) > MAX_MANIFEST_BYTES:
        raise ValueError(f"it is longer than {MAX_MANIFEST_BYTES} bytes")
    text = body.decode()
    return Manifest(parse_manifest(text), manifest_digest(text))
