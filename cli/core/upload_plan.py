"""What a push of a model still has to upload.

Rules kept here:

* an object is right when its size and the SHA-256 that it was uploaded with are the file's;
* an upload that was interrupted is gone on with where its parts have the sizes that this file would be cut into;
  whether a part is the file's, its MD5 (which S3 tells as ETag) decides, part by part, when it comes to it;
* a whole model of the same name and other content is not written over unless somebody says so: nodes may be reading it;
* the manifest goes first when something is about to change, and comes back last: what has one is whole.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from node_agent.contract.models import ModelFile

MIB = 1024 * 1024
PART_BYTES = 16 * MIB
"""Of one request. One of 45 MB/s uploads it in a third of a second; S3's least is 5 MiB."""

MAX_PARTS = 10_000
"""S3's own bound for one object."""


@dataclass(frozen=True)
class Remote:
    """An object as S3 has it. sha256: what it was uploaded with; None where nobody wrote that down."""

    size: int
    sha256: str | None


@dataclass(frozen=True)
class Part:
    """A part that S3 has. md5: its ETag, in hexadecimal where the bucket encrypts with S3's own keys."""

    size: int
    md5: str


@dataclass(frozen=True)
class Unfinished:
    """An upload that was begun and not completed. parts: by number, from 1."""

    path: str
    upload_id: str
    parts: Mapping[int, Part]


@dataclass(frozen=True)
class Upload:
    """A file to upload. upload_id: what to go on with; candidates: the parts that S3 seems to have of it."""

    file: ModelFile
    upload_id: str | None
    candidates: Mapping[int, Part]

    @property
    def whole(self) -> bool:
        """Whether one request carries it."""
        return self.file.size <= PART_BYTES

    @property
    def ranges(self) -> tuple[tuple[int, int, int], ...]:
        """Number, beginning and end (exclusive) of each part."""
        return part_ranges(self.file.size)


@dataclass(frozen=True)
class PushPlan:
    """there: right already; uploads: to do; abort: unfinished ones of no use; remove: objects that do not belong.

    unseal: whether there is a manifest, which goes first; same: everything is there, and nothing has to be done.
    """

    there: tuple[ModelFile, ...]
    uploads: tuple[Upload, ...]
    abort: tuple[Unfinished, ...]
    remove: tuple[str, ...]
    unseal: bool
    same: bool

    @property
    def upload_bytes(self) -> int:
        return sum(upload.file.size for upload in self.uploads)


def part_bytes(size: int) -> int:
    """How a file of this size is cut: 16 MiB, or as many whole MiB as keep it under S3's number of parts."""
    least = -(-size // MAX_PARTS)
    return max(PART_BYTES, -(-least // MIB) * MIB)


def part_ranges(size: int) -> tuple[tuple[int, int, int], ...]:
    step = part_bytes(size)
    return tuple((n + 1, start, min(start + step, size)) for n, start in enumerate(range(0, size, step)))


def plan_push(
    files: Collection[ModelFile],
    remote: Mapping[str, Remote],
    unfinished: Collection[Unfinished],
    manifest: Collection[ModelFile] | None,
) -> PushPlan:
    """remote: the objects below the model's prefix, by path; manifest: what it names; None where there is none."""
    there, uploads, used = [], [], set()
    for file in files:
        if remote.get(file.path) == Remote(file.size, file.sha256):
            there.append(file)
            continue
        going = _to_go_on_with(file, unfinished)
        if going is not None:
            used.add(going.upload_id)
        uploads.append(Upload(file, going.upload_id if going else None, going.parts if going else {}))
    abort = tuple(each for each in unfinished if each.upload_id not in used)
    remove = tuple(sorted(set(remote) - {file.path for file in files}))
    same = not uploads and not remove and manifest is not None and set(manifest) == set(files)
    return PushPlan(
        tuple(there), tuple(uploads), () if same else abort, remove, manifest is not None and not same, same
    )


def replaces(files: Collection[ModelFile], manifest: Collection[ModelFile] | None) -> bool:
    """Whether a whole model of other content has this name already."""
    return manifest is not None and set(manifest) != set(files)


def _to_go_on_with(file: ModelFile, unfinished: Collection[Unfinished]) -> Unfinished | None:
    """The upload that has most of the file; None where it is uploaded in one request."""
    if file.size <= PART_BYTES:
        return None
    sizes = {number: end - start for number, start, end in part_ranges(file.size)}
    usable = [
        each
        for each in unfinished
        if each.path == file.path and all(sizes.get(number) == part.size for number, part in each.parts.items())
    ]
    return max(usable, key=lambda each: (len(each.parts), each.upload_id), default=None)
