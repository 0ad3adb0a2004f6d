"""The CDK app: `cdk deploy --all`, as synkti.toml says, and what is above it: `-c nodes=5`."""

from __future__ import annotations

import sys
from pathlib import Path

from aws_cdk import App

from node_agent.contract.errors import ConfigurationError
from stacks.events_stack import EventsStack
from stacks.fleet_stack import FleetStack
from stacks.settings import FleetSettings, load
from stacks.state_stack import StateStack


def build(app: App, settings: FleetSettings) -> tuple[StateStack, FleetStack, EventsStack]:
    """The stacks of one fleet, in the order of their dependence."""
    state = StateStack(app, settings)
    return state, FleetStack(app, settings, state), EventsStack(app, settings, state)


def main() -> int:
    app = App()
    try:
        build(app, load(Path.cwd(), app.node.try_get_context))
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"configuration: {fault}", file=sys.stderr)
        return 1
    app.synth()
    return 0


if __name__ == "__main__":
    sys.exit(main())
