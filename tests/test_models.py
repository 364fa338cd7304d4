"""The reference models load, do the work they were trained for, and their texts keep calibration and metric apart."""

import sys

import numpy as np
import onnxruntime
import pytest
import torch

from szilard.models import (
    efficientnet,
    embedding,
    glyphs,
    minilm,
    packages,
    rapidocr,
    retrieval,
    silero,
    standard_library,
    texts,
)
from szilard.models.tiny_transformers import FAMILIES
from szilard.models.wrappers import Plain


def runner(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def test_a_missing_package_is_a_sentence_with_the_command():
    with pytest.raises(ModuleNotFoundError, match=r"not installed: run `pip install --no-deps no-such-model==1`"):
        packages.package_folder("no_such_model", "no-such-model==1")
    with pytest.raises(ModuleNotFoundError, match=r"silero_vad has no data/gone.onnx"):
        packages.package_file("silero_vad", silero.REQUIREMENT, "data", "gone.onnx")


def test_finding_a_package_does_not_import_it(monkeypatch):
    # Another test of the same run may have imported it.
    monkeypatch.delitem(sys.modules, "rapidocr", raising=False)
    packages.package_folder("rapidocr", rapidocr.REQUIREMENT)
    assert "rapidocr" not in sys.modules


def test_pairs_are_five_hundred_and_distinct():
    pairs = retrieval.pairs()
    assert len(pairs) == len({signature for signature, _ in pairs}) == len({line for _, line in pairs}) == 500
    assert all("(" in signature and 4 <= len(line.split()) <= 40 for signature, line in pairs)
    assert not any(line.startswith(signature.partition("(")[0]) for signature, line in pairs)


def test_recall_counts_what_comes_first():
    generator = np.random.default_rng(3)
    vectors = generator.standard_normal((500, 24))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = {text: vectors[index] for index, pair in enumerate(retrieval.pairs()) for text in pair}
    assert retrieval.recall_at_one(lambda wanted: np.stack([rows[text] for text in wanted])) == 1.0
    shift = {signature: vectors[(index + (index < 125)) % 500] for index, (signature, _) in enumerate(retrieval.pairs())}
    assert retrieval.recall_at_one(lambda wanted: np.stack([(rows | shift)[text] for text in wanted])) == 0.75


def test_texts_are_mixed_and_disjoint_from_the_metric():
    batches = texts.batches()
    used = [text for batch in batches for text in batch]
    metric = {text for pair in retrieval.pairs() for text in pair}
    assert len(used) == len(set(used)) == 6 * (24 + 5 + 2)
    assert not metric & {*used, *texts.sentences()}
    assert not any(line in text for text in used for _, line in retrieval.pairs())
    assert max(len(text.split()) for text in batches[0]) <= 24 < min(len(text.split()) for text in batches[1])


def test_the_library_is_the_same_each_time():
    before = standard_library.documented()
    standard_library.documented.cache_clear()
    assert standard_library.documented() == before
    assert len(before) > 3000


def test_calibration_has_padding_and_every_length():
    batches = texts.calibration(minilm.tokenizer(), minilm.INPUTS)
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    assert all(set(batch) == set(minilm.INPUTS) and batch["input_ids"].dtype == np.int64 for batch in batches)
    assert min(lengths) < 64
    assert max(lengths) == 512
    for half in (lengths[::2], lengths[1::2], lengths[:9], lengths[9:]):
        assert min(half) < 64 < np.median(half) < 300 < max(half)
    assert sum(batch["attention_mask"].min() == 0 for batch in batches) == len(batches)


def test_pooling_ignores_padding():
    hidden = np.random.default_rng(0).standard_normal((3, 7, 5)).astype(np.float32)
    mask = np.array([[1] * 7, [1] * 3 + [0] * 4, [1] + [0] * 6])
    pooled = embedding.pool(hidden, mask)
    expected = np.stack([hidden[0].mean(0), hidden[1, :3].mean(0), hidden[2, 0]])
    np.testing.assert_allclose(pooled, expected / np.linalg.norm(expected, axis=1, keepdims=True), rtol=1e-5)


def test_the_embedder_keeps_the_order_of_the_texts():
    tokenizer = minilm.tokenizer()
    wanted = [line for _, line in retrieval.pairs()[:23]]

    def run(inputs):
        return {"hidden": np.stack([np.cos(inputs["input_ids"]), np.ones_like(inputs["input_ids"])], -1).astype(np.float32)}

    together = embedding.embedder(run, tokenizer, ("input_ids",), batch=4)(wanted)
    alone = np.concatenate([embedding.embedder(run, tokenizer, ("input_ids",))([text]) for text in wanted])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    assert embedding.mean_cosine(together, alone) == pytest.approx(1)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
def test_minilm_exports_with_free_axes(tmp_path, exporter):
    path = minilm.export(tmp_path / "cache", exporter)
    stamp = path.stat().st_mtime_ns
    assert minilm.export(tmp_path / "cache", exporter) == path
    assert path.stat().st_mtime_ns == stamp
    assert [item.name for item in path.parent.iterdir()] == [path.name]
    run, module, tokenizer = runner(path), minilm.load(), minilm.tokenizer()
    for batch in (texts.batches(1)[0][:3], texts.batches(1)[2][:1]):
        inputs = embedding.tokens(tokenizer, batch, minilm.INPUTS)
        with torch.no_grad():
            expected = module(*map(torch.from_numpy, inputs.values())).numpy()
        real = inputs["attention_mask"] == 1
        np.testing.assert_allclose(run(inputs)[minilm.OUTPUT][real], expected[real], atol=2e-5)


@pytest.mark.long
def test_minilm_retrieves_as_published():
    module = minilm.load()

    def run(inputs):
        with torch.no_grad():
            return {"hidden": module(*map(torch.from_numpy, inputs.values())).numpy()}

    recall = retrieval.recall_at_one(embedding.embedder(run, minilm.tokenizer(), minilm.INPUTS))
    assert 0.45 < recall < 0.58


def test_silero_hears_voices_and_not_noise():
    run = runner(silero.path())
    voiced, inputs = silero.stream(run, silero.sound(3))
    noise, _ = silero.stream(run, 0.003 * np.random.default_rng(1).standard_normal(16000).astype(np.float32))
    assert voiced.max() > 0.7
    assert voiced[4:11].max() < 0.2
    assert noise[2:].max() < 0.2
    assert len(silero.calibration(run, 5)) == 5
    assert np.array_equal(inputs[1]["input"][0, :64], inputs[0]["input"][0, -64:])
    assert np.abs(inputs[9]["state"]).max() > 0.1


def test_recognition_reads_drawn_lines():
    alphabet = rapidocr.characters(rapidocr.recognition())
    run = runner(rapidocr.recognition())
    assert rapidocr.character_error(run, alphabet, count=6) < 0.05
    assert rapidocr.character_error(lambda inputs: {"y": -run(inputs)["fetch_name_0"]}, alphabet, count=2) > 0.5
    widths = {sample["x"].shape[-1] for sample in rapidocr.line_calibration()}
    assert len(widths) > 5
    assert all(width % 8 == 0 for width in widths)
    assert not set(glyphs.lines(16, seed=1)) & set(glyphs.lines(24, seed=2)) - set(glyphs.WORDS.split())


def test_detection_marks_text_and_leaves_blank_paper():
    run = runner(rapidocr.detection())
    page = rapidocr.page_input(3, 160, 320)
    blank = {"x": np.full_like(page["x"], page["x"].max())}
    found, nothing = (next(iter(run(inputs).values())) for inputs in (page, blank))
    assert found.shape == (1, 1, 160, 320)
    assert (found > 0.5).mean() > 0.03
    assert (nothing > 0.5).mean() == 0
    assert {sample["x"].shape for sample in rapidocr.page_calibration()} == {(1, 3, 160 + 32 * n, 320) for n in range(3)}


def test_line_distance_is_counted_in_edits():
    assert [rapidocr._distance(*pair) for pair in (("BIT", "BIT"), ("BIT", "HEAT"), ("", "AB"), ("KERNEL", "KENEL"))] == [
        0,
        3,
        2,
        1,
    ]


def test_efficientnet_has_its_trained_weights():
    module, sample, calibration = efficientnet.factory()
    assert sum(parameter.numel() for parameter in module.parameters()) == 4_652_008
    assert sample["image"].shape == (1, 3, 224, 224)
    assert len({item["image"].tobytes() for item in calibration}) == len(calibration) == 8
    with torch.no_grad():
        best = module(torch.from_numpy(efficientnet.images(6, seed=4))).softmax(-1).max(-1)
    # Recorded when this module called photographs of a cat, an espresso and a tripod by their names (0.39, 0.95, 0.94);
    # padding the other end by one moves the last figure to 0.18.
    assert best.indices.tolist() == [723, 443, 741, 443, 714, 443]
    np.testing.assert_allclose(best.values, [0.1512, 0.1955, 0.0722, 0.2169, 0.0916, 0.4053], atol=2e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_transformer_is_a_plain_function(family):
    module, sample = FAMILIES[family]()
    again, _ = FAMILIES[family]()
    assert isinstance(module, Plain)
    with torch.no_grad():
        output = module(**sample)
        assert torch.equal(output, again(**sample))
        for name, tensor in sample.items():
            other = 1 - tensor if name == "attention_mask" else tensor.flip(-1)
            if name == "token_type_ids":
                other = 1 - tensor
            assert not torch.allclose(module(**(sample | {name: other})), output, atol=1e-4), name
    assert output.std() > 0.1
