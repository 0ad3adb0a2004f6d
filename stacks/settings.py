"""What is to be deployed: one validated value, all faults reported together.

It is read from `synkti.toml` in the working directory; CDK's context goes above it (`cdk deploy -c nodes=5`), so that
a person can try a value without writing it down. Both have the fields' names. Standard library only: the command-line
tool reads the same settings without loading the CDK.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import DEFAULT_CLUSTER
from stacks import parsers

FILE = "synkti.toml"
FILE_KEY = "settings_file"
"""The context key that names another file; `-c settings_file=` reads none, as local runs do."""

NOT_IN_A_FILE = frozenset({"local"})
"""Nobody should deploy the templates for the embedded AWS because of a line that was left somewhere."""

Context = Callable[[str], Any]
_T = TypeVar("_T")


def _setting(default: _T, read: Callable[[Any], _T]) -> _T:
    """A field, and how its value is read; typed as its value, as dataclasses.field is."""
    held: _T = field(default=default, metadata={"read": read})
    return held


@dataclass(frozen=True)
class FleetSettings:
    """Every setting there is. `synkti.toml` tells the same to people; a test compares the two."""

    cluster: str = _setting(DEFAULT_CLUSTER, parsers.cluster)
    """The fleet's name; every resource's name begins with it."""

    account: str = _setting("", parsers.account)
    """The AWS account. Empty: the one that the deployer's credentials belong to."""

    region: str = _setting("", parsers.region)
    """The region. Empty: the deployer's own."""

    nodes: int = _setting(3, parsers.whole(1, 1_000))
    """Instances to keep. Three, so that a node that goes leaves two that can share its load."""

    instance_types: tuple[str, ...] = _setting(
        ("g6.xlarge", "g5.xlarge", "g6.2xlarge", "g5.2xlarge", "g4dn.xlarge"), parsers.instance_types
    )
    """More types mean more pools, and fewer interruptions at once."""

    zones: int = _setting(3, parsers.whole(2, 6))
    """Availability Zones of a new VPC. More are more pools; a region with fewer refuses the deployment."""

    root_gib: int = _setting(100, parsers.whole(30, 16_384))
    """The root volume: the operating system, vLLM and its CUDA libraries, the weights."""

    root_mib_per_s: int = _setting(250, parsers.whole(125, 1_000))
    """What the root volume reads in a second; above 125 it is paid for. Weights come from it at every engine start."""

    on_demand_base: int = _setting(0, parsers.whole(0, 1_000))
    """Instances that are never spot: the floor on which a fleet stands when a region has no spot capacity."""

    on_demand_limit: int = _setting(2, parsers.whole(0, 1_000))
    """How far the base may be raised while spot launches fail for lack of capacity; one place is always left for spot,
    which is how it is noticed that there is some again. Not above the base: never."""

    scale_target: int = _setting(0, parsers.whole_or_zero(1, 10_000))
    """Requests in flight for each node that the fleet is scaled to keep; 0: always `nodes`."""

    min_nodes: int = _setting(2, parsers.whole(1, 1_000))
    """The least number of nodes where the fleet is scaled."""

    max_nodes: int = _setting(10, parsers.whole(1, 1_000))
    """The greatest number of nodes where the fleet is scaled: what bounds the bill."""

    refresh_healthy_percent: int = _setting(100, parsers.percent)
    """The share of nodes that serves while a new version replaces the old; 100: new ones first, then old ones go."""

    vpc: str = _setting("new", parsers.one_of("new", "default", "existing"))
    """new: one of its own without NAT; default: the account's; existing: `vpc_id`."""

    vpc_id: str = _setting("", parsers.vpc_id)
    """The existing VPC; its public subnets are used, or its private ones where `public_addresses` is off."""

    vpc_cidr: str = _setting("10.71.0.0/16", parsers.vpc_cidr)
    """The range of a new VPC."""

    public_addresses: bool = _setting(True, parsers.switch)
    """Whether nodes have public addresses. Without them an existing VPC needs its own way out (NAT, endpoints)."""

    gateway_endpoints: bool = _setting(True, parsers.switch)
    """Whether S3 and DynamoDB are reached inside the VPC. Off where an existing VPC has these endpoints already."""

    client_cidrs: tuple[str, ...] = _setting((), parsers.cidrs)
    """Who may reach the front doors. None by default: a door is opened by naming who it is for."""

    allowed_origins: tuple[str, ...] = _setting((), parsers.origins)
    """Whose web pages may call the nodes from a browser (CORS); `*`: all. None by default."""

    load_balancer: str = _setting("none", parsers.one_of("none", "internal", "public"))
    """One address in front of all nodes, inside the VPC or for the internet."""

    certificate_arn: str = _setting("", parsers.certificate)
    """TLS at the load balancer, with this certificate of ACM; the listener is then 443 instead of 80."""

    model: str = _setting("model", parsers.model)
    """The name of the model under `models/` in the models bucket, and what clients call it."""

    model_sha256: str = _setting("", parsers.sha256)
    """The SHA-256 of the model's manifest, which nodes then insist on. A new one replaces the nodes. Empty: any."""

    model_load: str = _setting("download", parsers.one_of("download", "stream"))
    """download: to the disk, every file's SHA-256 compared; stream: vLLM reads from S3 into the GPU's memory."""

    engine_args: tuple[str, ...] = _setting((), parsers.arguments)
    """Further arguments of `vllm serve`."""

    kv_gib: int = _setting(0, parsers.whole_or_zero(1, 4_096))
    """Of the root volume, for KV blocks: a stream that goes on at another node then brings its context there instead of
    computing it, where that is faster. 0: none are kept. Not run on a GPU yet."""

    ready_within_s: int = _setting(1_800, parsers.whole(120, 7_200))
    """A node that has not become ready by then ends itself: it borrowed the instance."""

    keep_failed_nodes: bool = _setting(False, parsers.switch)
    """Keep a node that cannot become ready, so that a person can look at it. It is paid for."""

    bake_image: bool = _setting(False, parsers.switch)
    """Whether EC2 Image Builder makes a machine image with vLLM and the agent's dependencies in it."""

    bake_model: bool = _setting(False, parsers.switch)
    """Whether the model is in that image, too."""

    image_id: str = _setting("", parsers.ami_id)
    """A machine image of your own, in the place of AWS's GPU image. For x86-64, like Ubuntu 24.04, with NVIDIA's driver
    for CUDA 13, Python 3.11 or newer, and the AWS CLI."""

    drills: bool = _setting(False, parsers.switch)
    """Whether events of the source synkti.drill are accepted. Whoever may put events could then start a drain."""

    alarm_email: str = _setting("", parsers.email)
    """Who hears of alarms; the address has to confirm once. Empty: alarms are only shown."""

    log_days: int = _setting(30, parsers.log_days)
    """How long logs of nodes and Lambdas are kept."""

    github_repository: str = _setting("", parsers.repository)
    """owner/name of the repository whose pushes deploy, into `account` and `region`. Empty: none."""

    github_branch: str = _setting("main", parsers.branch)
    """The one branch whose workflow may deploy."""

    github_oidc_provider: str = _setting("", parsers.oidc_provider)
    """GitHub's identity provider where the account has it already (there can be one). Empty: it is made."""

    local: bool = _setting(False, parsers.switch)
    """Deployed on the embedded AWS: without what it does not know (docs/architecture.md lists the differences)."""

    def without_what_is_unknown_locally(self) -> FleetSettings:
        """For the embedded AWS: no machine images, identity providers, load balancers, or VPCs that exist already."""
        return replace(
            self,
            bake_image=False,
            bake_model=False,
            image_id="",
            github_repository="",
            github_oidc_provider="",
            load_balancer="none",
            certificate_arn="",
            vpc="new",
            vpc_id="",
            public_addresses=True,
            account="",
            region="",
        )

    @property
    def scaled(self) -> bool:
        return self.scale_target > 0

    @property
    def capacity_limit(self) -> int:
        """The greatest size that the group may be told to have: room for replacements, and for `synkti scale`."""
        return self.max_nodes if self.scaled else 2 * self.nodes


