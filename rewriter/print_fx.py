"""A torch.fx graph as readable Python: one class, one line for each operator, grouped by the module that it came from."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import nn
from torch.fx import GraphModule

from ..cost_model.errors import InputError
from ..passes.fx_graph import attribute
from .kernel_files import kernel_imports, kernel_lines
from .print_body import Body
from .print_names import identifier, weight_names

Dynamic = Mapping[str, Mapping[int, str]]

TORCH = ("import torch", "import torch.nn.functional as F", "from torch import nn")
ATEN = """
aten = torch.ops.aten
"""
WEIGHT = '''

def weight(*shape, dtype=torch.float32):
    """An empty weight of that shape, to be loaded."""
    return nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)
'''


STEP_FOLDER = "Path(__file__).resolve().parents[1]"


def print_fx(
    graph: GraphModule,
    dynamic: Dynamic | None = None,
    name: str = "Model",
    imports: Sequence[str] = (),
    folder: str = STEP_FOLDER,
) -> str:
    """Python text of a class `name` whose `forward` gives the same outputs as the graph, as one tensor or a flat tuple.

    `dynamic` names symbolic sizes: input name -> {axis: name}; `imports` are further import lines for the head of the file,
    `folder` is the expression of the folder that holds kernels/, where the graph needs them (as seen from steps/ by default). The state
    dict of the class takes `weights_of(graph)`. Raises InputError for an operator that plain PyTorch cannot name.
    """
    body = Body(graph, dynamic or {})
    kernels = [f"\n\n{source.rstrip()}\n" for source in kernel_sources(graph)]
    lines = ["", "", f"class {name}(nn.Module):", "    def __init__(self):", "        super().__init__()"]
    lines += [f"        {line}" for line in _declarations(graph, body.weights)]
    lines += ["", f"    def forward({', '.join(['self', *(node.name for node in body.inputs)])}):"]
    lines += [f"        {line}".rstrip() for line in body.lines()]
    text = "\n".join(lines)
    head = _head(text, tuple(dict.fromkeys((*imports, *kernel_imports(graph)))))
    parts = [head, ATEN if "aten." in text else "", WEIGHT if "weight(" in text else "", kernel_lines(graph, folder)]
    return "".join([*parts, *kernels, text, "\n"])


def _head(text: str, imports: Sequence[str]) -> str:
    """The import lines, those of the standard library first."""
    wanted = [*imports, *(f"import {module}" for module in ("math", "operator") if re.search(rf"\b{module}\.", text)), *TORCH]
    groups = [
        [line for line in wanted if (line.split()[1].split(".")[0] in sys.stdlib_module_names) is standard]
        for standard in (True, False)
    ]
    ordered = [sorted(group, key=lambda line: (line.startswith("from"), line)) for group in groups if group]
    return "\n\n".join("\n".join(group) for group in ordered) + "\n"


def kernel_sources(graph: GraphModule) -> list[str]:
    """The source text of each class of module that the graph calls, behind those that it extends; such a class needs torch alone, and its
    `repr` makes it again."""
    called = [type(graph.get_submodule(str(node.target))) for node in graph.graph.nodes if node.op == "call_module"]
    kinds = [kind for each in called for kind in reversed(each.__mro__) if nn.Module in kind.__mro__[1:]]
    return [inspect.getsource(kind) for kind in dict.fromkeys(kinds)]


def weights_of(graph: GraphModule) -> dict[str, torch.Tensor]:
    """The tensors that the printed class loads, under its attribute names, contiguous, no two in one storage."""
    tensors = {name: attribute(graph, target) for target, name in weight_names(graph).items()}
    for node in graph.graph.nodes:
        if node.op == "call_module":
            inner = graph.get_submodule(str(node.target)).state_dict()
            tensors |= {f"{identifier(str(node.target))}.{key}": tensor for key, tensor in inner.items()}
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        shared = storage in seen and tensor.numel() > 0
        tensors[name] = tensor.detach().clone(memory_format=torch.contiguous_format) if shared else tensor.detach().contiguous()
        seen.add(storage)
    return tensors


def _declarations(graph: GraphModule, weights: Mapping[str, str]) -> Iterator[str]:
    done: set[str] = set()
    for target, name in weights.items():
        tensor = attribute(graph, target)
        if not isinstance(tensor, torch.Tensor):
            raise InputError(f"The graph holds {target!r}, a nested graph, so that it cannot be printed; emit ONNX only.")
        if name not in done:
            done.add(name)
            sizes = [str(size) for size in tensor.shape]
            dtype = [] if tensor.dtype == torch.float32 else [f"dtype={tensor.dtype}"]
            yield f"self.{name} = weight({', '.join([*sizes, *dtype])})"
    for node in graph.graph.nodes:
        if node.op == "call_module":
            yield f"self.{identifier(str(node.target))} = {graph.get_submodule(str(node.target))!r}"
