"""Copy a model from a hub into the models bucket: what the build in the region runs, as `python -m cli.hub_job`.

Its variables are those of HubJob. Progress goes to standard error; standard output gets one line, a JSON object with
`copied`, or with `error` (its message, advice and exit code). Where CloudFormation waits for the job, the job responds
to it: with SUCCESS, or with FAILED and the reason. Standard library and boto3 only.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from cli.adapters.hub import Hub, read_documents
from cli.adapters.models_bucket import ModelsBucket
from cli.aws_errors import error_code, to_cli_error
from cli.core.hub import HubModel
from cli.errors import BadConfiguration, CliError, Failed
from cli.exit_codes import ExitCode
from cli.hub_copy import Copied, CopyOptions, HubCopy
from node_agent.contract import environment as env
from node_agent.contract.errors import SynktiError
from node_agent.contract.hub import DEFAULT_HUB, HubName, parse_hub_name
from node_agent.core.sizing.facts import parse_facts
from node_agent.core.sizing.fleet_fit import fit_fleet

ANSWERED = Path("answered")
"""Is written where CloudFormation has its response, so that the build's last phase does not send another one."""

_REPORT_INTERVAL_S = 10.0
_RESPONSE_TIMEOUT_S = 30.0
_MAX_REASON = 1_000
_TRIES = 3


@dataclass(frozen=True)
class HubJob:
    """What a job copies. within_s: how long it may take; None: as long as the build."""

    bucket: str
    name: str
    source: HubName
    token_secret: str = ""
    instance_types: tuple[str, ...] = ()
    engine_args: tuple[str, ...] = ()
    options: CopyOptions = field(default_factory=CopyOptions)
    within_s: float | None = None


def read_job(environ: Mapping[str, str]) -> HubJob:
    """Read a job's variables. Raises BadConfiguration."""
    try:
        within_s = environ.get(env.HUB_WITHIN_S, "")
        return HubJob(
            bucket=environ[env.MODELS_BUCKET],
            name=environ[env.MODEL_NAME],
            source=parse_hub_name(environ[env.MODEL_SOURCE]),
            token_secret=environ.get(env.HUB_TOKEN_SECRET, ""),
            instance_types=tuple(filter(None, environ.get(env.INSTANCE_TYPES, "").split(","))),
            engine_args=tuple(map(str, json.loads(environ.get(env.ENGINE_ARGS) or "[]"))),
            options=CopyOptions(**{name: environ.get(variable) == "true" for name, variable in _FLAGS.items()}),
            within_s=float(within_s) if within_s else None,
        )
    except (KeyError, ValueError, TypeError) as error:
        raise BadConfiguration(f"the job's variables are wrong: {error}") from error


_FLAGS = {"replace": env.HUB_REPLACE, "everything": env.HUB_EVERYTHING, "unchecked": env.HUB_UNCHECKED}


def run_job(job: HubJob, session: Any, hub: Hub, report: Callable[[str], None]) -> Copied:
    """Copy the model. BotoCoreError, ClientError and SynktiError of S3 pass through.

    Args:
        job: what to copy.
        session: boto3's.
        hub: where from.
        report: called with a line about the progress.

    Returns:
        What was copied. Raises CliError.
    """
    model = hub.model(job.source)
    report(f"{model.origin}: {len(model.files)} files, {_gib(sum(file.size for file in model.files))} GiB")
    if not job.options.unchecked:
        _require_fit(job, hub, model, report)
    config = Config(retries={"mode": "standard", "max_attempts": 5}, max_pool_connections=job.options.parallel)
    bucket = ModelsBucket(session.client("s3", config=config), job.bucket, job.options.parallel)
    progress = _Progress(report, job.within_s)
    copied = HubCopy(hub, bucket, job.name, job.options).copy(model, job.source.revision, progress.add)
    report(f"models/{job.name} is a copy of {copied.origin}: {copied.files} files, {_gib(copied.size)} GiB")
    return copied


def hub_of_job(job: HubJob, session: Any, environ: Mapping[str, str]) -> Hub:
    """Return the hub, with the token of the job's secret, if it names one. Raises CliError, ClientError."""
    return Hub(environ.get("HF_ENDPOINT") or DEFAULT_HUB, _secret_token(session, job.token_secret))


