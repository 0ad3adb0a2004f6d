"""`synkti bootstrap`: deploy a fleet to an AWS account; a repeated run continues where an earlier one stopped."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.account import Account
from cli.adapters.cdk import Cdk, required_toolkit, templates_of
from cli.adapters.doctor_collector import resource_exists, secret_arn, toolkit_version
from cli.adapters.instances import Group
from cli.adapters.key_documents import SecretKeyDocuments
from cli.adapters.results import result_of
from cli.adapters.stacks import Stacks
from cli.bootstrap_model import ModelStep, Source, find_source, source_files
from cli.core.account_facts import AccountFacts
from cli.core.clusters import Stack, clusters_of
from cli.core.doctor_inputs import Verdict
from cli.core.key_edits import DEFAULT_SCOPES, KeyRequest
from cli.core.resource_import import import_template, retained
from cli.core.result import Unavailable
from cli.core.scaling_group import count_nodes, deployed_size
from cli.core.settings_file import lines_of
from cli.deployment import (
    Deployment,
    DeploymentRequest,
    complete,
    file_of,
    is_of_file,
    look_up,
    models_bucket,
    read_request,
    require_idle,
    resolve,
    write_found,
)
from cli.doctor import cdk_log, print_findings, run_checks
from cli.endpoint import base_urls, example_request, is_reachable
from cli.errors import Failed
from cli.exit_codes import ExitCode
from cli.fleet import Fleet
from cli.keys import create_key
from cli.model_pin import SETTING, pin
from cli.nodes import FleetMonitor, wait_until_converged
from cli.options import Cluster, Json, Profile, Region, Settings, Yes
from cli.polling import Clock
from cli.terminal import Terminal
from cli.wheelhouse import push_packages
from node_agent.contract.group_size import as_deployed
from node_agent.contract.names import client_keys_secret_name, stack_name, table_name
from node_agent.core.access.caller import NO_LIMITS
from stacks.rollout import longest_minutes

CLOCK = Clock()
_FIRST_KEY = "first"


def bootstrap(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="A model for the models bucket, under the name in synkti.toml: a folder, or a name on the hub.",
            show_default=False,
        ),
    ] = None,
    packages: Annotated[
        bool,
        typer.Option(
            "--packages/--no-packages", help="Upload the packages that nodes install; see `synkti wheelhouse`."
        ),
    ] = True,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the nodes are ready.")] = True,
    within: Annotated[int, typer.Option(help="How long to wait for them, in seconds.", min=1, max=86_400)] = 3_600,
    anyway: Annotated[bool, typer.Option("--anyway", help="Deploy although doctor finds a fault.")] = False,
    context: Settings = None,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Deploy a fleet: run doctor and cdk bootstrap, deploy the stacks, upload packages and model, wait for the nodes.

    Steps that are done already are skipped: run it again after an interruption, or when synkti.toml has changed.
    Instance types whose GPUs cannot hold the model are refused by name, before anything is created. Packages (4 GB) are
    uploaded, and the model is uploaded or copied from the hub by a build in the region, before the nodes are created,
    so that nodes need nothing from outside the region. Finally the fleet gets the size of synkti.toml, also after
    synkti scale or synkti stop. It requests confirmation before it creates anything that costs money.

    \b
    Examples:
      synkti bootstrap --model ./Llama-3.1-8B-Instruct
      synkti bootstrap --model Qwen/Qwen2.5-7B-Instruct-AWQ -c instance_types=g4dn.xlarge
      synkti bootstrap -c nodes=5 --no-wait --yes

    \f

    Raises:
        typer.Exit: doctor finds a fault, and --anyway is not given.
    """
    terminal = Terminal(as_json)
    what = read_request(cluster, region, profile, context or ())
    source = find_source(model, what.settings)
    facts = look_up(what)
    files = source_files(source, what.settings)
    findings = run_checks(terminal, what, facts, templates=False, files=files)
    deployment = resolve(complete(what, facts))
    require_idle(deployment)
    resource_exists(deployment.account, "AWS::S3::Bucket", models_bucket(deployment))  # raises where it is another's
    handled = _HANDLED_CHECKS | {"packages"} if packages else _HANDLED_CHECKS
    notable = [f for f in findings if f.verdict in (Verdict.FAULT, Verdict.WARNING) and f.check not in handled]
    if notable:
        print_findings(terminal, notable)
    faults = [f for f in notable if f.verdict is Verdict.FAULT]
    if faults and not anyway:
        terminal.document({"cluster": deployment.cluster, "findings": [f.document() for f in faults]})
        terminal.status("fix that first, or continue with --anyway")
        raise typer.Exit(ExitCode.FINDINGS)
    terminal.confirm(_question(deployment), yes=yes or deployment.account.is_embedded)
    settings_file = file_of(what)
    _write_found(terminal, what, facts)
    made = _Bootstrap(terminal, deployment, packages, settings_file).run(source, within if wait else 0)
    terminal.document(made)


