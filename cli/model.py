"""`synkti model`: what lies in the models bucket, from where nodes take it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from cli.adapters.model_check import faults
from cli.adapters.model_files import Source, find_source, hash_files, list_files
from cli.adapters.models_bucket import Listed, ModelsBucket
from cli.core.model_source import choose_files, model_fault
from cli.core.upload_plan import PushPlan, plan_push, replaces
from cli.errors import BadUsage, Failed, NotFound
from cli.fleet import Fleet, open_models
from cli.model_push import Pusher
from cli.options import Cluster, Json, Profile, Region, Yes
from cli.terminal import Terminal, human_age, human_bytes
from node_agent.contract.models import ModelFile, format_manifest, is_model_name, manifest_digest

MAX_WORKERS = 32
_MAX_FAULTS = 10

app = typer.Typer(no_args_is_help=True, help="Models in the cluster's models bucket: push, ls, rm.")


@app.command()
def push(
    source: Annotated[
        str, typer.Argument(metavar="DIR|NAME", help="A model's folder, or its name on the hub: owner/name.")
    ],
    name: Annotated[
        str | None, typer.Option(help="What to call it; else what the folder is called.", show_default=False)
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over a model of this name and other content.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Also weights in other formats than safetensors.")] = False,
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Even what looks incomplete, where you know that vLLM loads it.")
    ] = False,
    parallel: Annotated[int, typer.Option(help="Uploads at once.", min=1, max=MAX_WORKERS)] = 8,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Upload a model: in parallel, going on where an earlier push was interrupted, the manifest last.

    DIR is a folder with a model in it, or one in the layout of Hugging Face's cache. A NAME is looked for in that
    cache; where it is not, it is downloaded first, if huggingface_hub is installed.

    Where there are safetensors, other weights are left out. A model of the same name and the same content is left as it
    is. Other content wants another name (nodes may be reading the old one), or --replace.

    What vLLM could not load is refused before anything is sent, and each file named: a shard or a tokenizer that is
    missing, a file that is cut off, a pointer of Git LFS in the place of a file.

    \b
    Examples:
      synkti model push ./Llama-3.1-8B-Instruct
      synkti model push meta-llama/Llama-3.1-8B-Instruct --name llama-3.1-8b
      synkti model push ~/.cache/huggingface/hub/models--Qwen--Qwen2.5-7B-Instruct
    """
    terminal = Terminal(as_json)
    found = find_source(source, os.environ, terminal.say)
    fleet = open_models(cluster, region, profile)
    options = PushOptions(replace, everything, unchecked, parallel)
    push_model(fleet, found, name or found.name, terminal, options)


@dataclass(frozen=True)
class PushOptions:
    """As the options of `model push` of the same names."""

    replace: bool = False
    everything: bool = False
    unchecked: bool = False
    parallel: int = 8


@dataclass(frozen=True)
class Pushed:
    """digest: the manifest's SHA-256; sent: bytes that had to be."""

    digest: str
    sent: int


def push_model(
    fleet: Fleet,
    source: Source,
    name: str,
    terminal: Terminal,
    options: PushOptions | None = None,
    *,
    quiet_result: bool = False,
) -> Pushed:
    """Everything that `model push` does. Raises CliError and AWS's errors."""
    if not is_model_name(name):
        raise BadUsage(f"{name!r} cannot be a model's name", "give one with --name: letters, digits, dots, hyphens")
    options = options or PushOptions()
    choice = choose_files(list_files(source.folder), everything=options.everything)
    if fault := model_fault(choice.take):
        raise NotFound(f"{source.folder} is no model: {fault}")
    if not options.unchecked:
        _require_whole(source.folder, choice.take)
    if choice.leave:
        terminal.say(f"left out: {len(choice.leave)} files ({choice.reason}); --all takes them too")
    parallel = options.parallel
    bucket = ModelsBucket(fleet.account.client("s3", parallel), fleet.models_bucket, parallel)
    bucket.require()
    total = sum((source.folder / path).stat().st_size for path in choice.take)
    with terminal.transfer("hashing", total) as bar:
        files = hash_files(source.folder, choice.take, bar.add)
    digest = _manifest_digest(files)
    with terminal.doing("looking what is there"):
        manifest = bucket.manifest(name)
        plan = plan_push(files, bucket.objects(name), bucket.unfinished(name), manifest.files if manifest else None)
    if replaces(files, manifest.files if manifest else None) and not options.replace:
        raise Failed(
            f"there is a model {name!r} already, with other content",
            "push it under another --name and set model in synkti.toml, or write over it with --replace",
        )
    sent = 0 if plan.same else _upload(bucket, source, name, plan, files, terminal, parallel)
    if not quiet_result:
        _tell_pushed(terminal, fleet, name, files, digest, sent, same=plan.same)
    return Pushed(digest, sent)


