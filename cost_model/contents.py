"""Which values of a net depend on what its inputs hold, and which on their sizes alone."""

from __future__ import annotations

from .net import Net

SIZES = ("shape", "size", "sym")
"""Kinds that read how large an operand is and nothing of what it holds."""


def computed_from_contents(net: Net) -> set[str]:
    """Values that depend on the contents of an input, those inputs included."""
    found = set(net.inputs)
    for op in net.ops.values():
        if op.kind not in SIZES and found.intersection(op.inputs):
            found.update(op.outputs)
    return found
