"""The templates for the embedded AWS are those for the real one, except for the differences listed here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from checks.assemblies import EVERYTHING, Synthesized, synthesize


def test_the_local_templates_differ_only_in_the_listed_places(production: Synthesized, local: Synthesized) -> None:
    """docs/architecture.md lists the same differences. Any other would weaken what the local run proves."""
    different: set[str] = set()
    for stack, template in production.templates.items():
        theirs, ours = flatten(template), flatten(local.templates[stack])
        for place in theirs.keys() | ours.keys():
            if theirs.get(place) != ours.get(place):
                different.add(".".join(part for part in place.split(".") if not part.isdigit())[:120])
    kinds = {name_of(place) for place in different}
    assert kinds == {"deletion protection of the table", "image", "layers", "missing nodes", "peers' rule"}


def test_resources_that_the_embedded_aws_lacks_are_omitted_from_local_templates(
    local: Synthesized, tmp_path: Path
) -> None:
    """Even if the user's settings enable every feature."""
    everything = synthesize(tmp_path, replace(EVERYTHING, local=True, drills=False, alarm_email="", scale_target=0))
    assert list(everything.templates) == list(local.templates)
    kinds = {
        resource["Type"] for template in everything.templates.values() for resource in template["Resources"].values()
    }
    assert not kinds & {"AWS::IAM::OIDCProvider", "AWS::EC2::SecurityGroupIngress", "AWS::ImageBuilder::Image"}
    assert not any("LoadBalancing" in kind for kind in kinds)


def flatten(value: Any, place: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = ((f"{place}.{key}" if place else key, each) for key, each in value.items())
    elif isinstance(value, list):
        items = ((f"{place}.{number}", each) for number, each in enumerate(value))
    else:
        return {place: value}
    return {key: found for where, each in items for key, found in flatten(each, where).items()}


def name_of(place: str) -> str:
    known = {
        "DeletionProtectionEnabled": "deletion protection of the table",
        "DeletionPolicy": "deletion protection of the table",
        "UpdateReplacePolicy": "deletion protection of the table",
        ".Layers": "layers",
        "Resources.Missing": "missing nodes",
        "DashboardBody": "missing nodes",
        "ImageId": "image",
        "Parameters.SsmParameterValue": "image",
        "SecurityGroupIngress": "peers' rule",
        "NetworkNodesfrom": "peers' rule",
    }
    return next((name for mark, name in known.items() if mark in place), place)
