"""The int8 file of onnx-neural-compressor, a peer of benchmarks/minilm.py. Needs an environment of its own, since its pins are older:

pip install onnx-neural-compressor prettytable psutil py-cpuinfo pydantic scipy transformers
python benchmarks/peer_neural_compressor.py fp32.onnx neural-compressor.onnx
"""

import sys


def main(source: str, target: str) -> None:
    """Writes `source` with dynamically quantised int8 matmuls, one weight scale a column, to `target`."""
    from onnx_neural_compressor.quantization import config, quantize  # type: ignore[import-not-found]

    quantize(source, target, config.DynamicQuantConfig(per_channel=True))


if __name__ == "__main__":
    main(*sys.argv[1:3])
