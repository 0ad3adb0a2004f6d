"""What deployments from GitHub need of the account and of the repository."""

from __future__ import annotations

from dataclasses import dataclass

from stacks.settings import FleetSettings

ISSUER = "token.actions.githubusercontent.com"
AUDIENCE = "sts.amazonaws.com"


@dataclass(frozen=True)
class Repository:
    """A repository at GitHub. name: owner/name as GitHub spells it; the numbers never change."""

    name: str
    owner_id: str
    repository_id: str


@dataclass(frozen=True)
class Provider:
    """The account's identity provider for GitHub; an account has one at most.

    audiences: whom its tokens may be for; is_ours: the cluster's own stack has created it.
    """

    arn: str
    audiences: tuple[str, ...]
    is_ours: bool


def found_github_settings(
    settings: FleetSettings, provider: Provider | None, repository: Repository | None
) -> dict[str, str]:
    """Return the settings that the file lacks, by name. None: there is none, or it could not be read."""
    found: dict[str, str] = {}
    if repository is not None and not settings.github_repository_id:
        found["github_owner_id"] = repository.owner_id
        found["github_repository_id"] = repository.repository_id
    if provider is not None and not provider.is_ours and not settings.github_oidc_provider:
        found["github_oidc_provider"] = provider.arn
    return found


def provider_problem(settings: FleetSettings, provider: Provider | None) -> tuple[str, str]:
    """Return what is wrong with the account's provider, and what to do; empty where nothing is."""
    named = settings.github_oidc_provider
    if named and provider is None:
        return f"the account has no identity provider {named}", "remove github_oidc_provider: the stack then creates it"
    if named and provider is not None and provider.arn != named:
        return f"the account's provider is {provider.arn}, not {named}", f'set github_oidc_provider = "{provider.arn}"'
    if provider is not None and AUDIENCE not in provider.audiences:
        command = "aws iam add-client-id-to-open-id-connect-provider"
        return (
            f"{provider.arn} accepts no tokens for {AUDIENCE}",
            f"{command} --open-id-connect-provider-arn {provider.arn} --client-id {AUDIENCE}",
        )
    return "", ""


def repository_problem(settings: FleetSettings, repository: Repository) -> tuple[str, str]:
    """Return how the settings differ from the repository, and what to do; empty where they do not."""
    if settings.github_repository != repository.name:
        found = f"GitHub spells it {repository.name}, as its tokens do, and synkti.toml {settings.github_repository}"
        return found, f'set github_repository = "{repository.name}"'
    numbers = (settings.github_owner_id, settings.github_repository_id)
    if settings.github_repository_id and numbers != (repository.owner_id, repository.repository_id):
        return (
            f"the numbers {' and '.join(numbers)} are not those of {repository.name}",
            f'set github_owner_id = "{repository.owner_id}" and github_repository_id = "{repository.repository_id}"',
        )
    return "", ""
