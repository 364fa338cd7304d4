"""Arrays that a user gives as inputs, checked against what the model reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..cost_model.errors import InputError
from ..cost_model.program import Program


def named_sample(sample: Any, inputs: Sequence[str]) -> dict[str, np.ndarray]:
    """Input name -> array of a mapping, of a tuple in the order of `inputs`, or of the one input itself; tensors count as arrays.

    Raises InputError unless the names are those of `inputs`.
    """
    if not isinstance(sample, Mapping):
        values = list(sample) if isinstance(sample, tuple | list) else [sample]
        if len(values) != len(inputs):
            raise InputError(f"The sample holds {len(values)} arrays, and the model reads {len(inputs)}: {', '.join(inputs)}.")
        sample = dict(zip(inputs, values, strict=True))
    _check_names(sample, inputs, "The sample")
    return {name: _as_numpy(sample[name]) for name in inputs}


def with_sample(program: Program, sample: Any) -> Program:
    """`program` with `sample`, as in `named_sample`, as its sample inputs. Raises InputError as `checked_sample` does."""
    return replace(program, sample=checked_sample(named_sample(sample, program.inputs), program, "The sample"))


def checked_sample(sample: Mapping[str, Any], program: Program, what: str, hint: str = "") -> dict[str, np.ndarray]:
    """`sample` in the order and with the dtypes that `program` reads.

    Raises InputError, a sentence that starts with `what`, for names, a dtype, a rank or a size of a fixed axis that does not fit (`hint`
    follows such a shape), and for NaN or infinity.
    """
    _check_names(sample, program.inputs, what)
    return {name: _checked_array(name, np.asarray(sample[name]), program, what, hint) for name in program.inputs}


def _check_names(sample: Mapping[str, Any], inputs: Sequence[str], what: str) -> None:
    missing, unknown = sorted(set(inputs) - set(sample)), sorted(set(sample) - set(inputs))
    if missing or unknown:
        raise InputError(
            f"{what} does not name the model's inputs: missing {missing}, unknown {unknown}; the model reads {list(inputs)}."
        )


def _checked_array(name: str, array: np.ndarray, program: Program, what: str, hint: str) -> np.ndarray:
    expected = np.asarray(program.sample[name])
    if not np.can_cast(array.dtype, expected.dtype, casting="same_kind"):
        raise InputError(f"{what}: input {name} has dtype {array.dtype}, the model reads {expected.dtype}; convert it first.")
    free = program.dynamic.get(name, {})
    fits = array.ndim == expected.ndim and all(
        axis in free or have == want for axis, (have, want) in enumerate(zip(array.shape, expected.shape, strict=True))
    )
    if not fits:
        wanted = "x".join(free.get(axis, str(size)) for axis, size in enumerate(expected.shape)) or "a scalar"
        shape = "x".join(map(str, array.shape)) or "scalar"
        raise InputError(f"{what}: input {name} has shape {shape}, the model reads {wanted}{hint}.")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{what}: input {name} holds NaN or infinity; remove that sample.")
    return np.ascontiguousarray(array.astype(expected.dtype)).reshape(array.shape)


def _as_numpy(value: Any) -> np.ndarray:
    from ..cost_model.view_fx import as_numpy

    return as_numpy(value) if hasattr(value, "detach") else np.asarray(value)
