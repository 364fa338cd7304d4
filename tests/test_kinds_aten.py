import pytest
import torch

from szilard.cost_model.kinds import KINDS
from szilard.cost_model.kinds_aten import KINDS_ATEN, kind_of_aten

# Their overloads name the one operand differently, so the table lists both names.
NAMED_OTHERWISE = {"upsample_nearest1d", "upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d"}


def test_every_kind_is_a_word_of_the_vocabulary():
    assert {kind for kind, _ in KINDS_ATEN.values()} <= KINDS


@pytest.mark.parametrize("name", sorted(KINDS_ATEN.keys() - {"cond"}))
def test_operands_are_arguments_of_some_overload(name):
    packet = getattr(torch.ops.aten, name)
    schemas = [getattr(packet, overload)._schema for overload in packet.overloads()]
    names = [{argument.name for argument in schema.arguments} for schema in schemas]
    operands = set(KINDS_ATEN[name][1])
    if name in NAMED_OTHERWISE:
        assert all(len(operands & each) == 1 for each in names)
    else:
        assert any(operands <= each for each in names), f"{operands} against {names}"


@pytest.mark.parametrize(
    ("name", "kind", "operands"),
    [
        ("aten.add.Tensor", "add", ("self", "other")),
        ("aten.rsub.Scalar", "sub", ("other", "self")),
        ("aten.max.dim", "reduce_max", ("self",)),
        ("aten.max.default", "reduce_max", ("self",)),
        ("aten.max.other", "max", ("self", "other")),
        ("aten._assert_scalar.default", "assert", None),
        ("aten.unheard_of.default", "other:aten.unheard_of.default", None),
        ("mine.add.default", "other:mine.add.default", None),
        ("higher_order.cond", "if", ()),
    ],
)
def test_kinds(name, kind, operands):
    assert kind_of_aten(name) == (kind, operands)
