import pytest

from szilard.rewriter.fault_text import fault_text, root_fault_text


def test_one_line_without_a_full_stop():
    assert fault_text(ValueError("\n  too wide.\nTry this:\n- that")) == "ValueError: too wide"
    assert fault_text(KeyError()) == "KeyError"


def test_the_first_cause_is_found():
    def export():
        try:
            raise KeyError("wheel")
        except KeyError as fault:
            raise RuntimeError("export failed") from fault

    with pytest.raises(RuntimeError) as caught:
        export()
    assert root_fault_text(caught.value) == "KeyError: 'wheel'"
