"""What is missing in a model, as its files' names and small documents show it; each fault names the file.

A node takes a model with a manifest for a whole one, and a fleet of nodes whose engines end at half a model serves
nothing. So what vLLM could not load is refused before it is pushed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS; git lfs pull brings the file",
    b"/annex/objects/": "git-annex; git annex get brings the file",
}
"""What a file begins with that stands for another one, and which tool left it there."""

MAX_POINTER_BYTES = 1024
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_NO_WEIGHTS = re.compile(r"(training_args|optimizer|scheduler|rng_state|scaler|trainer_state).*")
_LEFT_OVER = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".download", ".tmp")
_SHARD = re.compile(r"(.*?)(\d{5})-of-(\d{5})(\.[A-Za-z]+)")
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_TOKENIZER_NAMES = re.compile(r"tokenizer\.model\.v\d.*|.*\.tiktoken|tokenization_.*\.py|.*\.spm|.*bpe\.model")
_INDEX = ".index.json"
_NAMED = 3
_AGAIN = "complete the download and push again"


def is_weights(path: str) -> bool:
    """Whether an engine would read it as weights."""
    return path.endswith(WEIGHTS) and _NO_WEIGHTS.fullmatch(PurePosixPath(path).name) is None


def name_faults(paths: Collection[str]) -> list[str]:
    """What the names alone show. paths: of the files that are to be pushed, from the model's folder on."""
    faults = [f"{path} is left of an interrupted download; {_AGAIN}" for path in paths if path.endswith(_LEFT_OVER)]
    weights = [path for path in paths if is_weights(path)]
    is_gguf = any(path.endswith(".gguf") for path in weights)
    if not any("/" not in path or path.endswith(".gguf") for path in weights):
        elsewhere = f" (only {weights[0]}, in a folder of its own)" if weights else ""
        faults.append(f"there are no weights in it{elsewhere}: no *.safetensors, *.bin, *.pt or *.gguf; {_AGAIN}")
    if not is_gguf and not any(_is_tokenizer(path) for path in paths):
        faults.append(f"there is no tokenizer in it: none of {', '.join(_TOKENIZERS)}; {_AGAIN}")
    if "vocab.json" in paths and not {"merges.txt", "tokenizer.json", "tokenizer.model"} & set(paths):
        faults.append(f"vocab.json is a half of a tokenizer: merges.txt, or tokenizer.json, is missing; {_AGAIN}")
    return faults + _missing_shards(weights)


def _is_tokenizer(path: str) -> bool:
    return path in _TOKENIZERS or _TOKENIZER_NAMES.fullmatch(path) is not None


def _missing_shards(weights: Collection[str]) -> list[str]:
    """Of files called <name>-00001-of-00003.<kind>, also without an index."""
    series: dict[tuple[str, str, str], set[int]] = {}
    for path in weights:
        if (match := _SHARD.fullmatch(path)) is not None:
            series.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    faults = []
    for (name, total, kind), there in sorted(series.items()):
        first = 0 if 0 in there else 1
        lacking = sorted(set(range(first, first + int(total))) - there)
        if lacking:
            missing = _some([f"{name}{number:05d}-of-{total}{kind}" for number in lacking])
            faults.append(f"{len(lacking)} of {int(total)} shards are missing: {missing}; {_AGAIN}")
    return faults


def is_index(path: str) -> bool:
    return path.endswith(_INDEX)


def index_faults(path: str, document: object, tensors: Mapping[str, Collection[str] | None]) -> list[str]:
    """What an index of shards shows. document: as it was parsed.

    tensors: by path, the names of what is in each file of weights; None where that could not be read.
    """
    kept = document.get("weight_map") if isinstance(document, dict) else None
    if not isinstance(kept, dict) or not kept or not all(isinstance(shard, str) for shard in kept.values()):
        return [f"{path} names no shards (weight_map); download it again"]
    kind = path.removesuffix(_INDEX).rpartition(".")[2]
    if not any(each.endswith(f".{kind}") for each in tensors) and any(tensors):
        return []  # of weights in a format that was left out; there are others
    folder = path.rpartition("/")[0]
    by_shard: dict[str, set[str]] = {}
    for name, shard in kept.items():
        by_shard.setdefault(f"{folder}/{shard}" if folder else shard, set()).add(name)
    missing = sorted(set(by_shard) - set(tensors))
    faults = [f"{path} names {len(missing)} files that are missing: {_some(missing)}; {_AGAIN}"] if missing else []
    for shard in sorted(set(by_shard) - set(missing)):
        there = tensors[shard]
        if there is not None and (lacking := sorted(by_shard[shard] - set(there))):
            faults.append(f"{shard} lacks tensors that {path} says it has: {_some(lacking)}; download both again")
    return faults


def json_fault(path: str, body: bytes) -> tuple[object, str | None]:
    """A document, and why it cannot be read; what vLLM reads at the model's root is an object."""
    try:
        document = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        return None, f"{path} is no JSON ({error}); download it again"
    if path in ("config.json", "params.json") and not isinstance(document, dict):
        return document, f"{path} is no JSON object; download it again"
    return document, None


def pointer_fault(path: str, first: bytes, size: int) -> str | None:
    """Where a file stands for another one. first: its first bytes, as many as a pointer's beginning has."""
    if size > MAX_POINTER_BYTES:
        return None
    tool = next((tool for sign, tool in POINTERS.items() if first.lstrip().startswith(sign)), None)
    return None if tool is None else f"{path} is not the file itself but a pointer of {tool}"


def size_fault(path: str, size: int, right: int, *, exactly: bool) -> str | None:
    """Where a file of weights has not the length that its own head says. size, right: in bytes."""
    if size < right:
        return f"{path} is cut off: it has {size} bytes of {right}; download it again"
    if exactly and size > right:
        return f"{path} is damaged: it has {size} bytes, its header says {right}; download it again"
    return None


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
