"""A node in a VPC without any way out: its scripts reach AWS's services through endpoints, and nothing else.

The permissions of its role, and so every service that its agent may call, are compared with the endpoints in
test_fleet.py; that packages come from S3 is shown in tests/unit/boot/test_install.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from checks.assemblies import IN_A_VPC, SHIPPED, synthesize
from stacks.constructs.artifact import ROOT
from stacks.endpoints import GATEWAY_SERVICES, INTERFACE_SERVICES
from tests.aws_calls.source_calls import services_of

SCRIPTS = sorted((ROOT / "stacks/boot").glob("*.sh"))
ENDPOINTS = {"s3api": "s3"}
"""Names of the AWS CLI's commands that are not those of their services' endpoints."""

OUTSIDE = {"install.sh": ["-m pip install", r'retry 4 "\$\{install\[@\]\}" --requirement']}
"""The commands of install.sh that use the package index: where the bucket has no wheelhouse."""


def code(path: Path) -> str:
    """The script without its comments, its continued lines joined."""
    text = path.read_text().replace("\\\n", " ")
    return "\n".join(line.partition(" # ")[0] for line in text.splitlines() if not line.lstrip().startswith("#"))


def test_the_scripts_call_only_services_that_have_endpoints() -> None:
    called = {word for path in SCRIPTS for word in re.findall(r"\baws ([a-z0-9]+) [a-z]", code(path))}
    assert {"s3", "autoscaling", "events"} <= called
    assert {ENDPOINTS.get(name, name) for name in called} <= GATEWAY_SERVICES | INTERFACE_SERVICES


def test_the_programs_of_a_node_call_only_services_that_have_endpoints() -> None:
    endpoints = {"cloudwatch": "monitoring"}
    called = {endpoints.get(name, name) for name in services_of("node_agent")}
    assert "monitoring" in called
    assert called <= GATEWAY_SERVICES | INTERFACE_SERVICES


def test_the_scripts_name_no_host_but_the_instance_and_its_metadata() -> None:
    hosts = {host for path in SCRIPTS for host in re.findall(r"https?://([^/\"'}$ ]+)", code(path))}
    assert hosts <= {"169.254.169.254", "127.0.0.1:8000", "127.0.0.1:8003"}


def test_packages_come_from_outside_only_without_a_wheelhouse() -> None:
    for path in SCRIPTS:
        text = code(path)
        for line in re.findall(r".*(?:\bpip install\b|install\[@\]|python install).*", text):
            allowed = any(re.search(pattern, line) for pattern in OUTSIDE.get(path.name, ()))
            assert allowed or "--offline" in line or line.strip().startswith("install=("), (path.name, line)
        assert not re.search(r"(?m)(^|[|&;(])\s*(apt|apt-get|dnf|yum|snap|wget|git|docker) ", text), path.name


def test_the_user_data_names_nothing_outside_either(tmp_path: Path) -> None:
    isolated = replace(SHIPPED, **IN_A_VPC, public_addresses=False, interface_endpoints=True)
    template = synthesize(tmp_path, isolated).only("AWS::EC2::LaunchTemplate")["LaunchTemplateData"]
    data = str(template["UserData"])
    assert "s3://" in data
    assert re.findall(r"https?://[^/\"' ]+", data) == []