def _require_whole(folder: Path, paths: Sequence[str]) -> None:
    """Raises Failed, naming all that is wrong."""
    found = faults(folder, paths)
    if found:
        listed = "".join(f"\n  {fault}" for fault in found[:_MAX_FAULTS])
        more = f"\n  and {len(found) - _MAX_FAULTS} more" if len(found) > _MAX_FAULTS else ""
        raise Failed(
            f"{folder} is no whole model, and was not pushed:{listed}{more}",
            "mend that, or push it as it is: synkti model push --unchecked",
        )


def _manifest_digest(files: Sequence[ModelFile]) -> str:
    try:
        return manifest_digest(format_manifest(files))
    except ValueError as error:
        raise Failed(f"a file's name cannot be: {error}", "rename it, or leave it out of the folder") from error


def _upload(
    bucket: ModelsBucket,
    source: Source,
    name: str,
    plan: PushPlan,
    files: Sequence[ModelFile],
    terminal: Terminal,
    parallel: int,
) -> int:
    if plan.there:
        terminal.say(f"{len(plan.there)} of {len(files)} files are there already")
    with terminal.transfer(f"models/{name}", plan.upload_bytes) as bar:
        pusher = Pusher(bucket, name, source.folder, parallel, bar.add)
        try:
            pusher.push(plan, files)
        except KeyboardInterrupt:
            terminal.say("stopped; the same command goes on from here (for a day)")
            raise
    return pusher.sent


def _tell_pushed(
    terminal: Terminal, fleet: Fleet, name: str, files: Sequence[ModelFile], digest: str, sent: int, *, same: bool
) -> None:
    size = sum(file.size for file in files)
    terminal.document(
        {
            "cluster": fleet.cluster,
            "bucket": fleet.models_bucket,
            "model": name,
            "files": len(files),
            "bytes": size,
            "sent_bytes": sent,
            "changed": not same,
            "manifest_sha256": digest,
        }
    )
    what = f"{name}: {len(files)} files, {human_bytes(size)}"
    terminal.line(f"{what}; nothing to do, it is all there" if same else f"{what}; {human_bytes(sent)} sent")
    terminal.line(f'  model = "{name}"')
    terminal.line(f'  model_sha256 = "{digest}"')


@app.command("ls")
def list_models(cluster: Cluster = None, region: Region = None, profile: Profile = None, as_json: Json = False) -> None:
    """The models that nodes can be told to serve.

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
                {"name": m.name, "files": m.files, "bytes": m.size, "whole": m.whole, "changed_at": int(m.changed)}
                for m in models
            ],
        }
    )
    if models:
        terminal.table(MODEL_HEADERS, [model_row(each, time.time()) for each in models])
    else:
        terminal.line(f"no model in {fleet.models_bucket} yet: synkti model push DIR")


MODEL_HEADERS = ("MODEL", "FILES", "SIZE", "PUSHED", "STATE")


def model_row(model: Listed, now: float) -> tuple[str, ...]:
    """A line of `model ls`. now: unix seconds."""
    state = "whole" if model.whole else "not whole: push it again"
    return model.name, str(model.files), human_bytes(model.size), f"{human_age(now - model.changed)} ago", state


@app.command("rm")
def remove(
    name: Annotated[str, typer.Argument(help="As `synkti model ls` shows it.")],
    purge: Annotated[
        bool, typer.Option("--purge", help="Also the versions that the bucket keeps: for good, and no longer paid for.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Even where the fleet serves it.")] = False,
    yes: Yes = False,
    cluster: Cluster = None,
    region: Region = None,
    profile: Profile = None,
    as_json: Json = False,
) -> None:
    """Remove a model. Its manifest goes first, so that no node takes a half of it for a whole.

    The bucket keeps old versions, which can be brought back, and are paid for until they are purged.

    \b
    Examples:
      synkti model rm llama-3.1-8b
      synkti model rm llama-3.1-8b --purge --yes
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
        bucket.remove(name, bucket.sizes(name))
    versions = bucket.purge(name) if purge else 0
    if held is None and not versions:
        raise NotFound(f"there is no version of {name!r} in {bucket.name}")
    terminal.document({"cluster": fleet.cluster, "bucket": bucket.name, "model": name, "purged_versions": versions})
    terminal.line(f"{name} is removed" + (f", {versions} versions for good" if purge else "; its versions are kept"))
