"""Read and validate the settings of a deployment; all faults are reported together.

They are read from `synkti.toml` in the working directory. CDK's context overrides the file (`cdk deploy -c nodes=5`),
to try a value without changing it. Keys are the names of the fields of FleetSettings. Standard library only: the
command-line tool reads the same settings without loading the CDK.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from node_agent.contract.errors import ConfigurationError
from node_agent.contract.names import DEFAULT_CLUSTER
from stacks import parsers
from stacks.settings_rules import validation_errors

SETTINGS_FILE = "synkti.toml"
SETTINGS_FILE_KEY = "settings_file"
"""The context key that names another file. `-c settings_file=` reads no file, as local runs do."""

CONTEXT_ONLY = frozenset({"local", "deployment"})
"""Settings that a file cannot have: a forgotten line must not deploy the templates for the embedded AWS, and the name
of a deployment is another one each time."""

EMBEDDED = MappingProxyType({"local": "true", "api_keys": "false", "audit_log": "false"})
"""The context of a deployment to the embedded AWS, where no other is given: its only clients are this machine's own."""

HOOK_MARGIN_S = 60
"""The launch hook's timeout is longer than the node's own, so that the node can store its log before it ends."""

MAX_READY_WITHIN_S = 7_200 - HOOK_MARGIN_S
"""EC2 Auto Scaling accepts timeouts of hooks of up to 7,200 s."""

UNREADABLE_TOML = (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError)
"""What reading a TOML file raises: the last one for a list in a list in a list, a thousand times."""

Context = Callable[[str], Any]
_T = TypeVar("_T")


def _setting(default: _T, parse: Callable[[Any], _T]) -> _T:
    """Define a field with its default and parser. The result is typed as the field's value, as dataclasses.field is."""
    defined: _T = field(default=default, metadata={"parse": parse})
    return defined


