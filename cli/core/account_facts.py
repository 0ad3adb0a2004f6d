"""What exists in the account already, and which settings follow from it.

Such settings are found once and written into synkti.toml. A synthesis then looks nothing up: it needs no credentials,
and gives the same templates on a laptop, in a pull request and in the deployment.
"""

from __future__ import annotations

from dataclasses import dataclass

from cli.core.domain import HostedZone
from cli.core.github import Provider, Repository, found_github_settings
from cli.core.network import Vpc, found_ids
from cli.core.result import Result, Unavailable
from cli.core.settings_file import Value
from stacks.settings import FleetSettings


@dataclass(frozen=True)
class ImageFacts:
    """The region's machine images. newest: AWS's newest GPU image, empty where the region has none.

    is_there: the configured image exists; True where none is configured. root_gib: the size of the root volume's
    snapshot, of the configured image or else of the newest one; 0 where it is not known.
    """

    newest: str
    is_there: bool
    root_gib: int = 0


@dataclass(frozen=True)
class KeyFacts:
    """Keys of the account's own in KMS, by their ids or ARNs; empty where AWS's own key is used.

    volumes: the region's default for EBS, by which the nodes' volumes are encrypted; assets: of the CDK's bucket, from
    which nodes read the agent.
    """

    volumes: str = ""
    assets: str = ""


@dataclass(frozen=True)
class AccountFacts:
    """What was found."""

    vpc: Result[Vpc | None]
    """The VPC that the settings name, or the default one; None where there is none, or a new one is made."""

    provider: Result[Provider | None] = None
    """GitHub's identity provider; None where the account has none, or no repository deploys."""

    repository: Result[Repository | None] = None
    """The repository that deploys, as GitHub describes it; None where none does."""

    image: Result[ImageFacts] = ImageFacts(newest="", is_there=True)
    """The machine images."""

    zone: Result[HostedZone | None] = None
    """The hosted zone that the settings name; None where there is none of this id, or none is named."""

    keys: Result[KeyFacts] = KeyFacts()
    """The keys by which volumes and the CDK's assets are encrypted."""


def missing_settings(settings: FleetSettings, facts: AccountFacts) -> dict[str, Value]:
    """Return the settings that the file lacks and the account answers, by name."""
    found: dict[str, Value] = {}
    if settings.vpc != "new" and isinstance(facts.vpc, Vpc):
        found |= found_ids(settings, facts.vpc)
    if settings.github_repository:
        provider = None if isinstance(facts.provider, Unavailable) else facts.provider
        repository = None if isinstance(facts.repository, Unavailable) else facts.repository
        found |= found_github_settings(settings, provider, repository)
    if settings.has_floating_image and isinstance(facts.image, ImageFacts) and facts.image.newest:
        found["base_image_id"] = facts.image.newest
    return found


NOT_LOOKED_AT = AccountFacts(*[Unavailable("not looked at")] * 5)
