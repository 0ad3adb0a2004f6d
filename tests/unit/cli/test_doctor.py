"""The verdicts of `synkti doctor`, from its inputs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from cli.account import Account
from cli.adapters import doctor_collector
from cli.core.account_facts import AccountFacts, ImageFacts, KeyFacts
from cli.core.clusters import Stack
from cli.core.doctor import evaluate, evaluate_without_region, worst_verdict
from cli.core.doctor_inputs import DoctorInputs, Finding, ModelState, Verdict
from cli.core.github import AUDIENCE, ISSUER, Provider, Repository
from cli.core.network import Subnet, Vpc, WayOut
from cli.core.result import Unavailable
from node_agent.core.sizing.facts import ModelFiles
from node_agent.core.sizing.gpus import Unusable, describe_gpus
from stacks.endpoints import INTERFACE_SERVICES
from stacks.settings import FleetSettings
from tests.unit.cli.test_quotas import G_DEMAND, G_SPOT
from tests.unit.core.sizing.models import LLAMA_3_1_8B, LLAMA_3_1_70B, QWEN_2_5_7B_AWQ, WEIGHTS

PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"
TYPES = ("g6.xlarge", "g6.2xlarge")
SETTINGS = FleetSettings(instance_types=TYPES, on_demand_limit=0, base_image_id="ami-2")
WITH_T4 = replace(SETTINGS, instance_types=(*TYPES, "g4dn.xlarge"))
WITH_G5G = replace(SETTINGS, instance_types=(*TYPES, "g5g.xlarge"))
WITH_M7 = replace(SETTINGS, instance_types=("m7i.xlarge",))
UNUSABLE = {
    "g5g.xlarge": describe_gpus({"InstanceType": "g5g.xlarge", "ProcessorInfo": {"SupportedArchitectures": ["arm64"]}}),
    "m7i.xlarge": describe_gpus({"InstanceType": "m7i.xlarge"}),
}
LONG = replace(SETTINGS, engine_args=("--max-model-len", "131072"))
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}


def test_nodes_that_share_no_cluster_key_are_a_fault() -> None:
    def found(**inputs: Any) -> list[Finding]:
        return [each for each in evaluate(replace(WELL, **inputs)) if each.check == "cluster key"]

    assert found() == found(fleets=(("i-1", "i-2"),)) == []
    (fault,) = found(fleets=(("i-1", "i-2"), ("i-3",)))
    assert (fault.verdict, "i-3 stand apart" in fault.found, bool(fault.advice)) == (Verdict.FAULT, True, True)
    (unknown,) = found(fleets=Unavailable("not allowed"))
    assert (unknown.verdict, unknown.found) == (Verdict.UNKNOWN, "not allowed")


def files_of(config: Any, size: int) -> ModelFiles:
    return ModelFiles({"config.json": json.dumps(config).encode()}, {"model.safetensors": size})


def stack(part: str, status: str = "CREATE_COMPLETE") -> Stack:
    return Stack(f"synkti-{part}", status, "synkti", {}, 0.0)


WELL = DoctorInputs(
    facts=AccountFacts(vpc=None, image=ImageFacts("ami-2", is_there=True)),
    settings=SETTINGS,
    cluster="synkti",
    region="us-east-1",
    node_version=22,
    programs=frozenset({"aws", "session-manager-plugin"}),
    account="123456789012",
    caller="arn:aws:iam::123456789012:user/ann",
    regions=frozenset({"us-east-1"}),
    zones=6,
    vcpus={"g6.xlarge": 4, "g6.2xlarge": 8},
    gpus={},
    offerings={"g6.xlarge": frozenset("abcd"), "g6.2xlarge": frozenset("abc")},
    quotas={G_SPOT: 64.0, G_DEMAND: 8.0},
    default_vpc="vpc-1",
    toolkit=30,
    required_toolkit=6,
    stacks=(stack("state"), stack("model"), stack("fleet"), stack("events")),
    model=ModelState(bucket=True, manifest=True, digest="d" * 64),
    files=files_of(LLAMA_3_1_8B, WEIGHTS["llama"]),
    lacking_packages=(),
    templates={"synkti-state": "", "synkti-events": None},
)


def found(check: str, **changes: Any) -> Finding:
    """The finding of this check where everything else is well."""
    return next(finding for finding in evaluate(replace(WELL, **changes)) if finding.check == check)


def test_without_faults_there_is_no_advice() -> None:
    findings = evaluate(WELL)
    assert {finding.verdict for finding in findings} == {Verdict.OK}
    assert not any(finding.advice for finding in findings)
    assert worst_verdict(findings) is Verdict.OK


OPEN = replace(SETTINGS, client_cidrs=("203.0.113.0/24", "0.0.0.0/0"))


def test_addresses_of_the_whole_internet_are_a_warning() -> None:
    (finding,) = [each for each in evaluate(replace(WELL, settings=OPEN)) if each.check == "callers"]
    assert (finding.verdict, "a key is all" in finding.found) == (Verdict.WARNING, True)
    without = evaluate(replace(WELL, settings=replace(OPEN, api_keys=False)))
    assert any("no key is required" in each.found for each in without if each.check == "callers")


def test_without_a_settings_file_the_defaults_are_announced() -> None:
    (finding,) = [each for each in evaluate(replace(WELL, has_file=False)) if each.check == "settings file"]
    assert finding.verdict is Verdict.WARNING
    assert "synkti init" in finding.advice


def test_without_a_region_the_rest_is_checked_all_the_same() -> None:
    found = evaluate_without_region(("nodes='x': must be a whole number",), None, has_file=False)
    assert [(each.check, each.verdict) for each in found] == [
        ("settings", Verdict.FAULT),
        ("settings file", Verdict.WARNING),
        ("node.js", Verdict.FAULT),
        ("region", Verdict.FAULT),
    ]
    assert "--region" in found[-1].advice


IN_VPC = replace(SETTINGS, account="123456789012", region="us-east-1", vpc="existing", vpc_id="vpc-1")
PLACED = replace(IN_VPC, subnet_ids=("subnet-a",), route_table_ids=("rtb-a",))
CLOSED = replace(PLACED, public_addresses=False)


def vpc(way_out: WayOut, *endpoints: str) -> AccountFacts:
    """What is found of a VPC with one subnet."""
    return replace(WELL.facts, vpc=Vpc("vpc-1", (Subnet("subnet-a", "a", 9, "rtb-a", way_out),), frozenset(endpoints)))


GITHUB = replace(SETTINGS, account="123456789012", region="us-east-1", github_repository="acme/models")
NAMES_PROVIDER = replace(GITHUB, github_oidc_provider=PROVIDER)
NUMBERED = replace(GITHUB, github_owner_id="1", github_repository_id="2")


def github(audiences: tuple[str, ...] = (AUDIENCE,), name: str = "acme/models") -> AccountFacts:
    """What is found where another stack has made the account's provider."""
    return replace(
        WELL.facts, provider=Provider(PROVIDER, audiences, is_ours=False), repository=Repository(name, "43", "98")
    )


