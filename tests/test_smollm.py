"""SmolLM2 from its package: the trained weights, the last logits only, and any length."""

import pytest
import torch

from szilard.models import smollm


@pytest.mark.long
def test_a_passage_that_repeats_itself_is_continued():
    """A trained model copies: after half of the second round, the next token is the one of the first."""
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")  # transformers needs both to read a GGUF file
    module = smollm.load()
    words = torch.randint(1000, 40000, (1, 24), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = module(torch.cat([words, words[:, :12]], dim=1))
    assert logits.shape == (1, 1, smollm.VOCABULARY)
    assert logits.argmax(-1).item() == words[0, 12].item()


def test_the_sample_names_the_input():
    (ids,) = smollm.sample().values()
    assert ids.shape == (1, 16)
    assert int(ids.max()) < smollm.VOCABULARY


@pytest.mark.long
def test_the_tokenizer_gives_text_back():
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")  # transformers needs both to read a GGUF file
    text = "def f(x):\n    return x  # as it was"
    tokenizer = smollm.tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert max(ids) < smollm.VOCABULARY
    assert tokenizer.decode(ids) == text