@dataclass(frozen=True)
class FleetSettings:
    """All settings. `synkti.toml` documents the same for operators; a test compares the two."""

    cluster: str = _setting(DEFAULT_CLUSTER, parsers.cluster)
    """The cluster's name; every resource's name begins with it."""

    account: str = _setting("", parsers.account)
    """The AWS account. Empty: that of the deployer's credentials."""

    region: str = _setting("", parsers.region)
    """The region. Empty: the deployer's configured one."""

    nodes: int = _setting(3, parsers.int_in(1, 1_000))
    """Instances to keep. Three by default: when one ends, two others share its load."""

    instance_types: tuple[str, ...] = _setting(
        ("g6.xlarge", "g5.xlarge", "g6.2xlarge", "g5.2xlarge"), parsers.instance_types
    )
    """Instance types. More types mean more pools, and fewer simultaneous interruptions. The one with the least GPU
    memory sets the context length of all. Another list replaces the nodes."""

    zones: int = _setting(3, parsers.int_in(2, 6))
    """Availability Zones of a new VPC. More zones mean more pools. The deployment fails where the region has fewer."""

    root_gib: int = _setting(100, parsers.int_in(30, 16_384))
    """Size of the root volume: the operating system, vLLM and its CUDA libraries, the weights."""

    root_mib_per_s: int = _setting(250, parsers.int_in(125, 1_000))
    """Throughput of the root volume; above 125 it costs extra. Each engine start reads the weights from it."""

    root_initialization_mib_per_s: int = _setting(0, parsers.int_in_or_zero(100, 300))
    """The rate at which the root volume is filled from the image's snapshot, which is paid for at each launch. 0: as
    EC2 does it by itself, with slow first reads; they matter with a model in the image (bake_model)."""

    on_demand_base: int = _setting(0, parsers.int_in(0, 1_000))
    """Instances that are never spot: the minimum that serves when a region has no spot capacity."""

    on_demand_limit: int = _setting(2, parsers.int_in(0, 1_000))
    """The number to which the base may be raised while spot launches fail for lack of capacity. One instance always
    stays spot, which shows when there is capacity again. A limit not above the base: the base is never raised."""

    scale_target: int = _setting(0, parsers.int_in_or_zero(1, 10_000))
    """The target of automatic scaling: requests in flight per node; 0: no scaling, always `nodes`."""

    min_nodes: int = _setting(2, parsers.int_in(1, 1_000))
    """The minimum number of nodes where the fleet scales automatically."""

    max_nodes: int = _setting(10, parsers.int_in(1, 1_000))
    """The maximum number of nodes where the fleet scales automatically: it bounds the cost."""

    refresh_healthy_percent: int = _setting(100, parsers.percent)
    """The percentage of nodes that serve during an update; 100: new nodes start before old ones end."""

    vpc: str = _setting("new", parsers.one_of("new", "default", "existing"))
    """new: a new VPC without NAT; default: the account's default VPC; existing: another one. `synkti bootstrap` finds
    the ids of an existing one and writes them into synkti.toml, so that a synthesis needs no account."""

    vpc_id: str = _setting("", parsers.vpc_id)
    """The VPC, unless a new one is made."""

    subnet_ids: tuple[str, ...] = _setting((), parsers.ids("subnet"))
    """The nodes' subnets in that VPC: public ones, or private ones where `public_addresses` is off."""

    route_table_ids: tuple[str, ...] = _setting((), parsers.ids("rtb"))
    """The route tables of these subnets, for the gateway endpoints."""

    vpc_cidr: str = _setting("10.71.0.0/16", parsers.vpc_cidr)
    """The range of a new VPC."""

    public_addresses: bool = _setting(True, parsers.boolean)
    """Give nodes public addresses. Without them an existing VPC needs its own egress (NAT, endpoints)."""

    gateway_endpoints: bool = _setting(True, parsers.boolean)
    """Create gateway endpoints for S3 and DynamoDB. Off where an existing VPC already has them."""

    interface_endpoints: bool = _setting(False, parsers.boolean)
    """Create interface endpoints in an existing VPC for the other services that nodes call: for subnets without any way
    out. They cost by the hour, for each service and subnet."""

    client_cidrs: tuple[str, ...] = _setting((), parsers.cidrs)
    """Address ranges from which clients may call the nodes. None by default."""

    metrics_cidrs: tuple[str, ...] = _setting((), parsers.private_cidrs)
    """Private address ranges from which metrics may be collected at each node's admin listener, which has no TLS. None
    by default: it then listens on the node's own loopback only."""

    peer_tls: bool = _setting(True, parsers.boolean)
    """Encrypt connections between nodes: requests, journals and KV blocks. Nodes with different values do not reach
    each other, so change it while there is no load."""

    api_keys: bool = _setting(True, parsers.boolean)
    """Require a key of clients: `synkti keys create` makes one. Off: whoever reaches a node may use it; only where
    another proxy authenticates clients."""

    ui: bool = _setting(True, parsers.boolean)
    """Serve a page about the fleet at each node, /ui. It shows nothing without a key of scope fleet."""

    audit_log: bool = _setting(True, parsers.boolean)
    """Log which key sent which request, without any content, to the nodes' log group."""

    allowed_origins: tuple[str, ...] = _setting((), parsers.origins)
    """Origins of web pages that may call the nodes from a browser (CORS); `*`: all. None by default."""

    allowed_routes: tuple[str, ...] = _setting((), parsers.optional_routes)
    """Routes of vLLM that clients may call beside chats, such as /tokenize or /v1/embeddings."""

    allowed_fields: tuple[str, ...] = _setting((), parsers.guarded_fields)
    """Fields of requests that reach into the engine, such as priority, or chat_template_kwargs.enable_thinking."""

    allowed_media_domains: tuple[str, ...] = _setting((), parsers.media_domains)
    """Domains from which engines fetch images, audio and videos for clients, over https. None by default."""

    max_data_url_kib: int = _setting(0, parsers.int_in_or_zero(1, 16_384))
    """Size of one image, audio or video in a request itself, as base64; 0: none is accepted."""

    cache_salt: str = _setting("shared", parsers.one_of("shared", "per-key"))
    """per-key: requests of different keys share no prefix cache, so that none can measure what others have sent."""

    load_balancer: str = _setting("none", parsers.one_of("none", "internal", "public"))
    """A load balancer in front of all nodes, inside the VPC or on the internet."""

    certificate_arn: str = _setting("", parsers.certificate)
    """Certificate in ACM for TLS at the load balancer, whose listener is then 443 instead of 80. It is for `domain`."""

    domain: str = _setting("", parsers.domain)
    """The load balancer's name for clients, such as llm.example.com: no certificate can have the name that AWS gives
    it."""

    hosted_zone_id: str = _setting("", parsers.hosted_zone_id)
    """The public hosted zone in Route 53 of `domain`, or of a domain above it. A deployment makes the name's record
    there, and, without `certificate_arn`, a certificate. Empty: the record is made elsewhere, by hand."""

    model: str = _setting("model", parsers.model)
    """The model's name in the models bucket, and in clients' requests."""

    model_source: str = _setting("", parsers.hub_model)
    """The model's name on the hub, owner/name or owner/name@revision. A deployment copies it into the models bucket, in
    the region, before it creates nodes; a model that is there already stays. Empty: `synkti model push` uploads it."""

    hub_token_secret: str = _setting("", parsers.secret_name)
    """The name of a secret in Secrets Manager with the hub's token, for gated and private models. Empty: no token."""

    model_sha256: str = _setting("", parsers.sha256)
    """The SHA-256 of the model's manifest, which nodes then require. A new value replaces the nodes. Empty: any."""

    model_load: str = _setting("download", parsers.one_of("download", "stream"))
    """download: to the disk, with every file's SHA-256 verified; stream: vLLM reads from S3 into the GPU's memory."""

    engine_args: tuple[str, ...] = _setting((), parsers.arguments)
    """Additional arguments of `vllm serve`."""

    kv_gib: int = _setting(0, parsers.int_in_or_zero(1, 4_096))
    """Space on the root volume for KV blocks. A stream that continues on another node then fetches its context instead
    of computing it, where that is faster. 0: off. Not run on a GPU yet."""

    compile_caches: bool = _setting(False, parsers.boolean)
    """Share what vLLM compiles at its start between nodes of one instance type, through the models bucket. A node may
    then store code that other nodes' engines run. Not run on a GPU yet."""

    ready_within_s: int = _setting(1_800, parsers.int_in(120, MAX_READY_WITHIN_S))
    """A node that is not ready within this time terminates its instance."""

    keep_failed_nodes: bool = _setting(False, parsers.boolean)
    """Keep the instance of a node that cannot become ready, to inspect it. It still costs money."""

    bake_image: bool = _setting(False, parsers.boolean)
    """Build a machine image with vLLM and the agent's dependencies (EC2 Image Builder)."""

    bake_model: bool = _setting(False, parsers.boolean)
    """Include the model in that image."""

    image_id: str = _setting("", parsers.ami_id)
    """A machine image to use instead of AWS's GPU image. It is for x86-64 with glibc 2.35 or newer, like Ubuntu 24.04,
    with NVIDIA's driver for CUDA 13, a C compiler, the AWS CLI, and any Python 3: nodes install their own CPython 3.12.
    Where there is no wheelhouse it needs Python 3.12 with venv and headers itself."""

    base_image_id: str = _setting("", parsers.ami_id)
    """AWS's GPU image in `region`, pinned; nodes start from it, or `bake_image` builds upon it. `image_id` has
    precedence. Empty: the newest one at each deployment, which may replace all nodes although nothing else has changed.
    `synkti bootstrap` pins the newest one."""

    drills: bool = _setting(False, parsers.boolean)
    """Accept events of the source synkti.drill. Every principal that may put events could then start a drain."""

    alarm_email: str = _setting("", parsers.email)
    """The address that receives alarms; it has to confirm once. Empty: alarms are only shown."""

    budget_usd: int = _setting(0, parsers.int_in_or_zero(1, 10_000_000))
    """Dollars a month; AWS Budgets sends mail to `alarm_email` when they are nearly spent, are spent, or will be. The
    fleet is not stopped. 0: no budget. `synkti cost` estimates a deployment."""

    budget_scope: str = _setting("account", parsers.one_of("account", "cluster"))
    """What counts: everything in the account; or what has the cluster's tag. The latter is nothing until
    the tag SynktiCluster is activated as a cost allocation tag, in the billing console of the paying account."""

    log_days: int = _setting(30, parsers.log_days)
    """Retention of the logs of nodes and Lambdas, in days."""

    github_repository: str = _setting("", parsers.repository)
    """owner/name of the repository whose pushes deploy to `account` and `region`, as GitHub spells it. Empty: none."""

    github_owner_id: str = _setting("", parsers.numeric_id)
    """The owner's number at GitHub. With the repository's it is part of the tokens of a repository that was created,
    renamed or transferred since 2026-07-15. `synkti bootstrap` finds both."""

    github_repository_id: str = _setting("", parsers.numeric_id)
    """The repository's number at GitHub."""

    github_branch: str = _setting("main", parsers.branch)
    """The branch whose workflow may deploy."""

    github_oidc_provider: str = _setting("", parsers.oidc_provider)
    """The ARN of GitHub's identity provider, if the account already has it (only one can exist). Empty: create it."""

    deployment: str = _setting("", parsers.deployment)
    """A name of this deployment. With another one than before, the deployment sets the group's size to the settings,
    also after `synkti scale` or `synkti stop`. The workflow gives one; empty: the size is set where it has changed."""

    local: bool = _setting(False, parsers.boolean)
    """Deploy to the embedded AWS, without what it does not support (docs/architecture.md lists the differences)."""

    def for_local_emulator(self) -> FleetSettings:
        """Return the settings without what the embedded AWS lacks: images, builds, balancers, budgets, own VPCs."""
        return replace(
            self,
            bake_image=False,
            bake_model=False,
            root_initialization_mib_per_s=0,
            image_id="",
            base_image_id="",
            github_repository="",
            github_owner_id="",
            github_repository_id="",
            github_oidc_provider="",
            model_source="",
            load_balancer="none",
            certificate_arn="",
            domain="",
            hosted_zone_id="",
            vpc="new",
            vpc_id="",
            subnet_ids=(),
            route_table_ids=(),
            public_addresses=True,
            interface_endpoints=False,
            budget_usd=0,
            account="",
            region="",
        )

    @property
    def has_tls(self) -> bool:
        """True where the load balancer ends TLS, with a given certificate or one that the deployment makes."""
        return self.load_balancer != "none" and bool(self.certificate_arn or self.hosted_zone_id)

    @property
    def is_autoscaled(self) -> bool:
        """True where the number of nodes follows the load (scale_target), from min_nodes to max_nodes."""
        return self.scale_target > 0

    @property
    def has_peers(self) -> bool:
        """True where a node has others, to which it replicates its streams."""
        return (self.min_nodes if self.is_autoscaled else self.nodes) > 1

    @property
    def has_floating_image(self) -> bool:
        """True where two deployments of the same settings may launch different images."""
        return not (self.image_id or self.base_image_id or self.local)

    @property
    def min_capacity(self) -> int:
        """The group's minimum size; 0 where it does not scale automatically, for `synkti scale` and `synkti stop`."""
        return self.min_nodes if self.is_autoscaled else 0

    @property
    def max_capacity(self) -> int:
        """The group's maximum size: it includes room for replacements and for `synkti scale`."""
        return self.max_nodes if self.is_autoscaled else 2 * self.nodes


