"""The wheelhouse in the models bucket: look whether a set is complete, upload it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from cli.aws_errors import error_code
from cli.core.wheelhouse import is_complete
from cli.errors import NotFound
from node_agent.contract.models import MANIFEST, MAX_MANIFEST_BYTES, ModelFile, format_manifest
from node_agent.contract.wheelhouse import PackageSet

_CHUNK_BYTES = 2**20


class WheelhouseBucket:
    """The bucket. client: boto3's of S3. Methods raise BotoCoreError, ClientError; NotFound for a missing bucket."""

    def __init__(self, client: Any, bucket: str, workers: int = 4) -> None:
        self.name = bucket
        self._client = client
        self._workers = workers

    def is_complete(self, package_set: PackageSet) -> bool:
        """Return whether all files of the set's manifest are there."""
        sizes = self._sizes(package_set)
        # Who may list the wheelhouse only is refused an object that does not exist, so it is listed first.
        return MANIFEST in sizes and is_complete(self._manifest(package_set), sizes)

    def upload(
        self, package_set: PackageSet, folder: Path, on_progress: Callable[[int], None], *, replace: bool
    ) -> None:
        """Upload the files of a folder, the manifest last. A file of the same size is not uploaded again.

        Args:
            package_set: names the place.
            folder: has the files.
            on_progress: called with bytes that are done, from any thread.
            replace: upload every file.
        """
        files = [_describe(folder, path) for path in sorted(folder.rglob("*")) if path.is_file()]
        there = {} if replace else self._sizes(package_set)

        def put(file: ModelFile) -> None:
            if there.get(file.path) == file.size:
                on_progress(file.size)
                return
            key = package_set.prefix + file.path
            self._client.upload_file(str(folder / file.path), self.name, key, Callback=on_progress)

        with ThreadPoolExecutor(self._workers) as pool:
            list(pool.map(put, files))
        body = format_manifest(files).encode()
        self._client.put_object(Bucket=self.name, Key=package_set.manifest_key, Body=body, ContentType="text/plain")

    def _manifest(self, package_set: PackageSet) -> str:
        answer = self._client.get_object(Bucket=self.name, Key=package_set.manifest_key)
        return str(answer["Body"].read(MAX_MANIFEST_BYTES).decode("utf-8", errors="replace"))

    def _sizes(self, package_set: PackageSet) -> dict[str, int]:
        found = {}
        try:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=package_set.prefix)
            for page in pages:
                for entry in page.get("Contents", ()):
                    found[entry["Key"].removeprefix(package_set.prefix)] = int(entry["Size"])
        except ClientError as error:
            if error_code(error) != "NoSuchBucket":
                raise
            raise NotFound(f"there is no bucket {self.name}", "synkti bootstrap makes it") from error
        return found


def _describe(folder: Path, path: Path) -> ModelFile:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return ModelFile(path.relative_to(folder).as_posix(), digest.hexdigest(), path.stat().st_size)
