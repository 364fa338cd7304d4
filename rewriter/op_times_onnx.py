"""Seconds of each op by onnxruntime's profiler, less what the profiler adds to each.

The profiler reads its clock after it has gathered its record, so that each op seems some microseconds longer (3 to 6 here). It is
measured on a chain of ops that take next to none, profiled in the same way, and taken off.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ..cost_model.timing import measure_interleaved
from .backend import Arrays
from .op_times import OpTimes
from .runtime_onnx import open_session, run_session

WARM_RUNS = 2
_CHAIN = 64
_SUFFIX = "_kernel_time"
HOW = "onnxruntime's profiler"


def onnx_op_seconds(model: ir.Model, feeds: Arrays, runs: int) -> OpTimes:
    """Seconds of the nodes of `model` by name, in `runs` calls on `feeds`. `model` is taken as it is, without onnxruntime's optimiser.

    Nodes in a branch that is taken have times of their own, and the `If` around them one that holds theirs; nodes that do not run once
    in each call (bodies of loops) are left out. Raises InputError where onnxruntime cannot load or run the model.
    """
    added = profiler_seconds(runs)
    samples = {name: tuple(second - added for second in found) for name, found in _profile(model, feeds, runs).items()}
    return OpTimes(samples, added, HOW)


def profiler_seconds(runs: int) -> float:
    """By how much the profiler lengthens an op on this machine [s]."""
    chain, feeds = _chain(), {"x": np.ones(1, np.float32)}
    profiled = statistics.fmean(statistics.median(found) for found in _profile(chain, feeds, runs).values())
    with open_session(chain, optimize=False) as session:
        plain = measure_interleaved({"chain": lambda: session.run(None, feeds)}, runs, min_seconds=0.001)["chain"].median
    return max(0.0, profiled - plain / _CHAIN)


def _profile(model: ir.Model, feeds: Arrays, runs: int) -> dict[str, list[float]]:
    """Node name -> seconds, one for each call after the warm ones. The profile's file is gone at the end."""
    with tempfile.TemporaryDirectory(prefix="szilard-") as scratch:

        def keep(options: ort.SessionOptions) -> None:
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(scratch) / "profile")

        with open_session(model, optimize=False, configure=keep) as session:
            for _ in range(WARM_RUNS + runs):
                run_session(session, feeds)
            path = session.end_profiling()
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    found: dict[str, list[float]] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            found.setdefault(event["name"].removesuffix(_SUFFIX), []).append(event["dur"] * 1e-6)
    return {name: seconds[WARM_RUNS:] for name, seconds in found.items() if len(seconds) == WARM_RUNS + runs}


def _chain() -> ir.Model:
    """Sign changes of one element, one after another."""
    x = ir.val("x", ir.DataType.FLOAT, [1])
    value, nodes = x, []
    for index in range(_CHAIN):
        nodes.append(ir.node("Neg", [value], name=f"neg_{index}"))
        value = nodes[-1].outputs[0]
    value.name, value.type, value.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([1])
    return ir.Model(ir.Graph([x], [value], nodes=nodes, opset_imports={"": 20}, name="chain"), ir_version=10)
