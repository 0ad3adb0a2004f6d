"""Uploads a model: as `core/upload_plan` plans it, in many parts at once, the manifest last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

from cli.adapters.model_files import read_part
from cli.adapters.models_bucket import ModelsBucket
from cli.core.upload_plan import PushPlan, Upload
from cli.errors import Failed
from node_agent.contract.models import ModelFile


class Pusher:
    """done: hears of the bytes that need not be sent any more, from any thread."""

    def __init__(
        self, bucket: ModelsBucket, name: str, folder: Path, workers: int, done: Callable[[int], None]
    ) -> None:
        self._bucket = bucket
        self._name = name
        self._folder = folder
        self._workers = workers
        self._done = done
        self._lock = Lock()
        self.sent = 0

    def push(self, plan: PushPlan, files: Sequence[ModelFile]) -> None:
        """Until the bucket holds exactly these files and their manifest. Raises Failed, BotoCoreError, ClientError.

        Whatever stops it, what was uploaded stays, and the next push goes on from there.
        """
        if plan.unseal:
            self._bucket.remove_manifest(self._name)
        for unfinished in plan.abort:
            self._bucket.abort(self._name, unfinished)
        with ThreadPoolExecutor(self._workers) as pool:
            futures: list[Future[None]] = []
            try:
                for upload in plan.uploads:
                    futures += self._whole(pool, upload) if upload.whole else self._parts(pool, upload)
                done, _ = wait(futures, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
            finally:
                for future in futures:
                    future.cancel()
        self._bucket.remove(self._name, plan.remove)
        self._bucket.write_manifest(self._name, files)

    def _whole(self, pool: ThreadPoolExecutor, upload: Upload) -> list[Future[None]]:
        def put() -> None:
            file = upload.file
            self._bucket.put(self._name, file, self._read(file, 0, file.size))
            self._count(file.size)

        return [pool.submit(put)]

    def _parts(self, pool: ThreadPoolExecutor, upload: Upload) -> list[Future[None]]:
        """A future for each part; the last one that is done makes them an object."""
        file = upload.file
        upload_id = upload.upload_id or self._bucket.begin(self._name, file)
        etags: dict[int, str] = {}
        lock = Lock()

        def part(number: int, start: int, end: int) -> None:
            body = self._read(file, start, end)
            there = upload.candidates.get(number)
            if there is not None and there.md5 == hashlib.md5(body, usedforsecurity=False).hexdigest():
                etag = f'"{there.md5}"'
                self._done(end - start)
            else:
                etag = self._bucket.put_part(self._name, file.path, upload_id, number, body)
                self._count(end - start)
            with lock:
                etags[number] = etag
                last = len(etags) == len(upload.ranges)
            if last and not self._bucket.complete(self._name, file, upload_id, etags):
                self._bucket.remove(self._name, [file.path])
                raise Failed(
                    f"{file.path} is not in S3 what it is here: its upload was begun with another content",
                    "run the command again; this file is uploaded anew",
                )

        return [pool.submit(part, *each) for each in upload.ranges]

    def _read(self, file: ModelFile, start: int, end: int) -> bytes:
        return read_part(self._folder, file.path, start, end)

    def _count(self, count: int) -> None:
        with self._lock:
            self.sent += count
        self._done(count)