def load(folder: Path, get: Context) -> FleetSettings:
    """folder: where synkti.toml may lie; get: `app.node.try_get_context`, or what stands for it.

    Raises ConfigurationError with every fault there is.
    """
    named = get(FILE_KEY)
    if named is not None and not str(named):
        return from_values({}, get)
    path = folder / (FILE if named is None else str(named))
    if named is not None and not path.exists():
        raise ConfigurationError([f"{FILE_KEY}={named}: there is no such file"])
    try:
        held = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError([f"{path.name} cannot be read: {error}"]) from error
    return from_values(held, get)


def from_values(held: Mapping[str, Any], get: Context) -> FleetSettings:
    """held: the file's; get: what goes above it. Raises ConfigurationError with every fault there is."""
    known = {each.name: each for each in fields(FleetSettings)}
    faults = [_unknown(key, known) for key in held if key not in known or key in NOT_IN_A_FILE]
    found: dict[str, Any] = {}
    for name, each in known.items():
        above = get(name)
        value = held.get(name) if above is None else above
        if value is None:
            continue
        try:
            found[name] = each.metadata["read"](value)
        except (TypeError, ValueError) as error:
            faults.append(f"{name}={value!r}: {error}")
    settings = FleetSettings(**found)
    faults += contradictions(settings)
    if faults:
        raise ConfigurationError(faults)
    return settings


