"""A signal while libraries are still imported is a sentence and its code, as it is later."""

import signal
import subprocess
import sys

import pytest

SLOW = """
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
        [sys.executable, "-c", SLOW, *made_of_it], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
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
