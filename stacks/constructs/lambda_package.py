"""The package that all Lambdas share, and the layer of Powertools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aws_cdk import IgnoreMode, Stack
from aws_cdk import aws_lambda as lambda_
from aws_cdk import aws_ssm as ssm

from stacks.constructs.artifact import ROOT

POWERTOOLS_VERSION = "3.37.0"
"""The version that the tests run with; a test compares it with the installed one."""

POWERTOOLS_PARAMETER = f"/aws/service/powertools/python/arm64/python3.13/{POWERTOOLS_VERSION}"
"""AWS's public parameter with the ARN of the layer of this version in each region. boto3 is part of the runtime.

Source: Powertools' documentation, "Lambda Layer", "SSM Parameter Store".
"""

_PACKAGE_EXCLUDES = ["*", "!lambdas", "!lambdas/**", "!node_agent", "node_agent/*", "!node_agent/__init__.py",
             "!node_agent/contract", "!node_agent/contract/**", "**/__pycache__"]  # fmt: skip
"""The package contains only the Lambdas, and the contract that they share with the agent."""


@dataclass(frozen=True)
class Code:
    """The package and the layers that all handlers share."""

    package: lambda_.Code
    layers: Sequence[lambda_.ILayerVersion]


def lambda_code(stack: Stack, *, layers: bool) -> Code:
    """Return the package and, except where the embedded AWS runs it, the layers."""
    package = lambda_.Code.from_asset(str(ROOT), exclude=_PACKAGE_EXCLUDES, ignore_mode=IgnoreMode.GIT)
    if not layers:
        return Code(package, ())
    arn = ssm.StringParameter.value_for_string_parameter(stack, POWERTOOLS_PARAMETER)
    return Code(package, (lambda_.LayerVersion.from_layer_version_arn(stack, "Powertools", arn),))