KEY = "arn:aws:kms:us-east-1:123456789012:key/0a1b"
FLOATING = replace(SETTINGS, base_image_id="")
UNREACHABLE = replace(WELL.facts, repository=Unavailable("GitHub's API gave no answer"))
NO_DEMAND = {"quotas": {G_SPOT: 64.0, G_DEMAND: 0.0}}
FAULTS = [
    ("settings", {"settings": ("nodes='x': no number", "zones=9: too many")}, "no number; zones=9"),
    ("node.js", {"node_version": None}, "not installed"),
    ("node.js", {"node_version": 18}, "too old"),
    ("credentials", {"caller": Unavailable("no AWS credentials")}, "no AWS credentials"),
    ("credentials", {"settings": replace(SETTINGS, account="999999999999")}, "synkti.toml says 999999999999"),
    ("region", {"regions": frozenset({"eu-west-1"})}, "not an AWS region of this account"),
    ("region", {"zones": 2}, "has 2 zones, and zones = 3"),
    ("instance types", {"offerings": {}}, "none of g6.xlarge, g6.2xlarge"),
    ("instance types", {"offerings": {"g6.2xlarge": frozenset("abc")}}, "us-east-1 does not offer g6.xlarge"),
    ("model fit", {"settings": WITH_T4}, "g4dn.xlarge cannot run model: 14.5 GiB of a T4 x 0.92 - 15.0 weights"),
    ("model fit", {"files": files_of(LLAMA_3_1_70B, 141 * 10**9)}, "g6.xlarge cannot run model: 22.0 GiB of an L4"),
    ("model fit", {"files": files_of(LLAMA_3_1_8B, 10**9)}, "it is not the config.json of these weights"),
    ("model fit", {"files": files_of({}, 1)}, "config.json lacks model_type"),
    ("model fit", {"files": ModelFiles({"config.json": b"{"}, {})}, "config.json is no JSON"),
    ("model fit", {"files": files_of(OWN_CODE, 1)}, "names Python code of the model's own (auto_map)"),
    ("model fit", {"settings": LONG}, "room for 25,264 tokens, and --max-model-len is 131,072"),
    ("model fit", {"settings": replace(SETTINGS, engine_args=("--dtype", "int3"))}, "engine_args has --dtype int3"),
    ("model fit", {"gpus": {"g6.xlarge": Unusable("g6.xlarge", "has no GPU")}}, "cannot run model: it has no"),
    ("gpu spot quota", {"quotas": {G_SPOT: 0.0}}, "is 0 vCPUs: not one of 3 nodes can start"),
    ("gpu on-demand quota", {"settings": replace(SETTINGS, on_demand_base=1), **NO_DEMAND}, "is 0"),
    ("default vpc", {"settings": replace(SETTINGS, vpc="default"), "default_vpc": None}, "has none"),
    ("network", {"settings": IN_VPC, "facts": vpc(WayOut.INDIRECT)}, "vpc-1 has no public subnets, so route_table_ids"),
    ("network", {"settings": PLACED, "facts": vpc(WayOut.NONE)}, "subnet-a: no route to the internet"),
    ("network", {"settings": CLOSED, "facts": vpc(WayOut.INTERNET)}, "nodes have no public addresses"),
    ("network", {"settings": CLOSED, "facts": vpc(WayOut.NONE)}, "no endpoints for autoscaling, ec2, events, logs"),
    (
        "network",
        {"settings": replace(CLOSED, bake_image=True), "facts": vpc(WayOut.NONE, *INTERFACE_SERVICES)},
        "has to reach EC2 Image Builder",
    ),
    (
        "packages",
        {"settings": CLOSED, "facts": vpc(WayOut.NONE, *INTERFACE_SERVICES), "lacking_packages": ("engine",)},
        "lacks what nodes install: engine; they need a package index, and have no way out of vpc-1",
    ),
    ("github trust", {"settings": NAMES_PROVIDER}, "the account has no identity provider"),
    ("github trust", {"settings": GITHUB, "facts": github(("https://github.com/acme",))}, "accepts no tokens for sts"),
    ("github repository", {"settings": GITHUB, "facts": github(name="Acme/models")}, "GitHub spells it Acme/models"),
    ("github repository", {"settings": NUMBERED, "facts": github()}, "the numbers 1 and 2 are not those"),
    ("machine image", {"facts": AccountFacts(vpc=None, image=ImageFacts("ami-3", False))}, "has no image ami-2"),
    ("machine image", {"facts": AccountFacts(None, image=ImageFacts("", True, 120))}, "root_gib = 100, and the root"),
    ("region", {"region": "us-gov-west-1"}, "us-gov-west-1 is in GovCloud, which is not supported"),
    ("instance types", {"settings": WITH_G5G, "gpus": UNUSABLE}, "g5g.xlarge is arm64, and nodes are x86_64"),
    ("instance types", {"settings": WITH_M7, "gpus": UNUSABLE, "files": None}, "m7i.xlarge has no NVIDIA GPU"),
    ("stacks", {"stacks": (stack("state"), stack("fleet", "UPDATE_ROLLBACK_FAILED"))}, "UPDATE_ROLLBACK_FAILED"),
    ("stacks", {"stacks": (stack("state", "ROLLBACK_COMPLETE"),)}, "ROLLBACK_COMPLETE"),
    ("model", {"model": ModelState(bucket=True)}, "is not in the models bucket"),
    ("model", {"model": ModelState(bucket=True, manifest=True, missing=("w.safetensors",))}, "w.safetensors"),
    ("model", {"settings": replace(SETTINGS, model_sha256="e" * 64)}, "model_sha256 is another"),
    ("templates", {"templates": {"synkti-fleet": "Unresolved resource"}}, "synkti-fleet: Unresolved resource"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "changes", "message"), FAULTS)
