"""Perplexity and attention seconds of SmolLM2-135M with causal spectral attention in all layers, beside dense attention.

`python -P -m szilard.benchmarks.attention_causal`. Budgets are chosen on the calibration texts of `models/long_texts.py`: the tolerance is
the least one whose budgets keep the asked density, so that no held-out text decides anything. Seconds are of all layers' attention, on the
queries, keys and values that the model has on a held-out text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from ..kernels.spectral_attention.causal_prepare import GRID, CausalPrepared, chosen, relative_errors
from ..kernels.spectral_attention.causal_torch_module import build
from ..models import smollm
from ..models.long_texts import CALIBRATION, HELD_OUT, long_text

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


def head_errors(model: Any, texts: Sequence[torch.Tensor], grid: Sequence[int] = GRID) -> Errors:
    """The mean relative error over `texts` (token ids [1, N]) of each head, at each budget. Every layer sees what it does in the dense
    model."""
    heads, scale = model.config.num_attention_heads, head_scale(model)
    modules = {budget: build(CausalPrepared((budget,) * heads, scale)) for budget in grid}
    found: Errors = [{budget: torch.zeros(heads) for budget in grid} for _ in range(model.config.num_hidden_layers)]

    def measured(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        wanted = dense(layer, query, key, value)
        for budget, module in modules.items():
            found[layer][budget] += relative_errors(module(query, key, value), wanted) / len(texts)
        return wanted

    for ids in texts:
        with attention_of(model, measured), torch.inference_mode():
            model.model(input_ids=ids, use_cache=False)
    return found


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


def seconds(model: Any, ids: torch.Tensor, layers: Sequence[CausalPrepared], rounds: int) -> dict[str, float]:
    """Seconds of the attention of all layers on token ids [1, N], the median over `rounds`: dense and spectral in turns at every layer."""
    operands: list[tuple[torch.Tensor, ...]] = []

    def kept(layer: int, *given: torch.Tensor) -> torch.Tensor:
        operands.append(tuple(each.clone() for each in given))
        return dense(layer, *given)

    with attention_of(model, kept), torch.inference_mode():
        model.model(input_ids=ids, use_cache=False)
    modules = [build(layer) for layer in layers]
    kinds: dict[str, Attention] = {"dense": dense, "spectral": lambda layer, *given: modules[layer](*given)}
    totals: dict[str, list[float]] = {kind: [] for kind in kinds}
    with torch.inference_mode():
        for turn in range(-1, rounds):
            total = dict.fromkeys(kinds, 0.0)
            for layer, given in enumerate(operands if turn >= 0 else operands[:2]):
                for kind in sorted(kinds, reverse=bool((turn + layer) % 2)):
                    start = time.perf_counter()
                    kinds[kind](layer, *given)
                    total[kind] += time.perf_counter() - start
            for kind, each in total.items() if turn >= 0 else ():
                totals[kind].append(each)
    return {kind: statistics.median(each) for kind, each in totals.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run, print two tables, and write them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all layers that the median is of")
    parser.add_argument(
        "--errors", type=Path, help="keep the errors of heads in this file, or take them from it where it exists"
    )
    parser.add_argument("--skip", choices=("perplexity", "seconds"), action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "attention-causal.json")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    model, tokenizer = smollm.load().model, smollm.tokenizer()
    tokens = {name: torch.tensor([tokenizer(long_text(name))["input_ids"]]) for name in (*CALIBRATION, *HELD_OUT)}
    known = json.loads(options.errors.read_text()) if options.errors and options.errors.exists() else {}
    result = json.loads(options.out.read_text()) if options.out.exists() else {}
    plans: dict[int, list[CausalPrepared]] = {}
    for length, density in DENSITIES.items():
        if str(length) not in known:
            errors = head_errors(model, [tokens[name][:, :length] for name in CALIBRATION])
            known[str(length)] = [{str(budget): each.tolist() for budget, each in layer.items()} for layer in errors]
            if options.errors:
                options.errors.write_text(json.dumps(known))
        errors = [{int(budget): torch.tensor(each) for budget, each in layer.items()} for layer in known[str(length)]]
        tolerance, plans[length] = within(errors, head_scale(model), length, density)
        budgets = list(itertools.chain.from_iterable(layer.budgets for layer in plans[length]))
        counts = {str(budget): budgets.count(budget) for budget in (*GRID, None)}
        plan = {"tolerance": tolerance, "density": mean_density(plans[length], length), "heads_of_budget": counts}
        print(f"N = {length}: tolerance {tolerance:.4f}, density {plan['density']:.3f}, heads by budget {counts}", flush=True)
        if "perplexity" not in options.skip:
            result[f"perplexity {length}"] = {**plan, "texts": {}}
            for name in HELD_OUT:
                row = judge(model, tokens[name][:, :length], plans[length])
                result[f"perplexity {length}"]["texts"][name] = row
                print(
                    f"  {name:22} dense {row['dense']:8.3f}  spectral {row['spectral']:8.3f}"
                    f"  rise {row['rise_percent']:+.2f} % (se {row['standard_error_percent']:.2f})",
                    flush=True,
                )
    for length in TIMED if "seconds" not in options.skip else ():
        row = seconds(model, tokens[HELD_OUT[0]][:, :length], plans[max(DENSITIES)], options.rounds)
        result[f"seconds {length}"] = row
        print(
            f"N = {length}: attention of all layers, dense {row['dense']:.2f} s, spectral {row['spectral']:.2f} s", flush=True
        )
    options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
