"""What doctor concludes of what it found; and what it finds in an AWS in memory."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest

from cli import doctor as command
from cli.adapters import cdk, doctor_collector
from cli.core.account_facts import AccountFacts, ImageFacts
from cli.core.clusters import Stack
from cli.core.doctor import evaluate, worst_verdict
from cli.core.doctor_inputs import DoctorInputs, Finding, ModelState, Verdict
from cli.core.github import AUDIENCE, ISSUER, Provider, Repository
from cli.core.network import Subnet, Vpc, WayOut
from cli.core.quotas import quota_needs, quota_of
from cli.core.result import Unavailable
from node_agent.core.sizing.facts import ModelFiles
from node_agent.core.sizing.gpus import Unusable
from stacks.endpoints import INTERFACE_SERVICES
from stacks.settings import FleetSettings
from tests.unit.cli.conftest import DeployedFleet, Run, make_fleet
from tests.unit.cli.memory_cloudformation import MemoryCloudFormation
from tests.unit.cli.weights import model
from tests.unit.core.sizing.models import LLAMA_3_1_8B, LLAMA_3_1_70B, QWEN_2_5_7B_AWQ, WEIGHTS

G_SPOT, P_SPOT, P5_SPOT, G_DEMAND = "L-3819A6DF", "L-7212CCBC", "L-C4BD4855", "L-DB2E81BA"
PROVIDER = f"arn:aws:iam::123456789012:oidc-provider/{ISSUER}"
TYPES = ("g6.xlarge", "g6.2xlarge")
SETTINGS = FleetSettings(instance_types=TYPES, on_demand_limit=0, base_image_id="ami-2")
WITH_T4 = replace(SETTINGS, instance_types=(*TYPES, "g4dn.xlarge"))
LONG = replace(SETTINGS, engine_args=("--max-model-len", "131072"))
OWN_CODE = {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}


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
    stacks=(stack("state"), stack("fleet"), stack("events")),
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


FLOATING = replace(SETTINGS, base_image_id="")
UNREACHABLE = replace(WELL.facts, repository=Unavailable("GitHub's API gave no answer"))
NO_DEMAND = {"quotas": {G_SPOT: 64.0, G_DEMAND: 0.0}}
FAULTS = [
    ("settings", {"settings": ("nodes='x': no number", "zones=9: too many")}, "no number; zones=9"),
    ("node.js", {"node_version": None}, "not installed"),
    ("node.js", {"node_version": 18}, "too old"),
    ("credentials", {"caller": Unavailable("no AWS credentials")}, "no AWS credentials"),
    ("credentials", {"settings": replace(SETTINGS, account="999999999999")}, "synkti.toml says 999999999999"),
    ("region", {"regions": frozenset({"eu-west-1"})}, "no region that this account may use"),
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
    ("cdk bootstrap", {"toolkit": None}, "not bootstrapped"),
    ("cdk bootstrap", {"toolkit": 5}, "version 5, and 6 is needed"),
    ("stacks", {"stacks": ()}, "is not deployed"),
    ("stacks", {"stacks": (stack("state"),)}, "synkti-events, synkti-fleet not deployed"),
    ("stacks", {"stacks": (*WELL.stacks[:2], stack("events", "UPDATE_IN_PROGRESS"))}, "under way"),  # type: ignore[index]
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


def test_missing_packages_are_a_fault_only_where_no_index_is_reached() -> None:
    lacking = found("packages", lacking_packages=None)
    assert (lacking.verdict, lacking.advice) == (Verdict.WARNING, "synkti bootstrap and synkti wheelhouse upload them")
    behind_nat = found("packages", settings=CLOSED, facts=vpc(WayOut.INDIRECT), lacking_packages=("agent", "engine"))
    assert behind_nat.verdict is Verdict.WARNING
    assert "agent, engine" in behind_nat.found
    assert found("packages", lacking_packages=Unavailable("S3 gives no answer")).verdict is Verdict.UNKNOWN
    embedded = evaluate(replace(WELL, settings=replace(SETTINGS, local=True), lacking_packages=None))
    assert "packages" not in {finding.check for finding in embedded}


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


@pytest.mark.parametrize(
    ("instance_type", "spot", "demand"),
    [
        ("g4dn.xlarge", G_SPOT, G_DEMAND),
        ("g6e.12xlarge", G_SPOT, G_DEMAND),
        ("gr6.4xlarge", G_SPOT, G_DEMAND),
        ("vt1.3xlarge", G_SPOT, G_DEMAND),
        ("p4d.24xlarge", P_SPOT, "L-417A185B"),
        ("p5.48xlarge", P5_SPOT, "L-417A185B"),
        ("p6-b200.48xlarge", P5_SPOT, "L-417A185B"),
    ],
)
def test_the_family_of_an_instance_type_selects_its_quota(instance_type: str, spot: str, demand: str) -> None:
    of_spot, on_demand = quota_of(instance_type, spot=True), quota_of(instance_type, spot=False)
    assert of_spot is not None
    assert on_demand is not None
    assert (of_spot.code, on_demand.code) == (spot, demand)


def test_other_families_have_no_quota_here() -> None:
    assert quota_of("m5.large", spot=True) is None
    assert quota_needs(["m5.large"], {"m5.large": 2}, 3, spot=True) == ()
    unknown = replace(SETTINGS, instance_types=("inf2.xlarge",))
    assert found("gpu quota", settings=unknown).verdict is Verdict.UNKNOWN


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def quota(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The answers of Service Quotas; moto has only its own defaults."""
    values = {G_SPOT: 64.0, G_DEMAND: 64.0}
    monkeypatch.setattr(doctor_collector, "_quotas", lambda account, types: values)
    return values