def test_a_fault_has_an_advice(check: str, changes: dict[str, Any], message: str) -> None:
    finding = found(check, **changes)
    assert finding.verdict is Verdict.FAULT
    assert message in finding.found
    assert finding.advice


WARNINGS = [
    ("credentials", {"caller": "arn:aws:iam::123456789012:root"}, "root user"),
    ("instance types", {"offerings": dict.fromkeys(TYPES, frozenset("ab"))}, "2 types are in us-east-1, in 4 pools"),
    ("gpu spot quota", {"quotas": {G_SPOT: 16.0}}, "3 nodes may need 24, 2 are sure to start"),
    ("gpu on-demand quota", {"settings": replace(SETTINGS, on_demand_limit=2), **NO_DEMAND}, "is 0"),
    ("ids", {"settings": IN_VPC, "facts": vpc(WayOut.INTERNET)}, 'subnet_ids = ["subnet-a"]; route_table_ids = ["rtb'),
    ("ids", {"settings": GITHUB, "facts": github()}, f'github_oidc_provider = "{PROVIDER}"'),
    ("ids", {"settings": GITHUB, "facts": github()}, 'github_owner_id = "43"; github_repository_id = "98"'),
    ("github repository", {"settings": GITHUB, "facts": UNREACHABLE}, "since 2026-07-15 cannot deploy"),
    ("ids", {"settings": replace(SETTINGS, base_image_id="")}, 'base_image_id = "ami-2"'),
    ("machine image", {"settings": FLOATING, "facts": AccountFacts(vpc=None)}, "names no GPU image in us-east-1"),
    ("encryption keys", {"facts": AccountFacts(vpc=None, keys=KeyFacts(volumes=KEY))}, "without a grant Auto Scaling"),
    ("encryption keys", {"facts": AccountFacts(vpc=None, keys=KeyFacts(assets=KEY))}, "nodes read the agent from it"),
    ("cdk bootstrap", {"toolkit": None}, "not bootstrapped"),
    ("cdk bootstrap", {"toolkit": 5}, "version 5, and 6 is needed"),
    ("stacks", {"stacks": ()}, "is not deployed"),
    ("stacks", {"stacks": (stack("state"),)}, "synkti-events, synkti-fleet, synkti-model not deployed"),
    ("stacks", {"region": "ca-west-1", "stacks": (stack("state"),)}, "synkti-events, synkti-fleet not deployed"),
    ("stacks", {"stacks": (*WELL.stacks[:3], stack("events", "UPDATE_IN_PROGRESS"))}, "under way"),  # type: ignore[index]
    ("model", {"model": ModelState(bucket=False)}, "no models bucket yet"),
    ("sessions", {"programs": frozenset({"aws"})}, "session-manager-plugin not installed"),
]  # fmt: skip


