"""An existing VPC: which of its subnets nodes use, and whether nodes there reach what they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import boto3
import pytest

from cli.account import Account
from cli.adapters import account_facts
from cli.adapters.account_facts import read_facts
from cli.core.account_facts import ImageFacts, missing_settings
from cli.core.network import Subnet, Vpc, WayOut, choose_subnets, found_ids, network_problem, parse_vpc
from stacks.settings import FleetSettings
from tests.unit.cli.conftest import ACCOUNT, REGION, Run
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation

EXISTING = FleetSettings(account=ACCOUNT, region=REGION, vpc="existing", vpc_id="vpc-1")


def table(name: str, target: dict[str, str], **association: Any) -> dict[str, Any]:
    routes: list[dict[str, Any]] = [{"DestinationCidrBlock": "10.0.0.0/16", "GatewayId": "local", "State": "active"}]
    if target:
        routes.append({"DestinationCidrBlock": "0.0.0.0/0", "State": "active", **target})
    return {"RouteTableId": name, "Routes": routes, "Associations": [association]}


def subnet(name: str, zone: str, free: int = 100) -> dict[str, Any]:
    return {"SubnetId": name, "AvailabilityZone": zone, "AvailableIpAddressCount": free}


def test_a_subnet_without_a_table_of_its_own_uses_the_main_one() -> None:
    tables = [
        table("rtb-main", {"GatewayId": "igw-1"}, Main=True),
        table("rtb-nat", {"NatGatewayId": "nat-1"}, Main=False, SubnetId="subnet-b"),
        table("rtb-none", {}, Main=False, SubnetId="subnet-c"),
        table("rtb-gone", {"NatGatewayId": "nat-2", "State": "blackhole"}, Main=False, SubnetId="subnet-d"),
    ]
    subnets = [subnet(f"subnet-{name}", name) for name in "abcd"]
    found = parse_vpc("vpc-1", subnets, tables, ["com.amazonaws.us-east-1.s3", "com.amazonaws.us-east-1.ec2"])
    assert [(s.route_table_id, s.way_out) for s in found.subnets] == [
        ("rtb-main", WayOut.INTERNET),
        ("rtb-nat", WayOut.INDIRECT),
        ("rtb-none", WayOut.NONE),
        ("rtb-gone", WayOut.NONE),
    ]
    assert found.endpoints == {"s3", "ec2"}


def one(name: str, zone: str, way_out: WayOut, free: int = 100, table_id: str = "rtb-1") -> Subnet:
    return Subnet(f"subnet-{name}", zone, free, table_id, way_out)


def test_the_roomiest_fitting_subnet_of_each_zone_is_chosen() -> None:
    vpc = Vpc(
        "vpc-1",
        (
            one("b2", "b", WayOut.INTERNET),
            one("a1", "a", WayOut.INTERNET, free=5),
            one("a2", "a", WayOut.INTERNET, free=50),
            one("c1", "c", WayOut.INDIRECT),
            one("d1", "d", WayOut.NONE),
        ),
    )
    assert [s.subnet_id for s in choose_subnets(vpc, public=True)] == ["subnet-a2", "subnet-b2"]
    assert [s.subnet_id for s in choose_subnets(vpc, public=False)] == ["subnet-c1"]
    isolated = Vpc("vpc-1", (one("d1", "d", WayOut.NONE),))
    assert [s.subnet_id for s in choose_subnets(isolated, public=False)] == ["subnet-d1"]
    assert choose_subnets(isolated, public=True) == ()


def test_only_missing_ids_are_found() -> None:
    vpc = Vpc("vpc-1", (one("a", "a", WayOut.INTERNET), one("b", "b", WayOut.INTERNET)))
    assert found_ids(EXISTING, vpc) == {"subnet_ids": ("subnet-a", "subnet-b"), "route_table_ids": ("rtb-1",)}
    default = FleetSettings(account=ACCOUNT, region=REGION, vpc="default", gateway_endpoints=False)
    assert found_ids(default, vpc) == {"vpc_id": "vpc-1", "subnet_ids": ("subnet-a", "subnet-b")}
    chosen = FleetSettings(account=ACCOUNT, region=REGION, vpc="existing", vpc_id="vpc-1", subnet_ids=("subnet-b",))
    assert found_ids(chosen, vpc) == {"route_table_ids": ("rtb-1",)}


def test_a_subnet_of_another_vpc_is_a_problem() -> None:
    chosen = FleetSettings(vpc="existing", vpc_id="vpc-1", subnet_ids=("subnet-x",))
    assert network_problem(chosen, Vpc("vpc-1", ()))[0] == "subnet-x not in vpc-1"


def test_the_default_vpc_is_read_from_ec2(aws: MemoryCloudFormation) -> None:
    """In moto, whose default VPC has a public subnet in each zone."""
    facts = read_facts(Account(), FleetSettings(account=ACCOUNT, region=REGION, vpc="default"))
    assert isinstance(facts.vpc, Vpc)
    assert {each.way_out for each in facts.vpc.subnets} <= set(WayOut)
    assert len(facts.vpc.subnets) == 6
    assert all(each.route_table_id.startswith("rtb-") for each in facts.vpc.subnets)


@pytest.fixture
def routed(aws: MemoryCloudFormation) -> str:
    """The default VPC with a route to an internet gateway, as AWS makes it; its id."""
    ec2 = boto3.client("ec2")
    vpc_id = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc_id)
    tables = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc_id]}])["RouteTables"]
    ec2.create_route(RouteTableId=tables[0]["RouteTableId"], DestinationCidrBlock="0.0.0.0/0", GatewayId=gateway)
    return vpc_id


def test_the_newest_image_is_read_from_awss_parameter(
    aws: MemoryCloudFormation, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = Account()
    assert read_facts(account, FleetSettings()).image == ImageFacts("", is_there=True), "moto has no such parameter"
    monkeypatch.setattr(account_facts, "GPU_AMI_PARAMETER", "/gpu/ami-id")
    boto3.client("ssm").put_parameter(Name="/gpu/ami-id", Value="ami-0123456789abcdef0", Type="String")
    facts = read_facts(account, FleetSettings())
    assert missing_settings(FleetSettings(), facts) == {"base_image_id": "ami-0123456789abcdef0"}
    pinned = FleetSettings(base_image_id="ami-0fedcba9876543210")
    assert read_facts(account, pinned).image == ImageFacts("ami-0123456789abcdef0", is_there=False)
    assert missing_settings(pinned, facts) == {}, "a pin stays until somebody changes it"
    image = boto3.client("ec2").register_image(Name="own")["ImageId"]
    own = read_facts(account, FleetSettings(image_id=image)).image
    assert isinstance(own, ImageFacts)
    assert own.is_there


def test_doctor_reports_the_ids_that_bootstrap_would_write(routed: str, nowhere: Path, run: Run) -> None:
    (nowhere / "synkti.toml").write_text(f'account = "{ACCOUNT}"\nregion = "{REGION}"\nvpc = "default"\n')
    reported = {each["check"]: each for each in run("doctor", "--no-templates", "--json").document["findings"]}
    assert f'vpc_id = "{routed}"; subnet_ids = ["subnet-' in reported["ids"]["found"]
    assert "network" not in reported, "there is nothing to check before the ids are known"
