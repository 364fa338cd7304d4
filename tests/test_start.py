"""Signals, while libraries are still imported and while a folder is written: a sentence, its code, and the old folder as it was."""

import signal
import subprocess
import sys

import pytest

IMPORTING = """
import sys, types
from szilard.rewriter.start import main

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "szilard.rewriter.command_line":
            print("importing", file=sys.stderr, flush=True)
            import time
            try:
                time.sleep(60)
            except BaseException:
                if len(sys.argv) > 1:
                    raise ImportError("half loaded")
                raise

sys.meta_path.insert(0, Slow())
main()
"""


@pytest.mark.parametrize("made_of_it", [(), ("another fault",)])
@pytest.mark.parametrize(("number", "code", "word"), [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")])
def test_a_signal_during_imports(number, code, word, made_of_it):
    running = subprocess.Popen(
        [sys.executable, "-c", IMPORTING, *made_of_it], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "importing\n"
    running.send_signal(number)
    stdout, stderr = running.communicate()
    assert (running.returncode, stdout) == (code, "")
    assert stderr == f"szilard: {word}; nothing was half-written, and a file or folder that was there before is as it was.\n"


def test_it_runs_the_command():
    code = "import sys; sys.argv = ['szilard', '--version']; from szilard.rewriter.start import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("szilard ")


REWRITING = """
import sys, time, types
from szilard.rewriter.command_line import main
from szilard.rewriter.folder import new_folder
def rewrite(model, *, out, force, **options):
    with new_folder(out, force) as partial:
        (partial / "plan.json").write_text("half")
        print("writing", file=sys.stderr, flush=True)
        time.sleep(60)
stand_in = types.ModuleType("stand_in")
stand_in.rewrite = rewrite
sys.modules["szilard.rewriter.rewrite"] = stand_in
sys.argv = ["szilard", "rewrite", "m.onnx", "--out", sys.argv[1], "--force", "--json"]
main()
"""


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (signal.SIGINT, 130, "nothing was half-written"),
        (signal.SIGTERM, 143, "nothing was half-written"),
        (signal.SIGKILL, -9, ""),
    ],
)
def test_a_signal_leaves_the_old_folder(tmp_path, number, code, words):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("plan.json", "report.json"):
        (out / name).write_text("old")
    running = subprocess.Popen(
        [sys.executable, "-c", REWRITING, str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stderr is not None
    assert running.stderr.readline() == "writing\n"
    running.send_signal(number)
    stdout, stderr = running.communicate()
    assert running.returncode == code
    assert stdout == ""
    assert words in stderr
    assert "Traceback" not in stderr
    assert (out / "plan.json").read_text() == "old"
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ([f".out.partial-{running.pid}", "out"] if number == signal.SIGKILL else ["out"])
