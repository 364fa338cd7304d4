"""Times of several ONNX files in one run, fair to each: one session alive at a time, in turn, over several rounds.

Several sessions with spinning thread pools in one process disturb each other: with nine open on two cores a 3.1 ms model took 26 ms.
"""

import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime

Inputs = Mapping[str, np.ndarray]


def open_session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """A session on the CPU with `threads` threads inside an operator, and otherwise onnxruntime's defaults."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def one_median(session: onnxruntime.InferenceSession, inputs: Inputs, seconds: float) -> float:
    """Median seconds of a call, after two calls to warm up, from at least five calls and at least `seconds` of them."""
    for _ in range(2):
        session.run(None, dict(inputs))
    samples: list[float] = []
    while len(samples) < 5 or sum(samples) < seconds:
        start = time.perf_counter()
        session.run(None, dict(inputs))
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def measure(
    files: Mapping[str, Path], cases: Mapping[str, Inputs], threads: int, rounds: int, seconds: float = 0.2
) -> dict[str, dict[str, list[float]]]:
    """Median seconds of each round: {case: {file: [rounds]}}. The order of the files turns by one every round."""
    names = list(files)
    found: dict[str, dict[str, list[float]]] = {case: {name: [] for name in names} for case in cases}
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            session = open_session(files[name], threads)
            for case, inputs in cases.items():
                found[case][name].append(one_median(session, inputs, seconds))
            del session
    return found
