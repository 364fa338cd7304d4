"""What the ecosystem's ONNX files call the key/value caches of a language model: past_key_values.N.key goes in, present.N.key comes out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PAST, PRESENT = "past_key_values.", "present."
PARTS = ("key", "value")


def past_names(layers: int) -> tuple[str, ...]:
    """The caches that a decode step reads, in order; each is [B, H, positions, D]."""
    return tuple(f"{PAST}{index}.{part}" for index in range(layers) for part in PARTS)


def present_names(layers: int) -> tuple[str, ...]:
    """The caches that a prefill or a decode step gives, in order; each is [B, H, positions, D]."""
    return tuple(f"{PRESENT}{index}.{part}" for index in range(layers) for part in PARTS)


def past_of(outputs: Mapping[str, Any]) -> dict[str, Any]:
    """The caches among the outputs of one step, by the names under which the next step reads them."""
    return {PAST + name.removeprefix(PRESENT): value for name, value in outputs.items() if is_cache(name)}


def is_cache(output: str) -> bool:
    """Whether an output is a cache."""
    return output.startswith(PRESENT)
