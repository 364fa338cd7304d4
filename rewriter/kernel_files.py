"""Kernel files that stand beside an emitted model.py: which modules need them, their text, and the lines that load them by path."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType

from torch import nn
from torch.fx import GraphModule

from ..kernels.linear_fp8 import reference as fp8_reference
from ..kernels.linear_fp8 import triton_kernel as fp8_kernel
from ..kernels.linear_int4 import packing as int4_packing
from ..kernels.linear_int4 import reference as int4_reference
from ..kernels.linear_int4 import triton_kernel as int4_kernel
from ..kernels.linear_int8 import reference as int8_reference
from ..kernels.linear_int8 import triton_kernel as int8_kernel
from ..kernels.linear_parts import epilogue, triton_parts, tuning
from ..kernels.quantized_linear.torch_cuda import Fp8ColumnLinear, Int4GroupLinear, Int8ColumnLinear
from .kernel_packages import IMPORTS as PACKAGE_IMPORTS
from .kernel_packages import package_files, package_lines

PARTS = (epilogue, tuning, triton_parts)
KERNELS: Mapping[type[nn.Module], tuple[str, tuple[ModuleType, ...]]] = {
    Int8ColumnLinear: ("linear_int8", (*PARTS, int8_reference, int8_kernel)),
    Int4GroupLinear: ("linear_int4", (*PARTS, int4_packing, int4_reference, int4_kernel)),
    Fp8ColumnLinear: ("linear_fp8", (*PARTS, fp8_reference, fp8_kernel)),
}
"""Module class -> the name under which its source text reads a kernel file, and the modules that make that file, each after those it
reads."""

IMPORTS = ("from importlib.util import module_from_spec, spec_from_file_location", "from pathlib import Path")

LOADER = '''

def kernel(name):
    """kernels/<name>.py as a module that belongs to this file alone, so that two such folders load side by side."""
    spec = spec_from_file_location(name, {folder} / "kernels" / f"{{name}}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


'''


def kernel_files(graph: GraphModule) -> dict[str, str]:
    """Path below kernels/ -> text of each file that the modules called by `graph` need: Python that imports torch, and triton for its CUDA
    side; and the tuning tables."""
    found = package_files(_called(graph)) | {f"{name}.py": bundled(modules) for name, modules in _needed(graph).items()}
    if _needed(graph):
        found |= {f"tuning/{path.name}": path.read_text(encoding="utf-8") for path in sorted(tuning.FOLDER.glob("*.json"))}
    return found


def kernel_lines(graph: GraphModule, folder: str) -> str:
    """The text that loads the kernel files of `graph` from kernels/ in `folder`, a Python expression; "" if it needs none."""
    names, packages = _needed(graph), package_lines(_called(graph), folder)
    files = LOADER.format(folder=folder) + "".join(f'{name} = kernel("{name}")\n' for name in names) if names else ""
    return files + packages


def kernel_imports(graph: GraphModule) -> tuple[str, ...]:
    """The imports that `kernel_lines` need."""
    if package_lines(_called(graph), ""):
        return PACKAGE_IMPORTS
    return IMPORTS if _needed(graph) else ()


def bundled(modules: Sequence[ModuleType]) -> str:
    """One Python file of modules that read each other: the docstring of the last, what they import from elsewhere, once, and then the text
    of each, without its imports."""
    trees = [(inspect.getsource(module).splitlines(), ast.parse(inspect.getsource(module))) for module in modules]
    imports: dict[str, None] = {}
    bodies = []
    for lines, tree in trees:
        kept = list(lines)
        for node in tree.body:
            if _is_import(node) or node is tree.body[0]:
                if not (node is tree.body[0] or (isinstance(node, ast.ImportFrom) and node.level)):
                    imports["\n".join(_text(lines, node))] = None
                for at in range(node.lineno - 1, node.end_lineno or node.lineno):
                    kept[at] = ""
        bodies.append("\n".join(kept).strip("\n"))
    head = "\n".join(_text(trees[-1][0], trees[-1][1].body[0]))
    plain = sorted((line for line in imports if "\n" not in line), key=lambda line: (line.startswith("from"), line))
    guarded = [block for block in imports if "\n" in block]
    return "\n\n".join([head, "\n".join(plain), *guarded]) + "\n\n" + "\n\n\n".join(bodies) + "\n"


def _is_import(node: ast.stmt) -> bool:
    """An import, or the try that imports what may be missing."""
    return isinstance(node, ast.Import | ast.ImportFrom) or (isinstance(node, ast.Try) and isinstance(node.body[0], ast.Import))


def _text(lines: Sequence[str], node: ast.stmt) -> Sequence[str]:
    return lines[node.lineno - 1 : node.end_lineno]


def _called(graph: GraphModule) -> Iterator[type[nn.Module]]:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            yield type(graph.get_submodule(str(node.target)))


def _needed(graph: GraphModule) -> dict[str, tuple[ModuleType, ...]]:
    return dict(KERNELS[kind] for kind in _called(graph) if kind in KERNELS)
