"""What a report shows of attention: which heads went sparse, why sites did not, and the spectra of a few heads, safe for any name."""

import re

import pytest

from szilard.cost_model.plan import Budget, Phase, Plan, Workload
from szilard.rewriter.attention_view import attention_view
from szilard.rewriter.report import write_report

from .test_report import EVIL, Reader

SIDE = {
    "eigenvalues": [0.0, 0.5, 0.6, 1.0], "largest": 1.2, "gap": 0.5, "quality": 0.333, "clusters_shown": 2, "mixing_steps": 4,
    "mixing_steps_at_most": 12.3, "heat_lost_at_time_1": 0.37, "effective_rank": 20.0,
}  # fmt: skip
SPECTRAL = {
    "site": "a", "head": 1, "budget": 8, "error": 0.0912, "decision": "sparse", "causal": True, "length": 4096, "every": 1,
    "advice": "hybrid", "tokens": 1024, "clusters": 3, "dense": SIDE, "sparse": {**SIDE, "gap": 0.25, "mixing_steps": None},
    "edges": 5000, "pairs": 20000, "density": 0.25, "sin_theta": 0.7, "sin_theta_at_most": 0.9, "sparsifier_error": [0.1, 0.5],
    "least_edges": 4096.0, "excess_free_energy_nats": 0.02,
    "shown": {"clusters": 2, "quality": 0.4, "sin_theta": 0.2, "sin_theta_at_most": 40.0},
}  # fmt: skip


def site(name="a", runtime="torch", action="spectral_sparse", budgets=(8, None), reason="It pays."):
    heads = [{"head": head, "budget": budget, "error": 0.09 if budget else 0.0} for head, budget in enumerate(budgets)]
    known = {"tile": 16, "tolerance": 0.1, "density": 0.2} if heads else {"tile": None, "tolerance": None, "density": None}
    row = {"site": name, "runtime": runtime, "action": action, "reason": reason, "length": 4096, "causal": True}
    return {**row, **known, "heads": heads}


def view(*rows, spectral=()):
    return attention_view({"attention": list(rows), "spectral": list(spectral)})


def test_runtimes_that_agree_share_a_sentence():
    both = view(site(), site(runtime="onnxruntime"))["summary"]
    assert both == [
        "On torch and onnxruntime, 1 of 1 attentions went sparse, in 1 of their 2 heads, with 8 exact tiles of 16 keys: 20.0 % of their "
        "pairs are exact at 4,096 tokens."
    ]
    apart = view(site(), site("b", budgets=(2, 24, 4)), site(action="leave", runtime="onnxruntime"))["summary"]
    assert "2 of 2 attentions went sparse, in 4 of their 5 heads, with 2 to 24 exact tiles" in apart[0]
    assert apart[1] == "On onnxruntime, 0 of 1 attentions went sparse."


def test_the_map_has_a_row_for_each_scored_site_and_marks_dense_heads():
    found = view(
        site(),
        site(runtime="onnxruntime", action="leave"),
        site("b", budgets=(64, 32, 1)),
        site("c", action="leave", budgets=()),
    )
    shown = found["map"]
    assert shown["columns"] == [0, 1, 2]
    assert [row["site"] for row in shown["rows"]] == ["a", "b"]
    assert shown["rows"][0]["became"] == "sparse on torch, dense on onnxruntime"
    sparse, dense = shown["rows"][0]["cells"]
    assert (sparse["budget"], sparse["error"]) == ("8", "0.09")
    assert (dense["budget"], dense["strength"]) == ("dense", None)
    strengths = [int(cell["strength"]) for cell in shown["rows"][1]["cells"]]
    assert strengths == [45, 22, 1]
    assert int(sparse["strength"]) == 6


def test_one_reason_is_told_once():
    why = "Spectral sparse attention is refused: attention {} has a mask."
    rows = [site(name, runtime, "leave", (), why.format(name)) for runtime in ("torch", "onnxruntime") for name in ("a", "b")]
    (row,) = view(*rows)["left"]
    assert row["reason"] == "Spectral sparse attention is refused: this attention has a mask."
    assert (row["places"], row["sites"], row["count"]) == ("torch and onnxruntime", "a, b", "2")
    assert len(view(*rows[:3])["left"]) == 2


