"""Parse and validate one setting's value from its text.

Every parser returns the setting's value. It raises ValueError with a message of what is allowed.
"""

from __future__ import annotations

import json
import re
from ipaddress import IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

from node_agent.contract.addresses import read_node_address
from node_agent.contract.client_requests import GUARDED_FIELDS, OPTIONAL_ROUTES, is_field_name, is_media_domain
from node_agent.contract.names import is_cluster_name, is_origin
from node_agent.core.openai.generation_request import MAX_CHOICES
from node_agent.core.policy.cache_salt import SaltMode
from node_agent.core.replication.replicated_log import MAX_REPLICAS

MAX_MODEL_BYTES = 128
"""As `core/membership/wire` has it."""

_DIGITS = re.compile(r"[0-9]{1,18}")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,253}[A-Za-z0-9])?")
_SECRET_ARN = re.compile(r"arn:[a-z-]+:secretsmanager:[a-z0-9-]+:[0-9]{12}:secret:[A-Za-z0-9/_+=.@-]{1,512}")
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LOG_FORMATS = ("text", "json")
_LONGEST = 4_096
_YEAR_S = 366 * 24 * 3600.0


def cluster(text: str) -> str:
    """Parse a cluster's name: 2-20 lower case letters, digits and hyphens, beginning with a letter."""
    if not is_cluster_name(text):
        raise ValueError("2-20 lower case letters, digits and hyphens, beginning with a letter")
    return text


def line(text: str) -> str:
    """Parse a text of one line."""
    if not text.isprintable() or len(text) > _LONGEST:
        raise ValueError(f"a text of one line, no longer than {_LONGEST} characters")
    return text


def model_name(text: str) -> str:
    """Parse a model's name: at most MAX_MODEL_BYTES bytes."""
    if len(line(text).encode()) > MAX_MODEL_BYTES:
        raise ValueError(f"no longer than {MAX_MODEL_BYTES} bytes: it is in every message between nodes")
    return text


def log_level(text: str) -> str:
    """Parse one of the levels of `logging`."""
    if text not in _LEVELS:
        raise ValueError(f"one of {', '.join(_LEVELS)}")
    return text


def log_format(text: str) -> str:
    """Parse the form of log lines."""
    if text not in _LOG_FORMATS:
        raise ValueError(f"one of {', '.join(_LOG_FORMATS)}")
    return text


def path(text: str) -> Path | None:
    """Parse an absolute path; None for an empty text."""
    if not text:
        return None
    if not line(text).startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def durability(text: str) -> str:
    """Parse `peer` or `none`."""
    if text not in ("peer", "none"):
        raise ValueError("peer or none")
    return text


def on_off(text: str) -> bool:
    """Parse `on` or `off`."""
    if text not in ("on", "off"):
        raise ValueError("on or off")
    return text == "on"


def port(text: str) -> int:
    """Parse a port number; 0 is none."""
    if not _DIGITS.fullmatch(text) or not 0 < int(text) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def host(text: str) -> str:
    """Parse a listener's or the engine's host: an IPv4 address, or a name that the host resolves (localhost)."""
    if not _HOST.fullmatch(text):
        raise ValueError("an IPv4 address or a host's name")
    return text


def node_address(text: str) -> str | None:
    """Parse the address to which peers send datagrams; no name, and not IPv6. None for an empty text."""
    if not text:
        return None
    read_node_address(text)
    return text


def endpoint(text: str) -> str:
    """Parse the URL of a local HTTP service: http://host[:port]."""
    parts = urlsplit(text)
    name = parts.hostname or ""
    if parts.scheme != "http" or parts.path.strip("/") or not (":" in name or _HOST.fullmatch(name)):
        raise ValueError("http://host[:port]")
    if ":" in name:  # EC2 has an IPv6 one, too
        IPv6Address(name)
    if parts.port is not None:  # reading it raises ValueError where it is none
        port(str(parts.port))
    return text


def positive_seconds(text: str) -> float:
    """Parse a duration in seconds: more than 0, not more than a year."""
    value = float(text)
    if not 0 < value <= _YEAR_S:
        raise ValueError("must be more than 0, and not more than a year")
    return value


