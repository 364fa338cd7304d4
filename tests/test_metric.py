"""Metrics by name: found from the folder at hand, and one sentence for everything that can be wrong with one."""

import sys

import numpy as np
import pytest

from szilard.cost_model.errors import BudgetError, InputError
from szilard.rewriter.metric import metric_function

MODULE = """
import numpy

NUMBER = 3

def mean(run):
    return numpy.float32(run({"x": numpy.arange(5.0)})["y"].mean())
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with modules of names that no other test imports."""
    (tmp_path / "metric_of_a_test.py").write_text(MODULE)
    (tmp_path / "broken_metric_of_a_test.py").write_text("raise KeyError('wheel')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_function_is_found_in_the_working_directory(folder):
    metric = metric_function("metric_of_a_test:mean")
    value = metric(lambda feeds: {"y": 2 * feeds["x"]})
    assert type(value) is float
    assert value == 4.0
    assert metric_function(None) is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("metric_of_a_test", "names no function; write package.module:function"),
        (":mean", "names no function"),
        ("no_such_metric_module:mean", "No module named 'no_such_metric_module'; run from the folder"),
        ("metric_of_a_test:median", "no attribute 'median'"),
        ("metric_of_a_test:NUMBER", "is not a function"),
        ("broken_metric_of_a_test:mean", "raised KeyError: 'wheel'"),
    ],
)
def test_a_name_that_leads_nowhere_is_a_sentence(folder, name, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        metric_function(name)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        (float("nan"), "median_of returned NaN"),
        (np.float32("nan"), "returned NaN"),
        (float("-inf"), "returned -inf"),
        (None, "returned a NoneType"),
        ("high", "returned a str"),
        ([0.5], "returned a list"),
    ],
)
def test_what_is_no_number_is_a_sentence(returned, sentence):
    def median_of(run):
        return returned

    with pytest.raises(InputError, match=sentence):
        metric_function(median_of)(None)


def test_a_metric_that_raises_is_named_and_our_own_sentences_pass():
    def wrong(run):
        raise LookupError("label 7\nand much advice")

    def ours(run):
        raise BudgetError("Said already.")

    with pytest.raises(InputError, match=r"^The metric wrong raised LookupError: label 7\.$"):
        metric_function(wrong)(None)
    with pytest.raises(BudgetError, match=r"^Said already\.$"):
        metric_function(ours)(None)
