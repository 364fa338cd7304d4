"""The joules that rest on priors: all of them until a coefficient is measured, and each joule counts once."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.counts import Counts
from szilard.cost_model.device import PROVENANCES, device_names, load_device
from szilard.cost_model.price import price_counts
from szilard.cost_model.provenance import (
    NAMES,
    WEAKEST_FIRST,
    joules_by_provenance,
    provenance_clause,
    provenance_shares,
)

CPU = load_device("cpu")
WORK = Counts({"float32.tensor": 1e9, "int8.tensor": 1e8}, 3e6, 1e6, (), link=1e4, launches=3)


def with_provenance(device, **changed):
    """The profile with other provenances; "." in keys is written "__"."""
    table = dict(device.coefficients)
    for key, provenance in changed.items():
        table[key.replace("__", ".")] = replace(table[key.replace("__", ".")], provenance=provenance)
    return replace(device, coefficients=table)


def test_every_provenance_has_a_rank_and_a_name():
    assert set(WEAKEST_FIRST) == set(PROVENANCES) == set(NAMES)


@given(
    st.floats(0, 1e12),
    st.floats(0, 1e9),
    st.integers(0, 9),
    st.sampled_from([None, 1e-3]),
    st.sampled_from(device_names()),
    st.dictionaries(st.sampled_from(sorted(CPU.coefficients)), st.sampled_from(PROVENANCES)),
)
@settings(max_examples=80, deadline=None)
def test_each_joule_counts_once(flops, size, launches, seconds, name, provenances):
    device = with_provenance(load_device(name), **{k: v for k, v in provenances.items() if k in load_device(name).coefficients})
    cost = price_counts(Counts({"float32.tensor": flops}, size, size, (), launches=launches), device, "matmul", seconds)
    found = joules_by_provenance(cost, device)
    assert sum(found.values()) == pytest.approx(cost.joules, rel=1e-9)
    assert all(joules > 0 for joules in found.values())
    shares = provenance_shares([(0.5, cost), (2.0, cost)], device)
    assert sum(shares.values()) == pytest.approx(1.0 if cost.joules else 0.0)
    assert list(shares) == [word for word in WEAKEST_FIRST if word in shares]


def test_what_is_measured_moves_over():
    cost = price_counts(WORK, CPU, "matmul", seconds=1e-3)
    assert joules_by_provenance(cost, CPU) == {"prior": pytest.approx(cost.joules)}
    device = with_provenance(CPU, flop__float32="measured", byte__cache="measured", static="datasheet")
    measured = cost.flops_by_dtype["float32"] * CPU.value("flop.float32") + cost.terms["cache"]
    found = joules_by_provenance(cost, device)
    assert found["measured"] == pytest.approx(measured)
    assert found["datasheet"] == pytest.approx(cost.terms["static"])
    assert found["prior"] == pytest.approx(cost.joules - measured - cost.terms["static"])


def test_static_joules_rest_on_what_bounds_their_seconds():
    device = with_provenance(CPU, static="measured", launch_seconds="measured", rate__float32="measured")
    launches, arithmetic = Counts(launches=5), Counts({"float32": 1e9})
    cost = price_counts(launches, device, "exp")
    assert joules_by_provenance(cost, device)["measured"] == pytest.approx(cost.terms["static"])
    assert "measured" not in joules_by_provenance(price_counts(arithmetic, device, "exp"), device)  # its utilisation is a prior
    better = with_provenance(device, utilisation__elementwise="measured")
    cost = price_counts(arithmetic, better, "exp")
    assert joules_by_provenance(cost, better)["measured"] == pytest.approx(cost.terms["static"])
    given_seconds = price_counts(arithmetic, device, "exp", seconds=1.0)
    assert joules_by_provenance(given_seconds, device)["measured"] == pytest.approx(device.value("static"))


def test_the_wait_for_the_power_limit_rests_on_the_energies():
    device = with_provenance(load_device("l4"), static="measured", power_limit="measured", launch_seconds="measured")
    counts = Counts({"float32": 1e12})
    cost = price_counts(counts, device, "matmul")
    assert cost.seconds_by_bound["power_limit"] > 0
    assert "measured" not in joules_by_provenance(cost, device)
    sure = with_provenance(device, flop__float32="measured", rate__float32="measured", utilisation__matmul="measured")
    assert set(joules_by_provenance(price_counts(counts, sure, "matmul"), sure)) == {"measured"}


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ({}, ""),
        ({"prior": 1.0}, "all of them rest on prior coefficients"),
        ({"prior": 0.83, "measured": 0.17}, "83 % of them rest on prior coefficients, 17 % on measured ones"),
        (
            {"modelled": 0.999, "datasheet": 0.001},
            "more than 99 % of them rest on simulated coefficients, less than 1 % on datasheet ones",
        ),
    ],
)
def test_the_clause(shares, sentence):
    assert provenance_clause(shares) == sentence
