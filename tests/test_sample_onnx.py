import numpy as np
import onnx_ir as ir
import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.sample_onnx import input_shapes, random_inputs, symbols

from .onnx_texts import model, normal

TEXT = "(int64[batch,seq] ids, int64[batch,seq] attention_mask, float[2,batch,5] state) => (y) {y = Identity(state)}"


def test_free_axes_are_named_and_nameless_ones_are_called_after_their_input():
    found = model("(float[N,3,Q] x, float[2] z) => (y) {y = Identity(x)}")
    found.graph.inputs[0].shape = ir.Shape(["N", 3, None])
    assert symbols(found) == {"x": {0: "N", 2: "x_2"}}


def test_given_shapes_bind_the_symbols_of_other_inputs():
    assert input_shapes(model(TEXT), {"ids": (3, 7)}) == {"ids": (3, 7), "attention_mask": (3, 7), "state": (2, 3, 5)}


def test_defaults():
    image = model("(float[N,3,h,w] x, float[N,past_length,4] past, float[N,t] z) => (y) {y = Identity(x)}")
    assert input_shapes(image, length=40) == {"x": (1, 3, 224, 224), "past": (1, 0, 4), "z": (1, 40)}
    assert input_shapes(model("(float[2,b,5] x) => (y) {y = Identity(x)}")) == {"x": (2, 1, 5)}


@pytest.mark.parametrize(
    ("shapes", "word"), [({"nope": (1,)}, "no input 'nope'"), ({"ids": (1, 2, 3)}, "'ids'"), ({"state": (3, 1, 5)}, "'state'")]
)
def test_a_shape_that_does_not_fit_is_named(shapes, word):
    with pytest.raises(InputError, match=word):
        input_shapes(model(TEXT), shapes)


def test_indices_stay_inside_the_smallest_table_they_reach():
    inputs = "int64[b,s] ids, int64[s] token_type_ids, int64[s] position_ids"
    text = f"({inputs}) => (y, z) {{c = Cast<to=6>(ids) y = Gather(w, c) z = Gather(v, ids)}}"
    found = random_inputs(model(text, {"w": normal(0, 5, 2), "v": normal(0, 3, 2)}), {"ids": (40, 50)})
    assert set(np.unique(found["ids"])) == {0, 1, 2}
    assert not found["token_type_ids"].any()
    assert found["position_ids"].tolist() == list(range(50))


def test_masks_are_ones_floats_random_and_a_compared_number_is_that_number():
    text = "(int64 sr, float[4,5] x, float[4,5] x_mask, bool[3] keep) => (y) {y = Equal(sr, c)}".replace("bool[", "bool [")
    found = random_inputs(model(text, {"c": np.int64(16000)}))
    assert found["sr"].item() == 16000
    assert found["sr"].shape == ()
    assert found["x"].std() > 0.5
    assert (found["x_mask"] == 1).all()
    assert found["keep"].all()
    np.testing.assert_array_equal(found["x"], random_inputs(model(text, {"c": np.int64(16000)}))["x"])


def test_an_input_that_is_no_tensor_of_numbers_is_named():
    with pytest.raises(InputError, match="'words'"):
        random_inputs(model("(string[3] words) => (y) {y = Identity(words)}".replace("string[", "string [")))
