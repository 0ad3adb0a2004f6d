"""Parse a model's documents into what its size is computed from.

Whoever has the documents reads them: a node from S3, a command from a folder, the models bucket or the hub.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from node_agent.core.sizing.weights import INDEX, WeightSizes

CONFIG = "config.json"
DOCUMENTS = (CONFIG, INDEX)
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""The index of a model of ten thousand tensors has less than a mebibyte."""


@dataclass(frozen=True)
class ModelFiles:
    """A model's files. documents: those of DOCUMENTS that it has, by path; sizes: bytes by path, may be empty."""

    documents: Mapping[str, bytes]
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class ModelFacts:
    """What is read of a model. config: the parsed config.json; None where it has none (GGUF, Mistral's own format)."""

    config: object
    sizes: WeightSizes


def parse_facts(files: ModelFiles) -> ModelFacts:
    """Return the parsed documents. Raises ValueError, whose message begins with the document's name."""
    parsed = {path: _parse(path, body) for path, body in files.documents.items()}
    return ModelFacts(parsed.get(CONFIG), WeightSizes(files.sizes, parsed.get(INDEX)))


def _parse(path: str, body: bytes) -> object:
    if len(body) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{path} has {len(body)} bytes, more than any model's")
    try:
        document: object = json.loads(body.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error})") from error
    if document is None:
        raise ValueError(f"{path} is null")
    return document
