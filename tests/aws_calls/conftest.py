"""Every call of AWS, recorded once, and the policies of the roles that make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from checks.assemblies import EVERYTHING, synthesize
from tests.aws_calls.agent_calls import call_as_agent
from tests.aws_calls.build_calls import call_as_build
from tests.aws_calls.cli_calls import call_as_operator
from tests.aws_calls.custom_resource_calls import call_as_custom_resources
from tests.aws_calls.lambda_calls import call_as_lambdas
from tests.aws_calls.recording import Call, recorder
from tests.aws_calls.roles import Roles
from tests.aws_calls.shell_calls import shell_calls

ROLE_OF_HANDLER = {
    "node_interrupted": "nodeinterruptedRole",
    "node_rebalance_recommended": "noderebalancerecommendedRole",
    "node_state_changed": "nodestatechangedRole",
    "launch_finished": "launchfinishedRole",
    "fleet_checked": "fleetcheckedRole",
    "node_gave_up": "nodegaveupRole",
    "model_requested": "RequestStarterRole",
    "size_requested": "SizeSetterRole",
}


@dataclass(frozen=True)
class RecordedCalls:
    """by_role: calls of nodes, Lambdas and builds, by their roles' logical ids; operator: those of the command line."""

    by_role: Mapping[str, tuple[Call, ...]]
    operator: tuple[Call, ...]

    @property
    def every(self) -> tuple[Call, ...]:
        """All of them."""
        return (*(call for calls in self.by_role.values() for call in calls), *self.operator)


@pytest.fixture(scope="session")
def recorded() -> RecordedCalls:
    with recorder() as agent:
        call_as_agent(agent)
    with recorder() as lambdas:
        positions = call_as_lambdas(lambdas) | call_as_custom_resources(lambdas)
    with recorder() as build:
        call_as_build(build)
    with recorder() as operator:
        call_as_operator(operator)
    by_role = {ROLE_OF_HANDLER[name]: tuple(lambdas.calls[each] for each in its) for name, its in positions.items()}
    node = (*agent.calls, *shell_calls("stacks/boot", "*.sh"))
    return RecordedCalls({"NodeRole": node, "JobRole": tuple(build.calls), **by_role}, tuple(operator.calls))


@pytest.fixture(scope="session")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    return Roles(synthesize(tmp_path_factory.mktemp("everything"), EVERYTHING))
