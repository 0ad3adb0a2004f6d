"""The step of `synkti bootstrap` that gets the model into the models bucket: from a folder, or from a hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cli.adapters.doctor_collector import model_state
from cli.adapters.model_documents import files_from_here, folder_files
from cli.adapters.model_files import ModelSource, find_model
from cli.adapters.models_bucket import ModelsBucket
from cli.core.doctor_inputs import ModelState
from cli.core.result import Result
from cli.errors import BadUsage, Failed, NotFound
from cli.fleet import Fleet
from cli.hub_copy import CopyOptions
from cli.hub_push import push_from_hub, require_builds
from cli.model import push_model
from cli.terminal import Terminal
from node_agent.contract.hub import HubName, parse_hub_name
from node_agent.core.sizing.facts import ModelFiles
from stacks.settings import FleetSettings

Source: TypeAlias = ModelSource | HubName | None
"""The requested model: a folder, a name on the hub, or none."""


def find_source(given: str | None, settings: FleetSettings | tuple[str, ...]) -> Source:
    """Find the model of `--model`. Raises NotFound; BadUsage where synkti.toml names another one."""
    found = find_model(given, os.environ) if given is not None else None
    wanted = settings.model_source if isinstance(settings, FleetSettings) else ""
    if isinstance(found, HubName) and wanted not in ("", str(found)):
        raise BadUsage(
            f"--model is {found}, and model_source in synkti.toml is {wanted}: a deployment would fetch that one",
            "leave --model out, or change model_source",
        )
    return found


def source_files(source: Source, settings: FleetSettings | tuple[str, ...]) -> Result[ModelFiles] | None:
    """Return what the model's size is computed from. Raises NotFound, Failed, HubRefused."""
    if not isinstance(source, HubName):
        return None if source is None else folder_files(source.folder)
    has_token = isinstance(settings, FleetSettings) and bool(settings.hub_token_secret)
    return files_from_here(source, os.environ, build_has_token=has_token)


@dataclass
class ModelStep:
    """The step. bucket: its name; deploy_build: deploys the stack whose builds copy models from a hub."""

    terminal: Terminal
    fleet: Fleet
    bucket: str
    settings: FleetSettings
    deploy_build: Callable[[], None]
    digest: str = ""
    """Of the model in the bucket, after `run`."""

    def run(self, source: Source) -> list[str]:
        """Get the model into the bucket, and check that it has all of it.

        CliError and AWS's errors of a push pass through.

        Args:
            source: the requested model.

        Returns:
            What was changed.

        Raises:
            NotFound: the bucket has no whole model.
        """
        name = self.settings.model
        if isinstance(source, ModelSource):
            changed = push_model(self.fleet, source, name, self.terminal, in_bootstrap=True).sent_bytes > 0
        else:
            changed = self._fetch(source)
        seen = self._state()
        if not seen.manifest or seen.missing:
            raise NotFound(
                f"the model {name!r} is not in {self.bucket}, or not complete: its nodes could not start",
                "run this again with --model DIR, or --model OWNER/NAME for one on the hub; or push it: "
                f"synkti model push DIR --name {name}",
            )
        self._check_digest(seen)
        self.digest = seen.digest
        self.terminal.status(f"the model {name!r} is there ({seen.digest[:12]})")
        return [f"models/{name}"] if changed else []

    def _fetch(self, source: HubName | None) -> bool:
        """Copy the model from the hub, if one is requested, or synkti.toml names one that is not there yet.

        The deployment of the model stack copies what synkti.toml names.

        Args:
            source: the requested model.

        Returns:
            Whether the bucket has a model that it had not.
        """
        settings, was_whole = self.settings, self._is_whole()
        wanted = source or (parse_hub_name(settings.model_source) if settings.model_source else None)
        if wanted is None or (was_whole and source is None):
            return False
        require_builds(self.fleet.account.region)
        self.deploy_build()
        if source is not None or not self._is_whole():
            push_from_hub(self.fleet, wanted, settings.model, self.terminal, CopyOptions(), in_bootstrap=True)
        if not settings.model_source:
            self.terminal.status(f'with model_source = "{wanted}" in synkti.toml, cdk deploy fetches it, too')
        return not was_whole

    def _state(self) -> ModelState:
        return model_state(ModelsBucket(self.fleet.account.client("s3"), self.bucket), self.settings.model)

    def _is_whole(self) -> bool:
        seen = self._state()
        return seen.manifest and not seen.missing

    def _check_digest(self, seen: ModelState) -> None:
        wanted = self.settings.model_sha256
        if wanted not in ("", seen.digest):
            raise Failed(
                f"the model in the bucket has the SHA-256 {seen.digest}, and model_sha256 is another",
                f'push the intended one, or set model_sha256 = "{seen.digest}"',
            )
