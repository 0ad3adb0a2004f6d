"""The nightly job that boots instances: with their Python, and with the engine that its cache has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped] # a dependency of cfn-lint, without types

from local.boot.image import IMAGE_PYTHON

ROOT = Path(__file__).parents[3]


def test_instances_are_booted_with_a_real_vllm_out_of_the_cache() -> None:
    """Without it each night downloads vLLM again; with another Python the part with vLLM would be left out."""
    steps: list[dict[str, Any]] = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())["jobs"]["boot"][
        "steps"
    ]
    (python,) = [step["with"]["python-version"] for step in steps if "setup-python@" in step.get("uses", "")]
    assert python == IMAGE_PYTHON
    order = [step.get("uses", "").partition("@")[0] or step["run"] for step in steps]
    restore, engine, save = (
        order.index(each) for each in ("actions/cache/restore", "make engine", "actions/cache/save")
    )
    boot = next(number for number, what in enumerate(order) if what.endswith(" make boot"))
    assert restore < engine < save < boot, "stored before root adds files that only root can read"
    path = steps[restore]["with"]["path"]
    assert steps[save]["with"]["path"] == path == "~/.cache/synkti"
    assert f'SYNKTI_CACHE="{path.replace("~", "$HOME")}"' in order[boot], "root's own cache would be another one"
    assert f"py{IMAGE_PYTHON}" in steps[restore]["with"]["key"]
    assert steps[save]["with"]["key"] == f"${{{{ steps.{steps[restore]['id']}.outputs.cache-primary-key }}}}"
