"""Which values hold the queries, keys and values of an attention as [batch, heads, length, width], before any heads are repeated."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..cost_model.net import Net
from .attention_walk import Reach
from .axes import Layout, digits


def ready(net: Net, reach: Reach, dtype: str) -> bool:
    """Whether a value has four axes and the dtype of the result."""
    return len(reach.layout) == 4 and net.values[reach.value].dtype == dtype


def kv_heads_of(lead: Layout, heads: int, found: Layout) -> int | None:
    """How many heads `found` holds before they are repeated, None if its leading axes are not those of keys or values."""
    batch, head = found[:2]
    count = math.prod(part.size for part in head)
    return count if batch == lead[0] and heads % count == 0 and head == digits("x", heads // count, count) else None


def key_and_value(
    net: Net, k: Sequence[Reach], v: Sequence[Reach], dtype: str, lead: Layout, axes: Layout, heads: int
) -> tuple[Reach, Reach, int, bool] | None:
    """The highest key and value with equal, fewest heads: (key, value, heads, whether the key is transposed)."""
    s, d, e = axes
    for place in sorted(range(len(k)), key=lambda index: (held(k[index]), -index)):
        key = k[place]
        if not ready(net, key, dtype) or key.layout[2:] not in ((s, d), (d, s)):
            continue
        count = kv_heads_of(lead, heads, key.layout)
        for value in reversed(v):
            if (
                ready(net, value, dtype)
                and value.layout[2:] == (s, e)
                and count
                and kv_heads_of(lead, heads, value.layout) == count
            ):
                return key, value, count, key.layout[2:] != (s, d)
    return None


def held(reach: Reach) -> int:
    """Elements that the layout of a value runs over."""
    return math.prod(part.size for dimension in reach.layout for part in dimension)