@pytest.mark.parametrize(("check", "changes", "message"), WARNINGS)
def test_a_possible_problem_is_a_warning_with_an_advice(check: str, changes: dict[str, Any], message: str) -> None:
    finding = found(check, **changes)
    assert finding.verdict is Verdict.WARNING
    assert message in finding.found
    assert finding.advice


@pytest.mark.parametrize(
    ("check", "field"),
    [
        ("region", "regions"),
        ("instance types", "offerings"),
        ("gpu spot quota", "quotas"),
        ("gpu spot quota", "vcpus"),
        ("cdk bootstrap", "toolkit"),
        ("stacks", "stacks"),
        ("model", "model"),
        ("model fit", "files"),
        ("templates", "templates"),
    ],
)
def test_a_check_that_could_not_be_made_is_unknown_with_the_reason(check: str, field: str) -> None:
    finding = found(check, **{field: Unavailable("these credentials may not do it")})
    assert finding.verdict is Verdict.UNKNOWN
    assert "these credentials may not do it" in finding.found


def test_a_default_vpc_matters_only_where_it_is_used() -> None:
    assert found("default vpc", default_vpc=None).verdict is Verdict.OK
    assert found("default vpc", default_vpc=None).found.startswith("not needed")
    used = replace(SETTINGS, vpc="default")
    assert found("default vpc", settings=used).found == "vpc-1"
    assert found("default vpc", settings=used, default_vpc=Unavailable("no")).verdict is Verdict.UNKNOWN


def test_github_matters_only_where_a_repository_deploys() -> None:
    assert not any(finding.check.startswith("github") for finding in evaluate(WELL))
    ours = replace(github(), provider=Provider(PROVIDER, (AUDIENCE,), is_ours=True))
    well = replace(GITHUB, github_owner_id="43", github_repository_id="98")
    findings = evaluate(replace(WELL, settings=well, facts=ours))
    assert {finding.verdict for finding in findings} == {Verdict.OK}, "also no provider to write down: it is our own"
    none = replace(github(), provider=None)
    assert "creates" in found("github trust", settings=well, facts=none).found
    unknown = replace(WELL.facts, provider=Unavailable("no"), repository=Unavailable("no"))
    assert found("github trust", settings=well, facts=unknown).verdict is Verdict.UNKNOWN
    assert found("github repository", settings=well, facts=unknown).verdict is Verdict.UNKNOWN


