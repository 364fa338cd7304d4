"""The PyTorch part of the output folder: model.py, its weights, its sample inputs and the kernels that it calls. It needs torch and
safetensors alone, and triton on CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.fx import GraphModule

from ..cost_model.errors import InputError
from .kernel_files import kernel_files
from .print_fx import Dynamic, print_fx, weights_of
from .runtime_torch import as_tensor

IMPORTS = ("from pathlib import Path", "from safetensors.torch import load_file")

DOCSTRING = '''"""A model rewritten by Szilard. `python model{ending}.py` runs it on its sample inputs; `load()` gives a torch.nn.Module.

Inputs, in order: {inputs}. Outputs, in order: {outputs}.
"""

'''

TAIL = '''

FOLDER = Path(__file__).resolve().parent
INPUTS = {inputs}
OUTPUTS = {outputs}


def load():
    """The model with its weights, in evaluation mode."""
    model = Model()
    model.load_state_dict(load_file(FOLDER / "weights{ending}.safetensors"))
    return model.eval()


def main():
    """Runs the model on its sample inputs and prints each output, and the sum of the sizes of all numbers in them."""
    sample = load_file(FOLDER / "sample_inputs{ending}.safetensors")
    with torch.inference_mode():
        results = load()(*(sample[name] for name in INPUTS))
    results = results if isinstance(results, tuple) else (results,)
    for name, result in zip(OUTPUTS, results, strict=True):
        print(f"{{name}}: {{list(result.shape)}} {{result.dtype}}")
    print(f"checksum: {{sum(result.double().abs().sum().item() for result in results):.6e}}")


if __name__ == "__main__":
    main()
'''


def emit_torch(
    folder: Path,
    graph: GraphModule,
    sample: Mapping[str, np.ndarray],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic: Dynamic | None = None,
    ending: str = "",
) -> None:
    """Writes model.py, weights.safetensors and sample_inputs.safetensors into `folder`, and kernels/*.py where the graph needs them;
    `ending` stands behind the first word of each, for a second program of the same model.

    `inputs` and `outputs` name those of the graph in order, `sample` holds one array for each input, `dynamic` the names of its axes that
    may change. The source text of every kernel module that the graph calls stands in model.py. Raises InputError where the model cannot
    be printed or a file cannot be written.
    """
    names = {"inputs": ", ".join(inputs), "outputs": ", ".join(outputs), "ending": ending}
    text = (
        DOCSTRING.format(**names)
        + print_fx(graph, dynamic, imports=IMPORTS, folder="Path(__file__).resolve().parent")
        + TAIL.format(inputs=list(inputs), outputs=list(outputs), ending=ending)
    )
    tensors = {name: as_tensor(sample[name]) for name in inputs}
    try:
        (folder / f"model{ending}.py").write_text(text, encoding="utf-8")
        for name, source in kernel_files(graph).items():
            path = folder / "kernels" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, encoding="utf-8")
        save_file(weights_of(graph), folder / f"weights{ending}.safetensors")
        save_file(tensors, folder / f"sample_inputs{ending}.safetensors")
    except (OSError, SafetensorError) as fault:
        raise InputError(
            f"The PyTorch model cannot be written into {folder}: {fault}. Free some space or name another folder."
        ) from fault
