"""Names of sites and of groups of them."""

import pytest

from szilard.cost_model.net import Op
from szilard.passes.site_names import group_name, module_of, site_names


def ops(**origins):
    return [Op(id, "matmul", "test", (), (id,), {}, origin) for id, origin in origins.items()]


def test_a_module_names_one_op_only():
    assert site_names(ops(a="layer.query", b="layer.mlp", c="layer.mlp", d="")) == {
        "a": "layer.query",
        "b": "b",
        "c": "c",
        "d": "d",
    }


def test_a_module_called_like_another_op_does_not_name():
    assert site_names(ops(a="b", b="x.y")) == {"a": "a", "b": "x.y"}


@pytest.mark.parametrize(("origin", "module"), [("a.b", "a.b"), ("/a/b/MatMul", "a.b"), ("/MatMul", ""), ("", "")])
def test_the_older_exporter_names_nodes_by_path(origin, module):
    assert module_of(origin) == module


@pytest.mark.parametrize(
    ("names", "group"),
    [
        (["a.b"], "a.b"),
        (["a.q", "a.k", "a.v"], "a.q+k+v"),
        (["q", "k"], "q+k"),
        (["a.q", "b.k"], "a.q+1"),
        (["a.q", "a.k", "a.v", "a.o", "a.p"], "a.q+4"),
    ],
)
def test_groups_are_called_after_their_members(names, group):
    assert group_name(names) == group
