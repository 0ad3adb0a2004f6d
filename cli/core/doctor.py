"""Evaluate the inputs of `synkti doctor`: for each check a verdict, a sentence, and an advice.

Rules:

* an input that could not be read gives UNKNOWN with the reason, never OK;
* FAULT: a deployment or the fleet will fail; WARNING: something that an operator may want to change;
* every FAULT and WARNING has an advice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cli.core.clusters import busy_stacks
from cli.core.doctor_account import account_findings
from cli.core.doctor_inputs import DoctorInputs, Finding, Verdict
from cli.core.model_fit import report_fit, types_setting
from cli.core.network import Vpc, isolated_subnets
from cli.core.quotas import Quota, increase_command, quota_needs, quota_of
from cli.core.result import Unavailable
from node_agent.contract.names import stack_name
from node_agent.core.sizing.gpus import Unusable, known_gpus
from stacks.partition import partition_problem
from stacks.settings import FleetSettings
from stacks.settings_rules import NO_BUILD_REGIONS

NEEDED_NODE = 20
"""The oldest Node.js that the CDK's command-line tool runs on."""


def evaluate(o: DoctorInputs) -> tuple[Finding, ...]:
    """Return one or more findings for each check, in the order in which to fix them."""
    return (
        _settings(o),
        *_file(o.has_file),
        _node(o.node_version),
        _credentials(o),
        _region(o),
        *_types(o),
        *_quotas(o),
        _vpc(o),
        *account_findings(o),
        _toolkit(o),
        *_stacks(o),
        *_packages(o),
        _model(o),
        *_fit(o),
        *_client_keys(o),
        *_callers(o),
        *_templates(o),
        _sessions(o),
        *_fleets(o),
    )


def evaluate_without_region(
    settings: FleetSettings | tuple[str, ...], node_version: int | None, *, has_file: bool
) -> tuple[Finding, ...]:
    """Return what can be found where no region is set, without any request. settings: valid ones, or their faults."""
    advice = "--region us-east-1, AWS_REGION, or region in synkti.toml (synkti init writes it)"
    faults = settings if isinstance(settings, tuple) else ()
    return (
        *(Finding("settings", Verdict.FAULT, fault) for fault in faults),
        *_file(has_file),
        _node(node_version),
        Finding("region", Verdict.FAULT, "no AWS region is set", advice),
    )


def _file(has_file: bool) -> Iterator[Finding]:
    """Yield a warning where there is no settings' file; nothing where there is one."""
    if not has_file:
        advice = "synkti init writes one; a file in the repository makes deployments repeatable"
        yield Finding("settings file", Verdict.WARNING, "no synkti.toml here: the defaults are deployed", advice)


def _callers(o: DoctorInputs) -> Iterator[Finding]:
    """Yield a warning where the whole internet may call; nothing otherwise."""
    if not isinstance(o.settings, FleetSettings) or "0.0.0.0/0" not in o.settings.client_cidrs:
        return
    keys = "a key is all that protects the nodes" if o.settings.api_keys else "and no key is required of them"
    advice = "name your own networks in client_cidrs, unless the whole internet is to call"
    yield Finding("callers", Verdict.WARNING, f"every address may call (0.0.0.0/0), {keys}", advice)


def _client_keys(o: DoctorInputs) -> Iterator[Finding]:
    if not isinstance(o.settings, FleetSettings) or o.settings.local:
        return
    if o.settings.api_keys:
        yield Finding("client keys", Verdict.OK, "nodes require a client's key; synkti keys lists and makes them")
    else:
        found = "api_keys = false: whoever reaches a node may use it"
        advice = "remove api_keys from synkti.toml, unless a proxy in front of the nodes authenticates clients"
        yield Finding("client keys", Verdict.WARNING, found, advice)


def worst_verdict(findings: Sequence[Finding]) -> Verdict:
    """Return the first of FAULT, WARNING, UNKNOWN, OK that a finding has."""
    there = {finding.verdict for finding in findings}
    return next((v for v in (Verdict.FAULT, Verdict.WARNING, Verdict.UNKNOWN) if v in there), Verdict.OK)


def _settings(o: DoctorInputs) -> Finding:
    if isinstance(o.settings, FleetSettings):
        return Finding(
            "settings", Verdict.OK, f"cluster {o.cluster}, {o.settings.nodes} nodes, model {o.settings.model}"
        )
    return Finding(
        "settings", Verdict.FAULT, "; ".join(o.settings), "synkti.toml has every setting, with its meaning and default"
    )


