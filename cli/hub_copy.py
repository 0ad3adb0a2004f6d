"""Copy a model from a hub into the models bucket, without a disk in between: ranges in parallel, the manifest last.

Rules:

* a file becomes an object only when its content has the hash that the hub states for it;
* a file whose object has that hash already is not copied again, so that an interrupted copy continues;
* what makes a push complete makes a copy complete: the same files, the same manifest, the same digest.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from cli.adapters.hub import Hub
from cli.adapters.models_bucket import ModelsBucket
from cli.core.hub import HubFile, HubModel, git_blob_id
from cli.core.model_check import index_faults, is_index, is_weights, json_fault, name_faults
from cli.core.model_source import model_fault, select_files
from cli.core.upload_plan import MAX_PARTS, MIB, UnfinishedUpload, plan_push, replaces_model
from cli.errors import Failed, NotFound
from node_agent.contract.models import ModelFile, format_manifest, manifest_digest

RANGE_BYTES = 64 * MIB
"""The size of a part, which is one request to the hub and one to S3; all parts in transfer are in memory."""

MAX_SMALL_BYTES = 64 * MIB
"""The largest file that may lack a SHA-256; hubs state one for files that are not text."""

_MAX_ALL_SMALL_BYTES = 512 * MIB
_T = TypeVar("_T")
_U = TypeVar("_U")


@dataclass(frozen=True)
class CopyOptions:
    """What `model push` has under the same names, and how many ranges are copied at a time."""

    replace: bool = False
    everything: bool = False
    unchecked: bool = False
    parallel: int = 8


@dataclass(frozen=True)
class Copied:
    """The result of a copy. digest: the manifest's SHA-256; sent_bytes: what was copied by this run."""

    origin: str
    digest: str
    files: int
    size: int
    sent_bytes: int


