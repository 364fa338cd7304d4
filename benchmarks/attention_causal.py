"""Perplexity and attention seconds of SmolLM2-135M with causal spectral attention in all layers, beside dense attention.

python -P -m szilard.benchmarks.attention_causal [--lengths 2048 4096] [--timed 4096 8192] [--cache DIR] [--calls 3] [--threads 2]

Budgets are chosen on the calibration texts of `models/long_texts.py`: the tolerance is the least one whose budgets keep the asked density,
so that no held-out text decides anything. Seconds are of all layers' attention, on the queries, keys and values that the model has on a
held-out text, with the budgets of the greatest length; layer by layer, the forms in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from ..kernels.spectral_attention.causal_prepare import GRID, CausalPrepared, Operands, chosen
from ..kernels.spectral_attention.causal_torch_module import build
from ..kernels.spectral_attention.prepare import relative_errors
from ..models import smollm
from ..models.long_texts import CALIBRATION, HELD_OUT, long_text
from .causal_forms import BODY, DENSE, MODULE, SPECTRAL, Layer, layer_seconds
from .minilm import RESULTS, processor

DENSITIES = {2048: 0.20, 4096: 0.15}
"""Share of exact pairs at most, over all heads of all layers, by length."""
TIMED = (4096, 8192)
Attention = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Errors = list[dict[int, torch.Tensor]]
"""For each layer, the relative error [H] of every head at each budget."""


@contextmanager
def attention_of(model: Any, attention: Attention) -> Iterator[None]:
    """Within it, every layer of a transformers model computes `attention` (layer, query, key, value) -> [B, H, N, D]."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def called(
        module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: Any, **_: Any
    ) -> tuple[Any, None]:
        return attention(module.layer_idx, query, key, value).transpose(1, 2).contiguous(), None

    before = model.config._attn_implementation
    ALL_ATTENTION_FUNCTIONS.register("observed", called)
    model.config._attn_implementation = "observed"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def dense(_: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Torch's own causal attention."""
    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)


def losses(model: Any, ids: torch.Tensor, attention: Attention) -> torch.Tensor:
    """The loss [N - 1] of each next token of `ids` [1, N], in nats."""
    with attention_of(model, attention), torch.inference_mode():
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        found = [
            cross_entropy(model.lm_head(part), wanted, reduction="none")
            for part, wanted in zip(hidden.split(512), ids[0, 1:].split(512), strict=True)
        ]
    return torch.cat(found).double()