def load(folder: Path, get: Context) -> FleetSettings:
    """Read the settings from synkti.toml, if there is one, and the context.

    Args:
        folder: where synkti.toml is.
        get: looks up a context key, as `app.node.try_get_context`; None where the key is not given.

    Returns:
        The settings; what neither has is the default.

    Raises:
        ConfigurationError: with all faults together.
    """
    named = get(SETTINGS_FILE_KEY)
    if named is not None and not str(named):
        return from_values({}, get)
    path = folder / (SETTINGS_FILE if named is None else str(named))
    if named is not None and not path.exists():
        raise ConfigurationError([f"{SETTINGS_FILE_KEY}={named}: there is no such file"])
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except UNREADABLE_TOML as error:
        raise ConfigurationError([f"{path.name} cannot be read: {error}"]) from error
    return from_values(values, get)


def from_values(file_values: Mapping[str, Any], get: Context) -> FleetSettings:
    """Validate a file's values and the context that overrides them. Raises ConfigurationError with all faults."""
    known = {each.name: each for each in fields(FleetSettings)}
    faults = [_unknown(key, known) for key in file_values if key not in known or key in CONTEXT_ONLY]
    found: dict[str, Any] = {}
    for name, each in known.items():
        override = get(name)
        value = file_values.get(name) if override is None else override
        if value is None:
            continue
        try:
            found[name] = each.metadata["parse"](value)
        except (TypeError, ValueError) as error:
            faults.append(f"{name}={value!r}: {error}")
    settings = FleetSettings(**found)
    faults += validation_errors(settings)
    if faults:
        raise ConfigurationError(faults)
    return settings


