"""One result on stdout, one sentence for every fault."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from szilard.cost_model.errors import BudgetError, InputError, SzilardError
from szilard.rewriter.command_line_output import Terminated, columns, fault_sentence, read_json, report_fault


def noted(fault: BaseException, note: str) -> BaseException:
    fault.add_note(note)
    return fault


def chained(outer: BaseException, inner: BaseException) -> BaseException:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (InputError("The file x is missing."), 2, "The file x is missing."),
        (BudgetError("No plan reaches 1 J."), 3, "No plan reaches 1 J."),
        (SzilardError("Odd."), 1, "Odd."),
        (KeyboardInterrupt(), 130, "Interrupted; nothing was half-written"),
        (Terminated(), 143, "Terminated; nothing was half-written"),
        (noted(KeyboardInterrupt(), "the rows are in x.part"), 130, "Interrupted; the rows are in x.part."),
        (OSError(errno.ENOSPC, "No space left on device", "out/model.onnx"), 1, "no space left on the disk for out/model.onnx"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, "no space left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 1, "no space left"),
        (chained(RuntimeError("export failed"), OSError(errno.ENOSPC, "full")), 1, "no space left"),
        (chained(InputError("model.py cannot be written."), OSError(errno.ENOSPC, "full")), 1, "no space left"),
        (MemoryError(), 1, "out of memory"),
        (KeyError("weight"), 1, "KeyError: 'weight'"),
        (RuntimeError("first line.\nsecond line"), 1, "RuntimeError: first line; --debug"),
        (RuntimeError(), 1, "RuntimeError: no message"),
    ],
)
def test_fault_sentences(fault, code, words):
    sentence, found = fault_sentence(fault)
    assert found == code
    assert words in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")


def raised() -> KeyError:
    try:
        raise KeyError("weight")
    except KeyError as fault:
        return fault


@pytest.mark.parametrize("debug", [False, True])
def test_the_traceback_shows_only_with_debug(capsys, debug):
    assert report_fault(raised(), debug) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert ("Traceback" in captured.err) is debug
    assert "in test_command_line_output.py, line" in captured.err


def test_columns():
    assert columns([("a", "1"), ("bbb", "22")], right=(1,)) == "a     1\nbbb  22"
    assert columns([]) == ""


def test_read_json_names_the_file(tmp_path):
    with pytest.raises(InputError, match=r"plan .*none.json cannot be read"):
        read_json(tmp_path / "none.json", "plan")
    (tmp_path / "bad.json").write_text("[1,")
    with pytest.raises(InputError, match=r"plan .*bad.json is not JSON"):
        read_json(tmp_path / "bad.json", "plan")


NOISY = """
import os, sys
from szilard.rewriter.command_line_output import deliver, only_results_on_stdout
with only_results_on_stdout():
    print("from Python")
    os.write(1, b"from C\\n")
    os.system("echo from a child")
deliver({"a": float("nan")}, "text", as_json=True)
"""


def test_only_the_result_reaches_stdout():
    done = subprocess.run([sys.executable, "-c", NOISY], capture_output=True, text=True, check=True)
    assert done.stdout == '{\n "a": null\n}\n'
    assert [line for line in ("from Python", "from C", "from a child") if line not in done.stderr] == []


def test_a_reader_that_went_away_is_no_fault():
    read, write = os.pipe()
    os.close(read)
    code = "from szilard.rewriter.command_line_output import deliver; deliver({}, 'x' * 100000, as_json=False)"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


SWALLOWED = """
import os, signal, sys
from szilard.rewriter.command_line_output import progress, remember_signals, report_fault
remember_signals()
try:
    os.kill(os.getpid(), int(sys.argv[1]))
except BaseException:
    pass
try:
    progress("the next step")
except BaseException as fault:
    sys.exit(report_fault(fault if len(sys.argv) < 3 else ImportError("a library is half loaded"), debug=False))
"""


@pytest.mark.parametrize("made_of_it", [(), ("another fault",)])
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")])
def test_a_signal_that_a_library_swallowed_stops_the_next_step(number, code, word, made_of_it):
    done = subprocess.run([sys.executable, "-c", SWALLOWED, str(int(number)), *made_of_it], capture_output=True, text=True)
    assert done.returncode == code
    assert (
        done.stderr == f"szilard: {word}; nothing was half-written, and a file or folder that was there before is as it was.\n"
    )
