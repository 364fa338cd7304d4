"""Tables of embeddings in codes in standard ONNX: every runtime looks up the rows that the codes stand for. Covers onnx_body.py of
quantized_embedding too."""

import numpy as np
import pytest

from szilard.cost_model.onnx_style import OnnxStyle
from szilard.cost_model.sites import EmbeddingSite
from szilard.kernels.quantized_embedding.formats import looked_up, prepare_table
from szilard.passes.onnx_quantize_embedding import QuantizeEmbeddings

from .onnx_graphs import apply, choose, graph, kinds
from .standard_onnx_runs import WAYS, assert_standard, outputs
from .test_quantized_embedding_formats import table

CASES = [("int8_rows", 1), ("int8_rows", 33), ("int8_rows", 90), ("int4_rows", 2), ("int4_rows", 34), ("int4_rows", 96)]


def rewritten(action: str, weights: np.ndarray):
    rows, width = weights.shape
    kind = "float16" if weights.dtype == np.float16 else "float"
    model = graph(f"(int64 [B,L] i) => ({kind} [B,L,{width}] y) {{ y = Gather(w, i) }}", {"w": weights}, opset=21)
    model.ir_version = 10
    site = EmbeddingSite("words", ("n0",), "i", "w", "y", rows, width, 6, weights.dtype.name)
    prepared = prepare_table(action, weights.astype(np.float32))
    return prepared, *apply(QuantizeEmbeddings({"words": prepared}, OnnxStyle.qdq), model, [choose(action, site)], [site])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("action", "width"), CASES)
def test_every_way_of_running_it_looks_up_the_same_rows(action, width, way):
    prepared, after, changed = rewritten(action, table(width, 13, width))
    assert changed == 1
    indices = np.random.default_rng(width).integers(0 if way == "onnx" else -13, 13, (2, 3))
    np.testing.assert_array_equal(outputs(after, {"i": indices}, way)[0], looked_up(prepared, indices))


@pytest.mark.parametrize("action", ["int8_rows", "int4_rows"])
def test_tables_in_float16_give_float16(action):
    prepared, after, _ = rewritten(action, table(0, 11, 70).astype(np.float16))
    (found,) = outputs(after, {"i": np.array([[0, 10, 3]])}, "as written")
    assert found.dtype == np.float16
    np.testing.assert_allclose(found, looked_up(prepared, np.array([[0, 10, 3]])), rtol=2e-3)


def test_codes_take_no_more_than_their_bits():
    for action, nbytes in (("int8_rows", 96), ("int4_rows", 48)):
        _, after, _ = rewritten(action, table(1, 50, 96))
        assert_standard(after)
        assert after.graph.initializers[f"words.{action}_codes"].const_value.nbytes == 50 * nbytes
        assert "GatherBlockQuantized" not in kinds(after)