def missing_ids(settings: FleetSettings) -> tuple[str, ...]:
    """Return the settings that have to name resources of the account and do not; they are found once, by bootstrap.

    A synthesis looks nothing up, so that it needs no credentials and gives the same templates everywhere.
    """
    if settings.vpc == "new" or settings.local:
        return ()
    needed = {"vpc_id": settings.vpc_id, "subnet_ids": settings.subnet_ids}
    if settings.gateway_endpoints:
        needed["route_table_ids"] = settings.route_table_ids
    return tuple(name for name, value in needed.items() if not value)


def require_ids(settings: FleetSettings) -> None:
    """Raise ConfigurationError where `missing_ids` has any."""
    if names := missing_ids(settings):
        remedy = "run synkti bootstrap, which writes them into synkti.toml"
        raise ConfigurationError([f"vpc={settings.vpc}: {', '.join(names)} not set; {remedy}"])


def _unknown(key: str, known: Mapping[str, object]) -> str:
    if key in CONTEXT_ONLY:
        return f"{key} is not for {SETTINGS_FILE}; it is given with -c {key}=..."
    near = difflib.get_close_matches(key, known, n=1)
    return f"{SETTINGS_FILE} has an unknown setting {key!r}" + (f"; is {near[0]!r} meant?" if near else "")
