"""Kernels of several files that stand beside an emitted model.py as one package: their text, and the lines that load it by path."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ..kernels import spectral_attention
from ..kernels.spectral_attention.torch_cuda import TritonCausalSpectralAttention, TritonSpectralAttention


class Package(NamedTuple):
    """A package `name` of the files in `folder`; `reads` are the names under which the source text of a module class reads some of them."""

    name: str
    folder: Path
    reads: Mapping[str, str]


SPECTRAL = ("spectral_attention", Path(spectral_attention.__path__[0]))
FULL = {"spectral_attention": "triton"}
PACKAGES: Mapping[type[nn.Module], Package] = {
    TritonSpectralAttention: Package(*SPECTRAL, FULL),
    TritonCausalSpectralAttention: Package(*SPECTRAL, FULL | {"causal_spectral_attention": "triton_causal"}),
}

IMPORTS = (
    "import sys",
    "from importlib import import_module",
    "from importlib.util import find_spec, module_from_spec, spec_from_file_location",
    "from pathlib import Path",
)

LOADER = '''

def kernel_package(name):
    """The name of kernels/<name>/ as a package that belongs to this file alone, so that two such folders load side by side."""
    folder = {folder} / "kernels" / name
    own = f"kernels_{{name}}"
    while own in sys.modules:
        own += "_"
    spec = spec_from_file_location(own, folder / "__init__.py", submodule_search_locations=[str(folder)])
    sys.modules[own] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[own])
    return own


def kernel_module(package, name):
    """A module of a package of kernels, None where triton is missing."""
    return import_module(f"{{package}}.{{name}}") if find_spec("triton") else None


'''


def package_files(kinds: Iterable[type[nn.Module]]) -> dict[str, str]:
    """Path below kernels/ -> text of each file that module classes of `PACKAGES` among `kinds` need."""
    found: dict[str, str] = {}
    for package in _needed(kinds):
        found[f"{package.name}/__init__.py"] = '"""Triton kernels of the model in this folder."""\n'
        waiting = list(package.reads.values())
        while waiting:
            name = waiting.pop()
            if f"{package.name}/{name}.py" not in found:
                text = (package.folder / f"{name}.py").read_text(encoding="utf-8")
                found[f"{package.name}/{name}.py"] = text
                waiting += _neighbours(text)
    return found


def package_lines(kinds: Iterable[type[nn.Module]], folder: str) -> str:
    """The text that loads those packages from kernels/ in `folder`, a Python expression; "" where none is needed."""
    lines: dict[str, None] = {}
    for package in _needed(kinds):
        own = f"{package.name}_package"
        lines[f'{own} = kernel_package("{package.name}")\n'] = None
        lines |= dict.fromkeys(f'{name} = kernel_module({own}, "{file}")\n' for name, file in package.reads.items())
    return LOADER.format(folder=folder) + "".join(lines) if lines else ""


def _needed(kinds: Iterable[type[nn.Module]]) -> list[Package]:
    return [PACKAGES[kind] for kind in kinds if kind in PACKAGES]


def _neighbours(text: str) -> list[str]:
    """The modules of its own package that a module imports."""
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ImportFrom) and node.level]
    return [node.module for node in nodes if node.module]
