"""Decide for a fleet of several instance types: one context length and one dtype, those of its smallest type.

A stream continues on any node, so every node has to take the longest context that one of them accepted; and in one
dtype, since KV blocks move between nodes. A node's engine gets them as arguments (`engine_arguments`). Where something
is unknown the engine finds its length by itself (`--max-model-len auto`), and lengths may differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node_agent.core.sizing.engine_options import EngineOptions, read_options
from node_agent.core.sizing.facts import ModelFacts
from node_agent.core.sizing.fit import GIB, Fit, Verdict, fit_model, tensor_parallel_size
from node_agent.core.sizing.gpus import InstanceGpus, Unusable, known_gpus
from node_agent.core.sizing.model_shape import ModelShape, Unsized, read_shape
from node_agent.core.sizing.weights import loaded_bytes


@dataclass(frozen=True)
class FleetFit:
    """A model on a fleet. fits: one for each type, in the order of the setting."""

    fits: tuple[Fit, ...]
    context: int | None
    """Tokens: that of the smallest type which fits; None where the engine has to find it."""

    dtype: str | None
    """Of all nodes, where it is not the model's own; else None."""

    reason: str
    """Why the context is None; "" where it is not."""

    shape: ModelShape | None
    smallest: Fit | None = None
    """The type that sets the context; None where none does."""

    @property
    def refused(self) -> tuple[Fit, ...]:
        """The types that cannot run the model."""
        return tuple(fit for fit in self.fits if fit.verdict is Verdict.REFUSED)

    @property
    def usable_types(self) -> tuple[str, ...]:
        """The other types: those that fit, and those of which it is not known."""
        return tuple(fit.instance_type for fit in self.fits if fit.verdict is not Verdict.REFUSED)


def fit_fleet(
    facts: ModelFacts, types: Sequence[str], gpus: Mapping[str, InstanceGpus | Unusable], arguments: Sequence[str]
) -> FleetFit:
    """Decide for every type of a fleet.

    Args:
        facts: the model's.
        types: the setting `instance_types`.
        gpus: those of the types as EC2 describes them; the table in `gpus` has the rest.
        arguments: the setting `engine_args`.

    Returns:
        The decision for each type, and for the fleet.

    Raises:
        ValueError: config.json or an argument is wrong; the message is a sentence.
    """
    options = read_options(arguments)
    instances = {each: gpus.get(each) or known_gpus(each) for each in types}
    if facts.config is None:
        return _unknown(instances, facts, "the model has no config.json", None)
    shape = read_shape(facts.config)
    if isinstance(shape, Unsized):
        if shape.needs_code and not options.trusts_code:
            raise ValueError(
                f"config.json names Python code of the model's own (auto_map), and {shape.reason}: nodes run no code "
                "of a model, unless engine_args has --trust-remote-code"
            )
        return _unknown(instances, facts, shape.reason, None)
    weights = loaded_bytes(shape, facts.sizes.total())
    if options.unsized:
        return _unknown(instances, facts, f"engine_args has {options.unsized}, whose memory is not computed", shape)
    fits = tuple(_fit_one(shape, weights, each, instance, options) for each, instance in instances.items())
    return _common(shape, fits, options)


def _fit_one(
    shape: ModelShape, weights: int, name: str, instance: InstanceGpus | Unusable | None, options: EngineOptions
) -> Fit:
    if instance is None:
        return Fit(name, Verdict.UNKNOWN, "its GPUs are not known here")
    if isinstance(instance, Unusable):
        return Fit(name, Verdict.REFUSED, f"it {instance.reason}")
    return fit_model(shape, weights, instance, options)


def _common(shape: ModelShape, fits: tuple[Fit, ...], options: EngineOptions) -> FleetFit:
    """Return the fleet's context and dtype, and the fits with both. A float16 type makes every type compute so."""
    fitting = [fit for fit in fits if fit.verdict is Verdict.FITS]
    unknown = [fit.instance_type for fit in fits if fit.verdict is Verdict.UNKNOWN]
    lowered = any(fit.dtype == "float16" for fit in fitting) and shape.dtype != "float16" and not options.sets_dtype
    dtype = "float16" if lowered else None
    if not fitting or unknown:
        reason = f"the GPUs of {', '.join(unknown)} are not known here" if unknown else "no type can run the model"
        return FleetFit(fits, None, dtype, reason, shape)
    smallest = min(fitting, key=lambda fit: fit.context)
    return FleetFit(tuple(fit.at(smallest.context) for fit in fits), smallest.context, dtype, "", shape, smallest)


def _unknown(
    instances: Mapping[str, InstanceGpus | Unusable | None], facts: ModelFacts, reason: str, shape: ModelShape | None
) -> FleetFit:
    """Return a decision without a sum. That weights exceed a type's whole memory is known nevertheless."""
    total = facts.sizes.total()
    if total is not None and isinstance(facts.config, dict) and "float32" in _dtypes(facts.config):
        total //= 2  # vLLM may compute it in 16 bits
    return FleetFit(
        tuple(_without_sum(name, each, total, reason) for name, each in instances.items()), None, None, reason, shape
    )


def _without_sum(name: str, instance: InstanceGpus | Unusable | None, total: int | None, reason: str) -> Fit:
    if isinstance(instance, Unusable):
        return Fit(name, Verdict.REFUSED, f"it {instance.reason}")
    if instance is not None and total is not None and total > instance.count * instance.gpu.memory_bytes:
        memory = f"{instance.count} x {instance.gpu.memory_bytes / GIB:.1f} GiB"
        return Fit(name, Verdict.REFUSED, f"the weights have {total / GIB:.1f} GiB, and its GPUs {memory}")
    return Fit(name, Verdict.UNKNOWN, reason)


def _dtypes(config: Mapping[str, object]) -> tuple[object, ...]:
    return config.get("dtype"), config.get("torch_dtype")


def engine_arguments(fleet: FleetFit, gpus: int, arguments: Sequence[str]) -> tuple[str, ...]:
    """Return what a node adds to the engine's arguments; what `engine_args` sets is left alone.

    Args:
        fleet: the decision, which every node of the fleet makes alike.
        gpus: of this node.
        arguments: the setting `engine_args`.

    Returns:
        Arguments of `vllm serve`. Raises ValueError as `read_options`.
    """
    options = read_options(arguments)
    added: list[str] = []
    if not options.sets_length:
        added += ["--max-model-len", "auto" if fleet.context is None else str(fleet.context)]
    if fleet.dtype is not None and not options.sets_dtype:
        added += ["--dtype", fleet.dtype]
    if fleet.shape is not None and options.tensor_parallel is None and not options.unsized:
        size = tensor_parallel_size(fleet.shape, gpus)
        added += ["--tensor-parallel-size", str(size)] if size > 1 else []
    return tuple(added)


def fallback_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Return what a node adds where nothing could be decided: the engine finds its context length by itself."""
    given = any(word.partition("=")[0].replace("_", "-") == "--max-model-len" for word in arguments)
    return () if given else ("--max-model-len", "auto")