def _fleets(o: DoctorInputs) -> Iterator[Finding]:
    """Yield a fault where nodes of the cluster have different keys; nothing where there are none, or one fleet."""
    if isinstance(o.fleets, Unavailable):
        yield Finding("cluster key", Verdict.UNKNOWN, o.fleets.reason)
        return
    if len(o.fleets) > 1:
        rest = ", ".join(name for group in o.fleets[1:] for name in group)
        found = f"the nodes are {len(o.fleets)} fleets, because they share no cluster key: {rest} stand apart"
        advice = "synkti cluster-key status shows who has which; drain the nodes that stand apart"
        yield Finding("cluster key", Verdict.FAULT, found, advice)


def _node(version: int | None) -> Finding:
    if version is None:
        advice = f"install Node.js {NEEDED_NODE} or newer, with npm: the CDK's command-line tool runs on it"
        return Finding("node.js", Verdict.FAULT, "Node.js is not installed", advice)
    if version < NEEDED_NODE:
        return Finding("node.js", Verdict.FAULT, f"Node.js {version} is too old", f"install {NEEDED_NODE} or newer")
    return Finding("node.js", Verdict.OK, f"Node.js {version}")


def _credentials(o: DoctorInputs) -> Finding:
    if isinstance(o.caller, Unavailable) and isinstance(o.regions, frozenset) and o.region not in o.regions:
        return Finding("credentials", Verdict.UNKNOWN, o.caller.reason)
    if isinstance(o.caller, Unavailable):
        advice = "aws configure, aws sso login, or set AWS_PROFILE; then run this again"
        return Finding("credentials", Verdict.FAULT, o.caller.reason, advice)
    wanted = o.settings.account if isinstance(o.settings, FleetSettings) else ""
    if wanted and wanted != o.account:
        found = f"{o.caller} is of account {o.account}, and synkti.toml says {wanted}"
        return Finding("credentials", Verdict.FAULT, found, "choose other credentials with --profile")
    if o.caller.endswith(":root") and o.account != "000000000000":
        found = f"{o.caller}: the account's root user"
        return Finding(
            "credentials", Verdict.WARNING, found, "create a user or a role for this; root should have no access key"
        )
    return Finding("credentials", Verdict.OK, o.caller)


def _region(o: DoctorInputs) -> Finding:
    if problem := partition_problem(o.region):
        return Finding("region", Verdict.FAULT, problem, "set region in synkti.toml, or --region")
    if isinstance(o.regions, Unavailable):
        return Finding("region", Verdict.UNKNOWN, f"{o.region}: {o.regions.reason}")
    if o.region not in o.regions:
        found = f"{o.region} is not an AWS region of this account"
        return Finding("region", Verdict.FAULT, found, "--region, or enable it in the account's settings")
    wanted = o.settings.zones if isinstance(o.settings, FleetSettings) and o.settings.vpc == "new" else 0
    if isinstance(o.zones, int) and o.zones < wanted:
        found = f"{o.region} has {o.zones} zones, and zones = {wanted}"
        return Finding("region", Verdict.FAULT, found, f"set zones = {o.zones} in synkti.toml")
    return Finding("region", Verdict.OK, o.region)


def _types(o: DoctorInputs) -> Iterator[Finding]:
    if not isinstance(o.settings, FleetSettings):
        return
    if isinstance(o.offerings, Unavailable):
        yield Finding("instance types", Verdict.UNKNOWN, o.offerings.reason)
        return
    types = o.settings.instance_types
    unusable = [each for name in types if (each := _unusable(o, name)) is not None]
    for each in unusable:
        rest = [name for name in types if name not in {unfit.instance_type for unfit in unusable}]
        advice = f"set {types_setting(rest)} in synkti.toml" if rest else "name types with NVIDIA GPUs: g6.xlarge"
        yield Finding("instance types", Verdict.FAULT, f"{each.instance_type} {each.reason}", advice)
    if unusable:
        return
    there = [each for each in types if o.offerings.get(each)]
    if not there:
        found = f"{o.region} has none of {', '.join(types)}"
        yield Finding("instance types", Verdict.FAULT, found, "change instance_types, or the region")
        return
    if missing := [each for each in types if each not in there]:
        # Launch templates and groups are refused where they name such a type.
        found = f"{o.region} does not offer {', '.join(missing)}"
        yield Finding("instance types", Verdict.FAULT, found, f"set {types_setting(there)} in synkti.toml")
        return
    pools = sum(len(o.offerings[each]) for each in there)
    found = f"{len(there)} types are in {o.region}, in {pools} pools"
    if pools < 2 * o.settings.nodes:
        advice = "name more instance_types: with few pools EC2 interrupts several nodes at once"
        yield Finding("instance types", Verdict.WARNING, found, advice)
    else:
        yield Finding("instance types", Verdict.OK, found)


