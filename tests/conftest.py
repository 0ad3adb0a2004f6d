"""For all tests: what hypothesis may do on a machine that is busy with something else."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline for an example: a slow machine is no bug. In CI the same examples every time, elsewhere new ones.
settings.register_profile("synkti", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.register_profile("quick", settings.get_profile("synkti"), max_examples=20, stateful_step_count=15)
settings.load_profile(os.environ.get("SYNKTI_HYPOTHESIS", "synkti"))  # quick: in `make check`
