"""Parse and validate one setting's value, from TOML (typed) or the command line (text).

Every parser returns the setting's value. It raises ValueError with a message of what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import Any

from node_agent.contract.client_requests import GUARDED_FIELDS, OPTIONAL_ROUTES, is_field_name, is_media_domain
from node_agent.contract.hub import parse_hub_name
from node_agent.contract.models import is_model_name
from node_agent.contract.names import is_cluster_name, is_origin
from stacks.partition import partition_problem

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9-]+")
_REPOSITORY = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,38})/[A-Za-z0-9._-]{1,100}")
_REGION = re.compile(r"[a-z]{2,4}(-[a-z]+)+-\d")
_BRANCH = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_LOG_DAYS = (1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731)
"""The retention periods of CloudWatch Logs, up to two years."""


def cluster(value: Any) -> str:
    """Parse a cluster's name: 2-20 lower case letters, digits and hyphens, beginning with a letter."""
    if not is_cluster_name(str(value)):
        raise ValueError("2-20 lower case letters, digits and hyphens, beginning with a letter")
    return str(value)


def int_in(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers from low to high (inclusive)."""

    def parse(value: Any) -> int:
        if isinstance(value, bool | float):
            raise ValueError("must be a whole number")
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise ValueError("must be a whole number") from None
        if not low <= number <= high:
            raise ValueError(f"must be from {low} to {high}")
        return number

    return parse


def int_in_or_zero(low: int, high: int) -> Callable[[Any], int]:
    """Return a parser as `int_in`, which also accepts 0; 0 turns a feature off."""

    def parse(value: Any) -> int:
        return 0 if str(value) == "0" else int_in(low, high)(value)

    return parse


def one_of(*choices: str) -> Callable[[Any], str]:
    """Return a parser that accepts one of these texts."""

    def parse(value: Any) -> str:
        if str(value) not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return parse


def boolean(value: Any) -> bool:
    """Parse true or false, in any case; TOML's booleans are as good."""
    if str(value).lower() not in ("true", "false"):
        raise ValueError("must be true or false")
    return str(value).lower() == "true"


def log_days(value: Any) -> int:
    """Parse one of the retention periods of CloudWatch Logs, in days."""
    days = int_in(1, 731)(value)
    if days not in _LOG_DAYS:
        raise ValueError(f"CloudWatch supports {', '.join(map(str, _LOG_DAYS))} days")
    return days


def string_list(value: Any) -> tuple[str, ...]:
    """Parse a list, or a comma-separated text from the command line. May be empty."""
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    return tuple(str(item).strip() for item in items if str(item).strip())


def arguments(value: Any) -> tuple[str, ...]:
    """Parse a list, or a text separated by blanks. May be empty."""
    items = [str(item) for item in value] if isinstance(value, list | tuple) else str(value).split()
    if any(character in item for item in items for character in "'\"\\\n$`"):
        raise ValueError("arguments have no quotes, backslashes, dollars or line ends")
    return tuple(items)


def instance_types(value: Any) -> tuple[str, ...]:
    """Parse a list of EC2 instance types: at least one, none twice. Their order is the preference."""
    found = string_list(value)
    if not found:
        raise ValueError("must name at least one")
    for each in found:
        if not _INSTANCE_TYPE.fullmatch(each):
            raise ValueError(f"{each!r} is no instance type; they look like g6.xlarge")
    if len(set(found)) != len(found):
        raise ValueError("names one twice")
    return found


def ids(prefix: str) -> Callable[[Any], tuple[str, ...]]:
    """Return a parser of lists of EC2's ids that begin with the prefix, such as subnet-0123456789abcdef0."""
    pattern = re.compile(rf"{prefix}-[0-9a-f]{{8,17}}")

    def parse(value: Any) -> tuple[str, ...]:
        found = string_list(value)
        if wrong := [each for each in found if not pattern.fullmatch(each)]:
            raise ValueError(f"{wrong[0]!r} is no id; they look like {prefix}-0123456789abcdef0")
        if len(set(found)) != len(found):
            raise ValueError("names one twice")
        return found

    return parse


def cidrs(value: Any) -> tuple[str, ...]:
    """Parse a list of IPv4 ranges, such as 203.0.113.0/24; host bits must be zero. May be empty."""
    return tuple(str(IPv4Network(each)) for each in string_list(value))


def private_cidrs(value: Any) -> tuple[str, ...]:
    """Parse a list of private IPv4 ranges, such as 10.71.0.0/16; host bits must be zero. May be empty."""
    found = cidrs(value)
    if wrong := [each for each in found if not IPv4Network(each).is_private]:
        raise ValueError(f"{wrong[0]} is not a private range, and what it would read is not encrypted")
    return found


def origins(value: Any) -> tuple[str, ...]:
    """Parse a list of web origins, such as https://chat.example.com, or `*`. May be empty."""
    found = string_list(value)
    if wrong := [each for each in found if not is_origin(each)]:
        raise ValueError(f"{wrong[0]!r} is no origin; they look like https://chat.example.com")
    return found


def optional_routes(value: Any) -> tuple[str, ...]:
    """Parse a list of optional routes, such as /tokenize. May be empty."""
    found = string_list(value)
    if wrong := [each for each in found if each not in OPTIONAL_ROUTES]:
        raise ValueError(f"{wrong[0]!r} is none of the routes {', '.join(sorted(OPTIONAL_ROUTES))}")
    return found


def guarded_fields(value: Any) -> tuple[str, ...]:
    """Parse a list of guarded fields, or of members such as chat_template_kwargs.enable_thinking. May be empty."""
    found = string_list(value)
    if wrong := [each for each in found if not is_field_name(each)]:
        raise ValueError(f"{wrong[0]!r} is none of the fields {', '.join(sorted(GUARDED_FIELDS))}")
    return found


def media_domains(value: Any) -> tuple[str, ...]:
    """Parse a list of domains, such as images.example.com; addresses are none. May be empty."""
    found = string_list(value)
    if wrong := [each for each in found if not is_media_domain(each)]:
        raise ValueError(f"{wrong[0]!r} is no domain: one looks like images.example.com; addresses are not accepted")
    return found


def vpc_cidr(value: Any) -> str:
    """Parse the range of a new VPC: private IPv4, from /16 to /22."""
    network = IPv4Network(str(value))
    if not network.is_private or not 16 <= network.prefixlen <= 22:
        raise ValueError("must be a private range between /16 and /22")
    return str(network)


def percent(value: Any) -> int:
    """Parse a whole number of percent, from 1 to 100."""
    return int_in(1, 100)(value)


def matching(pattern: re.Pattern[str], what: str) -> Callable[[Any], str]:
    """Return a parser of texts that match the pattern; the empty text, which means "not set", is accepted too."""

    def parse(value: Any) -> str:
        text = str(value).strip()
        if text and not pattern.fullmatch(text):
            raise ValueError(f"must be {what}")
        return text

    return parse


def model(value: Any) -> str:
    """Parse a model's name, which is a folder's name in S3 too."""
    if not is_model_name(str(value)):
        raise ValueError("up to 96 letters, digits, dots, hyphens and underscores: it is a folder's name in S3")
    return str(value)


def region(value: Any) -> str:
    """Parse a region's name, such as us-east-1; empty is accepted, as by `matching`."""
    text = matching(_REGION, "a region's name, such as us-east-1")(value)
    if problem := partition_problem(text):
        raise ValueError(problem)
    return text


def hub_model(value: Any) -> str:
    """Parse a model's name on a hub, owner/name or owner/name@revision; the empty text means that there is none."""
    text = str(value).strip()
    return str(parse_hub_name(text)) if text else ""


def branch(value: Any) -> str:
    """Parse a git branch's name, such as main; not empty."""
    if not _BRANCH.fullmatch(str(value)):
        raise ValueError("must be a branch's name, such as main")
    return str(value)


deployment = matching(re.compile(r"[A-Za-z0-9._-]{1,64}"), "a name of up to 64 letters, digits, dots, hyphens")
account = matching(re.compile(r"\d{12}"), "an account's twelve digits")
vpc_id = matching(re.compile(r"vpc-[0-9a-f]{8,17}"), "a VPC's id, vpc-...")
ami_id = matching(re.compile(r"ami-[0-9a-f]{8,17}"), "a machine image's id, ami-...")
certificate = matching(re.compile(r"arn:aws[a-z-]*:acm:\S+:certificate/\S+"), "the ARN of a certificate in ACM")
domain = matching(
    re.compile(r"(?=.{4,253}$)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])"),
    "a name in DNS in lower case, such as llm.example.com",
)
hosted_zone_id = matching(
    re.compile(r"Z[A-Z0-9]{5,31}"), "a hosted zone's id in Route 53, such as Z0123456789ABCDEFGHIJ"
)
oidc_provider = matching(
    re.compile(r"arn:aws[a-z-]*:iam::\d{12}:oidc-provider/token\.actions\.githubusercontent\.com"),
    "the ARN of this account's provider for token.actions.githubusercontent.com",
)
numeric_id = matching(re.compile(r"[1-9]\d{0,18}"), "a number, as GitHub's API has it")
repository = matching(_REPOSITORY, "owner/name")
email = matching(_EMAIL, "an e-mail address")
secret_name = matching(re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}"), "the name of a secret in Secrets Manager, not its ARN")
sha256 = matching(re.compile(r"[0-9a-f]{64}"), "a SHA-256 in 64 lower case hexadecimal digits")
