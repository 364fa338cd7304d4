"""Masks as additive biases: which are refused, and that equal ones are made once."""

from dataclasses import replace

import numpy as np
import pytest

from szilard.passes.onnx_attention_mask import AttentionMasks, guarded, mask_refusal
from szilard.passes.onnx_pass import Surgeon
from szilard.passes.onnx_shapes import Proofs, inferred_sizes

from .onnx_attentions import Spelling, attention, feeds, found


def site_of(spelling: Spelling):
    model = attention(spelling)
    net, sites = found(model, feeds(spelling, np.random.default_rng(0), 2, 5, 7))
    return model, net, sites


@pytest.mark.parametrize("kind", ["additive", "boolean", "inverted", "negated"])
@pytest.mark.parametrize("guard", [True, False])
def test_kinds_that_can_be(kind, guard):
    model, net, (site,) = site_of(Spelling(mask="B1NS", mask_kind=kind, guard=guard))
    assert mask_refusal(site, net) == ""
    assert guarded(site, Surgeon(model)) == guard


def test_kinds_that_cannot_be():
    _, net, (site,) = site_of(Spelling(mask="B1NS", mask_kind="boolean"))
    assert "not one constant" in mask_refusal(replace(site, mask=""), net)
    assert "not one constant" in mask_refusal(replace(site, mask_kind="additive"), net)
    assert "does not broadcast" in mask_refusal(replace(site, query_length=4), net)
    _, net, (site,) = site_of(Spelling(mask="B1NS", mask_kind="additive"))
    assert "does not broadcast" in mask_refusal(replace(site, mask="q"), net)


@pytest.mark.parametrize(("named", "biases"), [(True, 1), (False, 2)])
def test_layers_share_where_their_lengths_are_known_to_agree(named, biases):
    model, _, sites = site_of(Spelling(mask="11NS", mask_kind="boolean", layers=2, named_axes=named))
    surgeon = Surgeon(model)
    masks, nodes = AttentionMasks(surgeon, Proofs(inferred_sizes(model, {}))), []
    query, key = surgeon.value("q"), surgeon.value("k")
    assert len({masks.bias(site, query, key, nodes).name for site in sites}) == biases
    assert sum(node.op_type == "Where" for node in nodes) == biases
