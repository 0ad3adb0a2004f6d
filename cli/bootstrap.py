"""`synkti bootstrap`: from an AWS account to a fleet that answers, and on from wherever an earlier try ended."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.account import Account
from cli.adapters.cdk import Cdk, needed_toolkit, templates_of
from cli.adapters.examine import is_there, model_seen, toolkit_version
from cli.adapters.model_files import find_source
from cli.adapters.models_bucket import ModelsBucket
from cli.adapters.stacks import Stacks
from cli.core.clusters import Stack, clusters_of
from cli.core.doctor_inputs import ModelSeen, Verdict
from cli.core.resource_import import import_template, retained
from cli.deployment import Deployment, read_request, resolve
from cli.doctor import cdk_log, examined, show
from cli.endpoint import answers_from_here, base_urls, curl_line
from cli.errors import Failed, NotFound
from cli.exit_codes import ExitCode
from cli.fleet import Fleet
from cli.model import push_model
from cli.nodes import Looking, wait_until_whole
from cli.options import Cluster, Json, Profile, Region, Settings, Yes
from cli.polling import Clock
from cli.terminal import Terminal
from node_agent.contract.names import models_bucket_name, stack_name, table_name

CLOCK = Clock()


def bootstrap(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|NAME",
            help="A model to bring to the models bucket, under the name in synkti.toml; see `synkti model push`.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until the nodes are ready.")] = True,
    within: Annotated[int, typer.Option(help="How long to wait for them: seconds.", min=1, max=86_400)] = 3_600,
    anyway: Annotated[bool, typer.Option("--anyway", help="Even where doctor finds a fault.")] = False,
    context: Settings = None,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """From an account to a fleet: doctor, cdk bootstrap, the stacks, the model, and waiting until the nodes are ready.

    What is done already is not done again: run it again after whatever stopped it, or when synkti.toml has changed. The
    bucket and the model come before the nodes do, so that no node starts without its weights. It asks before it makes
    anything that costs money.

    \b
    Examples:
      synkti bootstrap --model ./Llama-3.1-8B-Instruct
      synkti bootstrap --model meta-llama/Llama-3.1-8B-Instruct -c client_cidrs=203.0.113.0/24
      synkti bootstrap -c nodes=5 --no-wait --yes
    """
    terminal = Terminal(as_json)
    what = read_request(cluster, region, profile, context or ())
    findings = examined(terminal, what, templates=False)
    deployment = resolve(what)
    notable = [f for f in findings if f.verdict in (Verdict.FAULT, Verdict.WARNING) and f.check not in _OURS]
    if notable:
        show(terminal, notable)
    faults = [f for f in notable if f.verdict is Verdict.FAULT]
    if faults and not anyway:
        terminal.document({"cluster": deployment.cluster, "findings": [f.document() for f in faults]})
        terminal.say("mend that first, or go on with --anyway")
        raise typer.Exit(ExitCode.FINDINGS)
    terminal.confirm(_question(deployment), yes=yes or deployment.account.embedded)
    made = _Bootstrap(terminal, deployment).run(model, within if wait else 0)
    terminal.document(made)


_OURS = frozenset({"cdk bootstrap", "stacks", "model", "sessions", "templates"})
"""Findings that bootstrap mends itself, looks at itself, or does not depend on."""


def _question(deployment: Deployment) -> str:
    s = deployment.settings
    nodes = f"{s.min_nodes} to {s.max_nodes}" if s.is_autoscaled else str(s.nodes)
    return (
        f"Deploy the cluster {s.cluster!r} in {deployment.account.where}: "
        f"{nodes} nodes of {', '.join(s.instance_types)}, which cost money until synkti stop?"
    )


@dataclass
class _Bootstrap:
    """The steps in their order; each looks first whether it was done."""

    terminal: Terminal
    deployment: Deployment
    changed: list[str] = field(default_factory=list)

    @property
    def account(self) -> Account:
        return self.deployment.account

    def run(self, model: str | None, wait_s: float) -> dict[str, Any]:
        """Everything; the document for `--json`."""
        with tempfile.TemporaryDirectory(prefix="synkti-") as folder:
            return self._run(Path(folder) / "cdk.out", model, wait_s)

    def _run(self, output: Path, model: str | None, wait_s: float) -> dict[str, Any]:
        log = cdk_log(os.environ, time.time())
        with self.terminal.working("synthesizing the templates") as show_step:
            cdk = Cdk(
                self.deployment.project,
                self.account.environ(),
                self.deployment.context,
                log,
                self.terminal.say,
                show_step,
            )
            assembly = cdk.synth(output)
            self._toolkit(cdk, assembly)
            before = self._stacks()
            self._state_before_model(cdk, assembly)
        self._model(model)
        with self.terminal.working("deploying the stacks") as show_step:
            cdk.show = show_step
            self._deploy(cdk, assembly, ())
        after = self._stacks()
        known = {stack.name: stack.changed for stack in before}
        self.changed += [stack.name for stack in after if stack.changed != known.get(stack.name)]
        return self._ready(Fleet(self.account, self.deployment.cluster, tuple(after)), wait_s)

    def _stacks(self) -> Sequence[Stack]:
        every = Stacks(self.account.client("cloudformation")).every()
        return clusters_of(every).get(self.deployment.cluster, ())

    def _toolkit(self, cdk: Cdk, assembly: Path) -> None:
        version, needed = toolkit_version(self.account), needed_toolkit(assembly)
        if version is not None and version >= needed:
            return
        cdk.bootstrap(self.account.identity.account, self.account.region)
        self.changed.append("CDKToolkit")

    def _state_before_model(self, cdk: Cdk, assembly: Path) -> None:
        """The bucket has to be there before the model, and the model before the nodes."""
        name = stack_name(self.deployment.cluster, "state")
        # By its name: one that has only taken something over has no tag yet.
        stack = Stacks(self.account.client("cloudformation")).find(name)
        if stack is None or stack.status == "ROLLBACK_COMPLETE":
            self._take_over(name, stack, assembly)
        elif stack.is_deployed and stack.status != "IMPORT_COMPLETE":
            return
        self._deploy(cdk, assembly, (name,))

    def _take_over(self, name: str, stack: Stack | None, assembly: Path) -> None:
        """What an earlier cluster of this name has left becomes this one's; a new stack could not make it again."""
        template = json.loads(templates_of(assembly)[name].read_text())
        known = {
            "AWS::S3::Bucket": self._bucket(),
            "AWS::DynamoDB::Table": table_name(self.deployment.cluster),
        }
        left = [each for each in retained(template, known) if is_there(self.account, each.kind, each.name)]
        if not left:
            return
        stacks = Stacks(self.account.client("cloudformation"))
        every_s = 0.2 if self.account.embedded else 5.0
        if stack is not None:  # an earlier try that was rolled back; it has no resources, and stands in the way
            stacks.delete(name, within_s=600, every_s=every_s, clock=CLOCK, tell=self.terminal.say)
        stacks.take_over(name, import_template(template, left), left, every_s=every_s, clock=CLOCK)
        self.terminal.say(f"{name} takes over {', '.join(each.name for each in left)}")

    def _deploy(self, cdk: Cdk, assembly: Path, names: Sequence[str]) -> None:
        try:
            cdk.deploy(assembly, names, direct=self.account.embedded)
        except Failed as error:
            stacks = Stacks(self.account.client("cloudformation"))
            reasons = [f"{s.name}: {why}" for s in self._stacks() if (why := stacks.failure(s.name))]
            raise Failed("\n".join([error.message, *reasons]), error.advice) from error

    def _bucket(self) -> str:
        return models_bucket_name(self.deployment.cluster, self.account.identity.account, self.account.region)

    def _model(self, given: str | None) -> None:
        """Bring it there, or see that it is there. Raises NotFound, Failed."""
        name = self.deployment.settings.model
        if given is not None:
            fleet = Fleet(self.account, self.deployment.cluster, tuple(self._stacks()))
            source = find_source(given, os.environ, self.terminal.say)
            if push_model(fleet, source, name, self.terminal, quiet_result=True).sent:
                self.changed.append(f"models/{name}")
        seen = model_seen(ModelsBucket(self.account.client("s3"), self._bucket()), name)
        if not seen.manifest or seen.missing:
            raise NotFound(
                f"the model {name!r} is not in {self._bucket()}, or not whole: its nodes could not start",
                "run this again with --model DIR, or push it: synkti model push DIR --name " + name,
            )
        self._same_weights(seen)
        self.terminal.say(f"the model {name!r} is there ({seen.digest[:12]})")

    def _same_weights(self, seen: ModelSeen) -> None:
        wanted = self.deployment.settings.model_sha256
        if wanted not in ("", seen.digest):
            raise Failed(
                f"the model in the bucket has the SHA-256 {seen.digest}, and model_sha256 is another",
                f'push the one that is meant, or set model_sha256 = "{seen.digest}"',
            )

    def _ready(self, fleet: Fleet, wait_s: float) -> dict[str, Any]:
        version = fleet.output("FleetVersion")
        looking = Looking(fleet, version)
        status = wait_until_whole(self.terminal, looking, within_s=wait_s) if wait_s else looking.status()
        document: dict[str, Any] = {
            "cluster": fleet.cluster,
            "account": self.account.identity.account,
            "region": self.account.region,
            "changed": self.changed,
            "version": version,
            "desired": status.desired,
            "ready": len(status.ready),
            "base_urls": [],
        }
        self.terminal.say("nothing had to be changed" if not self.changed else f"changed: {', '.join(self.changed)}")
        if not status.ready:
            self.terminal.line(f"{fleet.cluster} is deployed; {status.sentence}")
            self.terminal.say("synkti nodes --wait waits for them, synkti endpoint says where they answer")
            return document
        document["base_urls"], _ = base_urls(fleet)
        self._tell_endpoint(document["base_urls"], fleet)
        return document

    def _tell_endpoint(self, urls: Sequence[str], fleet: Fleet) -> None:
        for url in urls:
            self.terminal.line(url)
        if answers_from_here(urls[0]):
            self.terminal.say(f"try it: {curl_line(urls[0], self.deployment.settings.model)}")
        else:
            self.terminal.say(
                "it does not answer from here: client_cidrs in synkti.toml says who may call; "
                f"synkti connect NODE --forward 8000:8000 --cluster {fleet.cluster} always works"
            )
