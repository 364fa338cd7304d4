"""Floors of a whole net lie below what any way of running it is priced at, and below one another in the order that they claim."""

import pytest

from szilard.cost_model.device import device_names, load_device
from szilard.cost_model.floors import floors_of
from szilard.cost_model.io_bounds import matmul_words
from szilard.cost_model.landauer import landauer_joules
from szilard.cost_model.price import price_group, price_net

from .priced_nets import net_of

SIZE = 3000


def chain():
    """Two matrix products with an exp between them, which share no value."""
    square = dict.fromkeys("abhgcy", (SIZE, SIZE))
    return net_of(square, [("matmul", ["a", "b"], ["h"]), ("exp", ["h"], ["g"]), ("matmul", ["g", "c"], ["y"])], outputs=["y"])


@pytest.mark.parametrize("name", device_names())
def test_no_price_lies_below_them(name):
    net, device = chain(), load_device(name)
    floors, apart, fused = floors_of(net, device), price_net(net, device).total, price_group(net.ops.values(), net, device)
    assert floors.memory_bytes == apart.io_bytes == fused.io_bytes
    assert floors.core_bytes <= apart.bytes_by_level["cache"]
    assert floors.memory_bytes < floors.core_bytes
    assert floors.landauer == pytest.approx(fused.landauer)
    assert floors.landauer_stored == pytest.approx(apart.landauer)


def test_a_machine_that_keeps_what_is_inside_erases_only_what_leaves():
    floors = floors_of(chain(), load_device("cpu"))
    assert floors.landauer == pytest.approx(landauer_joules(32 * SIZE**2))
    assert floors.landauer_stored == pytest.approx(3 * floors.landauer)


def test_bounds_of_products_that_share_no_value_add_up_at_the_cores():
    device = load_device("cpu")
    held = device.value("capacity.core") + device.value("capacity.registers")
    matrix = 4 * SIZE**2
    excess = 4 * matmul_words(SIZE**3, held / 4) - 3 * matrix
    assert floors_of(chain(), device).core_bytes == pytest.approx(4 * matrix + 2 * excess)
