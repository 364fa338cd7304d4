"""The design tells every coefficient apart on every card that has a profile, and what each point is made for shows in its work."""

import numpy as np
import pytest

from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.fit import CONDITION, fit
from szilard.cost_model.joule_design import MOST_REPEATS, Point, joule_points
from szilard.cost_model.measurement import work_of

CARDS = [name for name in device_names() if load_device(name).kind == "cuda"]


def design(points, device):
    """Rows of the design at the seconds of the roofline, and what they cost by the profile [J]."""
    rows = []
    for point in points:
        cost = point.cost(device)
        work = {key: amount * point.repeats for key, amount in work_of(cost).items()}
        rows.append({**work, "static": cost.seconds * point.repeats + point.pause})
    return rows, [sum(device.value(key) * amount for key, amount in row.items()) for row in rows]


@pytest.mark.parametrize("name", CARDS)
def test_every_coefficient_of_a_card_can_be_told_apart(name):
    device = load_device(name)
    points = joule_points(device)
    rows, joules = design(points, device)
    found = fit(rows, joules, draws=10)
    assert found.condition < CONDITION / 3
    for key, estimate in found.coefficients.items():
        assert estimate.value == pytest.approx(device.value(key), rel=1e-6)
    tensor = {key for key in device.coefficients if key.startswith("flop.") and key.endswith(".tensor")}
    assert tensor | {"flop.float32", "byte.memory", "byte.cache", "launch", "static"} <= set(found.coefficients)
    assert len({point.config for point in points}) == len(points)
    assert points == joule_points(device)


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        (lambda point: point.family == "copy" and not point.pause, "static"),
        (lambda point: point.family == "launch" and not point.pause and point.dtype == "float32", "launch"),
    ],
)
def test_one_kind_of_work_alone_is_refused(kept, named):
    device = load_device("h200")
    rows, joules = design([point for point in joule_points(device) if kept(point)] * 3, device)
    noise = 1.0 + 0.01 * np.random.default_rng(0).standard_normal(len(rows))
    with pytest.raises(InputError, match=named):
        fit(rows, list(joules * noise))


def test_a_point_is_inside_the_cache_or_outside():
    device = load_device("h200")
    streams = [point for point in joule_points(device) if point.family in ("copy", "elementwise")]
    past = [point.cost(device).bytes_by_level["memory"] / point.cost(device).bytes for point in streams]
    assert set(past) == {0.0, 1.0}


def test_a_pause_adds_seconds_and_nothing_else():
    device = load_device("h200")
    points = {point.config: point for point in joule_points(device)}
    paused = [point for point in points.values() if point.pause and point.operator != "wait"]
    assert len(paused) == 4
    for point in paused:
        other = points[point.config.removesuffix(" paused")]
        assert point.cost(device) == other.cost(device)
        assert point.pause == pytest.approx(other.repeats * other.cost(device).seconds)


def test_calls_are_long_beside_a_launch_and_short_beside_a_tick():
    device = load_device("h200")
    for point in joule_points(device):
        seconds = point.cost(device).seconds * point.repeats + point.pause
        assert 0.5e-3 < seconds < 12.5e-3
        assert point.repeats <= MOST_REPEATS


def test_bytes_and_flops_of_a_point_are_those_of_its_op():
    device = load_device("h200")
    cost = Point("matmul", "matmul", "int8", (1, 64, 128, 256)).cost(device)
    assert cost.flops_by_dtype == {"int8.tensor": 2.0 * 64 * 128 * 256}
    assert cost.bytes == 64 * 128 + 128 * 256 + 4 * 64 * 256
    assert Point("idle", "wait", "", (), pause=1.0).cost(device).flops == 0.0
