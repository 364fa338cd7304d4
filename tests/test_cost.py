"""Costs add up term by term, and a sum carries the worst label of its parts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.cost import LABELS, TERMS, total_cost
from szilard.cost_model.counts import Counts
from szilard.cost_model.device import load_device
from szilard.cost_model.price import price_counts

CPU = load_device("cpu")


def priced(flops=1e6, size=1e3, label=None, known=True, name="x"):
    counts = Counts({"float32": flops}, size, size, (), launches=1, known=known)
    return price_counts(counts, CPU, "exp", None if label is None else 1e-3, label or "measured", name)


@given(st.lists(st.tuples(st.floats(0, 1e12), st.floats(0, 1e9)), max_size=6))
@settings(max_examples=50, deadline=None)
def test_a_total_is_the_sum_of_every_field(work):
    parts = [priced(flops, size) for flops, size in work]
    total = total_cost(parts)
    assert set(total.terms) == set(TERMS)
    assert total.joules == pytest.approx(sum(total.terms.values()))
    for name in ("joules", "seconds", "flops", "bytes", "launches", "landauer", "io_bytes", "io_bytes_core"):
        assert getattr(total, name) == pytest.approx(sum(getattr(part, name) for part in parts)), name
    for level in ("memory", "cache", "link"):
        assert total.bytes_by_level.get(level, 0.0) == pytest.approx(sum(part.bytes_by_level[level] for part in parts)), level
    assert sum(total.flops_by_dtype.values()) == pytest.approx(total.flops)
    assert sum(total.seconds_by_bound.values()) == pytest.approx(total.seconds)


def test_the_label_of_a_sum_is_its_worst():
    parts = {label: priced(label=None if label == "roofline" else label) for label in LABELS}
    assert total_cost(parts.values()).label == "roofline"
    assert total_cost([parts["measured"], parts["table"]]).label == "table"
    assert total_cost([parts["measured"]]).label == "measured"
    free = price_counts(Counts(), CPU, "reshape")
    assert total_cost([parts["measured"], free]).label == "measured"


def test_ops_that_could_not_be_counted_are_named_in_the_total():
    total = total_cost([priced(), priced(known=False, name="odd"), priced(known=False, name="strange")])
    assert total.at_least
    assert total.unpriced == ("odd", "strange")
    assert not total_cost([priced()]).at_least
