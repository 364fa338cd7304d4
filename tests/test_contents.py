"""Values that depend on contents, and those that depend on sizes alone."""

import numpy as np

from szilard.cost_model.contents import computed_from_contents

from .nets import NetBuilder


def test_sizes_of_an_input_are_not_its_contents():
    build = NetBuilder()
    x = build.input("x", 3, 4)
    sizes = build.op("shape", x, shape=(2,), dtype="int64")
    places = build.op("range", sizes, shape=(3,), dtype="int64")
    moved = build.op("add", x, x)
    mixed = build.op("add", moved, build.constant("one", np.ones(1, np.float32)))
    assert computed_from_contents(build.net(mixed)) == {x, moved, mixed}
    assert places not in computed_from_contents(build.net(mixed))
