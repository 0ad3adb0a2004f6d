"""Download the model to this node, or check that it is complete in S3: the boot script runs this before the agent.

    python -m node_agent.fetch_model --to FOLDER [--environ FILE] [--bucket B] [--name N] [--load download|stream] ...

Downloads in parallel ranges, compares every file's SHA-256 with the manifest, continues where an earlier run was
interrupted, and does nothing where all files are there. With `--load stream` nothing is downloaded where vLLM can read
the model from S3; then the objects' sizes are compared with the manifest's. Options that are not given are read from
the environment: SYNKTI_MODELS_BUCKET, SYNKTI_MODEL_NAME, SYNKTI_MODEL_SHA256, SYNKTI_MODEL_LOAD, SYNKTI_ENGINE_ARGS,
SYNKTI_INSTANCE_TYPES.

`--environ FILE` writes the agent's variables: SYNKTI_MODEL_DIR, the folder or an s3:// address, and SYNKTI_ENGINE_ARGS,
with the streamer's arguments where it is used, and, on a node with a GPU, with the context length of the fleet's
smallest instance type and with the number of this node's GPUs (`core/sizing`). The one line on standard output is a
JSON object: `load`, `model`, `arguments`, `reason`. All other output goes to standard error.

Exit codes, as in sysexits.h: 0 done · 2 bad usage · 65 the model is damaged · 66 there is no such model · 69 S3 does
not answer, or refuses · 73 the disk does not take it. A failure is one line. Standard library and boto3 only.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from node_agent.adapters.model_download import Downloader, gib
from node_agent.adapters.model_folder import ModelFolder, count_gpus, memory_bytes
from node_agent.adapters.model_store import Manifest, ModelStore, s3_client
from node_agent.contract.environment import (
    ENGINE_ARGS,
    INSTANCE_TYPES,
    MODEL_LOAD,
    MODEL_NAME,
    MODEL_SHA256,
    MODELS_BUCKET,
)
from node_agent.contract.errors import ModelDamaged, ModelMissing, SynktiError
from node_agent.contract.models import is_model_name
from node_agent.core.node.model_load_plan import LoadPlan, Machine, ModelLoad, plan_load
from node_agent.core.sizing.facts import DOCUMENTS, MAX_DOCUMENT_BYTES, ModelFiles, parse_facts
from node_agent.core.sizing.fleet_fit import engine_arguments, fallback_arguments, fit_fleet

EXIT_DAMAGED, EXIT_MISSING, EXIT_UNAVAILABLE, EXIT_DISK = 65, 66, 69, 73
MAX_WORKERS = 64


def _require_whole(manifest: Manifest, sizes: dict[str, int], name: str) -> None:
    """Check that every file of the manifest is in the bucket at its length. Raises ModelMissing or ModelDamaged."""
    for file in manifest.files:
        if file.path not in sizes:
            raise ModelMissing(f"models/{name}/{file.path} is not there; push the model again")
        if sizes[file.path] != file.size:
            raise ModelDamaged(
                f"models/{name}/{file.path} has {sizes[file.path]} bytes, not {file.size}; push the model again"
            )


def fetch(
    store: ModelStore, manifest: Manifest, options: argparse.Namespace, gpus: int, report: Callable[[str], None]
) -> LoadPlan:
    """Download or check the model, as the options say. Raises SynktiError, OSError."""
    if options.manifest_sha256 and manifest.digest != options.manifest_sha256:
        raise ModelDamaged(
            f"models/{options.name} has the manifest {manifest.digest}, and {options.manifest_sha256} was deployed; "
            "push the model again, or set model_sha256 to what is there"
        )
    plan = plan_load(
        ModelLoad(options.load),
        Machine(gpus, memory_bytes()),
        manifest.files,
        options.bucket,
        options.name,
        str(options.to),
        options.engine_args,
    )
    if options.load == ModelLoad.STREAM:
        report(f"{'read from S3' if plan.load is ModelLoad.STREAM else 'downloaded'}: {plan.reason}")
    if plan.load is ModelLoad.STREAM:
        _require_whole(manifest, store.sizes(options.name), options.name)
        return plan
    began = time.monotonic()
    download = Downloader(store, ModelFolder(options.to), options.name, workers=options.workers, report=report)
    download.fetch(manifest.files)
    what = f"{len(manifest.files)} files, {gib(manifest.total_bytes)} GiB"
    report(f"whole: {what}; {gib(download.fetched)} GiB came in {time.monotonic() - began:.1f} s")
    return plan


def _sizing_arguments(
    store: ModelStore, manifest: Manifest, options: argparse.Namespace, gpus: int, report: Callable[[str], None]
) -> tuple[str, ...]:
    """Return the engine's arguments that follow from the fleet's GPUs; none without a GPU. Raises SynktiError."""
    if gpus == 0:
        return ()
    sizes = {file.path: file.size for file in manifest.files}
    documents = {path: _document(store, options.name, path, sizes[path]) for path in DOCUMENTS if path in sizes}
    try:
        fleet = fit_fleet(parse_facts(ModelFiles(documents, sizes)), options.instance_types, {}, options.engine_args)
        added = engine_arguments(fleet, gpus, options.engine_args)
    except ValueError as error:
        # doctor reports it before a deployment; vLLM may load the model nevertheless.
        report(f"the engine finds its context length: {error}")
        return fallback_arguments(options.engine_args)
    smallest = fleet.smallest
    if fleet.context is None or smallest is None:
        report(f"the engine finds its context length: {fleet.reason}")
    else:
        report(f"every node has the context of {smallest.instance_type}: {smallest.words}")
    return added


def _document(store: ModelStore, name: str, path: str, size: int) -> bytes:
    """Read a small file of the model from S3; one that is too long is cut, and then no JSON."""
    body = bytearray()
    if size:
        store.read(name, path, 0, min(size, MAX_DOCUMENT_BYTES + 1), body.extend)
    return bytes(body)


def _agents_environ(plan: LoadPlan, engine_args: Sequence[str]) -> str:
    """Format the agent's variables: two lines that a shell and systemd read alike."""
    arguments = json.dumps([*plan.arguments, *engine_args])
    return f"SYNKTI_MODEL_DIR={shlex.quote(plan.model)}\nSYNKTI_ENGINE_ARGS={shlex.quote(arguments)}\n"


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """Fetch or check the model as the arguments and the environment say; return the exit code."""
    options = _options(argv, environ)

    def report(what: str) -> None:
        print(f"model {options.name}: {what}", file=sys.stderr, flush=True)

    try:
        store, gpus = ModelStore(s3_client(options.region, options.workers), options.bucket), count_gpus()
        manifest = store.manifest(options.name)
        plan = fetch(store, manifest, options, gpus, report)
        if options.environ:
            added = _sizing_arguments(store, manifest, options, gpus, report)
            options.environ.write_text(_agents_environ(plan, (*added, *options.engine_args)))
    except ModelMissing as error:
        return _failed(report, error, EXIT_MISSING)
    except ModelDamaged as error:
        return _failed(report, error, EXIT_DAMAGED)
    except SynktiError as error:
        return _failed(report, error, EXIT_UNAVAILABLE)
    except OSError as error:
        return _failed(report, error, EXIT_DISK)
    print(json.dumps(asdict(plan)))
    return 0


