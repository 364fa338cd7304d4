"""Kernels that stand beside an emitted model.py as one package of files: which modules need them, their text, and the lines that load them
by path."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from torch import nn
from torch.fx import GraphModule

from .. import kernels
from ..kernels.linear_parts import tuning
from ..kernels.quantized_linear.torch_cuda import Fp8ColumnLinear, Int4GroupLinear, Int8ColumnLinear
from ..kernels.spectral_attention.torch_cuda import TritonCausalSpectralAttention, TritonSpectralAttention

FOLDER = Path(kernels.__path__[0])


class Reads(NamedTuple):
    """What the source text of a module class reads: names, and the file below kernels/ that each is. If it `needs_triton`, the name is None
    where triton is missing; else the file has a form in plain torch."""

    files: Mapping[str, str]
    needs_triton: bool = False


FULL = {"spectral_attention": "spectral_attention/triton.py"}
KERNELS: Mapping[type[nn.Module], Reads] = {
    Int8ColumnLinear: Reads({"linear_int8": "linear_int8/triton_kernel.py"}),
    Int4GroupLinear: Reads({"linear_int4": "linear_int4/triton_kernel.py"}),
    Fp8ColumnLinear: Reads({"linear_fp8": "linear_fp8/triton_kernel.py"}),
    TritonSpectralAttention: Reads(FULL, True),
    TritonCausalSpectralAttention: Reads(FULL | {"causal_spectral_attention": "spectral_attention/triton_causal.py"}, True),
}
DATA = {"linear_parts/tuning.py": tuple(f"linear_parts/tuning/{path.name}" for path in sorted(tuning.FOLDER.glob("*.json")))}
"""Files that a kernel file reads when it runs."""

IMPORTS = (
    "import sys",
    "from importlib import import_module",
    "from importlib.util import find_spec, module_from_spec, spec_from_file_location",
    "from pathlib import Path",
)

LOADER = '''

def kernel_package():
    """The name of kernels/ as a package that belongs to this file alone, so that two such folders load side by side."""
    folder, own = {folder} / "kernels", "kernels_of_a_model"
    while own in sys.modules:
        own += "_"
    spec = spec_from_file_location(own, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[own] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[own])
    return own


kernels = kernel_package()
'''


def kernel_files(graph: GraphModule) -> dict[str, str]:
    """Path below kernels/ -> text of each file that the modules called by `graph` need: Python that imports torch and, for its CUDA side,
    triton; and what these files read."""
    waiting = [path for reads in _needed(graph) for path in reads.files.values()]
    found: dict[str, str] = {}
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = (FOLDER / path).read_text(encoding="utf-8")
            waiting += _neighbours(path, found[path])
            found |= {data: (FOLDER / data).read_text(encoding="utf-8") for data in DATA.get(path, ())}
    folders = {str(PurePosixPath(path).parent) for path in found if path.endswith(".py")}
    packages = {f"{folder}/__init__.py": '"""Kernels of the model in this folder."""\n' for folder in sorted(folders)}
    return found | packages | ({"__init__.py": '"""Kernels of the model in this folder."""\n'} if found else {})


def kernel_lines(graph: GraphModule, folder: str) -> str:
    """The text that loads the kernel files of `graph` from kernels/ in `folder`, a Python expression; "" if it needs none."""
    lines: dict[str, None] = {}
    for files, needs_triton in _needed(graph):
        behind = ' if find_spec("triton") else None' if needs_triton else ""
        for name, path in files.items():
            module = path.removesuffix(".py").replace("/", ".")
            lines[f'{name} = import_module(f"{{kernels}}.{module}"){behind}\n'] = None
    return LOADER.format(folder=folder) + "".join(lines) if lines else ""


def kernel_imports(graph: GraphModule) -> tuple[str, ...]:
    """The imports that `kernel_lines` need."""
    needed = _needed(graph)
    if any(reads.needs_triton for reads in needed):
        return IMPORTS
    return tuple(line.replace("find_spec, ", "") for line in IMPORTS) if needed else ()


def _needed(graph: GraphModule) -> list[Reads]:
    return [KERNELS[kind] for kind in dict.fromkeys(_called(graph)) if kind in KERNELS]


def _called(graph: GraphModule) -> Iterator[type[nn.Module]]:
    for node in graph.graph.nodes:
        if node.op == "call_module":
            yield type(graph.get_submodule(str(node.target)))


def _neighbours(path: str, text: str) -> list[str]:
    """The files below kernels/ that a file of it imports."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = PurePosixPath(path).parents[node.level - 1]
            modules = [node.module] if node.module else [alias.name for alias in node.names]
            found += [str(folder / f"{module.replace('.', '/')}.py") for module in modules]
    return found
