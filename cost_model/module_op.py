"""`ModuleOp`: what one call of a module in an FX graph computes. The pass that put the module there says it: the module shows no ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MODULE_OP = "module_op"
"""The key of a `ModuleOp` in the `meta` of a call_module node."""


@dataclass(frozen=True)
class ModuleOp:
    """The call is an op of `kind` (a word of kinds.py) with `attributes`; its operands are the tensors that it is called with, then every
    buffer of the module. Of a matrix product they are the first of these tensors, the buffers, then the other tensors."""

    kind: str
    attributes: Mapping[str, Any]
