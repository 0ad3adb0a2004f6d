"""How many examples a test generates that needs another number than the profile's (`tests/conftest.py`)."""

from __future__ import annotations

from hypothesis import settings

_PART = 8
_FEWEST = 20


def examples(full: int) -> int:
    """Return `full`, or an eighth of it in the profile `quick`, but as many as that profile's other tests have."""
    quick = settings.get_current_profile_name() == "quick"
    return min(full, max(_FEWEST, full // _PART)) if quick else full
