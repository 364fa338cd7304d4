"""A recipe gives, for a transformers folder, a module, its inputs, texts of mixed length and a metric that can fall."""

import shutil

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel

from szilard.models import minilm, retrieval
from szilard.models.tasks import TASKS, recipe

SIZES = {"vocab_size": 30522, "pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}


def run_of(found, noise=0.0):
    module = found.build()
    generator = torch.Generator().manual_seed(0)

    def run(inputs):
        assert tuple(inputs) == found.inputs
        with torch.no_grad():
            output = module(*map(torch.from_numpy, inputs.values()))
        return {found.output: (output + noise * torch.randn(output.shape, generator=generator)).numpy()}

    return run


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small random models with MiniLM's tokenizer, by task."""
    torch.manual_seed(3)
    small = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 40, "num_labels": 5}
    classifier = BertForSequenceClassification(BertConfig(**SIZES, **small, max_position_embeddings=64))
    torch.nn.init.normal_(classifier.classifier.weight, std=2.0)
    made = {
        "classify": classifier,
        "causal-lm": GPT2LMHeadModel(GPT2Config(**SIZES, n_embd=24, n_layer=1, n_head=2, n_positions=80)),
    }
    found = {"embed": minilm.folder()}
    for task, model in made.items():
        found[task] = tmp_path_factory.mktemp(task)
        model.save_pretrained(found[task])
        for name in ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            shutil.copy(minilm.folder() / name, found[task])
    return found


@pytest.mark.parametrize("task", ["embed", "classify", "causal-lm"])
def test_a_recipe_fits_its_model(folders, task):
    found = recipe(task, folders[task])
    output = next(iter(run_of(found)(found.sample).values()))
    batch, length = found.sample["input_ids"].shape
    assert batch == 2
    assert output.shape[: 2 if task != "classify" else 1] == ((batch, length) if task != "classify" else (batch,))
    assert found.metric_name == TASKS[task][2]
    longest = {"embed": 512, "classify": 64, "causal-lm": 80}[task]
    lengths = {sample["input_ids"].shape[1] for sample in found.calibration}
    assert max(lengths) == longest
    assert len(lengths) > 4
    assert all(tuple(sample) == found.inputs for sample in found.calibration)


def test_the_classes_of_the_original_are_the_measure(folders):
    found = recipe("classify", folders["classify"])
    assert found.metric(run_of(found)) == 1.0
    assert 0.1 < found.metric(run_of(found, noise=3.0)) < 0.95


def test_the_likelihood_is_that_of_the_next_real_token(folders):
    found = recipe("causal-lm", folders["causal-lm"])
    assert found.inputs == ("input_ids", "attention_mask")
    assert found.metric(run_of(found)) == pytest.approx(-np.log(30522), abs=0.5)
    assert found.metric(run_of(found, noise=3.0)) < found.metric(run_of(found)) - 1

    def knows(inputs):
        following = np.roll(inputs["input_ids"], -1, axis=1)
        return {"logits": 30.0 * (following[..., None] == np.arange(30522))}

    assert found.metric(knows) == pytest.approx(0, abs=1e-6)


def test_an_embedding_recipe_measures_retrieval(folders):
    found = recipe("embed", folders["embed"])
    known = {}

    def run(inputs):
        for row in inputs["input_ids"]:
            known.setdefault(row.tobytes(), len(known))
        random = np.random.default_rng(inputs["input_ids"].sum()).standard_normal((*inputs["input_ids"].shape, 8))
        return {"last_hidden_state": random.astype(np.float32)}

    assert found.metric(run) < 0.05
    assert len(known) == 2 * retrieval.COUNT


def test_no_task_has_no_metric(folders):
    found = recipe("none", folders["classify"])
    assert found.metric is None
    assert found.metric_name == ""
    assert next(iter(run_of(found)(found.sample).values())).shape[-1] == 24


def test_a_padded_row_gives_what_it_gives_alone(folders):
    found = recipe("embed", folders["embed"])
    run = run_of(found)
    together = next(iter(run(found.sample).values()))
    for row in range(2):
        real = int(found.sample["attention_mask"][row].sum())
        alone = next(iter(run({name: array[row : row + 1, :real] for name, array in found.sample.items()}).values()))
        np.testing.assert_allclose(together[row, :real], alone[0], atol=1e-5)


def test_bad_folders_are_sentences(folders, tmp_path):
    with pytest.raises(ValueError, match="no task 'translate': choose one of embed, classify"):
        recipe("translate", folders["embed"])
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        recipe("embed", tmp_path)
    shutil.copy(folders["classify"] / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="can run code when loaded"):
        recipe("embed", tmp_path)
    shutil.copy(folders["classify"] / "model.safetensors", tmp_path)
    with pytest.raises(ValueError, match=r"no tokenizer that can be read \(none of tokenizer"):
        recipe("embed", tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match="no tokenizer that can be read"):
        recipe("embed", tmp_path)


def test_weights_that_would_be_random_are_refused(folders):
    for task, first in (("causal-lm", "cls.predictions.bias"), ("classify", "classifier.bias")):
        with pytest.raises(ValueError, match=f"the first is {first}.*choose another --task"):
            recipe(task, folders["embed"]).build()


def test_a_model_that_does_not_fit_the_task_is_a_sentence(folders, tmp_path):
    from transformers import T5Config, T5ForConditionalGeneration

    shutil.copytree(folders["classify"], tmp_path / "t5")
    config = T5Config(**SIZES, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"\(T5Model\) does not take input_ids and attention_mask alone"):
        recipe("none", tmp_path / "t5")
    with pytest.raises(ValueError, match=r"\(t5\) has no AutoModelForCausalLM: choose another --task"):
        recipe("causal-lm", tmp_path / "t5")


def test_long_inputs_are_calibrated_and_judged_on_long_texts(tmp_path, folders):
    config = GPT2Config(**SIZES, n_embd=8, n_layer=1, n_head=2, n_positions=700)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    shutil.copy(folders["causal-lm"] / "tokenizer.json", tmp_path)
    found = recipe("causal-lm", tmp_path, length=640)
    assert [sample["input_ids"].shape for sample in found.calibration] == [(1, 640)] * 4
    assert len({sample["input_ids"].tobytes() for sample in found.calibration}) == 4
    seen = []

    def run(inputs):
        seen.append(inputs["input_ids"])
        return {"logits": np.eye(SIZES["vocab_size"], dtype=np.float32)[np.roll(inputs["input_ids"], -1)] * 5}

    uniform = -np.log(SIZES["vocab_size"])
    assert found.metric(run) == pytest.approx(5 - np.log(SIZES["vocab_size"] - 1 + np.exp(5)), rel=1e-6)
    assert found.metric(lambda i: {"y": np.zeros((*i["input_ids"].shape, SIZES["vocab_size"]))}) == pytest.approx(uniform)
    assert [ids.shape for ids in seen] == [(1, 640)] * 3
    held_out = {sample["input_ids"].tobytes() for sample in found.calibration[1::2]}
    assert held_out <= {ids.tobytes() for ids in seen}
    assert not {sample["input_ids"].tobytes() for sample in found.calibration[::2]} & {ids.tobytes() for ids in seen}


def test_a_model_that_takes_less_is_given_less_and_that_is_said(folders):
    found = recipe("causal-lm", folders["causal-lm"], length=640)
    assert max(s["input_ids"].shape[1] for s in found.calibration) == 80
    assert found.notes == (
        "The longest text to calibrate and to judge on has 80 tokens, the longest phase 640; --calib takes longer ones.",
    )
    assert recipe("causal-lm", folders["causal-lm"], length=80).notes == ()
