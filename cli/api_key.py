"""Read the API key with which commands call nodes as a client does."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = ("SYNKTI_API_KEY", "OPENAI_API_KEY")
"""The first one that is set counts."""


def api_key_headers(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the headers of a request with the key of the environment; none where none is set."""
    key = next((environ[name] for name in VARIABLES if environ.get(name)), None)
    return {} if key is None else {"authorization": f"Bearer {key}"}
