"""The models bucket: list, upload in parts, delete."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from botocore.exceptions import ClientError

from cli.adapters.buckets import delete_objects
from cli.aws_errors import error_code
from cli.core.upload_plan import Part, RemoteObject, UnfinishedUpload
from cli.errors import NoAccess, NotFound
from node_agent.adapters.model_store import Manifest, ModelStore
from node_agent.contract.errors import ModelMissing
from node_agent.contract.models import MANIFEST, ModelFile, format_manifest, manifest_key, model_prefix
from node_agent.core.sizing.facts import MAX_DOCUMENT_BYTES

_SHA256_METADATA = "sha256"
"""The metadata key of the SHA-256 with which an object was uploaded."""

_ORIGIN_METADATA = "origin"
"""The metadata key of where the model with this manifest was copied from."""

_MISSING_CODES = frozenset({"NoSuchBucket", "404", "NoSuchKey", "NotFound", "NoSuchUpload"})
_FORBIDDEN_CODES = frozenset({"403", "AccessDenied", "Forbidden"})


@dataclass(frozen=True)
class ModelListing:
    """A model in a listing of the bucket. size: bytes of all objects; changed: unix seconds."""

    name: str
    files: int
    size: int
    changed: float
    is_complete: bool


class ModelsBucket:
    """The bucket. Methods raise BotoCoreError and ClientError; NotFound for a missing bucket.

    client: boto3's of S3; owner: the account that the bucket has to belong to, None: `exists` accepts any.
    """

    def __init__(self, client: Any, bucket: str, workers: int = 8, owner: str | None = None) -> None:
        self.name = bucket
        self._owner = {"ExpectedBucketOwner": owner} if owner is not None else {}
        self._client = client
        self._workers = workers

    def exists(self) -> bool:
        """Return True where there is such a bucket. Raises NoAccess where it belongs to another account."""
        try:
            self._client.head_bucket(Bucket=self.name, **self._owner)
        except ClientError as error:
            if error_code(error) in _MISSING_CODES:
                return False
            if error_code(error) in _FORBIDDEN_CODES:
                # S3 does not distinguish the two.
                raise NoAccess(
                    f"the bucket {self.name} belongs to another account, or these credentials may not read it",
                    "a bucket's name is unique in all of AWS: choose another cluster name (cluster in synkti.toml); "
                    "if the bucket is yours, ask for s3:ListBucket",
                ) from error
            raise
        return True

    def require(self) -> None:
        """Raise NotFound where there is no such bucket."""
        if not self.exists():
            raise NotFound(f"there is no bucket {self.name}", "synkti bootstrap makes it")

    def models(self) -> list[ModelListing]:
        """Return all models, sorted by name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for entry in self._list_entries("models/"):
            name, _, path = entry["Key"].removeprefix("models/").partition("/")
            if path:
                found.setdefault(name, []).append(entry)
        return [_listing(name, entries) for name, entries in sorted(found.items())]

    def manifest(self, name: str) -> Manifest | None:
        """Return the model's manifest; None where there is none. Raises ModelDamaged where it cannot be parsed."""
        try:
            return ModelStore(self._client, self.name).manifest(name)
        except ModelMissing:
            return None

    def read(self, name: str, path: str, size: int) -> bytes:
        """Return a small file of the model. size: its bytes. Raises ModelMissing, StoreUnavailable."""
        body = bytearray()
        if size:
            ModelStore(self._client, self.name).read(name, path, 0, min(size, MAX_DOCUMENT_BYTES + 1), body.extend)
        return bytes(body)

    def sizes(self, name: str) -> dict[str, int]:
        """Return the sizes of the model's objects by path, without the manifest."""
        prefix = model_prefix(name)
        held = {entry["Key"].removeprefix(prefix): int(entry["Size"]) for entry in self._list_entries(prefix)}
        held.pop(MANIFEST, None)
        return held

    def objects(self, name: str) -> dict[str, RemoteObject]:
        """Return the model's objects with the SHA-256 of their upload; one request each."""
        sizes = self.sizes(name)
        with ThreadPoolExecutor(self._workers) as pool:
            return dict(pool.map(lambda path: (path, self._head(name, path)), sizes))

    def unfinished_uploads(self, name: str) -> list[UnfinishedUpload]:
        """Return multipart uploads that were not completed, the newest first."""
        prefix = model_prefix(name)
        pages = self._client.get_paginator("list_multipart_uploads").paginate(Bucket=self.name, Prefix=prefix)
        begun = [each for page in pages for each in page.get("Uploads", ())]
        begun.sort(key=lambda each: str(each.get("Initiated", "")), reverse=True)
        found = []
        for each in begun:
            pages = self._client.get_paginator("list_parts").paginate(
                Bucket=self.name, Key=each["Key"], UploadId=each["UploadId"]
            )
            parts = {
                int(part["PartNumber"]): Part(int(part["Size"]), part["ETag"].strip('"'))
                for page in pages
                for part in page.get("Parts", ())
            }
            found.append(UnfinishedUpload(each["Key"].removeprefix(prefix), each["UploadId"], parts))
        return found

    def put(self, name: str, file: ModelFile, body: bytes) -> None:
        """Upload a whole file in one request."""
        self._client.put_object(
            Bucket=self.name, Key=model_prefix(name) + file.path, Body=body, Metadata={_SHA256_METADATA: file.sha256}
        )

    def begin_upload(self, name: str, file: ModelFile) -> str:
        """Begin a multipart upload; return its id."""
        answer = self._client.create_multipart_upload(
            Bucket=self.name, Key=model_prefix(name) + file.path, Metadata={_SHA256_METADATA: file.sha256}
        )
        return str(answer["UploadId"])

    def put_part(self, name: str, path: str, upload_id: str, number: int, body: bytes) -> str:
        """Upload a part; return its ETag."""
        answer = self._client.upload_part(
            Bucket=self.name, Key=model_prefix(name) + path, UploadId=upload_id, PartNumber=number, Body=body
        )
        return str(answer["ETag"])

    def complete_upload(self, name: str, file: ModelFile, upload_id: str, etags: dict[int, str]) -> bool:
        """Complete a multipart upload; return True where the object has the file's size and SHA-256."""
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(etags.items())]
        self._client.complete_multipart_upload(
            Bucket=self.name, Key=model_prefix(name) + file.path, UploadId=upload_id, MultipartUpload={"Parts": parts}
        )
        return self._head(name, file.path) == RemoteObject(file.size, file.sha256)

    def abort_upload(self, name: str, upload: UnfinishedUpload) -> None:
        """Abort a multipart upload, which deletes its parts; one that is already gone is no error."""
        try:
            self._client.abort_multipart_upload(
                Bucket=self.name, Key=model_prefix(name) + upload.path, UploadId=upload.upload_id
            )
        except ClientError as error:
            if error_code(error) not in _MISSING_CODES:
                raise

    def write_manifest(self, name: str, files: Iterable[ModelFile], origin: str = "") -> None:
        """Write the manifest: from then on nodes treat the model as complete. origin: what it is a copy of."""
        body = format_manifest(files).encode()
        metadata = {_ORIGIN_METADATA: origin} if origin else {}
        self._client.put_object(
            Bucket=self.name, Key=manifest_key(name), Body=body, ContentType="text/plain", Metadata=metadata
        )

    def origin(self, name: str) -> str:
        """Return what a complete model is a copy of; "" where that was not recorded."""
        answer = self._client.head_object(Bucket=self.name, Key=manifest_key(name))
        return str(answer.get("Metadata", {}).get(_ORIGIN_METADATA, ""))

    def remove_manifest(self, name: str) -> None:
        """Delete the manifest: from then on nodes treat the model as incomplete. It may be missing."""
        self._client.delete_object(Bucket=self.name, Key=manifest_key(name))

    def delete_objects(self, name: str, paths: Iterable[str]) -> None:
        """Delete objects of the model; the bucket keeps their old versions."""
        delete_objects(self._client, self.name, [{"Key": model_prefix(name) + path} for path in paths])

    def purge(self, name: str) -> int:
        """Delete every version of every object of the model permanently; return their number."""
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self.name, Prefix=model_prefix(name))
        versions = [
            {"Key": each["Key"], "VersionId": each["VersionId"]}
            for page in pages
            for each in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
        ]
        delete_objects(self._client, self.name, versions)
        return len(versions)

    def _head(self, name: str, path: str) -> RemoteObject:
        answer = self._client.head_object(Bucket=self.name, Key=model_prefix(name) + path)
        return RemoteObject(int(answer["ContentLength"]), answer.get("Metadata", {}).get(_SHA256_METADATA))

    def _list_entries(self, prefix: str) -> Iterable[dict[str, Any]]:
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                yield from page.get("Contents", ())
        except ClientError as error:
            if error_code(error) == "NoSuchBucket":
                raise NotFound(f"there is no bucket {self.name}", "synkti bootstrap makes it") from error
            raise


def _listing(name: str, entries: list[dict[str, Any]]) -> ModelListing:
    own = [each for each in entries if each["Key"] != manifest_key(name)]
    newest: datetime = max(each["LastModified"] for each in entries)
    return ModelListing(name, len(own), sum(each["Size"] for each in own), newest.timestamp(), len(own) < len(entries))
