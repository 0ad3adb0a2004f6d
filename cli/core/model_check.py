"""Find what is missing in a model from its files' names and small documents; each fault names the file.

Nodes treat a model with a manifest as complete, and engines exit on an incomplete one. So models that vLLM could not
load are refused before they are pushed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS; git lfs pull fetches the file",
    b"/annex/objects/": "git-annex; git annex get fetches the file",
}
"""The start of files that are only pointers to the real ones, and the tool that created them."""

MAX_POINTER_BYTES = 1024
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler|trainer_state).*")
_PARTIAL_SUFFIXES = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download", ".tmp")
_SHARD = re.compile(r"(.*?)(\d{5})-of-(\d{5})(\.[A-Za-z]+)")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_TOKENIZER_NAMES = re.compile(r"tokenizer\.model\.v\d.*|.*\.tiktoken|tokenization_.*\.py|.*\.spm|.*bpe\.model")
_INDEX = ".index.json"
_MAX_NAMED = 3
_DOWNLOAD_AGAIN = "complete the download and push again"


def is_weights(path: str) -> bool:
    """Return True for a file that an engine reads as weights."""
    return path.endswith(WEIGHTS) and _NO_WEIGHTS.fullmatch(PurePosixPath(path).name) is None


def name_faults(paths: Collection[str]) -> list[str]:
    """Return the faults that the names show. paths: of the files to push, relative to the model's folder."""
    partial = [path for path in paths if path.endswith(_PARTIAL_SUFFIXES)]
    faults = [f"{path} is left of an interrupted download; {_DOWNLOAD_AGAIN}" for path in partial]
    weights = [path for path in paths if is_weights(path)]
    is_gguf = any(path.endswith(".gguf") for path in weights)
    if not any("/" not in path or path.endswith(".gguf") for path in weights):
        elsewhere = f" (only {weights[0]}, in a folder of its own)" if weights else ""
        kinds = "no *.safetensors, *.bin, *.pt or *.gguf"
        faults.append(f"there are no weights in it{elsewhere}: {kinds}; {_DOWNLOAD_AGAIN}")
    if not is_gguf and not any(_is_tokenizer(path) for path in paths):
        faults.append(f"there is no tokenizer in it: none of {', '.join(_TOKENIZERS)}; {_DOWNLOAD_AGAIN}")
    if "vocab.json" in paths and not {"merges.txt", "tokenizer.json", "tokenizer.model"} & set(paths):
        missing = "merges.txt, or tokenizer.json, is missing"
        faults.append(f"vocab.json is a half of a tokenizer: {missing}; {_DOWNLOAD_AGAIN}")
    return faults + _missing_shards(weights)


def _is_tokenizer(path: str) -> bool:
    return path in _TOKENIZERS or _TOKENIZER_NAMES.fullmatch(path) is not None


def _missing_shards(weights: Collection[str]) -> list[str]:
    """Return the missing ones of files named <name>-00001-of-00003.<kind>, also without an index."""
    series: dict[tuple[str, str, str], set[int]] = {}
    for path in weights:
        if (match := _SHARD.fullmatch(path)) is not None:
            series.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    faults = []
    for (name, total, kind), there in sorted(series.items()):
        first = 0 if 0 in there else 1
        lacking = sorted(set(range(first, first + int(total))) - there)
        if lacking:
            missing = _abbreviate([f"{name}{number:05d}-of-{total}{kind}" for number in lacking])
            faults.append(f"{len(lacking)} of {int(total)} shards are missing: {missing}; {_DOWNLOAD_AGAIN}")
    return faults


def is_index(path: str) -> bool:
    """Return True for an index of shards, which names the file of each tensor."""
    return path.endswith(_INDEX)


def index_faults(path: str, document: object, tensors: Mapping[str, Collection[str] | None]) -> list[str]:
    """Return the faults that an index of shards shows. document: the parsed index.

    tensors: the names of the tensors in each file of weights, by path; None where they could not be read.
    """
    kept = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(kept, dict) or not kept or not all(isinstance(shard, str) for shard in kept.values()):
        return [f"{path} names no shards (weight_map); download it again"]
    kind = path.removesuffix(_INDEX).rpartition(".")[2]
    if not any(each.endswith(f".{kind}") for each in tensors) and any(tensors):
        return []  # an index of weights in a format that is not pushed
    folder = path.rpartition("/")[0]
    by_shard: dict[str, set[str]] = {}
    for name, shard in kept.items():
        by_shard.setdefault(f"{folder}/{shard}" if folder else shard, set()).add(name)
    missing = sorted(set(by_shard) - set(tensors))
    faults = (
        [f"{path} names {len(missing)} files that are missing: {_abbreviate(missing)}; {_DOWNLOAD_AGAIN}"]
        if missing
        else []
    )
    for shard in sorted(set(by_shard) - set(missing)):
        there = tensors[shard]
        if there is not None and (lacking := sorted(by_shard[shard] - set(there))):
            faults.append(f"{shard} lacks tensors that {path} says it has: {_abbreviate(lacking)}; download both again")
    return faults


def json_fault(path: str, body: bytes) -> tuple[object, str | None]:
    """Parse a document; return it and its fault. The documents that vLLM reads at the model's root are objects."""
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        return None, f"{path} is no JSON ({error}); download it again"
    if path in ("config.json", "params.json") and not isinstance(document, dict):
        return document, f"{path} is no JSON object; download it again"
    return document, None


def pointer_fault(path: str, first: bytes, size: int) -> str | None:
    """Return the fault of a file that is only a pointer to the real one. first: the file's first bytes."""
    if size > MAX_POINTER_BYTES:
        return None
    tool = next((tool for sign, tool in POINTERS.items() if first.lstrip().startswith(sign)), None)
    return None if tool is None else f"{path} is not the file itself but a pointer of {tool}"


def size_fault(path: str, size: int, right: int, *, exactly: bool) -> str | None:
    """Return the fault of a file of weights whose size differs from its header's. size, right: in bytes."""
    if size < right:
        return f"{path} is cut off: it has {size} bytes of {right}; download it again"
    if exactly and size > right:
        return f"{path} is damaged: it has {size} bytes, its header says {right}; download it again"
    return None


def _abbreviate(names: list[str]) -> str:
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")
