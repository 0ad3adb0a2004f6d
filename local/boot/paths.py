"""Paths inside a container. Imports nothing: the stand-in engine's environment has none of this project's packages."""

from __future__ import annotations

ENGINE_FOLDER = "/opt/boot/engine"
"""The stand-in's environment, in the place of the one with vLLM."""

VLLM_FOLDER = "/opt/boot/vllm"
"""An environment with a real vLLM for CPUs, where an instance is to have one: this machine's, below changes."""

UV_DOWNLOADS = "/opt/boot/uv-downloads.json"
"""uv's document of the archives of CPython that it accepts, where a run has a substitute of the release's."""

CODE_FOLDER = "/opt/boot/code"
ENGINE_ERROR = "/etc/synkti-boot/engine-error"
"""The words with which the stand-in's engine ends at its start; an engine whose image has no such file serves."""