def _unusable(o: DoctorInputs, name: str) -> Unusable | None:
    """Return why no node runs on a type (another architecture, no NVIDIA GPU), whichever model it would serve."""
    described = o.gpus.get(name) if not isinstance(o.gpus, Unavailable) else None
    found = described or known_gpus(name)
    return found if isinstance(found, Unusable) else None


def _quotas(o: DoctorInputs) -> Iterator[Finding]:
    if not isinstance(o.settings, FleetSettings):
        return
    s = o.settings
    nodes = s.max_nodes if s.is_autoscaled else s.nodes
    unknown = [each for each in s.instance_types if quota_of(each, spot=True) is None]
    if unknown:
        yield Finding("gpu quota", Verdict.UNKNOWN, f"which quota counts for {', '.join(unknown)} is not known here")
    if s.on_demand_base < nodes:
        yield from _quota(o, "gpu spot quota", s, nodes - s.on_demand_base, spot=True)
    demand = max(s.on_demand_base, s.on_demand_limit)
    if demand:
        yield from _quota(o, "gpu on-demand quota", s, demand, spot=False)


def _quota(o: DoctorInputs, check: str, s: FleetSettings, nodes: int, *, spot: bool) -> Iterator[Finding]:
    for unseen in (o.vcpus, o.quotas):
        if isinstance(unseen, Unavailable):
            yield Finding(check, Verdict.UNKNOWN, unseen.reason)
            return
    assert not isinstance(o.vcpus, Unavailable)
    assert not isinstance(o.quotas, Unavailable)
    for need in quota_needs(s.instance_types, o.vcpus, nodes, spot=spot):
        quota: Quota = need.quota
        have = o.quotas.get(quota.code)
        # An update starts a new node before an old one ends.
        ask = need.max_vcpus + need.max_vcpus // nodes
        advice = increase_command(quota, ask, o.region)
        if have is None:
            yield Finding(check, Verdict.UNKNOWN, f'"{quota.name}" could not be read')
        elif have < need.min_vcpus // nodes:
            needed = s.on_demand_base > 0 or spot
            found = f'"{quota.name}" is {have:g} vCPUs: not one of {nodes} nodes can start'
            yield Finding(check, Verdict.FAULT if needed else Verdict.WARNING, found, advice)
        elif have < need.max_vcpus:
            room = int(have // (need.max_vcpus // nodes))
            found = (
                f'"{quota.name}" is {have:g} vCPUs: {nodes} nodes may need {need.max_vcpus}, {room} are sure to start'
            )
            yield Finding(check, Verdict.WARNING, found, advice)
        else:
            yield Finding(
                check, Verdict.OK, f'"{quota.name}" is {have:g} vCPUs, {nodes} nodes need {need.max_vcpus} at most'
            )


def _vpc(o: DoctorInputs) -> Finding:
    choice = o.settings.vpc if isinstance(o.settings, FleetSettings) else "new"
    if choice != "default":
        what = "a VPC of its own is made" if choice == "new" else "an existing VPC is used"
        return Finding("default vpc", Verdict.OK, f"not needed: {what} (vpc = {choice})")
    if isinstance(o.default_vpc, Unavailable):
        return Finding("default vpc", Verdict.UNKNOWN, o.default_vpc.reason)
    if o.default_vpc is None:
        advice = 'set vpc = "new" in synkti.toml, or make one: aws ec2 create-default-vpc'
        return Finding("default vpc", Verdict.FAULT, f"{o.region} has none, and vpc = default", advice)
    return Finding("default vpc", Verdict.OK, o.default_vpc)


def _toolkit(o: DoctorInputs) -> Finding:
    if isinstance(o.toolkit, Unavailable):
        return Finding("cdk bootstrap", Verdict.UNKNOWN, o.toolkit.reason)
    if o.toolkit is None:
        return Finding("cdk bootstrap", Verdict.WARNING, f"{o.region} is not bootstrapped", "synkti bootstrap does it")
    if o.toolkit < o.required_toolkit:
        found = f"version {o.toolkit}, and {o.required_toolkit} is needed"
        return Finding("cdk bootstrap", Verdict.WARNING, found, "synkti bootstrap updates it")
    return Finding("cdk bootstrap", Verdict.OK, f"version {o.toolkit}")


def _stacks(o: DoctorInputs) -> Iterator[Finding]:
    if isinstance(o.stacks, Unavailable):
        yield Finding("stacks", Verdict.UNKNOWN, o.stacks.reason)
        return
    if not o.stacks:
        yield Finding("stacks", Verdict.WARNING, f"{o.cluster} is not deployed", "synkti bootstrap does it")
        return
    bad = [stack for stack in o.stacks if stack.status.endswith("FAILED") or stack.status == "ROLLBACK_COMPLETE"]
    for stack in bad:
        advice = "synkti bootstrap tries again; what failed is in CloudFormation's events of the stack"
        yield Finding("stacks", Verdict.FAULT, f"{stack.name} is {stack.status}", advice)
    busy = busy_stacks(o.stacks)
    if busy:
        found = f"{', '.join(busy)}: an operation is under way"
        yield Finding("stacks", Verdict.WARNING, found, "wait until it has ended")
    parts = ("state", "fleet", "events") if o.region in NO_BUILD_REGIONS else ("state", "model", "fleet", "events")
    missing = sorted({stack_name(o.cluster, part) for part in parts} - {stack.name for stack in o.stacks})
    if missing:
        yield Finding("stacks", Verdict.WARNING, f"{', '.join(missing)} not deployed", "synkti bootstrap continues")
    elif not bad and not busy:
        yield Finding("stacks", Verdict.OK, f"{len(o.stacks)} stacks are deployed")


def _packages(o: DoctorInputs) -> Iterator[Finding]:
    if not isinstance(o.settings, FleetSettings) or o.settings.local:
        return
    if isinstance(o.lacking_packages, Unavailable):
        yield Finding("packages", Verdict.UNKNOWN, o.lacking_packages.reason)
        return
    advice = "synkti bootstrap and synkti wheelhouse upload them"
    isolated = isinstance(o.facts.vpc, Vpc) and bool(isolated_subnets(o.settings, o.facts.vpc))
    if o.lacking_packages is None or o.lacking_packages:
        what = ", ".join(o.lacking_packages or ()) or "all packages"
        found = f"the models bucket lacks what nodes install: {what}; they need a package index"
        if isolated:
            yield Finding("packages", Verdict.FAULT, f"{found}, and have no way out of {o.settings.vpc_id}", advice)
        else:
            yield Finding("packages", Verdict.WARNING, found, advice)
        return
    yield Finding("packages", Verdict.OK, "nodes install from the models bucket")


def _model(o: DoctorInputs) -> Finding:
    if not isinstance(o.settings, FleetSettings) or isinstance(o.model, Unavailable):
        return Finding("model", Verdict.UNKNOWN, o.model.reason if isinstance(o.model, Unavailable) else "see settings")
    name = o.settings.model
    push = f"synkti model push DIR --name {name}"
    source = o.settings.model_source
    if source and not o.model.manifest:
        return Finding("model", Verdict.OK, f"a deployment fetches {name} from the hub: {source}")
    if not o.model.bucket:
        advice = "synkti bootstrap --model DIR creates it and uploads the model"
        return Finding("model", Verdict.WARNING, "there is no models bucket yet", advice)
    if not o.model.manifest:
        return Finding("model", Verdict.FAULT, f"{name} is not in the models bucket, or not whole", push)
    if o.model.missing:
        found = f"{name} lacks {len(o.model.missing)} files of its manifest, {o.model.missing[0]} among them"
        return Finding("model", Verdict.FAULT, found, push)
    if o.settings.model_sha256 not in ("", o.model.digest):
        found = f"{name} has the SHA-256 {o.model.digest}, and model_sha256 is another"
        return Finding("model", Verdict.FAULT, found, f'{push}; or set model_sha256 = "{o.model.digest}"')
    return Finding("model", Verdict.OK, f"{name} is whole ({o.model.digest[:12]})")


def _fit(o: DoctorInputs) -> Iterator[Finding]:
    if isinstance(o.settings, FleetSettings):
        yield from report_fit(o.settings, o.files, o.gpus).findings


def _templates(o: DoctorInputs) -> Iterator[Finding]:
    if isinstance(o.templates, Unavailable):
        yield Finding("templates", Verdict.UNKNOWN, o.templates.reason)
        return
    faults = {stack: fault for stack, fault in o.templates.items() if fault}
    for stack, fault in faults.items():
        yield Finding(
            "templates", Verdict.FAULT, f"{stack}: {fault}", "compare synkti.toml with it; make synth shows it"
        )
    long = sum(fault is None for fault in o.templates.values())
    if not faults:
        found = f"{len(o.templates)} are synthesized; CloudFormation accepts {len(o.templates) - long}"
        yield Finding("templates", Verdict.OK, found + (f", {long} are too long to ask about" if long else ""))


def _sessions(o: DoctorInputs) -> Finding:
    missing = sorted({"aws", "session-manager-plugin"} - o.programs)
    if not missing:
        return Finding("sessions", Verdict.OK, "the aws command and its session-manager-plugin")
    found = f"{' and '.join(missing)} not installed"
    return Finding("sessions", Verdict.WARNING, found, "only synkti connect and synkti logs --follow need it")
