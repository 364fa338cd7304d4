"""How many bits the closed form of an allocation asks at each site of a plan, beside what was taken: why a site got few or many.

The closed form knows a law, 4^-b, and one price of a bit for each site; a plan is solved on measured errors and prices. Where they differ
much, an option is missing, or its measured error or price is not what bits alone would give."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import exp, isfinite, log

from ..cost_model.allocation import closed_form, sensitivity
from ..cost_model.plan import Choice, Option

FULL_BITS = 32
_BITS = re.compile(r"(?:int|fp|float|bfloat)(\d+)")


def bits_of(action: str) -> int | None:
    """Bits of a weight under an action, of its activations where they have more ("int8_hilo" has two codes of 8); `FULL_BITS` where it
    stays in floating point, None for what is no number format."""
    found = _BITS.match(action)
    if found:
        return int(found[1]) * (2 if "_hilo" in action else 1)
    return FULL_BITS if action in ("leave", "merged") else None


def asked_bits(choices: Sequence[Choice]) -> dict[tuple[str, str], float]:
    """(program, site) -> the bits that the closed form asks there, for all sites with a number format of known error that saves joules,
    at the joules that the plan spends on bits.

    A site's sensitivity is the geometric mean of error x 4^bits over its integer formats (of the bits of a float some are its exponent);
    what a bit costs there is what its cheapest option saves for each bit that it drops."""
    found = {(c.runtime, c.program, c.kind): None for c in choices}
    asked: dict[tuple[str, str], float] = {}
    for place in found:
        rows = [row for c in choices if (c.runtime, c.program, c.kind) == place and (row := _row(c)) is not None]
        if not rows:
            continue
        total = sum(cost * taken for _, _, cost, taken, _ in rows)
        lowest = [low for *_, low in rows]
        bits = closed_form([s for _, s, *_ in rows], [c for _, _, c, *_ in rows], total, lowest=lowest, highest=FULL_BITS)
        asked |= {(c.program, c.site): b for (c, *_), b in zip(rows, bits, strict=True)}
    return asked


def _row(choice: Choice) -> tuple[Choice, float, float, int, int] | None:
    """(choice, sensitivity, joules per bit, bits taken, fewest bits), None where nothing was to be decided."""
    known = [(o, bits) for o in choice.options if (bits := _useful(o, choice.before)) is not None]
    taken = bits_of(choice.action)
    integers = [(option, bits) for option, bits in known if option.action.startswith("int")]
    if not integers or taken is None:
        return None
    cheapest, fewest = min(known, key=lambda each: (each[0].joules, each[1]))
    logs = [log(sensitivity(option.error, bits)) for option, bits in integers]
    price = (choice.before.joules - cheapest.joules) / (FULL_BITS - fewest)
    return choice, exp(sum(logs) / len(logs)), price, taken, min(bits for _, bits in known)


def _useful(option: Option, leave: Option) -> int | None:
    bits = bits_of(option.action)
    known = not option.reason and isfinite(option.error) and option.error > 0 and option.joules < leave.joules
    return bits if known and bits is not None and bits < FULL_BITS else None