BUDGET = replace(SETTINGS, budget_usd=1_500, budget_scope="cluster", alarm_email="operator@example.com")


def test_a_budget_that_counts_nothing_is_a_warning() -> None:
    assert "budget" not in {each.check for each in evaluate(WELL)}
    assert "budget" not in {
        each.check for each in evaluate(replace(WELL, settings=replace(BUDGET, budget_scope="account")))
    }
    right = found("budget", settings=BUDGET, counts_tag=True)
    assert (right.verdict, right.found) == (Verdict.OK, "$1,500 a month, of what has the tag SynktiCluster")
    silent = found("budget", settings=BUDGET, counts_tag=False)
    assert (silent.verdict, "counts nothing" in silent.found) == (Verdict.WARNING, True)
    assert "activate it in the billing console" in silent.advice
    unknown = found("budget", settings=BUDGET, counts_tag=Unavailable("may not"))
    assert (unknown.verdict, "may not" in unknown.found) == (Verdict.UNKNOWN, True)


@pytest.mark.parametrize("active", [True, False])
def test_whether_the_tag_is_active_is_read_from_the_bills(active: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore validates the request; moto has no such call."""
    client = boto3.client("ce", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="b")
    account = Account(None, "eu-west-1")
    monkeypatch.setattr(account, "client", lambda service: {"ce": client}[service])
    tag = {"TagKey": "SynktiCluster", "Type": "UserDefined", "Status": "Active"}
    with Stubber(client) as stub:
        answer = {"CostAllocationTags": [tag] if active else []}
        stub.add_response("list_cost_allocation_tags", answer, {"TagKeys": ["SynktiCluster"], "Status": "Active"})
        assert doctor_collector._counts_tag(account, BUDGET) is active
    assert doctor_collector._counts_tag(account, SETTINGS) is None, "no request where no budget needs it"
    assert doctor_collector._counts_tag(account, ("wrong",)) is None


def test_a_newer_image_is_mentioned() -> None:
    newer = AccountFacts(vpc=None, image=ImageFacts("ami-3", is_there=True))
    assert found("machine image", facts=newer).found == "ami-2; AWS's newest is ami-3"
    assert found("machine image").found == "ami-2"
    assert found("machine image", facts=replace(newer, image=Unavailable("no"))).verdict is Verdict.UNKNOWN


def test_the_network_matters_only_in_an_existing_vpc() -> None:
    assert "network" not in {finding.check for finding in evaluate(WELL)}
    assert found("network", settings=PLACED, facts=vpc(WayOut.INTERNET)).verdict is Verdict.OK
    private = replace(PLACED, public_addresses=False)
    assert found("network", settings=private, facts=vpc(WayOut.INDIRECT)).verdict is Verdict.OK
    isolated = vpc(WayOut.NONE, *INTERFACE_SERVICES)
    assert found("network", settings=private, facts=isolated).verdict is Verdict.OK, "packages are in the bucket"
    assert found("packages", settings=private, facts=isolated).verdict is Verdict.OK
    own_image = replace(private, image_id="ami-01234567", bake_image=True)
    assert found("network", settings=own_image, facts=isolated).verdict is Verdict.OK, "nothing is built"
    made = replace(private, interface_endpoints=True)
    assert found("network", settings=made, facts=vpc(WayOut.NONE)).verdict is Verdict.OK
    unknown = replace(WELL.facts, vpc=Unavailable("these credentials may not do it"))
    assert found("network", settings=PLACED, facts=unknown).verdict is Verdict.UNKNOWN


def test_only_the_types_that_can_run_a_node_are_advised() -> None:
    advice = found("instance types", settings=WITH_G5G, gpus=UNUSABLE).advice
    assert advice == 'set instance_types = ["g6.xlarge", "g6.2xlarge"] in synkti.toml'
    assert "with NVIDIA GPUs" in found("instance types", settings=WITH_M7, gpus=UNUSABLE).advice


def test_the_advice_for_a_key_is_a_grant_to_auto_scaling() -> None:
    advice = found("encryption keys", facts=AccountFacts(vpc=None, keys=KeyFacts(volumes=KEY))).advice
    assert f"aws kms create-grant --key-id {KEY} --region us-east-1" in advice
    assert "arn:aws:iam::123456789012:role/aws-service-role/autoscaling.amazonaws.com/" in advice
    unread = AccountFacts(vpc=None, keys=Unavailable("these credentials may not do it"))
    assert found("encryption keys", facts=unread).verdict is Verdict.UNKNOWN


def test_missing_packages_are_a_fault_only_where_no_index_is_reached() -> None:
    lacking = found("packages", lacking_packages=None)
    assert (lacking.verdict, lacking.advice) == (Verdict.WARNING, "synkti bootstrap and synkti wheelhouse upload them")
    behind_nat = found("packages", settings=CLOSED, facts=vpc(WayOut.INDIRECT), lacking_packages=("agent", "engine"))
    assert behind_nat.verdict is Verdict.WARNING
    assert "agent, engine" in behind_nat.found
    assert found("packages", lacking_packages=Unavailable("S3 gives no answer")).verdict is Verdict.UNKNOWN
    embedded = evaluate(replace(WELL, settings=replace(SETTINGS, local=True), lacking_packages=None))
    assert not {"packages", "client keys"} & {finding.check for finding in embedded}


def test_the_advice_for_a_missing_quota_is_a_command() -> None:
    assert found("gpu spot quota", quotas={G_SPOT: 0.0}).advice == (
        "aws service-quotas request-service-quota-increase --service-code ec2 --quota-code L-3819A6DF "
        "--desired-value 32 --region us-east-1"
    ), "three nodes of eight vCPUs, and the one that comes before another goes"


def test_the_types_that_fit_are_a_line_for_the_settings() -> None:
    assert found("model fit", settings=WITH_T4).advice == (
        'set instance_types = ["g6.xlarge", "g6.2xlarge"] in synkti.toml'
    )
    assert found("instance types", offerings={"g6.2xlarge": frozenset("abc")}).advice == (
        'set instance_types = ["g6.2xlarge"] in synkti.toml'
    )
    alone = replace(SETTINGS, instance_types=("g4dn.xlarge",))
    assert "a quantized model" in found("model fit", settings=alone).advice


def test_the_context_of_the_fleet_is_reported() -> None:
    finding = found("model fit")
    assert finding.found.startswith(
        "a context of 24,576 tokens on every node, 1.0 requests of that length at a time; g6.xlarge sets it: 22.0 GiB"
    )
    assert found("model fit", gpus=Unavailable("no")).verdict is Verdict.OK, "the GPUs of these types are known"


def test_the_smallest_fleet_fits() -> None:
    smallest = replace(SETTINGS, instance_types=("g4dn.xlarge",))
    finding = found("model fit", settings=smallest, files=files_of(QWEN_2_5_7B_AWQ, WEIGHTS["qwen2-awq"]))
    assert (finding.verdict, "a context of 32,768 tokens" in finding.found) == (Verdict.OK, True)


def test_a_model_that_is_not_computed_is_unknown() -> None:
    finding = found("model fit", files=files_of({"model_type": "mamba2"}, 1))
    assert finding.verdict is Verdict.UNKNOWN
    assert "each node finds its context length by itself" in finding.found
    assert found("model fit", files=None).verdict is Verdict.UNKNOWN


def test_credentials_are_not_judged_in_an_unknown_region() -> None:
    finding = found("credentials", caller=Unavailable("us-esat-1 is no region"), regions=frozenset({"eu-west-1"}))
    assert finding.verdict is Verdict.UNKNOWN


def test_the_result_of_all_checks_is_the_worst_verdict() -> None:
    def of(*verdicts: Verdict) -> Verdict:
        return worst_verdict([Finding("x", verdict, "") for verdict in verdicts])

    assert of(Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING, Verdict.FAULT) is Verdict.FAULT
    assert of(Verdict.OK, Verdict.UNKNOWN, Verdict.WARNING) is Verdict.WARNING
    assert of(Verdict.OK, Verdict.UNKNOWN) is Verdict.UNKNOWN
    assert of() is Verdict.OK


def test_a_type_of_another_family_has_no_quota_to_judge() -> None:
    unknown = replace(SETTINGS, instance_types=("inf2.xlarge",))
    assert found("gpu quota", settings=unknown).verdict is Verdict.UNKNOWN
