"""Plan what a push of a model has to upload.

Rules:

* an object is up to date when its size and the SHA-256 of its upload are the file's;
* an interrupted upload is resumed where its parts have the sizes into which this file is split; each part's MD5 (S3's
  ETag) decides during the upload whether it is the file's;
* a complete model of the same name with other content is replaced only on request: nodes may be reading it;
* the manifest is deleted before any change and written last: a model with a manifest is complete.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from node_agent.contract.models import ModelFile

MIB = 1024 * 1024
PART_BYTES = 16 * MIB
"""The size of a part. At 45 MB/s its upload takes a third of a second; S3's minimum is 5 MiB."""

MAX_PARTS = 10_000
"""S3's limit for one object."""


@dataclass(frozen=True)
class RemoteObject:
    """An object in S3. sha256: that of its upload; None where it has no such metadata."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Part:
    """A part in S3. md5: its ETag, which is the MD5 in hexadecimal where the bucket encrypts with S3's own keys."""

    size: int
    md5: str


@dataclass(frozen=True)
class UnfinishedUpload:
    """A multipart upload that was not completed. parts: by number, from 1."""

    path: str
    upload_id: str
    parts: Mapping[int, Part]


@dataclass(frozen=True)
class Upload:
    """A file to upload. upload_id: of the upload to resume; candidates: parts in S3 that may be the file's."""

    file: ModelFile
    upload_id: str | None
    candidates: Mapping[int, Part]

    @property
    def is_single_request(self) -> bool:
        """True where one request uploads the whole file."""
        return self.file.size <= PART_BYTES

    @property
    def ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Number, start and end (exclusive) of each part."""
        return part_ranges(self.file.size)


@dataclass(frozen=True)
class PushPlan:
    """The steps of a push."""

    unchanged: tuple[ModelFile, ...]
    """Files whose objects are up to date."""

    uploads: tuple[Upload, ...]
    abort: tuple[UnfinishedUpload, ...]
    """Unfinished uploads that cannot be resumed."""

    remove: tuple[str, ...]
    """Objects that are not in the model."""

    removes_manifest: bool
    """True where there is a manifest, which is deleted first."""

    is_noop: bool
    """True where everything is up to date."""

    @property
    def upload_bytes(self) -> int:
        """The size of all files to upload; of resumed ones too."""
        return sum(upload.file.size for upload in self.uploads)


def part_bytes(size: int) -> int:
    """Return the size of a file's parts: 16 MiB, or more whole MiB to stay within S3's number of parts."""
    least = -(-size // MAX_PARTS)
    return max(PART_BYTES, -(-least // MIB) * MIB)


def part_ranges(size: int) -> tuple[tuple[int, int, int], ...]:
    """Return number (from 1), start and end (exclusive) of each part of a file. size: the file's, in bytes."""
    step = part_bytes(size)
    return tuple((n + 1, start, min(start + step, size)) for n, start in enumerate(range(0, size, step)))


def plan_push(
    files: Collection[ModelFile],
    remote: Mapping[str, RemoteObject],
    unfinished: Collection[UnfinishedUpload],
    manifest: Collection[ModelFile] | None,
) -> PushPlan:
    """Plan a push. remote: the model's objects by path; manifest: its files, None where there is none."""
    there, uploads, used = [], [], set()
    for file in files:
        if remote.get(file.path) == RemoteObject(file.size, file.sha256):
            there.append(file)
            continue
        going = _resumable_upload(file, unfinished)
        if going is not None:
            used.add(going.upload_id)
        uploads.append(Upload(file, going.upload_id if going else None, going.parts if going else {}))
    abort = tuple(each for each in unfinished if each.upload_id not in used)
    remove = tuple(sorted(set(remote) - {file.path for file in files}))
    same = not uploads and not remove and manifest is not None and set(manifest) == set(files)
    return PushPlan(
        tuple(there), tuple(uploads), () if same else abort, remove, manifest is not None and not same, same
    )


def replaces_model(files: Collection[ModelFile], manifest: Collection[ModelFile] | None) -> bool:
    """Return True where a complete model of this name has other content."""
    return manifest is not None and set(manifest) != set(files)


def _resumable_upload(file: ModelFile, unfinished: Collection[UnfinishedUpload]) -> UnfinishedUpload | None:
    """Return the unfinished upload with most of the file's parts; None where there is none."""
    if file.size <= PART_BYTES:
        return None
    sizes = {number: end - start for number, start, end in part_ranges(file.size)}
    usable = [
        each
        for each in unfinished
        if each.path == file.path and all(sizes.get(number) == part.size for number, part in each.parts.items())
    ]
    return max(usable, key=lambda each: (len(each.parts), each.upload_id), default=None)