def seconds(text: str) -> float:
    """Parse a duration in seconds: 0 or more, not more than a year."""
    value = float(text)
    if not 0 <= value <= _YEAR_S:
        raise ValueError("must be 0 or more, and not more than a year")
    return value


def size(text: str) -> int:
    """Parse a whole number, 0 or more."""
    if not _DIGITS.fullmatch(text):
        raise ValueError("must be a whole number, and not negative")
    return int(text)


def count(text: str) -> int:
    """Parse a whole number, 1 or more."""
    value = size(text)
    if value < 1:
        raise ValueError("must be 1 or more")
    return value


def replicas(text: str) -> int:
    """Parse the number of a stream's replicas."""
    value = size(text)
    if not 1 <= value < MAX_REPLICAS:
        raise ValueError(f"from 1 to {MAX_REPLICAS - 1}")
    return value


def arguments(text: str) -> tuple[str, ...]:
    """Parse a JSON list of texts. Raises RecursionError, too, for one that is nested too deep."""
    value = json.loads(text)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a JSON list of texts")
    return tuple(value)


def command(text: str) -> tuple[str, ...]:
    """Parse a JSON list of a command and its arguments."""
    value = arguments(text)
    if not value:
        raise ValueError("must not be empty: the command comes first")
    return value


def client_keys(text: str) -> Path | str | None:
    """Parse where the clients' keys lie: `off`, `file:PATH`, `secret:NAME`, or a secret's ARN."""
    kind, _, where = line(text).partition(":")
    if text in ("", "off"):
        return None
    if kind == "file" and where.startswith("/"):
        return Path(where)
    if kind == "secret" and where:
        return where
    if _SECRET_ARN.fullmatch(text):
        return text
    raise ValueError("off, file:/PATH, secret:NAME or the ARN of a secret")


def optional_path(text: str) -> Path | None:
    """Parse an absolute path; `off` and an empty text are None."""
    if text in ("", "off"):
        return None
    if not line(text).startswith("/"):
        raise ValueError("off, or a path from / on")
    return Path(text)


def origins(text: str) -> tuple[str, ...]:
    """Parse web origins with commas between them, or `*`."""
    found = tuple(filter(None, map(str.strip, text.split(","))))
    if wrong := [origin for origin in found if not is_origin(origin)]:
        raise ValueError(f"{wrong[0]!r} is no origin: one looks like https://chat.example.com")
    return found


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, map(str.strip, text.split(","))))


def optional_routes(text: str) -> tuple[str, ...]:
    """Parse paths of optional routes with commas between them."""
    found = _names(text)
    if wrong := [path for path in found if path not in OPTIONAL_ROUTES]:
        raise ValueError(f"{wrong[0]!r} is none of the routes {', '.join(sorted(OPTIONAL_ROUTES))}")
    return found


def guarded_fields(text: str) -> tuple[str, ...]:
    """Parse names of guarded fields, and of members of guarded objects, with commas between them."""
    found = _names(text)
    if wrong := [name for name in found if not is_field_name(name)]:
        raise ValueError(f"{wrong[0]!r} is none of the fields {', '.join(sorted(GUARDED_FIELDS))}")
    return found


def media_domains(text: str) -> tuple[str, ...]:
    """Parse domains with commas between them: DNS names in lower case, no addresses."""
    found = _names(text)
    if wrong := [name for name in found if not is_media_domain(name)]:
        raise ValueError(f"{wrong[0]!r} is no domain: one looks like images.example.com; addresses are not accepted")
    return found


def salt_mode(text: str) -> SaltMode:
    """Parse `shared` or `per-key`."""
    try:
        return SaltMode(text)
    except ValueError:
        raise ValueError("shared or per-key") from None


def choices(text: str) -> int:
    """Parse the bound of one request's answers, which a stream's journal also has."""
    value = count(text)
    if value > MAX_CHOICES:
        raise ValueError(f"from 1 to {MAX_CHOICES}")
    return value
