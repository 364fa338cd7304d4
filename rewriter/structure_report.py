"""What Theorem 3.24 says of each weight whose spectrum was seen: the size and the joules of every structure at one error of its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..cost_model.device import Device
from ..cost_model.sites import LinearSite
from ..cost_model.weight_structure import BLOCK, LAYER_ERROR, Estimate, recommended, relative_joules
from .quantity import number

if TYPE_CHECKING:
    from .optimise import Optimised

WORDS = {
    "dense": "dense as it is",
    "low_rank": "low rank",
    "block_sparse": f"blocks of {BLOCK} x {BLOCK}",
    "two_of_four": "2:4",
    "unstructured": "single entries",
}


WITHOUT_KERNEL = frozenset({"block_sparse", "two_of_four", "unstructured"})


def structure_report(done: Sequence[Optimised], device: Device) -> dict[str, list[dict[str, Any]]]:
    """{"structure": one row for each group of linears whose low rank was scored, on each runtime}; joules are over the dense ones."""
    return {"structure": [row for each in done for row in _rows(each, device)]}


def _rows(each: Optimised, device: Device) -> list[dict[str, Any]]:
    first = {site.group: site for site in reversed(each.found.sites) if isinstance(site, LinearSite)}
    programs = {choice.site: choice.program for choice in each.choices}
    return [
        {
            "site": site,
            "runtime": each.backend.runtime,
            "program": programs.get(site, ""),
            "error": LAYER_ERROR,
            **_row(score.structure, first[site].rows, device, first[site].dtype),
        }
        for (site, _), score in each.scores.items()
        if score.structure and site in first
    ]


def _row(found: Sequence[Estimate], rows: int, device: Device, dtype: str) -> dict[str, Any]:
    best = recommended(found, rows, device, dtype)
    return {
        "rows": rows,
        "recommended": best.structure.name,
        "structures": [
            {
                "structure": each.structure.name,
                "size": each.structure.size,
                "density": each.structure.density,
                "error": each.error,
                "decay": each.decay,
                "joules": relative_joules(each.structure, rows, device, dtype),
            }
            for each in found
        ],
    }


def structure_view(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the templates show of the rows of a report: a sentence about all, and one row of texts for each site."""
    rows = data.get("structure", ())
    note = (
        f"The smallest size of each structure that keeps the error of a layer's own output within {LAYER_ERROR:.0%}, and its joules over "
        "those of the dense weight, without time; 2:4 has one size, and the error that it leaves. An option that is taken has a kernel and "
        "was timed."
    )
    return {"note": note, "rows": [_texts(row) for row in rows]}


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    by_name = {each["structure"]: each for each in row["structures"]}
    found = {
        name: f"{by_name[name]['density']:.0%}, {by_name[name]['joules']:.2f}" for name in ("block_sparse", "unstructured")
    }
    low, pairs = by_name["low_rank"], by_name["two_of_four"]
    return {
        "site": row["site"],
        "place": f"{row['runtime']} ({row['program']})" if row["program"] else row["runtime"],
        "low_rank": f"rank {low['size']}, {low['joules']:.2f}",
        "two_of_four": f"error {number(100 * pairs['error'], 2)} %, {pairs['joules']:.2f}",
        "recommended": WORDS[row["recommended"]] + (" (no kernel)" if row["recommended"] in WITHOUT_KERNEL else ""),
        **found,
    }


def structure_sentence(row: Mapping[str, Any]) -> str:
    """One row for people."""
    by_name = {each["structure"]: each for each in row["structures"]}
    parts = [f"rank {by_name['low_rank']['size']} at {by_name['low_rank']['joules']:.2f} of the dense joules"]
    parts += [
        f"{by_name[name]['density']:.0%} of its {WORDS[name]} at {by_name[name]['joules']:.2f}"
        for name in ("block_sparse", "unstructured")
    ]
    pairs = by_name["two_of_four"]
    best = row["recommended"]
    return (
        f"Theorem 3.24, for an error of {row['error']:.0%} of its own output at {row['rows']} rows: {', '.join(parts)}; "
        f"2:4 at {pairs['joules']:.2f} leaves {number(100 * pairs['error'], 2)} %. Recommended: {WORDS[best]}"
        + (", for which there is no kernel here." if best in WITHOUT_KERNEL else ".")
    )