def _secret_token(session: Any, secret: str) -> str:
    """Return the hub's token from Secrets Manager; "" where no secret is named. Raises Failed."""
    if not secret:
        return ""
    create = f"aws secretsmanager create-secret --name {secret} --secret-string TOKEN"
    try:
        answer = session.client("secretsmanager").get_secret_value(SecretId=secret)
    except ClientError as error:
        if error_code(error) in ("ResourceNotFoundException", "AccessDeniedException"):
            why = f"the hub's token cannot be read from the secret {secret!r} ({error_code(error)})"
            raise Failed(why, f"create it in this region: {create}; or correct hub_token_secret") from error
        raise
    return str(answer.get("SecretString", "")).strip()


def _require_fit(job: HubJob, hub: Hub, model: HubModel, report: Callable[[str], None]) -> None:
    """Refuse a model that no instance type of the fleet can hold, before it is copied. Raises Failed."""
    if not job.instance_types:
        return
    files = read_documents(hub, model)
    try:
        fleet = fit_fleet(parse_facts(files), job.instance_types, {}, job.engine_args)
    except ValueError as error:
        raise Failed(f"{model.repository}: {error}", f"synkti plan {model.repository} has more") from error
    for fit in fleet.refused:
        report(f"{fit.instance_type} cannot run it: {fit.words}")
    if fleet.refused and not fleet.usable_types:
        raise Failed(
            f"no type of instance_types can run {model.repository}: {fleet.refused[0].words}",
            "choose larger instance_types, or a quantized model; synkti plan shows which fit",
        )


class _Progress:
    """Reports the copied bytes at most every ten seconds, and stops the copy in time."""

    def __init__(self, report: Callable[[str], None], within_s: float | None) -> None:
        self._report = report
        self._within_s = within_s
        self._began = self._reported_at = time.monotonic()
        self._done = 0

    def add(self, count: int) -> None:
        """Count bytes. Raises Failed where the time is up."""
        self._done += count
        now = time.monotonic()
        if self._within_s is not None and now - self._began > self._within_s:
            raise Failed(
                f"{_gib(self._done)} GiB were copied in {self._within_s:.0f} s, and more are missing",
                "deploy again: it continues with the files that are missing",
            )
        if now - self._reported_at >= _REPORT_INTERVAL_S:
            self._reported_at = now
            self._report(f"{_gib(self._done)} GiB, {_gib(self._done / (now - self._began))} GiB/s")


def _gib(count: float) -> str:
    return f"{count / 2**30:.2f}"


def respond(environ: Mapping[str, str], status: str, reason: str) -> None:
    """Send the job's result to CloudFormation, if it waits for it: to a URL that it has signed. Raises OSError."""
    url = environ.get(env.RESPONSE_URL, "")
    if not url:
        return
    document = {**json.loads(environ[env.RESPONSE_FAILED]), "Status": status, "Reason": reason[:_MAX_REASON]}
    for attempt in range(_TRIES):
        # Without a content type, which the URL's signature would have to contain.
        request = urllib.request.Request(  # noqa: S310 # CloudFormation's own URL
            url, data=json.dumps(document).encode(), headers={"Content-Type": ""}, method="PUT"
        )
        try:
            urllib.request.urlopen(request, timeout=_RESPONSE_TIMEOUT_S).close()  # noqa: S310
            break
        except OSError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(2.0**attempt)
    ANSWERED.write_text(status)


def main(environ: Mapping[str, str] = os.environ) -> int:
    """Run the job of the environment; return the exit code."""
    try:
        job, session = read_job(environ), boto3.session.Session()
        copied = run_job(job, session, hub_of_job(job, session, environ), _report)
    except CliError as error:
        failure = error
    except (BotoCoreError, ClientError) as error:
        failure = to_cli_error(error)
    except SynktiError as error:
        failure = Failed(str(error))
    else:
        print(json.dumps({"copied": asdict(copied)}), flush=True)
        return 0 if _responds(environ, "SUCCESS", f"a copy of {copied.origin}") else int(ExitCode.FAILED)
    print(json.dumps(failure.document()), flush=True)
    _responds(environ, "FAILED", "; ".join(filter(None, (failure.message, failure.advice))))
    return int(failure.exit_code)


def _responds(environ: Mapping[str, str], status: str, reason: str) -> bool:
    """Respond to CloudFormation; return False where it cannot be reached."""
    try:
        respond(environ, status, reason)
    except OSError as error:
        _report(f"CloudFormation gets no response, and waits for an hour: {error}")
        return False
    return True


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
