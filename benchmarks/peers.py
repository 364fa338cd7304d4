"""What onnxruntime's own tools make of an fp32 ONNX file: the files that a rewrite has to beat."""

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer


def _int8_dynamic(source: Path, target: Path) -> None:
    quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8)


def _nbits8(source: Path, target: Path) -> None:
    logging.getLogger(MatMulNBitsQuantizer.__module__).setLevel(logging.WARNING)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), bits=8, block_size=32, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    quantizer.model.save_model_to_file(str(target), use_external_data_format=False)


PEERS: dict[str, Callable[[Path, Path], None]] = {"int8 dynamic, per channel": _int8_dynamic, "MatMulNBits 8, level 4": _nbits8}


def make_peers(source: Path, cache: Path) -> dict[str, Path]:
    """The file of each peer by name, made from `source` once and kept in `cache`."""
    found = {}
    for name, make in PEERS.items():
        path = cache / f"{source.stem}-{name.replace(', ', '-').replace(' ', '-')}.onnx"
        if not path.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                make(source, Path(work) / "model.onnx")
                os.replace(Path(work) / "model.onnx", path)
        found[name] = path
    return found
