"""Bring the model to this node, or see that it is whole in S3: what the boot script calls before the agent starts.

    python -m node_agent.fetch_model --bucket BUCKET --name NAME --to FOLDER [--load download|stream]
                                     [--manifest-sha256 HEX] [--region REGION] [--workers 16]

Downloads in parallel ranges, compares every file's SHA-256 with the manifest, goes on where an earlier run was
interrupted, and does nothing where all is there. With `--load stream` nothing is downloaded where vLLM can read the
model from S3; then the objects' sizes are compared with the manifest's. The last line on standard output is a JSON
object: `load`, `model` (what `vllm serve` is given), `arguments` (what is added to its command), `reason`. All else is
told on standard error.

Exit codes, as in sysexits.h: 0 done · 2 bad usage · 65 the model is damaged · 66 there is no such model · 69 S3 does
not answer, or refuses · 73 the disk does not take it. A failure is one line. Standard library and boto3 only.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from node_agent.adapters.model_download import Downloader, gib
from node_agent.adapters.model_folder import ModelFolder, count_gpus
from node_agent.adapters.model_store import Manifest, ModelStore, s3_client
from node_agent.contract.errors import ModelDamaged, ModelMissing, SynktiError
from node_agent.contract.models import is_model_name
from node_agent.core.model_load import LoadPlan, ModelLoad, plan_load

EXIT_DAMAGED, EXIT_MISSING, EXIT_UNAVAILABLE, EXIT_DISK = 65, 66, 69, 73
MAX_WORKERS = 64


def require_whole(manifest: Manifest, sizes: dict[str, int], name: str) -> None:
    """Every file of the manifest is in the bucket at its length. Raises ModelMissing or ModelDamaged."""
    for file in manifest.files:
        if file.path not in sizes:
            raise ModelMissing(f"models/{name}/{file.path} is not there; push the model again")
        if sizes[file.path] != file.size:
            raise ModelDamaged(
                f"models/{name}/{file.path} has {sizes[file.path]} bytes, not {file.size}; push the model again"
            )


def bring(store: ModelStore, options: argparse.Namespace, gpus: int, tell: Callable[[str], None]) -> LoadPlan:
    """Everything that the command does. Raises SynktiError, OSError."""
    manifest = store.manifest(options.name)
    if options.manifest_sha256 and manifest.digest != options.manifest_sha256:
        raise ModelDamaged(
            f"models/{options.name} has the manifest {manifest.digest}, and {options.manifest_sha256} was deployed"
        )
    plan = plan_load(ModelLoad(options.load), gpus, manifest.files, options.bucket, options.name, str(options.to))
    if options.load == ModelLoad.STREAM:
        tell(f"{'read from S3' if plan.load is ModelLoad.STREAM else 'downloaded'}: {plan.reason}")
    if plan.load is ModelLoad.STREAM:
        require_whole(manifest, store.sizes(options.name), options.name)
        return plan
    began = time.monotonic()
    download = Downloader(store, ModelFolder(options.to), options.name, workers=options.workers, tell=tell)
    download.fetch(manifest.files)
    what = f"{len(manifest.files)} files, {gib(manifest.total_bytes)} GiB"
    tell(f"whole: {what}; {gib(download.fetched)} GiB came in {time.monotonic() - began:.1f} s")
    return plan


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)

    def tell(what: str) -> None:
        print(f"model {options.name}: {what}", file=sys.stderr, flush=True)

    try:
        store = ModelStore(s3_client(options.region, options.workers), options.bucket)
        plan = bring(store, options, count_gpus(), tell)
    except ModelMissing as error:
        return _failed(tell, error, EXIT_MISSING)
    except ModelDamaged as error:
        return _failed(tell, error, EXIT_DAMAGED)
    except SynktiError as error:
        return _failed(tell, error, EXIT_UNAVAILABLE)
    except OSError as error:
        return _failed(tell, error, EXIT_DISK)
    print(json.dumps(asdict(plan)))
    return 0


def _failed(tell: Callable[[str], None], error: Exception, code: int) -> int:
    tell(" ".join(str(error).split()))
    return code


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m node_agent.fetch_model", description="Bring the model to this node."
    )
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--name", required=True, type=_name)
    parser.add_argument("--to", required=True, type=Path, help="the model's folder")
    parser.add_argument("--load", choices=[load.value for load in ModelLoad], default=ModelLoad.DOWNLOAD.value)
    parser.add_argument("--manifest-sha256", default="", help="what the manifest has to be")
    parser.add_argument("--region", default=None)
    parser.add_argument("--workers", type=_workers, default=16, help="requests at once")
    return parser.parse_args(argv)


def _name(text: str) -> str:
    if not is_model_name(text):
        raise argparse.ArgumentTypeError("up to 96 letters, digits, dots, hyphens and underscores")
    return text


def _workers(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= MAX_WORKERS:
        raise argparse.ArgumentTypeError(f"from 1 to {MAX_WORKERS}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
