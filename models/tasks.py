"""What a task means for a transformers folder: which tensors go in and out, what to calibrate on, and how good a model is at it.

embed       encoder -> last_hidden_state         recall@1 of signatures to descriptions in the standard library
classify    classifier -> logits                 share of texts given the class that the original gives
causal-lm   language model -> logits             mean log-likelihood of the next token, in nats
none        text encoder -> last_hidden_state    no metric
decode      language model -> logits             only to be priced: hollow (see `hollow`), no tokenizer, no texts, no metric
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from . import texts
from .embedding import embedder, tokens
from .hollow import hollow_language_model
from .long_texts import HELD_OUT, long_calibration, long_text
from .retrieval import recall_at_one
from .wrappers import Text, TextPair

# Task -> (transformers class, output, name of the metric).
TASKS = {
    "embed": ("AutoModel", "last_hidden_state", "recall@1"),
    "classify": ("AutoModelForSequenceClassification", "logits", "agreement with the original"),
    "causal-lm": ("AutoModelForCausalLM", "logits", "log-likelihood per token (nats)"),
    "none": ("AutoModel", "last_hidden_state", ""),
}
DECODE = "decode"
MAX_LENGTH = 512
POSITIONS_AT_ONCE = 512
PAIR = ("input_ids", "attention_mask", "token_type_ids")

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Recipe:
    """A task for one model folder. Arrays go by input name (each int64 [B, L]); axes 0 and 1 of every input are free.

    `build` makes the module in float32: tensors called `inputs`, in order -> one tensor called `output`. `metric` is better when
    higher, takes the running model (inputs by name -> outputs by name, of which it reads the first) and is None for "none" and "decode".
    """

    task: str
    build: Callable[[], nn.Module]
    inputs: tuple[str, ...]
    output: str
    sample: dict[str, np.ndarray]
    calibration: list[dict[str, np.ndarray]]
    metric: Callable[[Run], float] | None
    metric_name: str
    notes: tuple[str, ...] = ()


def recipe(task: str, directory: str | Path, length: int = 0) -> Recipe:
    """The recipe of `task` for a local transformers folder: nothing is fetched, no code of the folder runs, nothing is unpickled.

    For inputs of `length` tokens, where that is more than `MAX_LENGTH` and the model takes them, calibration and the likelihood of
    "causal-lm" are of `long_texts` of that many. "decode" reads the configuration alone. Raises ValueError for an unknown task or a
    model that does not read text, FileNotFoundError for a folder without config.json or, but for "decode", a .safetensors file,
    ModuleNotFoundError without transformers; each with a sentence.
    """
    if task not in (*TASKS, DECODE):
        raise ValueError(f"There is no task {task!r}: choose one of {', '.join(TASKS)}.")
    folder = _checked(Path(directory), weights=task != DECODE)
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Reading a transformers folder needs transformers: run `pip install szilard[hf]`.") from error
    local = {"local_files_only": True, "trust_remote_code": False}
    configuration = transformers.AutoConfig.from_pretrained(str(folder), **local)
    if task == DECODE:
        return _decode(configuration, folder)
    kind, output, metric_name = TASKS[task]
    tokenizer = _tokenizer(transformers.AutoTokenizer, folder, local)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    takes = min(getattr(configuration, "max_position_embeddings", MAX_LENGTH), tokenizer.model_max_length)
    max_length = min(max(MAX_LENGTH, length), takes)
    inputs = _inputs(getattr(transformers, kind), configuration, tokenizer, folder)[: 2 if task == "causal-lm" else 3]
    build = partial(_build, getattr(transformers, kind), folder, inputs, output)
    calibration = (long_calibration if max_length > MAX_LENGTH else texts.calibration)(tokenizer, inputs, max_length)
    longest = max(sample[inputs[0]].shape[1] for sample in calibration)
    short = (
        f"The longest text to calibrate and to judge on has {longest:,} tokens, the longest phase {length:,}; "
        "--calib takes longer ones."
    )
    return Recipe(
        task=task,
        build=build,
        inputs=inputs,
        output=output,
        sample=tokens(tokenizer, texts.batches(1)[0][:2], inputs, max_length),
        calibration=calibration,
        metric=_metric(
            task, tokenizer, inputs, max_length, partial(_build, getattr(transformers, kind), folder, inputs, output)
        ),
        metric_name=metric_name,
        notes=(short,) if longest < length else (),
    )


def _decode(configuration: Any, folder: Path) -> Recipe:
    """A causal language model as its configuration describes it, and random ids: enough to price it."""
    import transformers

    model = getattr(configuration, "model_type", "unknown")
    known = type(configuration) in transformers.AutoModelForCausalLM._model_mapping
    vocabulary = getattr(configuration.get_text_config(), "vocab_size", None)
    if not known or not vocabulary or getattr(configuration, "is_encoder_decoder", False):
        raise ValueError(
            f"The model in {folder} ({model}) is no causal language model, and no other decodes; name one that is."
        )
    dtype = getattr(configuration, "dtype", None) or torch.float32
    stored = getattr(configuration, "quantization_config", None)
    ids = np.arange(22).reshape(2, 11) % vocabulary
    notes = [f"Only the configuration of {folder} was read: the weights are priced as {str(dtype).removeprefix('torch.')}."]
    if stored:
        method = stored.get("quant_method", "unknown") if isinstance(stored, Mapping) else "unknown"
        notes.append(f"Its checkpoint is quantised ({method}), which this price does not know: real weights take fewer bytes.")
    return Recipe(
        task=DECODE,
        build=lambda: Text(hollow_language_model(configuration, dtype), "logits").eval(),
        inputs=PAIR[:2],
        output="logits",
        sample={PAIR[0]: ids, PAIR[1]: np.ones_like(ids)},
        calibration=[],
        metric=None,
        metric_name="",
        notes=tuple(notes),
    )


def _checked(folder: Path, weights: bool) -> Path:
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder} is not a transformers folder: it has no config.json.")
    if weights and not any(folder.glob("*.safetensors")):
        raise FileNotFoundError(
            f"{folder} has no .safetensors weights, and other formats are not read because they can run code when loaded: "
            "save the model again with save_pretrained, which writes model.safetensors."
        )
    return folder


def _tokenizer(kind: Any, folder: Path, local: dict[str, bool]) -> Any:
    """The folder's tokenizer. Without its files transformers may make an empty one in silence, so they are looked for first."""
    files = ("tokenizer.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", "vocab.json")
    reason = f"none of {', '.join(files)} is there"
    if any((folder / name).is_file() for name in files):
        try:
            return kind.from_pretrained(str(folder), **local)
        except (OSError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
    raise ValueError(
        f"The folder {folder} has no tokenizer that can be read ({reason}), so there is no text to give its model: "
        "pass a factory (module:function) that makes the module and its sample inputs."
    )


def _inputs(kind: Any, configuration: Any, tokenizer: Any, folder: Path) -> tuple[str, ...]:
    """The names of the tensors that both the model takes and the tokenizer makes, in the order of the wrappers."""
    try:
        model_class = kind._model_mapping[type(configuration)]
    except KeyError as error:
        model = getattr(configuration, "model_type", "unknown")
        raise ValueError(f"The model in {folder} ({model}) has no {kind.__name__}: choose another --task.") from error
    taken = inspect.signature(model_class.forward).parameters
    names = tuple(name for name in PAIR if name in taken and name in {*tokenizer.model_input_names, "attention_mask"})
    if names[:2] != PAIR[:2] or getattr(configuration, "is_encoder_decoder", False):
        raise ValueError(
            f"The model in {folder} ({model_class.__name__}) does not take input_ids and attention_mask alone: pass a factory "
            "(module:function) that makes the module and its sample inputs."
        )
    return names


def _build(kind: Any, folder: Path, inputs: tuple[str, ...], output: str) -> nn.Module:
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    options = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True, "dtype": torch.float32}
    model, found = kind.from_pretrained(str(folder), output_loading_info=True, **options)
    # The pooler of a base model does not reach its hidden states, and embedding models are often saved without one.
    missing = sorted(name for name in found["missing_keys"] if not name.startswith("pooler."))
    if missing:
        raise ValueError(
            f"{folder} lacks {len(missing)} weights of a {type(model).__name__} (the first is {missing[0]}), "
            "which would be random: choose another --task"
        )
    return (TextPair if inputs == PAIR else Text)(model, output).eval()


