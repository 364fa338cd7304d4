"""Windows over one axis against naive loops, and how they are read off a convolution or a pool."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from szilard.cost_model.window_axes import WindowAxis, window_axes, window_axis

from .priced_nets import net_of

SMALL = st.integers(1, 4)


@given(st.integers(1, 12), st.integers(1, 9), st.integers(1, 6), SMALL, SMALL, st.integers(0, 4))
@settings(max_examples=200, deadline=None)
def test_an_axis_counts_what_naive_loops_count(size, made, kernel, stride, dilation, pad):
    met = [(o, r, o * stride + r * dilation - pad) for o in range(made) for r in range(kernel)]
    met = [(place, tap, element) for place, tap, element in met if 0 <= element < size]
    elements = [element for _, _, element in met]
    overlap = max((elements.count(element) for element in elements), default=0)
    places, taps, touched = (len({triple[i] for triple in met}) for i in range(3))
    assert window_axis(size, made, kernel, stride, dilation, pad) == WindowAxis(len(met), overlap, touched, taps, places)


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "overlap"),
    [(3, 1, 1, 3), (3, 2, 1, 2), (3, 3, 1, 1), (4, 3, 1, 2), (3, 1, 2, 3), (4, 2, 2, 4)],
)
def test_far_from_the_borders_windows_overlap_as_kernel_and_stride_say(kernel, stride, dilation, overlap):
    assert window_axis(100, 40, kernel, stride, dilation).overlap == overlap


def axes_of(kind, shapes, inputs, attributes):
    net = net_of(shapes, [(kind, inputs, ["y"], attributes)])
    return window_axes(net.ops["op0"], net)


def test_attributes_of_a_convolution():
    shapes = {"x": (2, 3, 9, 7), "w": (4, 3, 3, 2), "y": (2, 4, 5, 6)}
    attributes = {"strides": [2, 1], "pads": [1, 0, 1, 0], "dilations": [1, 1]}
    assert axes_of("conv", shapes, ["x", "w"], attributes) == (window_axis(9, 5, 3, 2, 1, 1), window_axis(7, 6, 2))
    assert axes_of("conv", {**shapes, "y": (2, 4, 7, 6)}, ["x", "w"], {}) == (window_axis(9, 7, 3), window_axis(7, 6, 2))


def test_a_transposed_convolution_turns_inputs_and_outputs_round():
    shapes = {"x": (1, 3, 5), "w": (3, 4, 3), "y": (1, 4, 9)}
    found = axes_of("conv", shapes, ["x", "w"], {"strides": [2], "pads": [1, 1], "transposed": True})
    assert found == (window_axis(9, 5, 3, 2, 1, 1),)
    assert found[0].products == 5 * 3 - 2  # one tap at each end falls off the output


def test_a_pool_brings_its_kernel_along():
    shapes = {"x": (1, 3, 8), "y": (1, 3, 3)}
    assert axes_of("pool_max", shapes, ["x"], {"kernel": [2], "strides": [3]})[0].touched == 6


@pytest.mark.parametrize(
    ("shapes", "attributes"),
    [
        ({"x": None, "w": (4, 3, 3), "y": (1, 4, 5)}, {}),
        ({"x": (1, 3, 7), "w": None, "y": (1, 4, 5)}, {}),
        ({"x": (1, 3, 7), "w": (4, 3, 3, 3), "y": (1, 4, 5)}, {}),
        ({"x": (1, 3, 7), "w": (4, 3, 3), "y": (1, 4, 5)}, {"strides": [1, 1]}),
    ],
)
def test_shapes_that_are_missing_or_do_not_fit_have_no_windows(shapes, attributes):
    assert axes_of("conv", shapes, ["x", "w"], attributes) is None
