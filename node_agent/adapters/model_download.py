"""Download a model: parallel ranges, bounded tries; every file is verified before it gets its name."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from node_agent.adapters.model_folder import ModelFolder, PartFile
from node_agent.adapters.model_store import ModelStore
from node_agent.contract.errors import ModelDamaged, StoreUnavailable
from node_agent.contract.models import ModelFile
from node_agent.core.node.model_download_plan import DownloadPlan, missing_ranges, plan_download

TRIES = 5
"""Of one range; broken connections are common where a node reads for minutes."""

ROUNDS = 2
"""Of the whole: a file whose SHA-256 is wrong is fetched once more, then the model is damaged."""

SPARE_BYTES = 2 * 2**30
"""Kept free on the disk: for logs, and for what the engine compiles."""

_REPORT_INTERVAL_S = 5.0


@dataclass
class _Progress:
    """Reports the progress at most every _REPORT_INTERVAL_S seconds. total: bytes to fetch."""

    report: Callable[[str], None]
    total: int = 0
    received: int = 0
    began: float = field(default_factory=time.monotonic)
    _reported_at: float = field(default_factory=time.monotonic)
    _lock: Lock = field(default_factory=Lock)

    def add(self, count: int) -> None:
        """Count received bytes, from any thread."""
        with self._lock:
            self.received += count
            now = time.monotonic()
            if now - self._reported_at < _REPORT_INTERVAL_S:
                return
            self._reported_at = now
        rate = self.received / max(now - self.began, 1e-3)
        self.report(f"{gib(self.received)} of {gib(self.total)} GiB, {gib(rate)} GiB/s")


def gib(count: float) -> str:
    """Format bytes as GiB, with two decimals and no unit."""
    return f"{count / 2**30:.2f}"


class Downloader:
    """Downloads one model into one folder. sleep: waits between the tries of a range, in seconds."""

    def __init__(
        self,
        store: ModelStore,
        folder: ModelFolder,
        name: str,
        *,
        workers: int,
        report: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._store = store
        self._folder = folder
        self._name = name
        self._workers = workers
        self._report = report
        self._sleep = sleep
        self.fetched = 0

    def fetch(self, files: Sequence[ModelFile]) -> None:
        """Make the folder exactly these files; `fetched` counts the bytes received.

        The store's ModelMissing and StoreUnavailable pass through; an OSError means that the disk cannot store them.

        Raises:
            ModelDamaged: a file differs from its manifest, also after it was fetched again.
        """
        wrong: list[str] = []
        for _ in range(ROUNDS):
            if wrong:
                self._report(f"not what the manifest says: {', '.join(wrong[:3])}; fetched again")
            plan = plan_download(files, self._folder.files(), self._folder.verified)
            for path in plan.remove:
                self._folder.remove(path)
            wrong = self._round(plan)
            if not wrong:
                return
        raise ModelDamaged(f"models/{self._name}/{wrong[0]} is not what its manifest says; push the model again")

    def _round(self, plan: DownloadPlan) -> list[str]:
        """Run one round; return the paths that were wrong, which are removed from the disk."""
        wrong: list[str] = []
        parts = [(file, self._folder.part(file)) for file in plan.fetch]
        missing = [missing_ranges(file.size, part.done) for file, part in parts]
        needed = sum(end - start for each in missing for start, end in each)
        free = self._folder.free_bytes()
        if needed and needed + SPARE_BYTES > free:
            raise OSError(
                f"{gib(needed + SPARE_BYTES)} GiB are needed and {gib(free)} GiB free; "
                "set root_gib higher, or take instance types with a disk of their own"
            )
        progress = _Progress(self._report, needed)
        with ThreadPoolExecutor(self._workers) as pool:
            futures = [pool.submit(self._compare, file, wrong) for file in plan.compare]
            for (file, part), ranges in zip(parts, missing, strict=True):
                futures += self._ranges(pool, file, part, ranges, wrong, progress)
            try:
                _all(futures)
            finally:
                for future in futures:
                    future.cancel()
                wait(futures)
                for _, part in parts:
                    part.close()
        self.fetched += progress.received
        return wrong

    def _compare(self, file: ModelFile, wrong: list[str]) -> None:
        if not self._folder.compare(file):
            self._folder.remove(file.path)
            wrong.append(file.path)

    def _ranges(
        self,
        pool: ThreadPoolExecutor,
        file: ModelFile,
        part: PartFile,
        missing: Sequence[tuple[int, int]],
        wrong: list[str],
        progress: _Progress,
    ) -> list[Future[None]]:
        """Return a future for each missing range; the last one to finish verifies the file."""
        remaining, lock = [max(1, len(missing))], Lock()

        def one(start: int, end: int) -> None:
            if end > start:
                self._range(file, part, start, end)
                progress.add(end - start)
            with lock:
                remaining[0] -= 1
                last = remaining[0] == 0
            if last and not self._folder.finish(file, part):
                wrong.append(file.path)

        return [pool.submit(one, start, end) for start, end in missing or ((0, 0),)]

    def _range(self, file: ModelFile, part: PartFile, start: int, end: int) -> None:
        for attempt in range(TRIES):
            at = [start]

            def take(piece: bytes, at: list[int] = at) -> None:
                part.write(at[0], piece)
                at[0] += len(piece)

            try:
                self._store.read(self._name, file.path, start, end, take)
            except StoreUnavailable:
                if attempt == TRIES - 1:
                    raise
                self._sleep(0.5 * 2**attempt)
            else:
                part.mark_done(start)
                return


def _all(futures: Sequence[Future[None]]) -> None:
    """Wait until all are done, or one has failed, whose error is raised."""
    done, _ = wait(futures, return_when=FIRST_EXCEPTION)
    for future in done:
        future.result()
