"""Convert AWS's errors to errors of this command, with a cause and an advice instead of a stack trace."""

from __future__ import annotations

from botocore import exceptions as aws
from botocore.exceptions import BotoCoreError, ClientError

from cli.errors import BadConfiguration, CliError, Failed, NoAccess

SIGN_IN_ADVICE = "aws configure, aws sso login, or set AWS_PROFILE; then: aws sts get-caller-identity"
CONTINUE_ADVICE = "then run the same command again: it continues where it stopped"

_CREDENTIAL_ERRORS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.NoAuthTokenError,
)
_EXPIRED_CODES = frozenset({"ExpiredToken", "ExpiredTokenException", "RequestExpired"})
_BAD_CREDENTIAL_CODES = frozenset(
    {
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "InvalidAccessKeyId",
        "AuthFailure",
        "SignatureDoesNotMatch",
        "RequestTimeTooSkewed",
    }
)
_ACCESS_DENIED_CODES = frozenset(
    {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "UnauthorizedException", "403", "Forbidden"}
)
_THROTTLING_CODES = frozenset(
    {"Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "SlowDown"}
)


def to_cli_error(error: BotoCoreError | ClientError) -> CliError:
    """Convert an error of botocore."""
    return _from_response(error) if isinstance(error, ClientError) else _from_botocore(error)


def error_code(error: ClientError) -> str:
    """Return the error's code, such as AccessDenied; empty where the response has none."""
    return str(error.response.get("Error", {}).get("Code", ""))


def _from_response(error: ClientError) -> CliError:
    code = error_code(error)
    message = str(error.response.get("Error", {}).get("Message", "")) or code
    if code in _EXPIRED_CODES:
        return NoAccess(
            f"AWS does not accept these credentials any more ({code})", f"{SIGN_IN_ADVICE}; {CONTINUE_ADVICE}"
        )
    if code in _BAD_CREDENTIAL_CODES:
        return NoAccess(f"AWS does not accept these credentials ({code})", SIGN_IN_ADVICE)
    if code in _ACCESS_DENIED_CODES:
        return NoAccess(
            f"these credentials may not do {error.operation_name}: {message}",
            "ask for the permission; docs/gitops.md lists what each command needs",
        )
    if code == "OptInRequired":
        return NoAccess(
            f"the account is not signed up for this ({message})", "enable the region or service in AWS's console"
        )
    if code in _THROTTLING_CODES:
        return Failed(f"AWS throttles requests ({code})", "wait a minute and run the command again")
    return Failed(f"{error.operation_name} failed: {message} ({code})")


def _from_botocore(error: BotoCoreError) -> CliError:
    if isinstance(error, aws.ProfileNotFound):
        return NoAccess(f"{error}", "see ~/.aws/config for the profiles there are, or leave out --profile")
    if isinstance(error, _CREDENTIAL_ERRORS):
        return NoAccess(f"no AWS credentials: {error}", SIGN_IN_ADVICE)
    if isinstance(error, aws.NoRegionError):
        return BadConfiguration("no AWS region is set", "--region us-east-1, AWS_REGION, or region in synkti.toml")
    if isinstance(error, aws.InvalidRegionError):
        return BadConfiguration(f"{error}", "a region is named like us-east-1")
    if isinstance(error, aws.EndpointConnectionError | aws.ConnectTimeoutError | aws.ReadTimeoutError):
        return Failed(
            f"AWS cannot be reached: {error}",
            "is the region's name right, and is there a network? (AWS_ENDPOINT_URL changes where AWS is)",
        )
    return Failed(f"the request to AWS failed: {error}")