class HubCopy:
    """Copies one model. on_bytes: called with bytes that are copied, from one thread; may raise to stop the copy."""

    def __init__(self, hub: Hub, bucket: ModelsBucket, name: str, options: CopyOptions) -> None:
        self._hub = hub
        self._bucket = bucket
        self._name = name
        self._options = options
        self.sent_bytes = 0

    def copy(self, model: HubModel, revision: str, on_bytes: Callable[[int], None]) -> Copied:
        """Make the bucket contain the model.

        NotFound for no model, or an incomplete one, the hub's errors and those of S3 pass through; what was copied
        stays.

        Args:
            model: as the hub lists it.
            revision: the requested one; "": a copy of any commit of this repository is left as it is.
            on_bytes: is called with bytes that are copied, from one thread; may raise to stop the copy.

        Returns:
            What the bucket has now.

        Raises:
            Failed: there is another model of this name, or a file differs from what the hub states.
        """
        chosen = self._select(model)
        manifest = self._bucket.manifest(self._name)
        if manifest is not None and not revision and not self._options.replace and self._is_copy_of(model):
            return Copied(
                self._bucket.origin(self._name), manifest.digest, len(manifest.files), manifest.total_bytes, 0
            )
        small = self._read_small(model, [file for file in chosen if file.sha256 is None])
        files = [ModelFile(file.path, file.sha256 or _sha256(small[file.path]), file.size) for file in chosen]
        digest = _digest(files)
        held = manifest.files if manifest else None
        if replaces_model(files, held) and not self._options.replace:
            raise Failed(
                f"there is a model {self._name!r} already, with other content than {model.origin}",
                "give this one another name (model in synkti.toml, or --name), or replace it: "
                f"synkti model push {model.origin} --name {self._name} --replace",
            )
        unfinished: tuple[UnfinishedUpload, ...] = ()  # ranges cannot be compared without reading them
        plan = plan_push(files, self._bucket.objects(self._name), unfinished, held)
        if not plan.is_noop:
            if plan.removes_manifest:
                self._bucket.remove_manifest(self._name)
            for upload in plan.uploads:
                self._copy_file(model, upload.file, small.get(upload.file.path), on_bytes)
            self._bucket.delete_objects(self._name, plan.remove)
            self._bucket.write_manifest(self._name, files, model.origin)
        return Copied(model.origin, digest, len(files), sum(file.size for file in files), self.sent_bytes)

    def _is_copy_of(self, model: HubModel) -> bool:
        return self._bucket.origin(self._name).startswith(f"{model.repository}@")

    def _select(self, model: HubModel) -> list[HubFile]:
        """Return the files that vLLM needs. Raises NotFound where the repository has no complete model."""
        paths = select_files([file.path for file in model.files], everything=self._options.everything).included
        if (fault := model_fault(paths)) is not None:
            raise NotFound(f"{model.origin} is no model: {fault}")
        chosen = [file for file in model.files if file.path in set(paths)]
        if not self._options.unchecked and (faults := [*name_faults(paths), *self._index_faults(model, chosen)]):
            raise NotFound(
                f"{model.origin} is no complete model: {'; '.join(faults[:3])}",
                "see its page on the hub; synkti model push --unchecked copies it nevertheless",
            )
        return chosen

    def _index_faults(self, model: HubModel, files: Sequence[HubFile]) -> Iterator[str]:
        tensors: Mapping[str, None] = {file.path: None for file in files if is_weights(file.path)}
        for file in files:
            if is_index(file.path) and file.size <= MAX_SMALL_BYTES:
                document, fault = json_fault(file.path, self._hub.read(model, file.path, 0, file.size))
                yield from [fault] if fault is not None else index_faults(file.path, document, tensors)

    def _read_small(self, model: HubModel, files: Sequence[HubFile]) -> dict[str, bytes]:
        """Return the contents of files whose SHA-256 the hub does not state, compared with git's ids."""
        if (large := [file.path for file in files if file.size > MAX_SMALL_BYTES]) or (
            sum(file.size for file in files) > _MAX_ALL_SMALL_BYTES
        ):
            raise Failed(f"the hub states no SHA-256 of {', '.join(large[:3]) or 'many large files'} of {model.origin}")
        with ThreadPoolExecutor(self._options.parallel) as pool:
            bodies = pool.map(lambda file: self._hub.read(model, file.path, 0, file.size), files)
            found = {file.path: body for file, body in zip(files, bodies, strict=True)}
        for file in files:
            if git_blob_id(found[file.path]) != file.blob_id:
                raise _differs(file.path, model)
        return found

    def _copy_file(self, model: HubModel, file: ModelFile, body: bytes | None, on_bytes: Callable[[int], None]) -> None:
        if file.size > RANGE_BYTES:
            self._copy_ranges(model, file, on_bytes)
            return
        body = self._hub.read(model, file.path, 0, file.size) if body is None else body
        _require_hash(_sha256(body), file, model)
        self._bucket.put(self._name, file, body)
        self._count(file.size, on_bytes)

    def _copy_ranges(self, model: HubModel, file: ModelFile, on_bytes: Callable[[int], None]) -> None:
        """Copy ranges in parallel, and hash them in their order; the object appears if the hash is right."""
        upload_id, digest = self._bucket.begin_upload(self._name, file), hashlib.sha256()
        etags: dict[int, str] = {}

        def one(part: tuple[int, int, int]) -> tuple[int, bytes, str]:
            number, start, end = part
            body = self._hub.read(model, file.path, start, end)
            return number, body, self._bucket.put_part(self._name, file.path, upload_id, number, body)

        try:
            with closing(in_order(one, ranges(file.size), self._options.parallel)) as parts:
                for number, body, etag in parts:
                    digest.update(body)
                    etags[number] = etag
                    self._count(len(body), on_bytes)
            _require_hash(digest.hexdigest(), file, model)
        except BaseException:
            with suppress(BotoCoreError, ClientError):  # the bucket aborts it, too, after a day
                self._bucket.abort_upload(self._name, UnfinishedUpload(file.path, upload_id, {}))
            raise
        if not self._bucket.complete_upload(self._name, file, upload_id, etags):
            self._bucket.delete_objects(self._name, [file.path])
            raise Failed(f"{file.path} differs in S3 from what was sent", "run it again")

    def _count(self, count: int, on_bytes: Callable[[int], None]) -> None:
        self.sent_bytes += count
        on_bytes(count)


def ranges(size: int) -> Iterator[tuple[int, int, int]]:
    """Return number (from 1), start and end (exclusive) of each part of a file. size: in bytes."""
    step = max(RANGE_BYTES, -(-size // MAX_PARTS))
    return ((n + 1, start, min(start + step, size)) for n, start in enumerate(range(0, size, step)))


def in_order(work: Callable[[_T], _U], items: Iterable[_T], ahead: int) -> Generator[_U]:
    """Yield the results of `work` in the order of the items, while up to `ahead` items are worked on in threads."""
    waiting: deque[Future[_U]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
            wait(waiting)


def _digest(files: Sequence[ModelFile]) -> str:
    try:
        return manifest_digest(format_manifest(files))
    except ValueError as error:
        raise Failed(f"a file's name on the hub is invalid: {error}") from error


def _require_hash(digest: str, file: ModelFile, model: HubModel) -> None:
    if digest != file.sha256:
        raise _differs(file.path, model)


def _differs(path: str, model: HubModel) -> Failed:
    return Failed(f"{path} is not what the hub states of {model.origin}: its hash is another", "run it again")


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
