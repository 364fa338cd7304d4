"""Shapes and workload files: what users write, what it means, and what they are told when it cannot be."""

import json

import numpy as np
import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Budget, Plan
from szilard.cost_model.program import Program
from szilard.rewriter.workload import (
    described,
    longest_length,
    parse_shape,
    parse_shapes,
    read_workload,
    sample_shapes,
    spread,
    workload_for,
)


def test_several_inputs_and_a_weight():
    phase = parse_shape("input_ids=1x128,attention_mask=1x128:0.5")
    assert phase.shapes == {"input_ids": (1, 128), "attention_mask": (1, 128)}
    assert phase.weight == 0.5
    assert phase.name == "1x128"


def test_names_may_hold_colons_and_dots():
    assert parse_shape("input:0=3x7").shapes == {"input:0": (3, 7)}
    assert parse_shape("a.b/c:0=3x7:2").weight == 2.0


@pytest.mark.parametrize(
    "text", ["", "1x", "x1", "1x0", "a=", "=1x2", "a=1xb", "1x128:0", "1x128:-1", "1x128:1e999", "a=1,a=2", "1x2:e", "a=-1x3"]
)
def test_texts_that_cannot_be_read(text):
    with pytest.raises(InputError, match="--shape"):
        parse_shape(text)


def test_phases_of_one_short_name_are_told_apart():
    workload = parse_shapes(["a=1x128,b=1x16:3", "a=1x128,b=1x32:1", "a=8x128:4"])
    assert [p.name for p in workload.phases] == ["a=1x128,b=1x16", "a=1x128,b=1x32", "8x128"]
    assert [p.weight for p in workload.phases] == [0.375, 0.125, 0.5]


def program(**arrays):
    dynamic = {"ids": {0: "batch", 1: "length"}, "mask": {0: "batch", 1: "length"}, "types": {0: "batch", 1: "length"}}
    return Program(None, "torch", arrays, tuple(arrays), ("y",), {n: d for n, d in dynamic.items() if n in arrays}, "test")


TEXT = program(ids=np.zeros((1, 7)), mask=np.zeros((1, 7)), rate=np.array(1), image=np.zeros((1, 3, 9, 9)))


def test_a_bare_shape_goes_to_every_input_of_its_rank():
    (phase,) = workload_for(TEXT, parse_shapes(["2x33"])).phases
    assert phase.shapes == {"ids": (2, 33), "mask": (2, 33), "rate": (), "image": (1, 3, 9, 9)}


def test_inputs_that_are_not_named_take_the_symbols_that_are_bound():
    (phase,) = workload_for(TEXT, ["ids=2x33"]).phases
    assert phase.shapes["mask"] == (2, 33)


def test_no_workload_is_the_shapes_of_the_sample():
    (phase,) = workload_for(TEXT, None).phases
    assert phase.name == "1x3x9x9"
    assert phase.shapes["ids"] == (1, 7)


@pytest.mark.parametrize("request_", [parse_shapes(["3x5:2", "ids=1x9:6"]), ["3x5:2", "ids=1x9:6"]])
def test_texts_and_workloads_are_one(request_):
    workload = workload_for(TEXT, request_)
    assert [(p.name, p.weight) for p in workload.phases] == [("3x5", 0.25), ("1x9", 0.75)]


def test_the_sample_takes_the_shapes_that_are_named():
    assert sample_shapes(["ids=2x7,mask=2x7:0.3", "ids=8x128"]) == {"ids": (2, 7), "mask": (2, 7)}
    assert sample_shapes(parse_shapes(["ids=2x7"])) == {"ids": (2, 7)}
    assert [sample_shapes(request) for request in (None, [])] == [None] * 2


def test_the_longest_length_is_that_of_a_phase_without_context():
    assert longest_length(["ids=2x7,mask=2x9:0.3", "ids=8x5", "8x1@4096"]) == 9
    assert [longest_length(request) for request in (None, [], ["x=7"], ["8x1@4096"])] == [0] * 4


def test_a_bare_shape_is_spread_over_the_inputs_of_its_rank():
    assert sample_shapes("3x5") == {"*": (3, 5)}
    inputs = {"ids": ("N", "t"), "mask": ("N", "t"), "rate": ()}
    assert spread({"*": (3, 5)}, inputs) == {"ids": (3, 5), "mask": (3, 5)}
    assert spread({"*": (3, 5), "mask": (3, 7)}, inputs) == {"ids": (3, 5), "mask": (3, 7)}
    with pytest.raises(InputError, match=r"The shape 3x5x7 fits no input; the inputs are ids \(Nxt\), mask \(Nxt\), rate"):
        spread({"*": (3, 5, 7)}, inputs)


