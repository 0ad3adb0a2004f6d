"""AWS's failures in words for a person: whose mistake it is, and what to do. Nobody sees a stack trace for these."""

from __future__ import annotations

from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import BadConfiguration, CliError, Failed, NoAccess

_SIGN_IN = "aws configure, aws sso login, or set AWS_PROFILE; then: aws sts get-caller-identity"

_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.NoAuthTokenError,
)
_BAD_CREDENTIALS = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "AuthFailure",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
    }
)
_NOT_ALLOWED = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedException", "403", "Forbidden"}
)
_BUSY = frozenset({"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"})


def explained(error: BotoCoreError | ClientError) -> CliError:
    """The same failure as an error of this command."""
    return _answered(error) if isinstance(error, ClientError) else _unanswered(error)


def error_code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _answered(error: ClientError) -> CliError:
    code = error_code(error)
    said = str(error.response.get("Error", {}).get("Message", "")) or code
    if code in _BAD_CREDENTIALS:
        return NoAccess(f"AWS does not accept these credentials ({code})", _SIGN_IN)
    if code in _NOT_ALLOWED:
        return NoAccess(
            f"these credentials may not do {error.operation_name}: {said}",
            "ask for the permission; docs/gitops.md lists what each command needs",
        )
    if code == "OptInRequired":
        return NoAccess(
            f"the account is not signed up for this ({said})", "enable the region or service in AWS's console"
        )
    if code in _BUSY:
        return Failed(f"AWS is asked too often ({code})", "wait a minute and run the command again")
    return Failed(f"{error.operation_name} failed: {said} ({code})")


def _unanswered(error: BotoCoreError) -> CliError:
    if isinstance(error, aws.ProfileNotFound):
        return NoAccess(f"{error}", "see ~/.aws/config for the profiles there are, or leave out --profile")
    if isinstance(error, _NO_CREDENTIALS):
        return NoAccess(f"no AWS credentials: {error}", _SIGN_IN)
    if isinstance(error, aws.NoRegionError):
        return BadConfiguration("no AWS region is set", "--region us-east-1, AWS_REGION, or region in synkti.toml")
    if isinstance(error, aws.InvalidRegionError):
        return BadConfiguration(f"{error}", "a region is named like us-east-1")
    if isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.ReadTimeoutError):
        return Failed(
            f"AWS cannot be reached: {error}",
            "is the region's name right, and is there a network? (AWS_ENDPOINT_URL changes where AWS is)",
        )
    return Failed(f"AWS could not be asked: {error}")