def verdicts(document: Any) -> dict[str, str]:
    return {finding["check"]: finding["verdict"] for finding in document["findings"]}


def test_doctor_reports_a_verdict_for_each_check(fleet: DeployedFleet, quota: dict[str, float], run: Run) -> None:
    done = run("doctor", "--no-templates", "--json")
    assert done.code == 3
    reported = verdicts(done.document)
    assert reported["credentials"] == "ok"
    assert reported["region"] == "ok"
    assert reported["gpu spot quota"] == "ok"
    assert reported["cdk bootstrap"] == "warning"
    assert reported["model"] == "fault"
    assert reported["templates"] == "unknown"
    boto3.client("ssm").put_parameter(Name=doctor_collector.TOOLKIT_PARAMETER, Value="30", Type="String")
    assert verdicts(run("doctor", "--no-templates", "--json").document)["cdk bootstrap"] == "ok"


def test_doctor_names_the_types_that_a_region_does_not_offer(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run
) -> None:
    reported = run("doctor", "--no-templates", "--region", "eu-west-1", "--json").document["findings"]
    (types,) = [each for each in reported if each["check"] == "instance types"]
    assert types["verdict"] == "fault"
    assert types["found"] == "eu-west-1 does not offer g6.xlarge, g6.2xlarge"
    assert types["advice"].startswith('set instance_types = ["g5.xlarge", "g5.2xlarge"')


def test_doctor_reads_the_model_in_the_bucket(bucket: str, quota: dict[str, float], run: Run, tmp_path: Path) -> None:
    for name, body in (model() | {"config.json": json.dumps(LLAMA_3_1_8B).encode()}).items():
        (tmp_path / name).write_bytes(body)
    assert run("model", "push", tmp_path, "--name", "model", "--unchecked").code == 0
    reported = run("doctor", "--no-templates", "--json").document["findings"]
    (fit,) = [each for each in reported if each["check"] == "model fit"]
    assert (fit["verdict"], "not the config.json of these weights" in fit["found"]) == ("fault", True)