def _unknown(key: str, known: Mapping[str, object]) -> str:
    if key in NOT_IN_A_FILE:
        return f"{key} is not for {FILE}; it is given with -c {key}=..."
    near = difflib.get_close_matches(key, known, n=1)
    return f"{FILE} has an unknown setting {key!r}" + (f"; is {near[0]!r} meant?" if near else "")


def contradictions(settings: FleetSettings) -> list[str]:
    """What is right by itself and wrong together: one sentence each."""
    s = settings
    least, most = (s.min_nodes, s.max_nodes) if s.scaled else (s.nodes, s.nodes)
    balanced = s.load_balancer != "none"
    rules = (
        (least > most, f"min_nodes={least}: more than max_nodes={most}"),
        (s.on_demand_base > most, f"on_demand_base={s.on_demand_base}: more than the {most} nodes there may be"),
        (s.vpc == "existing" and not s.vpc_id, "vpc=existing: vpc_id has to say which"),
        (s.vpc != "existing" and s.vpc_id, f"vpc_id={s.vpc_id}: only vpc=existing uses it"),
        (
            s.vpc != "new" and not (s.account and s.region),
            f"vpc={s.vpc}: account and region have to be set, because the VPC is looked up there",
        ),
        (
            s.vpc != "existing" and not s.public_addresses,
            f"public_addresses=false: the subnets of vpc={s.vpc} have no other way out",
        ),
        (balanced and not s.client_cidrs, f"load_balancer={s.load_balancer}: client_cidrs has to say for whom"),
        (s.certificate_arn and not balanced, "certificate_arn: there is no load balancer that would use it"),
        (s.bake_model and not s.bake_image, "bake_model=true: bake_image=true is what makes an image"),
        (s.bake_model and not s.model_sha256, "bake_model=true: model_sha256 has to say which weights are baked"),
        (s.bake_image and s.image_id, f"image_id={s.image_id}: bake_image=true makes one; choose"),
        (s.bake_model and s.model_load == "stream", "model_load=stream: a model in the image is not in S3"),
        (
            s.github_repository and not (s.account and s.region),
            f"github_repository={s.github_repository}: account and region have to be set; the workflow reads them here",
        ),
        (
            s.github_oidc_provider and not s.github_repository,
            "github_oidc_provider: github_repository has to say who it is for",
        ),
    )
    return [message for broken, message in rules if broken]
