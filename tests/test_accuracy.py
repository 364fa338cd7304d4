"""The statistics of predictions, on numbers small enough to work out by hand."""

from dataclasses import replace

import pytest

from szilard.cost_model.accuracy import Change, errors_of, noise_floor, signs_of


def test_errors_by_hand():
    found = errors_of(list("abcde"), [110, 98, 100, 60, 105], [100, 100, 100, 100, 100])
    # Relative errors +10, -2, 0, -40 and +5 %; sizes in order 0, 2, 5, 10, 40.
    assert found.count == 5
    assert found.mape == pytest.approx(0.114)
    assert found.median == pytest.approx(0.05)
    assert found.p90 == pytest.approx(0.10 + 0.6 * 0.30)
    assert (found.worst, found.worst_config) == (pytest.approx(0.40), "d")
    assert found.bias == pytest.approx(-0.054)
    assert found.close == pytest.approx(0.6)


def test_errors_are_relative_to_the_measurement():
    assert errors_of(["a"], [50], [100]).mape == pytest.approx(0.5)
    assert errors_of(["a"], [100], [50]).mape == pytest.approx(1.0)


def test_no_rows_is_a_programming_error():
    with pytest.raises(ValueError, match="equally many"):
        errors_of([], [], [])
    with pytest.raises(ValueError, match="equally many"):
        errors_of(["a"], [1.0], [])


DOWN = Change("a", (10.0, 9.0), (20.0, 15.0), (0.3, 0.4))


def test_signs_by_hand():
    changes = [
        DOWN,
        replace(DOWN, predicted=(10.0, 11.0)),  # wrong direction
        replace(DOWN, predicted=(10.0, 10.0)),  # no change foreseen where there was one: wrong
        replace(DOWN, measured=(20.0, 25.0), predicted=(10.0, 12.0)),  # a rewrite that makes things worse, foreseen
    ]
    found = signs_of(changes)
    assert (found.judged, found.right, found.worse, found.ties) == (4, 2, 1, 0)


def test_a_change_within_its_uncertainty_has_no_sign():
    # The half-widths 0.3 and 0.4 are 0.5 in quadrature.
    inside, outside = replace(DOWN, measured=(20.0, 19.51)), replace(DOWN, measured=(20.0, 19.49))
    assert (inside.tie, outside.tie) == (True, False)
    for predicted in ((10.0, 9.0), (10.0, 11.0), (10.0, 10.0)):
        found = signs_of([replace(inside, predicted=predicted), outside])
        assert (found.judged, found.right, found.ties) == (1, 1, 1)


def test_kendalls_tau_is_of_ratios_not_of_sizes():
    changes = [
        Change("a", (1.0, 0.5), (1.0, 0.6), (0, 0)),
        Change("b", (1000.0, 900.0), (1000.0, 800.0), (0, 0)),
        Change("c", (10.0, 12.0), (10.0, 15.0), (0, 0)),
    ]
    assert signs_of(changes).tau == pytest.approx(1.0)
    changes[2] = replace(changes[2], predicted=(10.0, 1.0))
    # Of the three pairs of changes, two are now in the wrong order.
    assert signs_of(changes).tau == pytest.approx(-1 / 3)
    assert signs_of(changes[:1]).tau is None
    assert signs_of([]) == signs_of([])
    assert signs_of([]).judged == 0


def test_a_prediction_of_nothing_is_ranked_too():
    assert signs_of([replace(DOWN, predicted=(1.0, 0.0)), DOWN]).judged == 2


def test_the_noise_floor_by_hand():
    # Two repeats 1 % either side of their mean: 1 % x sqrt(2); what was not repeated says nothing.
    assert noise_floor([[99.0, 101.0], [5.0]]) == pytest.approx(0.01 * 2**0.5)
    assert noise_floor([[99.0, 101.0], [7.0, 7.0, 7.0]]) == pytest.approx(0.005 * 2**0.5)
    assert noise_floor([[5.0]]) is None
    assert noise_floor([]) is None
