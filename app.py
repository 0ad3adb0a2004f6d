"""The CDK app: `cdk deploy --all` deploys the settings of synkti.toml, with overrides such as `-c nodes=5`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from aws_cdk import App, Stack

from node_agent.contract.errors import ConfigurationError
from stacks.events_stack import EventsStack
from stacks.fleet_stack import FleetStack
from stacks.github_stack import GithubStack
from stacks.image_stack import ImageStack
from stacks.model_stack import ModelStack
from stacks.partition import partition_problem
from stacks.settings import FleetSettings, load, require_ids
from stacks.settings_rules import NO_BUILD_REGIONS
from stacks.state_stack import StateStack


def build(app: App, settings: FleetSettings, region: str = "") -> list[Stack]:
    """Return the stacks of a cluster in the order of their dependencies; image and github only if configured.

    The model stack is left out where the region has no builds. Raises ConfigurationError as `require_ids`.

    Args:
        app: their app.
        settings: the cluster's.
        region: where the stacks will be deployed if the settings name none.
    """
    if settings.local:
        settings = settings.for_local_emulator()
    require_ids(settings)
    state = StateStack(app, settings)
    has_builds = (settings.region or region) not in NO_BUILD_REGIONS
    model = ModelStack(app, settings, state) if has_builds else None
    image = ImageStack(app, settings, state) if settings.bake_image else None
    fleet = FleetStack(app, settings, state)
    if model is not None:  # it may fetch the model that nodes, and an image, need
        for stack in (fleet, image):
            if stack is not None:
                stack.add_stack_dependency(model)
    if image is not None:
        fleet.add_stack_dependency(image)
    events = EventsStack(app, settings, state)
    github = GithubStack(app, settings) if settings.github_repository else None
    return [stack for stack in (state, model, image, fleet, events, github) if stack is not None]


def _require_commercial_region(region: str) -> None:
    """Raise ConfigurationError where a fleet cannot run in the region. region: "" where it is not known yet."""
    if problem := partition_problem(region):
        raise ConfigurationError([problem])


def main() -> int:
    """Synthesize the app. Returns the exit code; configuration faults go to standard error, one a line."""
    app = App()
    try:
        settings = load(Path.cwd(), app.node.try_get_context)
        region = settings.region or os.environ.get("CDK_DEFAULT_REGION", "")
        _require_commercial_region(region)
        build(app, settings, region)
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return 1
    app.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
