"""Kernel files that stand beside an emitted model.py: which modules of a graph need one, its text, and the lines that load it by path."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType

from torch import nn
from torch.fx import GraphModule

from ..kernels.quantized_linear import triton_kernel
from ..kernels.quantized_linear.torch_cuda import Int8ColumnLinear

KERNELS: Mapping[type[nn.Module], tuple[str, ModuleType]] = {Int8ColumnLinear: ("int8_linear", triton_kernel)}
"""Module class -> the name under which its source text reads a kernel file, and that file."""

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
    """Name -> text of each kernel file that the modules called by `graph` need: torch at least, triton for its CUDA side."""
    called = (type(graph.get_submodule(str(node.target))) for node in graph.graph.nodes if node.op == "call_module")
    needed = dict(KERNELS[kind] for kind in called if kind in KERNELS)
    return {name: inspect.getsource(module) for name, module in needed.items()}


def kernel_lines(graph: GraphModule, folder: str) -> str:
    """The text that loads the kernel files of `graph` from kernels/ in `folder`, a Python expression; "" if it needs none."""
    names = kernel_files(graph)
    return LOADER.format(folder=folder) + "".join(f'{name} = kernel("{name}")\n' for name in names) if names else ""
