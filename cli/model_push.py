"""Upload a model according to its plan (`core/upload_plan`): many parts in parallel, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from threading import Lock

from cli.adapters.model_files import ModelSource, read_part
from cli.adapters.models_bucket import ModelsBucket
from cli.core.upload_plan import PushPlan, Upload
from cli.errors import Failed
from node_agent.contract.models import ModelFile


class Pusher:
    """Uploads one model. on_progress: called with bytes that are done, from any thread."""

    def __init__(
        self, bucket: ModelsBucket, name: str, source: ModelSource, workers: int, on_progress: Callable[[int], None]
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._source = source
        self._workers = workers
        self._on_progress = on_progress
        self._lock = Lock()
        self.sent_bytes = 0

    def push(self, plan: PushPlan, files: Sequence[ModelFile]) -> None:
        """Make the bucket contain exactly these files and their manifest. Raises Failed, BotoCoreError, ClientError.

        After an error the uploaded parts stay, and the next push resumes from there.
        """
        if plan.removes_manifest:
            self._bucket.remove_manifest(self._name)
        for unfinished in plan.abort:
            self._bucket.abort_upload(self._name, unfinished)
        with ThreadPoolExecutor(self._workers) as pool:
            futures: list[Future[None]] = []
            try:
                for upload in plan.uploads:
                    futures += (
                        self._put_whole(pool, upload) if upload.is_single_request else self._put_parts(pool, upload)
                    )
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
        self._bucket.delete_objects(self._name, plan.remove)
        self._bucket.write_manifest(self._name, files, self._source.copy_of)

    def _put_whole(self, pool: ThreadPoolExecutor, upload: Upload) -> list[Future[None]]:
        def put() -> None:
            file = upload.file
            self._bucket.put(self._name, file, self._read(file, 0, file.size))
            self._count(file.size)

        return [pool.submit(put)]

    def _put_parts(self, pool: ThreadPoolExecutor, upload: Upload) -> list[Future[None]]:
        """Return a future for each part; the one that finishes last completes the upload."""
        file = upload.file
        upload_id = upload.upload_id or self._bucket.begin_upload(self._name, file)
        etags: dict[int, str] = {}
        lock = Lock()

        def part(number: int, start: int, end: int) -> None:
            body = self._read(file, start, end)
            there = upload.candidates.get(number)
            if there is not None and there.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest():
                etag = f'"{there.md5}"'
                self._on_progress(end - start)
            else:
                etag = self._bucket.put_part(self._name, file.path, upload_id, number, body)
                self._count(end - start)
            with lock:
                etags[number] = etag
                last = len(etags) == len(upload.ranges)
            if last and not self._bucket.complete_upload(self._name, file, upload_id, etags):
                self._bucket.delete_objects(self._name, [file.path])
                raise Failed(
                    f"{file.path} differs in S3: its upload was begun with other content",
                    "run the command again; this file is uploaded from its start",
                )

        return [pool.submit(part, *each) for each in upload.ranges]

    def _read(self, file: ModelFile, start: int, end: int) -> bytes:
        return read_part(self._source.folder, file.path, start, end)

    def _count(self, count: int) -> None:
        with self._lock:
            self.sent_bytes += count
        self._on_progress(count)
