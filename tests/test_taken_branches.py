"""Branches in place of their ifs: the same ops, values and prices, under names that cannot clash."""

from dataclasses import replace

import pytest

from szilard.cost_model.device import load_device
from szilard.cost_model.net import Net, Value
from szilard.cost_model.price import price_net, price_op
from szilard.cost_model.taken_branches import with_taken_branches

from .priced_nets import net_of

SHAPE = (4, 5)


def branch(kind: str, name: str, reads: str = "x", result: str = "inner") -> Net:
    body = net_of({reads: SHAPE, result: SHAPE}, [(kind, [reads], [result])])
    op = replace(body.ops["op0"], id=name)
    return Net({name: op}, {result: body.values[result]}, (), (result,))


def outer(first: int | None = 0, second: int | None = 1) -> Net:
    """Two ifs, one behind the other, whose branches all name their result "inner"."""
    return net_of(
        {"x": SHAPE, "c": (1,), "y": SHAPE, "z": SHAPE, "end": SHAPE},
        [
            ("if", ["c"], ["y"], {} if first is None else {"taken": first}),
            ("if", ["c"], ["z"], {} if second is None else {"taken": second}),
            ("add", ["y", "z"], ["end"]),
        ],
        branches={
            "op0": (branch("exp", "then_0"), branch("neg", "else_0")),
            "op1": (branch("exp", "then_1", "y"), branch("neg", "else_1", "y")),
        },
    )


def test_the_ops_of_taken_branches_take_the_place_of_the_ifs():
    flat = with_taken_branches(outer())
    assert [(op.id, op.kind) for op in flat.ops.values()] == [("then_0", "exp"), ("else_1", "neg"), ("op2", "add")]
    exp, neg, add = flat.ops.values()
    assert neg.inputs == exp.outputs
    assert add.inputs == (*exp.outputs, *neg.outputs)
    assert exp.output != neg.output
    assert all(flat.shape(name) == SHAPE for op in flat.ops.values() for name in (*op.inputs, *op.outputs))
    assert flat.outputs == ("end",)


def test_a_result_of_an_if_may_be_the_result_of_the_net_or_pass_through():
    through = replace(outer(), outputs=("z",))
    assert with_taken_branches(through).outputs == (list(with_taken_branches(through).ops.values())[1].output,)
    passing = Net({}, {}, (), ("x",))
    net = outer()
    net = replace(net, ops={**net.ops, "op0": replace(net.ops["op0"], branches=(passing, passing))})
    assert with_taken_branches(net).ops["else_1"].inputs == ("x",)


def test_a_branch_that_is_not_known_stays():
    flat = with_taken_branches(outer(first=None))
    assert [op.kind for op in flat.ops.values()] == ["if", "neg", "add"]
    assert with_taken_branches(flat) is flat


def test_branches_within_branches_are_reached():
    inner = outer()
    body = replace(inner, inputs=(), values={k: v for k, v in inner.values.items() if k not in ("x", "c")}, outputs=("end",))
    net = net_of({"x": SHAPE, "c": (1,), "all": SHAPE}, [("if", ["c"], ["all"], {"taken": 0})], branches={"op0": (body,)})
    net = replace(net, ops={"outermost": replace(net.ops["op0"], id="outermost")})
    flat = with_taken_branches(net)
    assert [op.kind for op in flat.ops.values()] == ["exp", "neg", "add"]
    assert flat.outputs == (flat.ops["op2"].output,)


def test_each_op_costs_what_it_would_without_the_ifs():
    device = load_device("cpu")
    flat = with_taken_branches(outer())
    plain = net_of(
        {"x": SHAPE, "y": SHAPE, "z": SHAPE, "end": SHAPE},
        [("exp", ["x"], ["y"]), ("neg", ["y"], ["z"]), ("add", ["y", "z"], ["end"])],
    )
    assert price_net(flat, device).total == price_net(plain, device).total
    assert price_op(flat.ops["else_1"], flat, device).bytes == 2 * 4 * 4 * 5


def test_two_ops_of_one_name_are_a_fault():
    net = outer()
    twice = {**net.ops, "op1": replace(net.ops["op1"], branches=net.ops["op0"].branches, attributes={"taken": 0})}
    with pytest.raises(ValueError, match="two ops have the id then_0"):
        with_taken_branches(replace(net, ops=twice))


def test_constants_of_a_branch_keep_their_arrays():
    body = branch("neg", "n", "w")
    body = replace(body, values={**body.values, "w": Value("w", SHAPE, "float32", lambda: 7)})
    net = outer()
    net = replace(
        net,
        ops={**net.ops, "op0": replace(net.ops["op0"], branches=(body, body))},
        values={**net.values, "w": Value("w", (1,), "float32")},
    )
    flat = with_taken_branches(net)
    assert flat.ops["n"].inputs == ("op0/w",)
    assert flat.values["op0/w"].load() == 7
