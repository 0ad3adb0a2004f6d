"""The first synkti.toml of a deployment: what is asked for, and the file's text."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cli.core.settings_file import Value, with_settings
from node_agent.contract.hub import parse_hub_name
from stacks.settings import FleetSettings, from_values


@dataclass(frozen=True)
class Question:
    """A setting that `synkti init` asks for. default: what an empty answer means; in the form of an option."""

    setting: str
    text: str
    default: str


_DEFAULTS = FleetSettings()
QUESTIONS = (
    Question("region", "The AWS region; empty: that of your AWS configuration", ""),
    Question("cluster", "The cluster's name", _DEFAULTS.cluster),
    Question("model", "The model: a name on the hub (owner/name), or one that you will push", _DEFAULTS.model),
    Question("instance_types", "Instance types (synkti plan MODEL compares them)", ",".join(_DEFAULTS.instance_types)),
    Question("nodes", "The number of nodes", str(_DEFAULTS.nodes)),
    Question("client_cidrs", "Who may call the nodes, as IPv4 ranges; empty: only through synkti connect", ""),
    Question("alarm_email", "Who gets mail of alarms; empty: nobody", ""),
)


def first_settings(answers: Mapping[str, str]) -> dict[str, Value]:
    """Convert answers to settings.

    Args:
        answers: by setting, as options are given: lists with commas.

    Returns:
        The settings that differ from their defaults, so that the file shows what was chosen.
    """
    found: dict[str, Value] = {}
    for name, answer in answers.items():
        if name == "model" and "/" in answer:
            found["model_source"] = answer
            found["model"] = _hub_model_name(answer)
        else:
            found[name] = _value(name, answer)
    return {name: value for name, value in found.items() if value != getattr(_DEFAULTS, name)}


def faults_of(values: Mapping[str, Value]) -> tuple[str, ...]:
    """Return texts that TOML would need to escape; no setting has any."""
    every = [(name, each) for name, value in values.items() for each in _texts(value)]
    return tuple(
        f"{name}: {each!r} has a quote, a backslash or a control character"
        for name, each in every
        if not each.isprintable() or '"' in each or "\\" in each
    )


def settings_text(shipped: str, values: Mapping[str, Value]) -> str:
    """Return the file's text: every setting with its comment, and the chosen ones without the # in front.

    Raises ConfigurationError with all faults of the values, as a deployment would; Failed as `with_settings`.
    """
    text = with_settings(shipped, values)
    from_values(tomllib.loads(text), lambda _: None)
    return text


def _value(name: str, answer: str) -> Value:
    default = getattr(_DEFAULTS, name)
    if isinstance(default, tuple):
        return tuple(each.strip() for each in answer.split(",") if each.strip())
    # What is no number is left to the settings' own check, which reports all faults together.
    return int(answer) if isinstance(default, int) and answer.isascii() and answer.isdigit() else answer


def _hub_model_name(source: str) -> str:
    try:
        return parse_hub_name(source).model_name
    except ValueError:  # the settings' own check reports it
        return _DEFAULTS.model


def _texts(value: Value) -> Iterable[str]:
    if isinstance(value, str):
        return (value,)
    return value if isinstance(value, tuple) else ()
