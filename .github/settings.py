"""Print the settings that the deploy workflow needs from synkti.toml as a step's outputs, KEY=VALUE lines.

    python3 .github/settings.py >>"$GITHUB_OUTPUT"

Standard library only: it runs before anything is installed. `wanted` is true where this repository and this branch are
configured to deploy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from node_agent.contract.errors import ConfigurationError  # noqa: E402 # after sys.path is extended
from node_agent.contract.names import github_role_name  # noqa: E402
from stacks.settings import FleetSettings, load  # noqa: E402


def outputs(settings: FleetSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the step's outputs. environ: has GITHUB_REPOSITORY and GITHUB_REF, as GitHub sets them."""
    repository = environ.get("GITHUB_REPOSITORY", "")
    branch = f"refs/heads/{settings.github_branch}"
    wanted = bool(repository) and repository == settings.github_repository and environ.get("GITHUB_REF") == branch
    roles = f"arn:aws:iam::{settings.account}:role"
    looker = f"cdk-hnb659fds-lookup-role-{settings.account}-{settings.region}"
    return {
        "wanted": str(wanted).lower(),
        "region": settings.region,
        "deployer": f"{roles}/{github_role_name(settings.cluster)}",
        "looker": f"{roles}/{looker}",
    }


def main() -> int:
    """Print the outputs. Returns the exit code; configuration faults go to standard error, one a line."""
    try:
        settings = load(ROOT, lambda key: None)
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return 1
    for key, value in outputs(settings, os.environ).items():
        print(f"{key}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
