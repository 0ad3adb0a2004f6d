"""Print the settings that the workflows deploy and bump need from synkti.toml as a step's outputs, KEY=VALUE lines.

    python3 .github/settings.py >>"$GITHUB_OUTPUT"

Standard library only: it runs before anything is installed. `wanted` is true where this branch is
configured to deploy: the settings name this repository, or it has the secret AWS_ROLE_ARN.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from node_agent.contract.errors import ConfigurationError  # noqa: E402 # after sys.path is extended
from node_agent.contract.names import github_role_name, github_watcher_name  # noqa: E402
from stacks.base_image import GPU_AMI_PARAMETER  # noqa: E402
from stacks.rollout import JOB_MINUTES, longest_minutes  # noqa: E402
from stacks.settings import FleetSettings, load  # noqa: E402

_HOUR_S = 3_600


class NotDeployable(Exception):
    """The settings and the repository do not fit; the message says what to do."""


def outputs(settings: FleetSettings, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the step's outputs.

    Args:
        settings: of synkti.toml.
        environ: has GITHUB_REPOSITORY, GITHUB_REF and the repository's numbers, as GitHub sets them; ROLE_GIVEN is
            `true` where the secret AWS_ROLE_ARN is set, so that the role need not be that of synkti.toml.

    Raises:
        NotDeployable: the repository is to be deployed, and the settings do not fit.
    """
    repository = environ.get("GITHUB_REPOSITORY", "")
    given = environ.get("ROLE_GIVEN") == "true"
    named = bool(repository) and repository == settings.github_repository
    on_branch = environ.get("GITHUB_REF") == f"refs/heads/{settings.github_branch}"
    wanted = on_branch and (named or given)
    if wanted and not settings.region:
        raise NotDeployable("the secret AWS_ROLE_ARN is set, and synkti.toml does not say where to deploy: set region")
    if wanted and not given and (problem := id_problem(settings, environ)) and settings.github_repository_id:
        raise NotDeployable(problem)
    minutes = min(longest_minutes(settings), JOB_MINUTES)
    watcher = f"arn:aws:iam::{settings.account}:role/{github_watcher_name(settings.cluster)}"
    return {
        "wanted": str(wanted).lower(),
        "region": settings.region,
        "deployer": f"arn:aws:iam::{settings.account}:role/{github_role_name(settings.cluster)}",
        "minutes": str(minutes),
        # A role of one's own has sessions of an hour, unless it was changed; a longer one is refused.
        "session_seconds": str(_HOUR_S if given else max(_HOUR_S, minutes * 60)),
        "watcher": watcher if named and on_branch and settings.base_image_id else "",
        "image": settings.base_image_id,
        "image_parameter": GPU_AMI_PARAMETER,
    }


def id_problem(settings: FleetSettings, environ: Mapping[str, str]) -> str:
    """Return what is wrong with the repository's numbers in the settings, which AWS compares; empty if nothing is."""
    owner, repository = environ.get("GITHUB_REPOSITORY_OWNER_ID", ""), environ.get("GITHUB_REPOSITORY_ID", "")
    if not owner or (owner, repository) == (settings.github_owner_id, settings.github_repository_id):
        return ""
    lines = f'github_owner_id = "{owner}", github_repository_id = "{repository}"'
    return f"AWS may refuse this repository's tokens: set {lines} in synkti.toml, and run synkti bootstrap once"


def main() -> int:
    """Print the outputs. Returns the exit code; faults go to standard error, one a line."""
    try:
        settings = load(ROOT, lambda key: None)
        found = outputs(settings, os.environ)
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return 1
    except NotDeployable as error:
        print(f"::error::{error}", file=sys.stderr)
        return 1
    if found["wanted"] == "true" and (problem := id_problem(settings, os.environ)):
        print(f"::warning::{problem}", file=sys.stderr)
    if found["wanted"] == "true" and (longest := longest_minutes(settings)) > JOB_MINUTES:
        remedy = "bake_image = true, a smaller ready_within_s or refresh_healthy_percent make it faster"
        print(
            f"::warning::replacing every node may take {longest} minutes, and GitHub ends a job after {JOB_MINUTES}; "
            f"the deployment itself goes on. {remedy}",
            file=sys.stderr,
        )
    for key, value in found.items():
        print(f"{key}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
