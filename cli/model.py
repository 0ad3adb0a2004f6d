"""`synkti model`: manage the models bucket, from which nodes download models."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from cli.adapters.model_check import faults
from cli.adapters.model_documents import folder_files
from cli.adapters.model_files import ModelSource, find_model, hash_files, list_files
from cli.adapters.models_bucket import ModelListing, ModelsBucket
from cli.core.model_source import model_fault, select_files
from cli.core.upload_plan import PushPlan, plan_push, replaces_model
from cli.errors import Failed, NotFound
from cli.fleet import Fleet, open_models
from cli.hub_copy import CopyOptions
from cli.hub_push import push_from_hub
from cli.model_pin import pin_pushed
from cli.model_push import Pusher
from cli.model_result import PushResult, print_result, require_fit, require_name
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal, human_age, human_bytes
from node_agent.contract.hub import HubName
from node_agent.contract.models import OLD_VERSION_DAYS, ModelFile, format_manifest, manifest_digest

MAX_WORKERS = 32
_MAX_FAULTS = 10

app = typer.Typer(no_args_is_help=True, help="Models in the cluster's models bucket: push, ls, rm.")


@app.command()
def push(
    source: Annotated[
        str, typer.Argument(metavar="DIR|NAME", help="A model's folder, or its name on the hub: owner/name[@revision].")
    ],
    name: Annotated[
        str | None, typer.Option(help="The model's name; by default the folder's.", show_default=False)
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace a model of this name with other content.")
    ] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Include weights in other formats than safetensors.")
    ] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Push also what looks incomplete, if you know that vLLM loads it.")
    ] = False,
    parallel: Annotated[int, typer.Option(help="Parallel uploads.", min=1, max=MAX_WORKERS)] = 8,
    pin: Annotated[
        bool,
        typer.Option("--pin/--no-pin", help="Write model_sha256 into synkti.toml, if that names this model."),
    ] = True,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Upload a model in parallel, resuming an interrupted push; the manifest is written last.

    DIR is a model's folder, or one in the layout of Hugging Face's cache. A NAME is searched for in that cache. Where
    it is not there, a build in the region copies the model from the hub into the bucket, so that nothing passes through
    this machine. Gated and private models need a token in Secrets Manager (hub_token_secret in synkti.toml).

    Where there are safetensors, other weights are excluded. A model of the same name and content is not uploaded again.
    Other content needs another name (nodes may be reading the old one), or --replace.

    The SHA-256 of the model's manifest is written into synkti.toml as model_sha256, where that names this model: from
    the next deployment on nodes refuse any other weights.

    A model that vLLM could not load is refused before the upload, with the name of each faulty file: a missing shard or
    tokenizer, a truncated file, a pointer of Git LFS instead of a file. So is a model that no instance type of
    synkti.toml can hold.

    \b
    Examples:
      synkti model push ./Llama-3.1-8B-Instruct
      synkti model push meta-llama/Llama-3.1-8B-Instruct --name llama-3.1-8b
      synkti model push Qwen/Qwen2.5-7B-Instruct-AWQ@main
      synkti model push ~/.cache/huggingface/hub/models--Qwen--Qwen2.5-7B-Instruct
    """
    terminal = Terminal(as_json)
    found = find_model(source, os.environ)
    fleet = open_models(cluster, region, profile)
    options = CopyOptions(replace, everything, unchecked, parallel)
    if isinstance(found, HubName):
        name = name or found.model_name
        pushed = push_from_hub(fleet, found, name, terminal, options)
    else:
        name = name or found.name
        pushed = push_model(fleet, found, name, terminal, options)
    if pin:
        pin_pushed(terminal, fleet, name, pushed.digest)


def push_model(
    fleet: Fleet,
    source: ModelSource,
    name: str,
    terminal: Terminal,
    options: CopyOptions | None = None,
    *,
    in_bootstrap: bool = False,
) -> PushResult:
    """Check, hash and upload a model, as `model push`. Raises CliError and AWS's errors."""
    require_name(name)
    options = options or CopyOptions()
    # In bootstrap doctor has checked whether the model fits, and the command prints a result of its own.
    choice = select_files(list_files(source.folder), everything=options.everything)
    if fault := model_fault(choice.included):
        raise NotFound(f"{source.folder} is no model: {fault}")
    if not options.unchecked:
        _require_complete(source.folder, choice.included)
        if not in_bootstrap:
            require_fit(terminal, fleet, folder_files(source.folder), name)
    if choice.excluded:
        terminal.status(f"excluded: {len(choice.excluded)} files ({choice.reason}); --all includes them")
    parallel = options.parallel
    bucket = ModelsBucket(fleet.account.client("s3", parallel), fleet.models_bucket, parallel)
    bucket.require()
    total = sum((source.folder / path).stat().st_size for path in choice.included)
    with terminal.transfer("hashing", total) as bar:
        files = hash_files(source.folder, choice.included, bar.add)
    digest = _manifest_digest(files)
    with terminal.spinner("listing the bucket"):
        manifest = bucket.manifest(name)
        plan = plan_push(
            files, bucket.objects(name), bucket.unfinished_uploads(name), manifest.files if manifest else None
        )
    if replaces_model(files, manifest.files if manifest else None) and not options.replace:
        raise Failed(
            f"there is a model {name!r} already, with other content",
            "push it under another --name and set model in synkti.toml, or replace it with --replace",
        )
    sent = 0 if plan.is_noop else _upload(bucket, source, name, plan, files, terminal, parallel)
    if not in_bootstrap:
        size = sum(file.size for file in files)
        print_result(terminal, fleet, name, len(files), size, digest, sent, same=plan.is_noop)
    return PushResult(digest, sent)


