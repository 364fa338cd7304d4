"""Attentions spelled out in ONNX in the ways exporters do it, with the sites that `find_attention` sees in them."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from szilard.cost_model.net import Net
from szilard.cost_model.sites import AttentionSite
from szilard.cost_model.view_onnx import view_onnx
from szilard.passes.find_attention import find_attention

from .onnx_graphs import graph

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Spelling:
    """`key` is "direct" (transposed in one step), "twice" or "input" (k comes in as [B, S, H, D]), `mask` its shape as letters of
    BHNS and 1, `mask_kind` "", "additive", "boolean", "inverted" or "negated", `scale` what is scaled, `packed` whether heads
    are joined again behind it, `computed` whether the targets of reshapes come from Shape nodes, as torch's older exporter writes them."""

    heads: int = 3
    width: int = 4
    value_width: int = 4
    key: str = "direct"
    mask: str = ""
    mask_kind: str = ""
    fill: float = LOWEST
    scale: str = "scores"
    packed: bool = True
    guard: bool = False
    layers: int = 1
    named_axes: bool = True
    computed: bool = False
    opset: int = 18


def attention(spelling: Spelling) -> ir.Model:
    """`layers` attentions on the same operands, their results added; inputs q, k, v (packed) and, if masked, mask."""
    s = spelling
    axes = "BNS" if s.named_axes else "???"
    wide, deep = s.heads * s.width, s.heads * s.value_width
    weights = {
        "split": np.array([0, 0, s.heads, -1], np.int64),
        "join": np.array([0, 0, -1], np.int64),
        "heads": np.array([s.heads], np.int64),
        "deep": np.array([s.value_width], np.int64),
        "open": np.array([-1], np.int64),
        **{f"axis{axis}": np.array([axis], np.int64) for axis in range(3)},
        "scale": np.array(0.4, np.float32),
        "inverse": np.array(2.5, np.float32),
        "fill": np.array(s.fill, np.float32),
        "zero": np.array(0, np.float32),
    }
    lines = []
    for layer in range(s.layers):
        lines += _layer(s, str(layer))
    lines.append("y = Sum(" + ", ".join(f"o{layer}" for layer in range(s.layers)) + ")")
    axes_of = {"B": axes[0], "H": str(s.heads), "N": axes[1], "S": axes[2], "1": "1"}
    inputs = [f"float[{axes[0]},{axes[1]},{wide}] q", f"float[{axes[0]},{axes[2]},{deep}] v"]
    inputs.append(
        f"float[{axes[0]},{axes[2]},{s.heads},{s.width}] k" if s.key == "input" else f"float[{axes[0]},{axes[2]},{wide}] k"
    )
    if s.mask:
        kind = "float" if s.mask_kind == "additive" else "bool"
        inputs.append(f"{kind}[{','.join(axes_of[letter] for letter in s.mask)}] mask")
    result = f"float[{axes[0]},{axes[1]},{deep}] y" if s.packed else f"float[{axes[0]},{s.heads},{axes[1]},{s.value_width}] y"
    text = f"({', '.join(inputs)}) => ({result}) {{ {chr(10).join(lines)} }}"
    used = {name: array for name, array in weights.items() if name in text.replace(")", ",").replace(",", " ").split()}
    return graph(text, used, opset=s.opset)


def _target(name: str, of: str, *sizes: str) -> list[str]:
    """`name` as the concatenation of sizes: an axis of `of`, or a constant by its name."""
    parts = [f"{name}_{size}" if size.isdigit() else size for size in sizes]
    axes = [f"{name}_{size} = Gather<axis = 0>({name}_shape, axis{size})" for size in sizes if size.isdigit()]
    return [f"{name}_shape = Shape({of})", *axes, f"{name} = Concat<axis = 0>({', '.join(parts)})"]


