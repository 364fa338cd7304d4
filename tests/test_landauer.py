"""The floor of a bit: the published number, and that it adds up."""

import pytest

from szilard.cost_model.landauer import landauer_joules


def test_a_bit_at_room_temperature():
    assert landauer_joules(1) == pytest.approx(2.871e-21, rel=1e-3)
    assert landauer_joules(1) / 1.602176634e-19 == pytest.approx(0.0179, rel=2e-3)


def test_it_is_linear_in_bits_and_in_temperature():
    assert landauer_joules(37) == pytest.approx(37 * landauer_joules(1))
    assert landauer_joules(5, 600.0) == pytest.approx(2 * landauer_joules(5, 300.0))
    assert landauer_joules(0) == 0


@pytest.mark.parametrize(("bits", "kelvin"), [(-1, 300), (1, -1)])
def test_negative_arguments_are_refused(bits, kelvin):
    with pytest.raises(ValueError, match="negative"):
        landauer_joules(bits, kelvin)
