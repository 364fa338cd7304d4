"""A causal language model as two programs, as its ecosystem keeps them in two files: the prefill, and the decode step behind it.

One file with an `If` breaks runtimes, and one whose cache may be empty could not hold what only pays in a prefill.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..cost_model.errors import InputError
from ..cost_model.plan import Phase, Workload
from ..cost_model.program import Program
from ..models.cache_names import past_names
from .fault_text import fault_text
from .handover import IDS, MASK, Handover
from .load import Loaded, loaded_folder, open_folder
from .programs import Part, Programs, single
from .runtime_torch import torch_runner
from .sample import with_sample
from .trace_torch import trace_module
from .workload import longest_length, workload_for

PREFILL, DECODE = "prefill", "decode"
STEPS = 64
BATCH, NEW, PAST = "batch", "sequence", "past"
BOTH = f"{PAST} + {NEW}"
NO_CACHE = "{} is rewritten as one program without a cache, which reads all tokens again for each new one: {}."
DEFAULT = "Without --shape the workload is one prefill of the sample and {} decode steps behind it, all at the context of the middle one."
AS_IT_IS = "No shape asks for a prefill, so that the prefill is written as it is."


def language_model(source: str, sample: Any, asked: Workload | None) -> Programs:
    """The prefill and the decode step of the transformers folder behind `source` ("hf:DIR"), the phases of `asked` shared out between them.

    Prefill: input_ids, attention_mask -> logits, present.N.key, present.N.value. Decode: those inputs, past_key_values.N.key and .value
    -> the same outputs.

    One program without a cache, and a note, where the model keeps more than keys and values or cannot be traced with them. Raises
    InputError for a folder that cannot be used, shapes that do not fit and a context beyond the positions of the model.
    """
    found, module = open_folder(Path(source.removeprefix("hf:")), "causal-lm", longest_length(asked))
    try:
        prefill, decode, handover = _traced(source, module.model, dict(found.sample), sample)
    except InputError as fault:
        loaded = loaded_folder(found, module, source)
        loaded = loaded if sample is None else replace(loaded, program=with_sample(loaded.program, sample))
        return single(loaded, asked, [NO_CACHE.format(source, str(fault).rstrip("."))])
    limit = getattr(module.model.config.get_text_config(), "max_position_embeddings", None)  # type: ignore[union-attr, operator]
    whole, notes = (workload_for(prefill, asked), ()) if asked else _default(prefill, limit)
    _check_positions(whole, limit, source)
    read = Loaded(prefill, found.calibration, found.metric, found.metric_name, notes=found.notes)
    steps = Loaded(decode, None, found.metric, found.metric_name)
    before = _share([phase for phase in whole.phases if not phase.context])
    behind = _share([_as_decoded(phase, decode) for phase in whole.phases if phase.context])
    notes = notes if before else (*notes, AS_IT_IS)
    return Programs((Part(PREFILL, read, before), Part(DECODE, steps, behind, handover)), whole, notes)


def _traced(source: str, model: Any, text: dict[str, Any], sample: Any) -> tuple[Program, Program, Handover]:
    """Both programs and what joins them. Raises InputError, the reason why there are not two."""
    from ..models.language_model import Decode, Prefill, cache_layers, parameter

    try:
        layers, reason = cache_layers(model)
    except Exception as fault:  # the model's own code
        raise InputError(f"its cache cannot be looked at ({fault_text(fault)})") from fault
    if reason:
        raise InputError(reason)
    axes = {name: {0: BATCH, 1: NEW} for name in (IDS, MASK)}
    prefill = trace_module(Prefill(model, layers), text, axes, source=source)
    handover = Handover(torch_runner(prefill.graph, prefill.inputs, prefill.outputs))
    names = {name: parameter(name) for name in past_names(layers)}
    given = handover.sample(text)
    axes = {IDS: {0: BATCH, 1: NEW}, MASK: {0: BATCH, 1: BOTH}, **{name: {0: BATCH, 2: PAST} for name in names.values()}}
    arrays = {names.get(name, name): torch.from_numpy(array) for name, array in given.items()}
    decode = trace_module(Decode(model, layers), arrays, axes, source=source)
    for program, wanted in ((prefill, {IDS: {0, 1}}), (decode, {IDS: {0, 1}, **{name: {0, 2} for name in names.values()}})):
        if any(set(program.dynamic.get(name, {})) != free for name, free in wanted.items()):
            raise InputError("its trace with caches has fixed sizes (" + " ".join(program.notes).rstrip(".") + ")")
    own = {word: name for name, word in names.items()}
    decode = replace(
        decode,
        inputs=tuple(own.get(name, name) for name in decode.inputs),
        sample={own.get(name, name): array for name, array in decode.sample.items()},
        dynamic={own.get(name, name): free for name, free in decode.dynamic.items()},
    )
    if sample is not None:
        prefill = with_sample(prefill, sample)
        decode = replace(decode, sample=handover.sample(prefill.sample)) if prefill.sample[IDS].shape[1] > 1 else decode
    return prefill, decode, handover


def _default(prefill: Program, limit: int | None) -> tuple[Workload, tuple[str, ...]]:
    """One prefill of the sample and `STEPS` steps behind it, or as many as the model has positions for."""
    batch, length = prefill.sample[IDS].shape
    steps = STEPS if limit is None else max(1, min(STEPS, limit - length))
    context = length + steps // 2 if limit is None else min(length + steps // 2, limit - 1)
    shapes = {size: {IDS: (batch, size), MASK: (batch, size)} for size in (length, 1)}
    first = Phase(f"{batch}x{length}", shapes[length])
    step = Phase(f"{batch}x1@{context}", shapes[1], float(steps), context)
    return Workload((first, step)), (DEFAULT.format(steps),)


def _check_positions(workload: Workload, limit: int | None, source: str) -> None:
    for phase in workload.phases:
        new = phase.shapes[IDS][1]
        if limit is not None and phase.context + new > limit:
            most = f"a context of at most {limit - new}" if phase.context and new < limit else f"at most {limit} tokens"
            raise InputError(
                f"The phase {phase.name} has {phase.context + new} positions, and {source} takes {limit}; give {most}."
            )


def _as_decoded(phase: Phase, decode: Program) -> Phase:
    """The phase at the shapes that the decode program reads, caches among them: a phase like any other there, without a context."""
    batch, new = phase.shapes[IDS]
    shapes: dict[str, tuple[int, ...]] = {IDS: (batch, new), MASK: (batch, phase.context + new)}
    for name in decode.inputs[2:]:
        _, heads, _, width = decode.sample[name].shape
        shapes[name] = (batch, heads, phase.context, width)
    return replace(phase, shapes=shapes, context=0)


def _share(phases: list[Phase]) -> Workload | None:
    """The phases of one program with the weights that they have in the whole workload."""
    return Workload(tuple(phases), sum(phase.weight for phase in phases)) if phases else None
