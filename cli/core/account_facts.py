"""What exists in the account already, and which settings follow from it.

Such settings are found once and written into synkti.toml. A synthesis then looks nothing up: it needs no credentials,
and gives the same templates on a laptop, in a pull request and in the deployment.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.core.doctor_inputs import Result, Unavailable
from cli.core.network import Vpc, found_ids
from cli.core.settings_file import Value
from stacks.settings import FleetSettings


@dataclass(frozen=True)
class AccountFacts:
    """What was found."""

    vpc: Result[Vpc | None]
    """The VPC that the settings name, or the default one; None where there is none, or a new one is made."""


def missing_settings(settings: FleetSettings, facts: AccountFacts) -> dict[str, Value]:
    """Return the settings that the file lacks and the account answers, by name."""
    found: dict[str, Value] = {}
    if settings.vpc != "new" and isinstance(facts.vpc, Vpc):
        found |= found_ids(settings, facts.vpc)
    return found


NOT_LOOKED_AT = AccountFacts(vpc=Unavailable("not looked at"))