def _metric(
    task: str, tokenizer: Any, inputs: tuple[str, ...], max_length: int, build: Callable[[], nn.Module]
) -> Callable[[Run], float] | None:
    if task == "embed":
        return lambda run: recall_at_one(embedder(run, tokenizer, inputs))
    if task == "none":
        return None
    if task == "causal-lm" and max_length > MAX_LENGTH:
        held_out, at_once = [long_text(name) for name in HELD_OUT], 1
    else:
        held_out, at_once = texts.sentences()[-200:] if task == "classify" else texts.passages()[-12:], 4
    batches = [
        tokens(tokenizer, held_out[start : start + at_once], inputs, max_length) for start in range(0, len(held_out), at_once)
    ]
    if task == "causal-lm":
        return lambda run: _log_likelihood(run, batches)
    return lambda run: float(np.mean(_classes(run, batches) == _original_classes(build, batches)))


def _classes(run: Run, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.concatenate([next(iter(run(batch).values())).argmax(-1) for batch in batches])


def _original_classes(build: Callable[[], nn.Module], batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    module = build()

    def run(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.no_grad():
            return {"logits": module(*map(torch.from_numpy, batch.values())).numpy()}

    return _classes(run, batches)


def _log_likelihood(run: Run, batches: list[dict[str, np.ndarray]]) -> float:
    """Mean over the real tokens of log p(token | the tokens before it)."""
    total, count = 0.0, 0
    for batch in batches:
        logits = torch.from_numpy(next(iter(run(batch).values())))[:, :-1]
        following = torch.from_numpy(batch["input_ids"][:, 1:]).masked_fill(
            torch.from_numpy(batch["attention_mask"][:, 1:] == 0), -1
        )
        # Some positions at a time: a copy of the logits of 4,096 of them over 49,152 tokens would be 0.8 GB.
        for scores, wanted in zip(logits.split(POSITIONS_AT_ONCE, 1), following.split(POSITIONS_AT_ONCE, 1), strict=True):
            losses = cross_entropy(scores.double().flatten(0, 1), wanted.flatten(), ignore_index=-1, reduction="none")
            total -= float(losses.sum())
        count += int((following >= 0).sum())
    return float(total / count)
