"""The real models on which predicted seconds are judged, and rewrites of them by other tools, some of which slow the model down."""

import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers.float16 import convert_float_to_float16

from ..models import efficientnet, minilm, rapidocr, silero, smollm

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ZooModel:
    """One model file: `family` is held out as a whole, `cases` are the shapes it is run at by name, `rewrites` the tools applied to it
    and the cases at which they are timed. `values` are inputs that may not be random."""

    name: str
    family: str
    file: Callable[[Path], Path]
    cases: Mapping[str, Shapes]
    rewrites: Mapping[str, tuple[str, ...]]
    values: Mapping[str, np.ndarray]


def _text(batch: int, length: int) -> Shapes:
    return dict.fromkeys(minilm.INPUTS, (batch, length))


def _efficientnet(cache: Path) -> Path:
    path = cache / "efficientnet.onnx"
    if not path.exists():
        module, inputs, _ = efficientnet.factory()
        with tempfile.TemporaryDirectory(dir=cache) as work, torch.no_grad():
            written = Path(work) / "model.onnx"
            torch.onnx.export(
                module, (inputs["image"].repeat(2, 1, 1, 1),), str(written), dynamo=True, external_data=False, verbose=False,
                input_names=["image"], output_names=["logits"], dynamic_shapes={"image": {0: torch.export.Dim("batch")}},
            )  # fmt: skip
            os.replace(written, path)
    return path


ZOO = (
    ZooModel(
        "minilm", "bert", minilm.export,
        {"1x16": _text(1, 16), "1x128": _text(1, 128), "8x128": _text(8, 128), "1x512": _text(1, 512)},
        dict.fromkeys(("int8", "nbits8", "nbits4", "float16"), ("1x128", "8x128")), {},
    ),
    ZooModel(
        "smollm2", "llama", smollm.export,
        {"1x512": {"input_ids": (1, 512)}, "2x512": {"input_ids": (2, 512)}, "1x2048": {"input_ids": (1, 2048)}},
        {"int8": ("1x512",), "nbits4": ("1x512",)}, {},
    ),
    ZooModel(
        "efficientnet", "convnet", _efficientnet,
        {str(batch): {"image": (batch, 3, 224, 224)} for batch in (1, 4, 8)}, {"int8": ("1", "4"), "float16": ("1", "4")}, {},
    ),
    ZooModel(
        "detection", "ocr", lambda cache: rapidocr.detection(),
        {"320x480": {"x": (1, 3, 320, 480)}, "2x320x320": {"x": (2, 3, 320, 320)}, "640x640": {"x": (1, 3, 640, 640)}},
        {"int8": ("320x480",)}, {},
    ),
    ZooModel(
        "recognition", "ocr", lambda cache: rapidocr.recognition(),
        {"48x320": {"x": (1, 3, 48, 320)}, "4x48x320": {"x": (4, 3, 48, 320)}}, {"int8": ("48x320",), "float16": ("48x320",)}, {},
    ),
    ZooModel(
        "silero", "voice", lambda cache: silero.path(),
        {str(b): {"input": (b, 576), "state": (2, b, 128), "sr": ()} for b in (1, 8)}, {}, {"sr": np.array(silero.RATE, np.int64)},
    ),
)  # fmt: skip


def rewritten(tool: str, source: Path, cache: Path) -> Path:
    """The file that `tool` makes of `source`, made once and kept in `cache`."""
    folder = cache / f"{source.parent.name}-{source.stem}-{tool}"
    if not (folder / "model.onnx").exists():
        with tempfile.TemporaryDirectory(dir=cache) as work, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            logging.getLogger().setLevel(logging.ERROR)
            TOOLS[tool](source, Path(work) / "model.onnx")
            os.replace(work, folder)
            Path(work).mkdir()
    return folder / "model.onnx"


def _int8(source: Path, target: Path) -> None:
    model = onnx.load(source)
    # The tool turns Gemm into MatMul and keeps the value infos of the transposed weight, which then contradict it.
    del model.graph.value_info[:]
    quantize_dynamic(model, target, per_channel=True, weight_type=QuantType.QUInt8)


def _nbits(bits: int, level: int) -> Callable[[Path, Path], None]:
    def make(source: Path, target: Path) -> None:
        logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
        quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=bits, block_size=32, is_symmetric=True, accuracy_level=level)
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), use_external_data_format=False)

    return make


def _float16(source: Path, target: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


TOOLS: Mapping[str, Callable[[Path, Path], None]] = {
    "int8": _int8,
    "nbits8": _nbits(8, 4),
    "nbits4": _nbits(4, 0),
    "float16": _float16,
}
"""onnxruntime's own tools: dynamic int8 of every product and convolution, 8-bit weights computed in int8, 4-bit weights computed in
float32, and half precision, which no CPU kernel computes in."""
