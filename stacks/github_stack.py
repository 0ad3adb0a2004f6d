"""The GitHub stack: a role that the workflow of one repository, on one branch, may assume once it is approved.

A token proves that its job is in an environment of the repository: GitHub signs none before the environment's reviewers
have approved. So AWS enforces the approval, whatever the workflow's file says.

The role may assume the CDK's own roles, which `cdk bootstrap` created and whose permissions are defined there, and
upload packages for nodes, which trust only those whose hashes their release has.
GitHub stores no secret: the workflow authenticates with a token (OIDC) that GitHub signs for each job.
"""

from __future__ import annotations

from aws_cdk import CfnOutput, Duration, RemovalPolicy
from aws_cdk import aws_iam as iam
from constructs import Construct

from node_agent.contract import names
from node_agent.contract.wheelhouse import PREFIX as WHEELS_PREFIX
from stacks.base_image import GPU_AMI_PARAMETER
from stacks.base_stack import BaseStack
from stacks.rollout import JOB_MINUTES
from stacks.settings import FleetSettings

_ISSUER = "token.actions.githubusercontent.com"
_AUDIENCE = "sts.amazonaws.com"
ENVIRONMENT = "production"
"""The environment of the deploying job in .github/workflows/deploy.yml."""

_CDK_ROLES = ("deploy", "file-publishing", "lookup")
"""Roles of `cdk bootstrap`: deploy stacks, upload assets, look up resources. There are no container images here."""


def trusted_claims(settings: FleetSettings, job: str) -> dict[str, str | list[str]]:
    """Return the claims of a token that may assume a role, by IAM's condition keys.

    Args:
        settings: which repository and branch.
        job: the end of the subject: what the job is in, such as `environment:production`.

    Source: GitHub's reference of OpenID Connect, "Immutable subject claims"; the IAM User Guide, "Available keys for
    AWS OIDC federation", for the claims beside `aud` and `sub`.
    """
    claims: dict[str, str | list[str]] = {
        f"{_ISSUER}:aud": _AUDIENCE,
        f"{_ISSUER}:sub": _subjects(settings, job),
        f"{_ISSUER}:ref": f"refs/heads/{settings.github_branch}",
    }
    if settings.github_repository_id:  # also where the subject has names only, which another owner could take over
        claims[f"{_ISSUER}:repository_id"] = settings.github_repository_id
    return claims


def _subjects(settings: FleetSettings, job: str) -> list[str]:
    """Return the subject by names, and by names with numbers: which one a token has depends on the repository's age."""
    owner, name = settings.github_repository.split("/")
    subjects = [f"repo:{owner}/{name}:{job}"]
    if settings.github_repository_id:
        subjects.append(f"repo:{owner}@{settings.github_owner_id}/{name}@{settings.github_repository_id}:{job}")
    return subjects


class GithubStack(BaseStack):
    """A stack of its own, because the embedded AWS has no identity providers."""

    def __init__(self, scope: Construct, settings: FleetSettings) -> None:
        super().__init__(scope, settings, "github", f"deployments from {settings.github_repository}")
        provider = self._provider(settings)
        role = iam.Role(
            self,
            "Deployer",
            role_name=names.github_role_name(settings.cluster),
            description=f"Pushes to {settings.github_branch} of {settings.github_repository} deploy with this",
            max_session_duration=Duration.minutes(JOB_MINUTES),
            assumed_by=iam.WebIdentityPrincipal(
                provider,
                {"StringEquals": trusted_claims(settings, f"environment:{ENVIRONMENT}")},
            ),
        )
        role.add_to_policy(
            iam.PolicyStatement(
                sid="BecomeTheCdk",
                actions=["sts:AssumeRole"],
                resources=[self._cdk_role(kind) for kind in _CDK_ROLES],
            )
        )
        for statement in self._package_statements(settings):
            role.add_to_policy(statement)
        CfnOutput(self, "DeployRoleArn", value=role.role_arn)
        self._add_watcher(settings, provider)

    def _package_statements(self, settings: FleetSettings) -> tuple[iam.PolicyStatement, ...]:
        """Return statements that allow completing the wheelhouse."""
        name = names.models_bucket_name(settings.cluster, self.account, self.region)
        bucket = self.format_arn(service="s3", region="", account="", resource=name)
        return (
            iam.PolicyStatement(
                sid="WritePackages",
                actions=["s3:GetObject", "s3:PutObject", "s3:AbortMultipartUpload"],
                resources=[f"{bucket}/{WHEELS_PREFIX}*"],
            ),
            iam.PolicyStatement(
                sid="ListPackages",
                actions=["s3:ListBucket"],
                resources=[bucket],
                conditions={"StringLike": {"s3:prefix": [f"{WHEELS_PREFIX}*"]}},
            ),
        )

    def _add_watcher(self, settings: FleetSettings, provider: str) -> None:
        """Add the role that reads which of AWS's images is the newest, on the branch, without an approval."""
        role = iam.Role(
            self,
            "Watcher",
            role_name=names.github_watcher_name(settings.cluster),
            description=f"{settings.github_repository} looks for a newer machine image with this",
            max_session_duration=Duration.hours(1),
            assumed_by=iam.WebIdentityPrincipal(
                provider, {"StringEquals": trusted_claims(settings, f"ref:refs/heads/{settings.github_branch}")}
            ),
        )
        name = GPU_AMI_PARAMETER.removeprefix("/")
        parameter = self.format_arn(service="ssm", account="", resource="parameter", resource_name=name)
        role.add_to_policy(
            iam.PolicyStatement(sid="ReadNewestImage", actions=["ssm:GetParameter"], resources=[parameter])
        )

    def _provider(self, settings: FleetSettings) -> str:
        if settings.github_oidc_provider:
            return settings.github_oidc_provider
        # No thumbprints: AWS verifies GitHub's certificate with its own certificate authorities.
        provider = iam.CfnOIDCProvider(self, "Provider", url=f"https://{_ISSUER}", client_id_list=[_AUDIENCE])
        provider.apply_removal_policy(RemovalPolicy.RETAIN)  # an account has one, and others may use it by then
        return provider.attr_arn

    def _cdk_role(self, kind: str) -> str:
        name = f"cdk-hnb659fds-{kind}-role-{self.account}-{self.region}"
        return self.format_arn(service="iam", region="", resource="role", resource_name=name)