def _layer(s: Spelling, i: str) -> list[str]:
    split = {name: f"split_{name}{i}" if s.computed else "split" for name in "qkv"}
    lines = [line for name in "qkv" if s.computed for line in _target(split[name], name, "0", "1", "heads", "open")]
    lines += [f"q4{i} = Reshape(q, {split['q']})", f"qh{i} = Transpose<perm = [0, 2, 1, 3]>(q4{i})"]
    if s.key != "input":
        lines.append(f"k4{i} = Reshape(k, {split['k']})")
    keys = "k" if s.key == "input" else f"k4{i}"
    if s.key == "twice":
        lines += [f"kh{i} = Transpose<perm = [0, 2, 1, 3]>({keys})", f"kt{i} = Transpose<perm = [0, 1, 3, 2]>(kh{i})"]
    else:
        lines.append(f"kt{i} = Transpose<perm = [0, 2, 3, 1]>({keys})")
    lines += [f"v4{i} = Reshape(v, {split['v']})", f"vh{i} = Transpose<perm = [0, 2, 1, 3]>(v4{i})"]
    query = f"qh{i}"
    if s.scale == "query":
        lines.append(f"qs{i} = Mul(qh{i}, scale)")
        query = f"qs{i}"
    lines.append(f"p{i} = MatMul({query}, kt{i})")
    scores = f"p{i}"
    if s.scale == "scores":
        lines.append(f"d{i} = Div(p{i}, inverse)")
        scores = f"d{i}"
    masked = {
        "additive": [f"m{i} = Add({scores}, mask)"],
        "boolean": [f"m{i} = Where(mask, {scores}, fill)"],
        "inverted": [f"m{i} = Where(mask, fill, {scores})"],
        "negated": [f"not{i} = Not(mask)", f"m{i} = Where(not{i}, fill, {scores})"],
    }.get(s.mask_kind, [])
    lines += [*masked, f"w{i} = Softmax<axis = -1>({f'm{i}' if masked else scores})"]
    weights = f"w{i}"
    if s.guard:
        lines += [f"nan{i} = IsNaN(w{i})", f"g{i} = Where(nan{i}, zero, w{i})"]
        weights = f"g{i}"
    last = f"a{i}" if s.packed else f"o{i}"
    lines.append(f"{last} = MatMul({weights}, vh{i})")
    if s.computed and s.packed:
        lines += [*_target(f"same{i}", f"a{i}", "0", "open", "2", "deep"), f"r{i} = Reshape(a{i}, same{i})"]
        lines += [f"t{i} = Transpose<perm = [0, 2, 1, 3]>(r{i})", *_target(f"join{i}", "q", "0", "1", "open")]
        return [*lines, f"o{i} = Reshape(t{i}, join{i})"]
    return [*lines, f"t{i} = Transpose<perm = [0, 2, 1, 3]>(a{i})", f"o{i} = Reshape(t{i}, join)"] if s.packed else lines


def feeds(s: Spelling, random: np.random.Generator, batch: int, queries: int, keys: int) -> dict[str, np.ndarray]:
    """Random operands; the mask hides about a third, and everything from the first row where it has rows."""
    arrays = {
        "q": random.standard_normal((batch, queries, s.heads * s.width)),
        "k": random.standard_normal((batch, keys, s.heads * s.width)),
        "v": random.standard_normal((batch, keys, s.heads * s.value_width)),
    }
    if s.key == "input":
        arrays["k"] = arrays["k"].reshape(batch, keys, s.heads, s.width)
    result = {name: array.astype(np.float32) for name, array in arrays.items()}
    if s.mask:
        sizes = {"B": batch, "H": s.heads, "N": queries, "S": keys, "1": 1}
        attend = random.random([sizes[letter] for letter in s.mask]) < 0.7
        attend[(..., 0, slice(None)) if attend.ndim > 1 else ...] = False
        hidden = np.where(attend, random.standard_normal(attend.shape), s.fill).astype(np.float32)
        result["mask"] = {"additive": hidden, "boolean": attend}.get(s.mask_kind, ~attend)
        if s.mask_kind == "negated":
            result["mask"] = attend
    return result


def found(model: ir.Model, arrays: dict[str, np.ndarray]) -> tuple[Net, list[AttentionSite]]:
    """The net at the shapes of `arrays` and its attention sites; fails if one is missed."""
    net = view_onnx(model, {name: array.shape for name, array in arrays.items()}, arrays)
    sites, misses = find_attention(net)
    assert not misses
    return net, list(sites)
