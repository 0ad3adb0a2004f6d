"""Finds objects that outlive their request while the garbage collector is off."""

from __future__ import annotations

import contextlib
import gc
from collections import Counter
from collections.abc import Collection, Iterator


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Collect once, then turn the garbage collector off for the block.

    Objects that exist before are hidden from `gc.get_objects`: a repeated search of all those of boto3 takes long.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def count_instances(classes: Collection[type]) -> Counter[str]:
    """Count the live objects of exactly these classes, by class name; in `collector_off`, those made in its block."""
    return Counter(type(each).__name__ for each in gc.get_objects() if type(each) in classes)
