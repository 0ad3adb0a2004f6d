"""Runs ministack with two facts about instances that it drops: the zone, and that they are spot instances.

    python local/embedded_aws.py

Otherwise `synkti nodes` beside `make run` lists other zones and purchase options than the run itself. Works with the
ministack that requirements/dev.txt pins. It imports nothing of this checkout, which Lambdas must not find by accident.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

Parameters = dict[str, Any]


def keep_zones_and_market(ec2: Any) -> None:
    """Make RunInstances keep the requested zone and market, and DescribeInstances return them. ec2: its module."""
    run_instances, instance_xml = ec2._ACTION_MAP["RunInstances"], ec2._instance_xml

    def run(parameters: Parameters) -> Any:
        known = set(ec2._instances)
        response = run_instances(parameters)
        for instance_id in set(ec2._instances) - known:
            instance = ec2._instances[instance_id]
            zone = ec2._p(parameters, "Placement.AvailabilityZone")
            instance["Placement"]["AvailabilityZone"] = zone or instance["Placement"]["AvailabilityZone"]
            instance["InstanceLifecycle"] = ec2._p(parameters, "InstanceMarketOptions.MarketType")
        return response

    def to_xml(instance: dict[str, Any]) -> str:
        text: str = instance_xml(instance)
        lifecycle = instance.get("InstanceLifecycle")
        extra = f"<instanceLifecycle>{lifecycle}</instanceLifecycle>" if lifecycle else ""
        return text.replace("<placement>", f"{extra}<placement>", 1)

    ec2._ACTION_MAP["RunInstances"] = run
    ec2._instance_xml = to_xml


def main() -> None:
    """Serve until ended."""
    keep_zones_and_market(importlib.import_module("ministack.services.ec2"))
    importlib.import_module("ministack.app").main()


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder
    main()