def test_doctor_for_people(fleet: DeployedFleet, quota: dict[str, float], run: Run) -> None:
    quota[G_SPOT] = 0.0
    done = run("doctor", "--no-templates")
    assert done.code == 3
    lines = done.out.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("FAULT    gpu spot quota"))
    assert lines[at + 1].strip().startswith("-> aws service-quotas request-service-quota-increase")


def test_doctor_without_credentials_reports_it_once(run: Run) -> None:
    done = run("doctor", "--no-templates", "--region", "us-east-1", "--json")
    assert done.code == 3
    reported = verdicts(done.document)
    assert reported["credentials"] == "fault"
    assert {reported[check] for check in ("region", "gpu spot quota", "machine image", "stacks", "model")} == {
        "unknown"
    }


def test_doctor_in_an_unknown_region_is_a_fault(aws: MemoryCloudFormation, run: Run) -> None:
    reported = verdicts(run("doctor", "--no-templates", "--region", "us-esat-1", "--json").document)
    assert (reported["region"], reported["credentials"]) == ("fault", "unknown")


def test_doctor_examines_wrong_settings_too(aws: MemoryCloudFormation, run: Run, nowhere: Path) -> None:
    (nowhere / "synkti.toml").write_text("nodes = 0\nnods = 3\n")
    done = run("doctor", "--json")
    assert done.code == 3
    (settings,) = [each for each in done.document["findings"] if each["check"] == "settings"]
    assert "nodes=0" in settings["found"]
    assert "'nods'" in settings["found"]
    assert verdicts(done.document)["templates"] == "unknown"


def test_an_invalid_setting_is_reported_before_any_other_check(run: Run) -> None:
    done = run("doctor", "-c", "nods=3")
    assert (done.code, "is 'nodes' meant?" in done.err) == (2, True)
    assert run("doctor", "-c", "nodes").code == 2


class MemoryCdk:
    """Synthesizes one short and one long template."""

    def __init__(self, *_: object) -> None: ...

    def synth(self, output: Path) -> Path:
        output.mkdir(parents=True)
        (output / "manifest.json").write_text(
            '{"artifacts": {"a": {"type": "aws:cloudformation:stack", "properties": {"templateFile": "a.json",'
            ' "requiresBootstrapStackVersion": 6}}, "b": {"type": "aws:cloudformation:stack", "properties":'
            ' {"templateFile": "b.json"}}, "c": {"type": "cdk:asset-manifest"}}}'
        )
        (output / "a.json").write_text("{}")
        (output / "b.json").write_text(" " * 60_000)
        return output


def test_templates_are_synthesized_and_validated_by_cloudformation(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "Cdk", MemoryCdk)
    reported = run("doctor", "--json").document["findings"]
    (templates,) = [each["found"] for each in reported if each["check"] == "templates"]
    assert templates == "2 are synthesized; CloudFormation accepts 1, 1 are too long to ask about"
    aws.invalid = "Template format error"
    reported = run("doctor", "--json").document["findings"]
    assert [each["found"] for each in reported if each["check"] == "templates"] == ["a: Template format error"]


def test_without_node_the_templates_are_unknown(
    aws: MemoryCloudFormation, quota: dict[str, float], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert cdk.node_version() is None
    reported = verdicts(run("doctor", "--json").document)
    assert (reported["node.js"], reported["templates"], reported["sessions"]) == ("fault", "unknown", "warning")


def test_a_fleet_of_another_name_is_ignored(aws: MemoryCloudFormation, quota: dict[str, float], run: Run) -> None:
    make_fleet(aws, "prod")

    def stacks(*options: str) -> str:
        reported = run("doctor", "--no-templates", "--json", *options).document["findings"]
        return next(str(each["found"]) for each in reported if each["check"] == "stacks")

    assert stacks() == "synkti is not deployed"
    assert stacks("--cluster", "prod") == "prod-events not deployed"
