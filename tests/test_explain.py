"""Why each choice and each refusal, read back from a folder."""

import json

import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.plan import Budget, Choice, Option, Phase, Plan, Workload
from szilard.cost_model.sites import Miss
from szilard.rewriter.explain import explain, explain_text, read_plan
from szilard.rewriter.json_text import json_text

OPTIONS = (
    Option("leave", 2.0, 0.2, "measured"),
    Option("int8_static", 0.5, 0.1, "measured", 0.004, (1.2, 1.8)),
    Option("int4_weight", 0.4, 0.3, "table", 0.4, (-0.2, 1.8), "its error alone is over the budget"),
    Option("int8_static_merged", float("inf"), float("inf"), "", reason="the group has a single member"),
)
PLAN = Plan(
    "cpu",
    Workload((Phase("1x128", {"ids": (1, 128)}),)),
    Budget(),
    (
        Choice("layer.0.query", "linear", "int8_static", OPTIONS, ("layer.0.query", "layer.0.key"), "torch", "It saves 1.5 J."),
        Choice("layer.1.query", "linear", "leave", OPTIONS, ("layer.1.query",), "torch", "The budget is spent.", locked=True),
    ),
    (Miss("softmax_3", "attention", "At length 128 it is shorter than the crossover at 1900."),),
)
REPORT = {
    "joules": {"before": 4.0, "after": 2.5, "label": "modelled"},
    "rolled_back": ["int8_static at layer.1.query was taken back: over budget."],
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "plan.json").write_text(json_text(PLAN.to_json()))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    return tmp_path


def test_everything(folder):
    found = explain(folder)
    assert [(c["site"], c["action"], c["reason"]) for c in found["choices"]] == [
        ("layer.0.query", "int8_static", "It saves 1.5 J."),
        ("layer.1.query", "leave", "The budget is spent."),
    ]
    assert found["misses"] == [{"op": "softmax_3", "kind": "attention", "reason": PLAN.misses[0].reason}]
    text = explain_text(found)
    assert "2.00 J -> 500 mJ (-75 %) modelled" in text
    assert "leave (locked)" in text
    assert "crossover at 1900" in text
    assert "rolled back by the check: int8_static at layer.1.query was taken back: over budget." in text


@pytest.mark.parametrize("site", ["layer.0.query", "layer.0.key"])
def test_one_site_has_all_its_options(folder, site):
    found = explain(folder, site)
    (choice,) = found["choices"]
    assert found["misses"] == []
    assert [(o["action"], o["taken"]) for o in choice["options"]] == [
        ("leave", False),
        ("int8_static", True),
        ("int4_weight", False),
        ("int8_static_merged", False),
    ]
    text = explain_text(found)
    head = next(line for line in text.splitlines() if line.startswith("  option"))
    assert text.splitlines()[text.splitlines().index(head) - 1].startswith("  Joules and savings are modelled")
    assert "* int8_static" in text
    assert "its error alone is over the budget" in text
    assert "-200 mJ to 1.80 J" in text
    assert "decided together: layer.0.key" in text
    assert "unknown" not in text
    assert "int8_static_merged  not available\n      not taken: the group has a single member" in text


def test_long_reasons_wrap_and_names_stay_whole(tmp_path):
    name, reason = "encoder-" * 12, "This kernel reads its weights twice, and so it does not pay here. " * 6
    unscored = Option("int4_weight", 0.4, 0.3, "table", float("inf"), (0.2, 1.8), reason)
    choice = Choice("a", "linear", "leave", (OPTIONS[0], unscored), ("a", name, name + "x"), "torch", reason)
    miss = Miss(name, "attention", reason)
    plan = Plan("cpu", PLAN.workload, Budget(), (choice,), (miss,))
    (tmp_path / "plan.json").write_text(json_text(plan.to_json()))
    (tmp_path / "report.json").write_text(json.dumps(REPORT))
    for text in (explain_text(explain(tmp_path)), explain_text(explain(tmp_path, "a"))):
        assert max(len(line) for line in text.splitlines()) <= 110
        assert name in text
    row = next(line for line in text.splitlines() if "int4_weight" in line)
    assert row.split() == ["int4_weight", "400", "mJ", "300", "ms", "table", "200", "mJ", "to", "1.80", "J"]


def test_a_refused_op_is_explained(folder):
    found = explain(folder, "softmax_3")
    assert found["choices"] == []
    assert explain_text(found) == f"refused attention at softmax_3: {PLAN.misses[0].reason}"


@pytest.mark.parametrize(
    ("site", "words"),
    [
        ("layer.0.qery", "closest are: layer.0.query"),
        ("QUERY", "layer.0.query, layer.1.query"),
        ("zzz", "the plan has: layer.0.query"),
    ],
)
def test_an_unknown_site_names_the_closest(folder, site, words):
    with pytest.raises(InputError, match=words):
        explain(folder, site)


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"needs plan\.json and report\.json"):
        explain(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "not JSON"), ("{}", "expected fields"), ("[]", "expected fields"), ('{"format": 9}', "format 9")]
)
def test_a_broken_plan_is_named(tmp_path, text, words):
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(InputError, match=words) as caught:
        read_plan(path)
    assert str(path) in str(caught.value)


def test_a_plan_reads_back(folder):
    assert read_plan(folder / "plan.json") == PLAN


def test_an_attention_that_was_scored_has_its_heads(folder):
    heads = [{"head": 0, "budget": 24, "error": 0.0912}, {"head": 1, "budget": None, "error": 0.0}]
    row = {"site": "layer.0.query", "runtime": "torch", "tile": 16, "heads": heads}
    rows = [row, {**row, "runtime": "onnxruntime", "heads": heads[:1]}, {**row, "site": "layer.1.query", "heads": []}]
    (folder / "report.json").write_text(json.dumps({**REPORT, "attention": rows}))
    first, second = explain(folder)["choices"]
    assert first["heads"] == [{**head, "tile": 16} for head in heads]
    assert second["heads"] == []
    text = explain_text(explain(folder, "layer.0.query"))
    assert "exact tiles of 16 keys, head by head: 24, dense" in text
    assert "relative errors of their outputs (measured): 0.091\n" in text
    assert "head by head" not in explain_text(explain(folder, "layer.1.query"))
