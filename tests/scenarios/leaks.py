"""Finds objects that outlive their request while the garbage collector is off."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Collection, Iterator


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Collect once, then turn the garbage collector off for the block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def count_instances(classes: Collection[type]) -> Counter[str]:
    """Count the live objects of exactly these classes, by class name."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in classes)