def _require_complete(folder: Path, paths: Sequence[str]) -> None:
    """Raise Failed with all faults of an incomplete model."""
    found = faults(folder, paths)
    if found:
        listed = "".join(f"\n  {fault}" for fault in found[:_MAX_FAULTS])
        more = f"\n  and {len(found) - _MAX_FAULTS} more" if len(found) > _MAX_FAULTS else ""
        raise Failed(
            f"{folder} is no complete model, and was not pushed:{listed}{more}",
            "fix that, or push it as it is: synkti model push --unchecked",
        )


def _manifest_digest(files: Sequence[ModelFile]) -> str:
    try:
        return manifest_digest(format_manifest(files))
    except ValueError as error:
        raise Failed(f"a file's name is invalid: {error}", "rename it, or remove it from the folder") from error


def _upload(
    bucket: ModelsBucket,
    source: ModelSource,
    name: str,
    plan: PushPlan,
    files: Sequence[ModelFile],
    terminal: Terminal,
    parallel: int,
) -> int:
    if plan.unchanged:
        terminal.status(f"{len(plan.unchanged)} of {len(files)} files are there already")
    with terminal.transfer(f"models/{name}", plan.upload_bytes) as bar:
        pusher = Pusher(bucket, name, source, parallel, bar.add)
        try:
            pusher.push(plan, files)
        except KeyboardInterrupt:
            terminal.status("stopped; the same command continues from here (for a day)")
            raise
    return pusher.sent_bytes


@app.command("ls")
def list_models(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """List the models that nodes can serve.

    \b
    Examples:
      synkti model ls
      synkti model ls --json | jq -r '.models[] | select(.whole) | .name'
    """
    terminal = Terminal(as_json)
    fleet = open_models(cluster, region, profile)
    models = ModelsBucket(fleet.account.client("s3"), fleet.models_bucket).models()
    terminal.document(
        {
            "cluster": fleet.cluster,
            "bucket": fleet.models_bucket,
            "models": [
                {
                    "name": m.name,
                    "files": m.files,
                    "bytes": m.size,
                    "whole": m.is_complete,
                    "changed_at": int(m.changed),
                }
                for m in models
            ],
        }
    )
    if models:
        terminal.table(MODEL_HEADERS, [model_row(each, time.time()) for each in models], droppable=("FILES", "PUSHED"))
    else:
        terminal.line(f"no model in {fleet.models_bucket} yet: synkti model push DIR")


MODEL_HEADERS = ("MODEL", "FILES", "SIZE", "PUSHED", "STATE")


def model_row(model: ModelListing, now: float) -> tuple[str, ...]:
    """Return a row of `model ls`. now: unix seconds."""
    state = "whole" if model.is_complete else "not whole: push it again"
    return model.name, str(model.files), human_bytes(model.size), f"{human_age(now - model.changed)} ago", state


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="The name that `synkti model ls` shows.")],
    purge: Annotated[
        bool, typer.Option("--purge", help="Delete also the versions that the bucket keeps, permanently.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Remove it although the fleet serves it.")] = False,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Remove a model. Its manifest is deleted first, so that no node treats the rest as complete.

    The bucket keeps its versions for 30 days, in which they can be restored, and cost money. --purge deletes them now.

    \b
    Examples:
      synkti model rm llama-3.1-8b
      synkti model rm llama-3.1-8b --purge --yes

    \f

    Raises:
        NotFound: there is no such model; with --purge, no version of it either.
        Failed: the fleet serves the model, and --force is not given.
    """
    terminal = Terminal(as_json)
    fleet = open_models(cluster, region, profile)
    bucket = ModelsBucket(fleet.account.client("s3"), fleet.models_bucket)
    held = next((each for each in bucket.models() if each.name == name), None)
    if held is None and not purge:
        raise NotFound(f"there is no model {name!r} in {bucket.name}", "synkti model ls shows those there are")
    if not force and fleet.output("Model") == name:
        raise Failed(
            f"the fleet serves {name!r}: a node that starts now could not load it", "deploy another, or --force"
        )
    size = f" ({human_bytes(held.size)})" if held else ""
    terminal.confirm(f"Remove {name!r}{size} from {bucket.name}{', with all its versions' if purge else ''}?", yes=yes)
    if held is not None:
        bucket.remove_manifest(name)
        bucket.delete_objects(name, bucket.sizes(name))
    versions = bucket.purge(name) if purge else 0
    if held is None and not versions:
        raise NotFound(f"there is no version of {name!r} in {bucket.name}")
    terminal.document({"cluster": fleet.cluster, "bucket": bucket.name, "model": name, "purged_versions": versions})
    terminal.line(
        f"{name} is removed"
        + (f", {versions} versions for good" if purge else f"; its versions are kept for {OLD_VERSION_DAYS} days")
    )