def test_programs_of_one_runtime_are_told_apart():
    rows = [{**site(), "program": "prefill"}, {**site(action="leave", budgets=(), reason="One token."), "program": "decode"}]
    found = view(*rows)
    assert [sentence.split(",")[0] for sentence in found["summary"]] == ["On torch (prefill)", "On torch (decode)"]
    assert found["left"][0]["places"] == "torch (decode)"
    assert [row["became"] for row in found["map"]["rows"]] == ["sparse on torch (prefill)"]


def test_numbers_stand_beside_the_decision_and_a_bound_that_says_nothing_is_none():
    found = view(site(), spectral=[SPECTRAL, {"site": "b", "head": 0, "reason": "No mass."}])
    numbers = dict(found["numbers"])
    assert numbers["decision here, by measured error"] == ["sparse"]
    assert numbers["the paper's tree (Figure 4) says"] == ["hybrid"]
    assert numbers["spectral gap λ₂"] == ["0.5 → 0.25"]
    assert numbers["|sin Θ| of their eigenvectors (Davis-Kahan bound)"] == ["0.2 (none)"]
    assert numbers["|sin Θ| of as many as Q asks for (bound)"] == ["0.7 (0.9)"]
    assert numbers["steps until mixed (bound)"] == ["4 (12.3) → over 100 (12.3)"]
    assert found["without"] == ["b, head 0: No mass."]
    assert "undirected graph" in found["note"]
    assert "undirected" not in view(site(), spectral=[{**SPECTRAL, "causal": False, "every": 4}])["note"]
    assert "one token in 4" in view(site(), spectral=[{**SPECTRAL, "causal": False, "every": 4}])["note"]


def test_eigenvalues_rise_from_the_left_below_to_the_right_above():
    (figure,) = view(site(), spectral=[SPECTRAL])["figures"]
    points = [tuple(map(float, pair.split(","))) for pair in figure["line"].split()]
    assert points[0] == (34, 132)
    assert points[-1] == (252, 8)
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert (figure["highest"], figure["last"]) == ("1", "4")
    assert len(figure["dots"]) == 4


def test_a_model_without_attention_has_no_section(tmp_path):
    found = attention_view({})
    assert not any(found[part] for part in ("summary", "left", "figures", "heads", "numbers", "without", "note"))
    write_report(tmp_path, {"joules": {}}, Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(), ()))
    assert "head by head" not in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rows = [site(EVIL), site(EVIL, "onnxruntime", "leave"), site("b", budgets=(2, 4, 8)), site("c", "torch", "leave", (), EVIL)]
    spectral = [{**SPECTRAL, "site": EVIL}, SPECTRAL, {"site": EVIL, "head": 0, "reason": EVIL}]
    plan = Plan("cpu", Workload((Phase("1", {"x": (1,)}),)), Budget(), ())
    write_report(folder, {"joules": {}, "attention": rows, "spectral": spectral}, plan)
    return folder


def test_pages_are_well_formed_and_names_are_text(folder):
    html = (folder / "report.html").read_text()
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    assert "script" not in reader.seen
    assert html.count("<svg") == 2
    heat = html[html.index('class="heat"') :].split("</table>")[0]
    assert {len(re.findall(r"<t[hd][ >]", row)) for row in heat.split("</tr>")[:-1]} == {1 + 3 + 2}
    assert not re.search(r"https?://|<link|<img|@import|url\(", html)


def test_markdown_tables_hold_together(folder):
    text = (folder / "report.md").read_text()
    assert "<script>" not in text
    part = text[text.index("## Attention") :]
    blocks = re.findall(r"(?:^\|.*\n)+", part, flags=re.MULTILINE)
    assert len(blocks) == 2
    assert len(blocks[1].splitlines()) > 15
    for block in blocks:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block
        assert block.splitlines()[1].startswith("|---")