def test_a_workload_file_by_its_path(tmp_path):
    path = tmp_path / "w.json"
    path.write_text('[{"shapes": {"ids": [4, 11]}}]')
    for request_ in (path, str(path)):
        assert workload_for(TEXT, request_).phases[0].shapes["mask"] == (4, 11)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("idz=1x7", "Did you mean ids"),
        ("2x3x4", "fits no input"),
        ("ids=1x2x3", "2 axes"),
        ("zz=1", "lacks"),
        ("ids=2x33,mask=2x34", "'length' to both 33 and 34"),
        ("image=1x3x9x10", "axis 3 of input image is fixed at 9"),
    ],
)
def test_a_shape_that_does_not_fit_the_model(text, words):
    with pytest.raises(InputError, match=words):
        workload_for(TEXT, [text])


def test_a_workload_file(tmp_path):
    path = tmp_path / "w.json"
    entries = [{"name": "prefill", "shapes": {"ids": [1, 2048]}, "weight": 3}, {"shapes": {"ids": [8, 1]}, "context": 2048}]
    path.write_text(json.dumps(entries))
    prefill, decode = read_workload(path).phases
    assert (prefill.name, prefill.weight, prefill.shapes) == ("prefill", 0.75, {"ids": (1, 2048)})
    assert (decode.name, decode.weight) == ("8x1@2048", 0.25)
    assert (prefill.context, decode.context) == (0, 2048)
    assert described(decode) == {**entries[1], "name": "8x1@2048", "weight": 0.25}
    assert "context" not in described(prefill)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "at least one entry"),
        ('{"shapes": {}}', "JSON list"),
        ('[{"shapes": {}}]', "Entry 0"),
        ('[{"shapes": {"a": [1]}}, {"shapes": {"a": [0]}}]', "Entry 1"),
        ('[{"shapes": {"a": [true]}}]', "Entry 0"),
        ('[{"shapes": {"a": [1]}, "weight": "much"}]', "weight"),
        ('[{"shapes": {"a": [1]}, "wieght": 1}]', "wieght"),
        (
            '[{"shapes": {"a": [1]}, "context": -1}]',
            "Entry 0 of the workload file .* has context -1; a context is a whole number",
        ),
        ('[{"shapes": {"a": [1]}, "context": "long"}]', "has context 'long'"),
        ('[{"shapes": {"a": [1]}, "context": true}]', "has context True"),
    ],
)
def test_workload_files_that_cannot_be_used(tmp_path, text, words):
    path = tmp_path / "w.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words):
        read_workload(path)


def test_a_missing_workload_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_workload(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("text", "name", "shapes", "weight"),
    [
        ("ids=8x1@2048:0.7", "8x1@2048", {"ids": (8, 1)}, 0.7),
        ("8x1@33", "8x1@33", {"*": (8, 1)}, 1.0),
        ("ids=4x3,mask=4x3@7:1e-2", "4x3@7", {"ids": (4, 3), "mask": (4, 3)}, 0.01),
    ],
)
def test_a_context_follows_an_at(text, name, shapes, weight):
    phase = parse_shape(text)
    assert (phase.name, phase.shapes, phase.weight, phase.context) == (name, shapes, weight, int(name.partition("@")[2]))


@pytest.mark.parametrize("text", ["8x1@0", "8x1@", "8x1@-5", "8x1@1e3", "8x1@two:0.5", "8x1@05"])
def test_a_context_that_is_none_is_named(text):
    with pytest.raises(InputError, match=r"has context .*; a context is a whole number above zero"):
        parse_shape(text)


@pytest.mark.parametrize("text", ["a=1@2,b=3", "1x@5", "8x1@5@6:x"])
def test_a_context_in_the_wrong_place_is_refused(text):
    with pytest.raises(InputError, match="--shape"):
        parse_shape(text)


def test_phases_keep_their_context_all_the_way():
    workload = workload_for(TEXT, ["ids=8x1@2048:3", "ids=8x1@64:1", "1x9"])
    assert [(p.name, p.context, p.weight) for p in workload.phases] == [
        ("8x1@2048", 2048, 0.6),
        ("8x1@64", 64, 0.2),
        ("1x9", 0, 0.2),
    ]
    assert workload.phases[0].shapes["mask"] == (8, 1)
    same = parse_shapes(["a=8x1,b=2@5", "a=8x1,c=2@5"])
    assert [p.name for p in same.phases] == ["a=8x1,b=2@5", "a=8x1,c=2@5"]
    assert sample_shapes(["8x1@2048", "1x9"]) == {"*": (1, 9)}
    assert sample_shapes(["8x1@2048"]) is None


def test_a_plan_keeps_contexts_and_reads_plans_that_have_none():
    plan = Plan("cpu", workload_for(TEXT, ["ids=8x1@2048", "1x9"]), Budget(), ())
    data = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(data) == plan
    for phase in data["workload"]["phases"]:
        del phase["context"]
    assert [phase.context for phase in Plan.from_json(data).workload.phases] == [0, 0]
    for wrong, words in ((-1, "context -1"), ("many", "expected fields")):
        data["workload"]["phases"][0]["context"] = wrong
        with pytest.raises(InputError, match=words):
            Plan.from_json(data)