def _failed(report: Callable[[str], None], error: Exception, code: int) -> int:
    report(" ".join(str(error).split()))
    return code


def _options(argv: Sequence[str] | None, environ: Mapping[str, str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m node_agent.fetch_model")

    def option(name: str, variable: str, default: str | None = None, **more: object) -> None:
        given = environ.get(variable) or default
        parser.add_argument(name, default=given, required=given is None, **more)  # type: ignore[arg-type]

    parser.add_argument("--to", required=True, type=Path, help="the model's folder")
    parser.add_argument("--environ", type=Path, default=None, help="where to write the settings that the agent needs")
    option("--bucket", MODELS_BUCKET)
    option("--name", MODEL_NAME, type=_name)
    option("--load", MODEL_LOAD, ModelLoad.DOWNLOAD.value, choices=[load.value for load in ModelLoad])
    option("--manifest-sha256", MODEL_SHA256, "", help="what the manifest has to be")
    option("--engine-args", ENGINE_ARGS, "[]", type=_arguments, help="a JSON list for --environ")
    option("--instance-types", INSTANCE_TYPES, "", type=_types, help="the fleet's, with commas between them")
    parser.add_argument("--region", default=None)
    parser.add_argument("--workers", type=_workers, default=16, help="requests at once")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if not is_model_name(text):
        raise argparse.ArgumentTypeError("up to 96 letters, digits, dots, hyphens and underscores")
    return text


def _arguments(text: str) -> list[str]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a JSON list: {error}") from error
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise argparse.ArgumentTypeError("must be a JSON list of texts")
    return value


def _types(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def _workers(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"from 1 to {MAX_WORKERS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
