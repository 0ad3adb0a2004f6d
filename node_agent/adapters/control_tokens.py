"""Read a model's control tokens for media from its folder."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from node_agent.core.policy.control_tokens import NO_TOKENS, ControlTokens, control_token_ids, control_token_texts

_CONFIG = "config.json"
_TOKENIZERS = ("added_tokens.json", "tokenizer_config.json", "tokenizer.json")
_MAX_BYTES = 64 * 1024 * 1024
"""Of one file; the largest tokenizers have 30 MB."""

_log = logging.getLogger(__name__)


def read_control_tokens(folder: str) -> ControlTokens:
    """Return the control tokens of the model in a folder; none where it is a model for texts only.

    None are known either where the folder is not on the disk (`model_load=stream`).
    """
    path = Path(folder)
    ids = control_token_ids(_read(path / _CONFIG))
    if not ids:
        return NO_TOKENS
    texts = control_token_texts(ids, {name: _read(path / name) for name in _TOKENIZERS})
    _log.info("the model has %d control tokens for media, of which %d are known as texts", len(ids), len(texts))
    return ControlTokens(texts, ids)


def _read(path: Path) -> Any:
    """Return a JSON file's value; None where there is none, or it cannot be read."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            _log.warning("%s is larger than %d bytes, and is not read", path, _MAX_BYTES)
            return None
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
