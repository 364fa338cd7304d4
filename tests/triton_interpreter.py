"""Functions run in a child process under Triton's interpreter, which is chosen when triton is imported and then holds for a process."""

import importlib
import json
import os
import subprocess
import sys
import traceback


class Interpreter:
    """A child process that imports once and then runs functions `module:name` of the tests with arguments that JSON can hold."""

    def __init__(self) -> None:
        environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", "-m", "szilard.tests.triton_interpreter"]
        pipe = subprocess.PIPE
        self.child = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def __call__(self, function: str, **arguments: object) -> object:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(json.dumps([function, arguments]) + "\n")
        self.child.stdin.flush()
        answer = json.loads(self.child.stdout.readline() or '{"fault": "the child process ended"}')
        assert "fault" not in answer, answer["fault"]
        return answer["found"]

    def close(self) -> None:
        self.child.kill()
        self.child.wait(timeout=20)


def serve() -> None:
    """Answers each line of the standard input with one line; what functions print goes to the standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        function, arguments = json.loads(line)
        module, name = function.split(":")
        try:
            answer = {"found": getattr(importlib.import_module(f"szilard.tests.{module}"), name)(**arguments)}
        except Exception:
            answer = {"fault": traceback.format_exc()[-3000:]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    serve()