_HANDLED_CHECKS = frozenset({"cdk bootstrap", "stacks", "model", "sessions", "templates", "ids"})
"""Checks that bootstrap fixes or repeats itself, or does not depend on."""


def _question(deployment: Deployment) -> str:
    s = deployment.settings
    nodes = f"{s.min_nodes} to {s.max_nodes}" if s.is_autoscaled else str(s.nodes)
    return (
        f"Deploy the cluster {s.cluster!r} in {deployment.account.description}: "
        f"{nodes} nodes of {', '.join(s.instance_types)}, which cost money until synkti stop "
        "(synkti cost has how much)?"
    )


def _write_found(terminal: Terminal, what: DeploymentRequest, facts: AccountFacts) -> None:
    """Write what was found in the account into synkti.toml, and show it."""
    written = is_of_file(what)
    found = write_found(what, facts)
    if not found:
        return
    terminal.status("synkti.toml has now:" if written else "found in the account; add it to synkti.toml:")
    for line in lines_of(found).splitlines():
        terminal.status(f"  {line}")
    if written:
        terminal.status("commit it, so that the workflow deploys the same")


@dataclass
class _Bootstrap:
    """The steps of the command; each is skipped where it is already done.

    settings_file: synkti.toml, if its settings are deployed as they are.
    """

    terminal: Terminal
    deployment: Deployment
    packages: bool
    settings_file: Path | None
    changes: list[str] = field(default_factory=list)
    log: Path = field(default_factory=lambda: cdk_log(os.environ, time.time()))

    @property
    def account(self) -> Account:
        return self.deployment.account

    def run(self, source: Source, wait_s: float) -> dict[str, Any]:
        """Run all steps; return the document for `--json`."""
        with tempfile.TemporaryDirectory(prefix="synkti-") as folder:
            return self._run(Path(folder) / "cdk.out", source, wait_s)

    def _cdk(self, on_progress: Callable[[str], None]) -> Cdk:
        deployed = self.deployment
        return Cdk(
            deployed.project, self.account.environ(), deployed.context, self.log, self.terminal.status, on_progress
        )

    def _pinned(self, digest: str, output: Path) -> Path | None:
        """Pin the model's weights, unless they are, or model_source lets a deployment fetch others.

        Args:
            digest: of the model in the bucket.
            output: where templates with it go.

        Returns:
            The new templates; None where nothing is pinned.
        """
        settings = self.deployment.settings
        if settings.model_sha256 or settings.model_source:
            return None
        if self.settings_file is not None:
            pin(self.terminal, self.settings_file, digest)
        else:
            self.terminal.status(f'deployed with {SETTING} = "{digest}": add it to synkti.toml')
        context = {**self.deployment.context, SETTING: digest}
        self.deployment = replace(self.deployment, settings=replace(settings, model_sha256=digest), context=context)
        with self.terminal.progress_spinner("synthesizing the templates") as show_step:
            return self._cdk(show_step).synth(output)

    def _run(self, output: Path, source: Source, wait_s: float) -> dict[str, Any]:
        with self.terminal.progress_spinner("synthesizing the templates") as show_step:
            cdk = self._cdk(show_step)
            assembly = cdk.synth(output)
            self._bootstrap_toolkit(cdk, assembly)
            before = self._stacks()
            self._deploy_state(cdk, assembly)
        self._ensure_packages()
        model = self._model_step(cdk, assembly)
        self.changes += model.run(source)
        assembly = self._pinned(model.digest, output.with_name("cdk.pinned.out")) or assembly
        self._resume_launches(Fleet(self.account, self.deployment.cluster, tuple(before)))
        with self.terminal.progress_spinner("deploying the stacks") as show_step:
            cdk.on_progress = show_step
            self._deploy(cdk, assembly, ())
        after = self._stacks()
        known = {stack.name: stack.changed_at for stack in before}
        self.changes += [stack.name for stack in after if stack.changed_at != known.get(stack.name)]
        fleet = Fleet(self.account, self.deployment.cluster, tuple(after))
        self._set_size(fleet)
        key = self._create_first_key()  # before the wait, which may be interrupted
        document = self._wait_and_report(fleet, wait_s)
        return document if key is None else {**document, "api_key": key}

    def _stacks(self) -> Sequence[Stack]:
        every = Stacks(self.account.client("cloudformation")).list_stacks()
        return clusters_of(every).get(self.deployment.cluster, ())

    def _bootstrap_toolkit(self, cdk: Cdk, assembly: Path) -> None:
        version, needed = toolkit_version(self.account), required_toolkit(assembly)
        if version is not None and version >= needed:
            return
        cdk.bootstrap(self.account.identity.account, self.account.region)
        self.changes.append("CDKToolkit")

    def _deploy_state(self, cdk: Cdk, assembly: Path) -> None:
        """Deploy the state stack first: the model needs its bucket, and the nodes need the model."""
        name = stack_name(self.deployment.cluster, "state")
        # By its name: a stack that has only imported resources has no tag yet.
        stack = Stacks(self.account.client("cloudformation")).find(name)
        if stack is None or stack.status == "ROLLBACK_COMPLETE":
            self._import_retained(name, stack, assembly)
        elif stack.is_deployed and stack.status != "IMPORT_COMPLETE":
            return
        self._deploy(cdk, assembly, (name,))

    def _import_retained(self, name: str, stack: Stack | None, assembly: Path) -> None:
        """Import what an earlier cluster of this name has retained; a new stack could not create it again."""
        template = json.loads(templates_of(assembly)[name].read_text())
        known = {
            "AWS::S3::Bucket": self._bucket(),
            "AWS::DynamoDB::Table": table_name(self.deployment.cluster),
            **self._retained_keys(),
        }
        left = [each for each in retained(template, known) if resource_exists(self.account, each.kind, each.name)]
        if not left:
            return
        stacks = Stacks(self.account.client("cloudformation"))
        every_s = 0.2 if self.account.is_embedded else 5.0
        if stack is not None:  # rolled back by an earlier run: it has no resources, and blocks the import
            stacks.delete(name, within_s=600, every_s=every_s, clock=CLOCK, report=self.terminal.status)
        stacks.import_resources(name, import_template(template, left), left, every_s=every_s, clock=CLOCK)
        self.terminal.status(f"{name} imports {', '.join(each.name for each in left)}")

    def _retained_keys(self) -> dict[str, str]:
        """Return the ARN of the clients' keys that an earlier cluster has retained, if there are any."""
        arn = secret_arn(self.account, client_keys_secret_name(self.deployment.cluster))
        return {} if arn is None else {"AWS::SecretsManager::Secret": arn}

    def _create_first_key(self) -> str | None:
        """Create the first key where the cluster has none, and print it; return it for `--json`."""
        if not self.deployment.settings.api_keys:
            return None
        name = client_keys_secret_name(self.deployment.cluster)
        documents = SecretKeyDocuments(self.account.client("secretsmanager"), name)
        if documents.read().keys:
            return None
        key, entry = create_key(documents, KeyRequest(_FIRST_KEY, frozenset(DEFAULT_SCOPES), NO_LIMITS))
        self.changes.append("key")
        self.terminal.line(f"OPENAI_API_KEY={key.text.decode()}")
        self.terminal.status(f"the first client key ({entry.name}, {entry.key_id}); it is printed only now")
        return key.text.decode()

    def _deploy(self, cdk: Cdk, assembly: Path, names: Sequence[str]) -> None:
        try:
            within_s = longest_minutes(self.deployment.settings) * 60
            cdk.deploy(assembly, names, direct=self.account.is_embedded, within_s=within_s)
        except Failed as error:
            reasons = result_of(self._failure_reasons)
            found = [] if isinstance(reasons, Unavailable) else reasons  # the tool's own words are enough
            raise Failed("\n".join([error.message, *found]), error.advice) from error

    def _failure_reasons(self) -> list[str]:
        stacks = Stacks(self.account.client("cloudformation"))
        return [f"{s.name}: {why}" for s in self._stacks() if (why := stacks.failure_reason(s.name))]

    def _bucket(self) -> str:
        return models_bucket(self.deployment)

    def _ensure_packages(self) -> None:
        """Make the wheelhouse complete; the embedded AWS has no nodes that install anything."""
        if not self.packages or self.deployment.settings.local:
            return
        root = self.deployment.project.root
        uploaded = push_packages(self.account, self.deployment.cluster, root, self.terminal)
        self.changes += [f"packages/{name}" for name in uploaded]

    def _model_step(self, cdk: Cdk, assembly: Path) -> ModelStep:
        def deploy_build() -> None:
            with self.terminal.progress_spinner("deploying the build that copies models") as show_step:
                cdk.on_progress = show_step
                self._deploy(cdk, assembly, (stack_name(self.deployment.cluster, "model"),))

        fleet = Fleet(self.account, self.deployment.cluster, tuple(self._stacks()))
        return ModelStep(self.terminal, fleet, self._bucket(), self.deployment.settings, deploy_build)

    def _resume_launches(self, fleet: Fleet) -> None:
        """Resume launches that were suspended because nodes gave up: the deployment may be the remedy."""
        if fleet.output("AutoScalingGroupName") is None:
            return
        group = Group(self.account.client("autoscaling"), fleet.group_name())
        if group.state().launches_suspended:
            group.resume_launches()
            self.changes.append("launches")
            self.terminal.status(f"{fleet.cluster} launches nodes again")

    def _set_size(self, fleet: Fleet) -> None:
        """Set the deployed size: CloudFormation does not, where nothing else of the group has changed."""
        deployed = deployed_size(fleet.output)
        if deployed is None:
            return
        group = Group(self.account.client("autoscaling"), fleet.group_name())
        before = group.size()
        after = as_deployed(before, deployed)
        if after == before:
            return
        group.resize(after)
        self.changes.append("size")
        self.terminal.status(f"{fleet.cluster} keeps {count_nodes(after.desired)}, was {before.desired}")

    def _wait_and_report(self, fleet: Fleet, wait_s: float) -> dict[str, Any]:
        version = fleet.output("FleetVersion")
        monitor = FleetMonitor(fleet, version)
        status = wait_until_converged(self.terminal, monitor, within_s=wait_s) if wait_s else monitor.read_status()
        document: dict[str, Any] = {
            "cluster": fleet.cluster,
            "account": self.account.identity.account,
            "region": self.account.region,
            "changed": self.changes,
            "version": version,
            "desired": status.desired,
            "ready": len(status.ready),
            "base_urls": [],
        }
        self.terminal.status("nothing had to be changed" if not self.changes else f"changed: {', '.join(self.changes)}")
        if not status.ready:
            self.terminal.line(f"{fleet.cluster} is deployed; {status.summary}")
            self.terminal.status("synkti nodes --wait waits for them, synkti endpoint says where they answer")
            return document
        document["base_urls"], _ = base_urls(fleet)
        self._print_endpoint(document["base_urls"], fleet)
        return document

    def _print_endpoint(self, urls: Sequence[str], fleet: Fleet) -> None:
        settings = self.deployment.settings
        for url in urls:
            self.terminal.line(url)
        if is_reachable(urls[0]):
            self.terminal.status(f"try it: {example_request(urls[0], settings.model, with_key=settings.api_keys)}")
        else:
            self.terminal.status(
                "it does not answer from here: client_cidrs in synkti.toml says who may call; "
                f"synkti connect NODE --forward 8000:8000 --cluster {fleet.cluster} always works"
            )
