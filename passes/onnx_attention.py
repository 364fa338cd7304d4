"""Replaces an attention by onnxruntime's MultiHeadAttention: actions "fused_attention" and "keyed_attention", equal to rounding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ..cost_model.net import Net, Op
from ..cost_model.plan import Choice
from ..cost_model.sites import AttentionSite, Site
from .attention_masks import ABSORBING
from .chosen import members
from .onnx_attention_mask import AttentionMasks, guarded, leaves_finite, mask_refusal
from .onnx_folded_layout import after_folding, before_folding, folding_ops, last_size, only_reader, pack, unpack
from .onnx_pass import MICROSOFT, OnnxPass, Surgeon, operation
from .onnx_shapes import Proofs, Sizes, fix_reshapes, inferred_sizes, joins, unchanged

ACTION = "fused_attention"
KEYED = "keyed_attention"
ATTENTION_OPSET = 23
SWAP_HEADS = (0, 2, 1, 3)


@dataclass(frozen=True)
class FuseAttention(OnnxPass):
    """One com.microsoft MultiHeadAttention on packed operands [B, N, H * D]; the site must have no `refusal`.

    1. An operand that a Transpose made of [B, N, H, D] is taken from before it, and from before the Reshape that made that of
    [B, N, H * D]. 2. Any other operand is transposed. 3. A Transpose and a Reshape of the output back to [B, N, H * D] go.
    4. A mask becomes the additive attention_bias; layers of one mask share it. 5. A guard against rows that see nothing
    (Where(IsNaN(weights), 0, weights)) moves to the output, where such a row is NaN in just the same way; without a mask there is none.
    6. Keys and values that several heads share are repeated, as MultiHeadAttention wants one for each. 7. An attention sink becomes the
    bias of one more key of zeros, whose value is zeros. 8. Scores with a softcap become the standard Attention (opset 23) on the same
    packed operands, keys and values not repeated, with a mask that is no lower than `ABSORBING`: onnxruntime gives 0 for a row in which
    every score is the lowest float32, and the spelled-out form gives the mean of the values.
    """

    name: ClassVar[str] = "onnx_attention"

    def apply(self, model: ir.Model, choices: Sequence[Choice], sites: Mapping[str, Site]) -> int:
        """See `OnnxPass.apply`; counts the attentions."""
        surgeon = Surgeon(model)
        found = [site for choice in choices if choice.action in (ACTION, KEYED) for site in members(choice, sites)]
        pending = [site for site in found if isinstance(site, AttentionSite) and surgeon.pending(site)]
        if pending:
            proofs = Proofs(_sizes_with_outputs(model, pending))
            surgeon.sweep(fix_reshapes(model.graph, proofs.inferred))
            masks = AttentionMasks(surgeon, proofs)
            for site in pending:
                _fuse(surgeon, masks, proofs, site)
            if any(not site.softcap for site in pending):
                surgeon.import_domain(MICROSOFT)
        surgeon.close()
        return len(pending)


def refusal(site: AttentionSite, net: Net) -> str:
    """One sentence that says why the site cannot become a MultiHeadAttention of equal result; "" if it can."""
    batch, heads, length, keys, dim = site.batch, site.heads, site.query_length, site.key_length, site.head_dim
    targets = {net.ops[op].target for op in site.ops if op in net.ops}
    if site.form == "operator" and any("MultiHeadAttention" in target for target in targets):
        return f"Attention {site.id} already is a MultiHeadAttention."
    if site.form == "operator" and any(net.ops[op].inputs[4:] for op in site.ops if net.ops[op].kind == "attention"):
        return f"Attention {site.id} is an operator with a cache, which is left alone."
    if site.form == "operator" and site.mask and site.mask_kind == "additive":
        return f"Attention {site.id} is an operator with an additive mask, which treats rows that see nothing otherwise than a fused one."
    if site.dtype != "float32":
        return f"onnxruntime's MultiHeadAttention on the CPU takes float32, and attention {site.id} is {site.dtype}."
    if site.form == "packed":
        return f"Attention {site.id} is one operator already, with operands in a layout of its own."
    if site.softcap and (reason := _softcap_refusal(site, net)):
        return reason
    if site.scale == 0:
        return f"Attention {site.id} has the scale 0, which MultiHeadAttention takes for its default scale."
    kv_heads = site.kv_heads
    key = (batch, kv_heads, dim, keys) if site.key_transposed else (batch, kv_heads, keys, dim)
    value = net.shape(site.value)
    if (
        net.shape(site.query) != (batch, heads, length, dim)
        or net.shape(site.key) != key
        or not value
        or value[:-1] != (batch, kv_heads, keys)
    ):
        return f"The operands of attention {site.id} do not have the form [batch, heads, length, head size] that MultiHeadAttention packs."
    if site.causal and (length != keys or site.mask):
        return f"Attention {site.id} is causal over {length} queries and {keys} keys or has a mask too, which is not exact when fused."
    for op in (net.ops[op] for op in site.ops):
        if (
            op.kind in ("matmul", "softmax")
            and op.output != site.output
            and any(c.id not in site.ops for c in net.consumers(op.output))
        ):
            return f"The weights of attention {site.id} ({op.output}) are read elsewhere, and MultiHeadAttention does not give them out."
    return mask_refusal(site, net)


def _softcap_refusal(site: AttentionSite, net: Net) -> str:
    if site.form == "operator":
        return f"Attention {site.id} already is one operator, with a softcap, which MultiHeadAttention does not have."
    if net.opset < ATTENTION_OPSET:
        return (
            f"Attention {site.id} has a softcap, which MultiHeadAttention does not have, and the standard Attention that has one is not "
            f"among the operators of opset {net.opset}; convert the model to opset {ATTENTION_OPSET}."
        )
    if not leaves_finite(site, net):
        return (
            f"Attention {site.id} has a softcap and a mask that may be infinite, and the standard Attention gives 0 for a row that sees "
            "nothing."
        )
    return ""


def layout_ops(site: AttentionSite, net: Net) -> tuple[str, ...]:
    """The reshapes and transposes around the site that the fused form makes needless: to be timed together with `site.ops`."""
    found: list[str] = []
    for name in (site.query, site.key, site.value):
        op = net.producer(name)
        if op is not None and op.kind == "transpose" and all(user.id in site.ops for user in _readers(net, name)):
            found.append(op.id)
            before = net.producer(op.inputs[0])
            if before is not None and before.kind == "reshape" and len(_readers(net, op.inputs[0])) == 1:
                found.append(before.id)
    value = site.output
    while len(users := _readers(net, value)) == 1 and users[0].kind in ("transpose", "reshape"):
        found.append(users[0].id)
        if users[0].kind == "reshape" and net.shape(users[0].output) != net.shape(value):
            break
        value = users[0].output
    found += folding_ops(net, (site.query, site.key, site.value), site.output)
    return tuple(dict.fromkeys(op for op in found if op not in site.ops))


def _readers(net: Net, value: str) -> list[Op]:
    """The ops that read the numbers of a value and not just its shape."""
    return [op for op in net.consumers(value) if op.kind != "shape"]


def _sizes_with_outputs(model: ir.Model, sites: Sequence[AttentionSite]) -> dict[str, Sizes]:
    """The inferred sizes. Those of the outputs are those of the queries; onnx loses them where a mask broadcasts to the scores, and
    with them all that follows, so that each operand of the next layer would need a Reshape of its own."""
    first = inferred_sizes(model, {})
    widths = {site.output: (site.query, first.get(site.value, (None,))[-1]) for site in sites}
    known = {output: (query, width) for output, (query, width) in widths.items() if isinstance(width, int)}
    return inferred_sizes(model, known) if known else first


def _fuse(surgeon: Surgeon, masks: AttentionMasks, proofs: Proofs, site: AttentionSite) -> None:
    name = f"{site.id}.{ACTION}"
    nodes: list[ir.Node] = []
    packed = [
        _pack(surgeon, proofs, surgeon.value(value), transposed, f"{name}.{role}", nodes)
        for role, value, transposed in (
            ("query", site.query, False), ("key", site.key, site.key_transposed), ("value", site.value, False)
        )
    ]  # fmt: skip
    bias = masks.bias(site, packed[0], packed[1], nodes) if site.mask else None
    if site.sink:
        bias = masks.beside_sink(site, bias, packed[0], packed[1], nodes)
        packed[1:] = [_longer(surgeon, site, value, nodes) for value in packed[1:]]
    if site.softcap:
        nodes.append(_capped(surgeon, site, packed, bias, nodes))
    else:
        repeated = [packed[0], *(_repeated(surgeon, site, value, nodes) for value in packed[1:])]
        masked = [] if bias is None else [None, None, bias]
        causal = {"unidirectional": 1} if site.causal else {}
        nodes.append(
            operation(
                "MultiHeadAttention",
                [*repeated, *masked],
                name,
                domain=MICROSOFT,
                num_heads=site.heads,
                scale=float(site.scale),
                **causal,
            )
        )
    fused = nodes[-1]
    result = fused.outputs[0]
    if guarded(site, surgeon):
        nodes.append(operation("IsNaN", [result], f"{name}.unseen"))
        zero = surgeon.constant(f"{name}.zero", np.zeros((), np.float32))
        nodes.append(operation("Where", [nodes[-1].outputs[0], zero, result], f"{name}.guarded"))
        result = nodes[-1].outputs[0]
    target, layers = _unpack(surgeon, proofs, surgeon.value(site.output), site.heads, result, name)
    surgeon.replace([site], [*nodes, *layers], {str(target.name): layers[-1].outputs[0] if layers else result})


def _capped(
    surgeon: Surgeon, site: AttentionSite, packed: list[ir.Value], bias: ir.Value | None, nodes: list[ir.Node]
) -> ir.Node:
    if bias is not None:
        floor = surgeon.shared(np.array(ABSORBING, np.float32), "lowest_mask")
        nodes.append(operation("Max", [bias, floor], f"{site.id}.finite_bias"))
        bias = nodes[-1].outputs[0]
    return operation(
        "Attention", [*packed, *([] if bias is None else [bias])], f"{site.id}.{ACTION}",
        q_num_heads=site.heads, kv_num_heads=site.kv_heads, scale=float(site.scale), softcap=float(site.softcap),
        is_causal=int(site.causal),
    )  # fmt: skip


def _pack(surgeon: Surgeon, proofs: Proofs, value: ir.Value, transposed: bool, name: str, nodes: list[ir.Node]) -> ir.Value:
    """[B, H, N, D] (or [B, H, D, N] if `transposed`) as [B, N, H * D]."""
    order = _permutation(value)
    if transposed and order == (0, 1, 3, 2):
        return _pack(surgeon, proofs, _source(value), False, name, nodes)
    if order == ((0, 2, 3, 1) if transposed else SWAP_HEADS):
        split = _source(value)
        producer = split.producer()
        if producer is not None and producer.op_type == "Reshape" and proofs.hold(joins, _source(split), split):
            return _source(split)
    elif (folded := before_folding(value, transposed)) and (columns := last_size(proofs.inferred.get(str(folded[0].name)))):
        nodes += pack(surgeon, folded[0], folded[1] * columns, name)
        return nodes[-1].outputs[0]
    else:
        nodes.append(operation("Transpose", [value], f"{name}.heads", perm=(0, 3, 1, 2) if transposed else SWAP_HEADS))
        split = nodes[-1].outputs[0]
    # Reshape copies the first two sizes for 0 and works out H * D for -1.
    shape = surgeon.shared(np.array([0, 0, -1], np.int64), "packed_heads")
    nodes.append(operation("Reshape", [split, shape], f"{name}.packed"))
    return nodes[-1].outputs[0]


def _repeated(surgeon: Surgeon, site: AttentionSite, packed: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    """Keys or values [B, S, H_kv * D] with each head as often as query heads share it."""
    if site.kv_heads == site.heads:
        return packed
    each, name = site.heads // site.kv_heads, f"{packed.name}.repeated_{site.kv_heads}"
    apart = surgeon.shared(np.array([0, 0, site.kv_heads, 1, -1], np.int64), f"split_{site.kv_heads}_kv_heads")
    times = surgeon.shared(np.array([1, 1, 1, each, 1], np.int64), f"repeat_{each}_times")
    joined = surgeon.shared(np.array([0, 0, -1], np.int64), "packed_heads")
    nodes.append(operation("Reshape", [packed, apart], f"{site.id}.{name}.apart"))
    nodes.append(operation("Expand", [nodes[-1].outputs[0], times], f"{site.id}.{name}"))
    nodes.append(operation("Reshape", [nodes[-1].outputs[0], joined], f"{site.id}.{name}.packed"))
    return nodes[-1].outputs[0]


def _longer(surgeon: Surgeon, site: AttentionSite, packed: ir.Value, nodes: list[ir.Node]) -> ir.Value:
    """Keys or values [B, S, H * D] with one more of zeros behind them."""
    pads = surgeon.shared(np.array([0, 0, 0, 0, 1, 0], np.int64), "one_more_key")
    nodes.append(operation("Pad", [packed, pads], f"{site.id}.{packed.name}.longer"))
    return nodes[-1].outputs[0]


def _unpack(
    surgeon: Surgeon, proofs: Proofs, output: ir.Value, heads: int, result: ir.Value, name: str
) -> tuple[ir.Value, list[ir.Node]]:
    """The old value that the fused form replaces, and the nodes that bring [B, N, H * D] to its layout."""
    folded, columns = after_folding(output), last_size(proofs.inferred.get(str(output.name)))
    if folded is not None and columns:
        return folded, unpack(surgeon, result, columns, name)
    while (reshaped := only_reader(output, "Reshape")) is not None and proofs.hold(unchanged, output, reshaped):
        output = reshaped
    swapped = only_reader(output, "Transpose")
    if swapped is not None and _permutation(swapped) == SWAP_HEADS:
        joined = only_reader(swapped, "Reshape")
        if joined is not None and proofs.hold(joins, joined, swapped):
            return joined, []
    else:
        swapped = None
    shape = surgeon.shared(np.array([0, 0, heads, -1], np.int64), f"split_{heads}_heads")
    layers = [operation("Reshape", [result, shape], f"{name}.split")]
    if swapped is None:
        layers.append(operation("Transpose", [layers[0].outputs[0]], f"{name}.output", perm=SWAP_HEADS))
    return swapped or output, layers


def _source(value: ir.Value) -> ir.Value:
    producer = value.producer()
    assert producer is not None
    assert producer.inputs[0] is not None
    return producer.inputs[0]


def _permutation(value: ir.Value) -> tuple[int, ...] | None:
    producer = value.producer()
    if producer is None or producer.op_type != "Transpose" or producer.domain:
        return None
    return tuple(producer.attributes.get_ints("perm", ()))
