"""The benchmark of greedy generation counts tokens up to the first other one, and pads its prompts on the left."""

import numpy as np

from szilard.benchmarks.generation import equal_tokens, prompts

from . import tiny_language_models as tiny


def test_tokens_behind_a_wrong_one_do_not_count():
    def run(feeds):
        return {"logits": np.eye(9)[feeds["input_ids"] + 1]}

    given = {"input_ids": np.array([[0], [1]]), "attention_mask": np.ones((2, 1), np.int64)}
    assert equal_tokens((run, run), given, np.array([[1, 2, 3], [2, 3, 4]])) == 6
    assert equal_tokens((run, run), given, np.array([[1, 7, 3], [2, 3, 4]])) == 4


def test_prompts_end_with_a_token(tmp_path):
    tiny.tokenizer().save_pretrained(tmp_path)
    for each in prompts(tmp_path):
        assert each["attention_mask"][:, -1].all()
    assert not prompts(tmp_path)[0]["attention_mask"].all()