def head_errors(model: Any, ids: torch.Tensor, grid: Sequence[int] = GRID) -> Errors:
    """The relative error of each head at each budget on token ids [1, N]. Every layer sees what it does in the dense model."""
    heads, scale = model.config.num_attention_heads, head_scale(model)
    modules = {budget: build(CausalPrepared((budget,) * heads, scale)) for budget in grid}
    found: Errors = []

    def measured(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        wanted = dense(layer, query, key, value)
        found.append({budget: relative_errors(module(query, key, value), wanted) for budget, module in modules.items()})
        return wanted

    with attention_of(model, measured), torch.inference_mode():
        model.model(input_ids=ids, use_cache=False)
    return found


def mean_errors(texts: Sequence[Errors]) -> Errors:
    """Their mean over the texts."""
    return [
        {budget: torch.stack([layer[budget] for layer in layers]).mean(0) for budget in layers[0]}
        for layers in zip(*texts, strict=True)
    ]


def head_scale(model: Any) -> float:
    """The scale of the logits."""
    return model.config.head_dim**-0.5


def within(errors: Errors, scale: float, length: int, density: float) -> tuple[float, list[CausalPrepared]]:
    """(the least tolerance whose budgets take no more than `density` of the pairs at `length`, the layers prepared with it)."""
    tolerances = sorted({round(float(error), 4) for layer in errors for each in layer.values() for error in each})

    def prepared(tolerance: float) -> list[CausalPrepared]:
        return [chosen(layer, scale=scale, tolerance=tolerance) for layer in errors]

    low, high = 0, len(tolerances) - 1
    while low < high:
        middle = (low + high) // 2
        if mean_density(prepared(tolerances[middle]), length) <= density:
            high = middle
        else:
            low = middle + 1
    return tolerances[low], prepared(tolerances[low])


def mean_density(layers: Sequence[CausalPrepared], length: int) -> float:
    """Share of exact pairs over all layers."""
    return statistics.fmean(layer.density(length) for layer in layers)


def judge(model: Any, ids: torch.Tensor, layers: Sequence[CausalPrepared]) -> dict[str, float]:
    """Perplexity with dense and with spectral attention on token ids [1, N], and the rise with its paired standard error, in percent."""
    modules = [build(layer) for layer in layers]
    before = losses(model, ids, dense)
    after = losses(model, ids, lambda layer, *operands: modules[layer](*operands))
    rise = after - before
    ratio = math.exp(rise.mean())
    return {
        "dense": math.exp(before.mean()),
        "spectral": math.exp(after.mean()),
        "rise_percent": 100 * (ratio - 1),
        "standard_error_percent": 100 * ratio * float(rise.std()) / math.sqrt(len(rise)),
    }


class Kept:
    """Results in JSON files of a folder, so that a run that was broken off goes on where it was; without a folder none is kept."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        if folder:
            folder.mkdir(parents=True, exist_ok=True)

    def result(self, name: str, compute: Callable[..., Any], *given: Any) -> Any:
        """What `compute` of what is given returned under that name, or does now."""
        path = self.folder / f"{name.replace(' ', '-')}.json" if self.folder else None
        if path and path.exists():
            return json.loads(path.read_text())
        found = compute(*given)
        if path:
            path.write_text(json.dumps(found))
        return found

    def tensors(self, name: str, compute: Callable[..., Any], *given: Any) -> Any:
        """`result` where tensors are computed."""
        path = self.folder / f"{name.replace(' ', '-')}.pt" if self.folder else None
        if path and path.exists():
            return torch.load(path)
        found = compute(*given)
        if path:
            torch.save(found, path)
        return found


def operands_of(model: Any, ids: torch.Tensor) -> list[Operands]:
    """Queries, keys and values of every layer of the dense model on token ids [1, N]."""
    found: list[Operands] = []

    def observed(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        found.append((query.clone(), key.clone(), value.clone()))
        return dense(layer, query, key, value)

    with attention_of(model, observed), torch.inference_mode():
        model.model(input_ids=ids, use_cache=False)
    return found


def seconds(
    operands: Sequence[Operands], layers: Sequence[CausalPrepared], forms: Sequence[str], calls: int, threads: int, kept: Kept
) -> dict[str, Any]:
    """Seconds of the attention of all layers in each form, at every layer one form after the other, first another one each time; and the
    greatest relative distance between the two spectral forms at a layer."""
    total, apart = dict.fromkeys(forms, 0.0), 0.0
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for number, (given, prepared) in enumerate(zip(operands, layers, strict=True)):
            layer, shift = Layer(Path(folder), given, prepared, threads), number % len(forms)
            name = f"seconds {given[0].shape[2]} {key_of([prepared])} layer {number}"
            found = kept.result(name, layer_seconds, layer, [*forms[shift:], *forms[:shift]], calls)
            total = {form: total[form] + found[form] for form in forms}
            if number % 10 == 0:
                with layer.opened(BODY) as body, layer.opened(MODULE) as module:
                    apart = max(apart, float(relative_errors(body(), module()).max()))
    best = min((form for form in forms if form in DENSE), key=total.__getitem__)
    ours = min((form for form in forms if form in SPECTRAL), key=total.__getitem__)
    return {"seconds": total, "best_dense": best, "best_spectral": ours, "speedup": total[best] / total[ours], "apart": apart}


def key_of(layers: Sequence[CausalPrepared]) -> str:
    """A name for what layers were prepared with."""
    return sha256(repr(layers).encode()).hexdigest()[:8]


def plan(model: Any, tokens: Mapping[str, torch.Tensor], length: int, kept: Kept) -> tuple[float, list[CausalPrepared]]:
    """`within` the density of that length, by the errors on the calibration texts."""

    def errors(ids: torch.Tensor) -> list[dict[str, list[float]]]:
        return [{str(budget): each.tolist() for budget, each in layer.items()} for layer in head_errors(model, ids)]

    texts = [kept.result(f"errors {length} {name}", errors, tokens[name][:, :length]) for name in CALIBRATION]
    read = [[{int(budget): torch.tensor(each) for budget, each in layer.items()} for layer in text] for text in texts]
    return within(mean_errors(read), head_scale(model), length, DENSITIES[length])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print two tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="*", choices=sorted(DENSITIES), default=sorted(DENSITIES))
    parser.add_argument("--timed", type=int, nargs="*", default=list(TIMED))
    parser.add_argument("--forms", nargs="+", choices=[*DENSE, *SPECTRAL], default=[*DENSE, *SPECTRAL])
    parser.add_argument("--calls", type=int, default=3, help="calls of a form at a layer that the median is of")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="folder that keeps what is done, for a run that may be broken off")
    parser.add_argument("--out", type=Path, default=RESULTS / "attention-causal.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, tokenizer, kept = smollm.load().model, smollm.tokenizer(), Kept(options.cache)
    tokens = {name: torch.tensor([tokenizer(long_text(name))["input_ids"]]) for name in (*CALIBRATION, *HELD_OUT)}
    result: dict[str, Any] = {
        "benchmark": "attention_causal",
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"system": platform.machine(), "processor": processor(), "threads": options.threads},
        "versions": {"onnxruntime": onnxruntime.__version__, "torch": torch.__version__},
        "perplexity": {},
        "seconds": {},
    }
    layers: list[CausalPrepared] = []
    for length in sorted({*options.lengths, max(DENSITIES)}):
        tolerance, layers = plan(model, tokens, length, kept)
        counts = Counter(str(budget) for layer in layers for budget in layer.budgets)
        density, key = mean_density(layers, length), key_of(layers)
        print(f"N = {length}: tolerance {tolerance:.4f}, density {density:.4f}, heads by budget {dict(counts)}", flush=True)
        texts = {}
        for name in HELD_OUT if length in options.lengths else ():
            given = (model, tokens[name][:, :length], layers)
            row = texts[name] = kept.result(f"judged {length} {key} {name}", judge, *given)
            print(
                f"  {name:22} dense {row['dense']:8.3f}  spectral {row['spectral']:8.3f}"
                f"  rise {row['rise_percent']:+.2f} % (se {row['standard_error_percent']:.2f})",
                flush=True,
            )
        budgets = [layer.budgets for layer in layers]
        result["perplexity"][length] = {"tolerance": tolerance, "density": density, "texts": texts, "budgets": budgets}
    for length in options.timed:
        operands = kept.tensors(f"operands {length}", operands_of, model, tokens[HELD_OUT[0]][:, :length])
        row = result["seconds"][length] = seconds(operands, layers, options.forms, options.calls, options.threads, kept)
        times = ", ".join(f"{form} {each:.2f} s" for form, each in row["seconds"].items())
        print(f"N = {length}, attention of all layers: {times}; forms apart by {row['apart']:.1e}")
        print(f"  {row['best_dense']} / {row['best_spectral']}: {row['speedup']:.2f}", flush=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
