"""The bench of a real card, on a machine without one: what it asks of PyTorch, in which order, and what it does when that is refused."""

from contextlib import contextmanager

import pytest
import torch

from szilard.benchmarks.gpu_simulated import SimulatedBench
from szilard.cost_model.device import load_device
from szilard.cost_model.errors import InputError
from szilard.cost_model.joule_design import Point
from szilard.cost_model.meter import Meter
from szilard.rewriter import cuda_bench
from szilard.rewriter.energy_case import EnergyCase
from szilard.rewriter.microbenchmarks_cuda import point_case

POINT = Point("copy", "neg", "float32", (4096,))


class Card:
    """Stands for torch.cuda: every call is noted; capture works if `captures`."""

    def __init__(self, captures):
        self.captures, self.calls, self.waited = captures, [], 0

    def CUDAGraph(self):
        return self

    def replay(self):
        self.calls.append("replay")

    @contextmanager
    def graph(self, graph):
        assert graph is self
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.calls.append("capture")
        yield

    def Stream(self, card):
        return self

    def current_stream(self, card):
        return self

    def wait_stream(self, other):
        pass

    @contextmanager
    def stream(self, stream):
        yield

    def synchronize(self, card):
        self.waited += 1

    def _sleep(self, cycles):
        self.calls.append(f"sleep {cycles}")

    def Event(self, enable_timing):
        return self

    def record(self):
        pass

    def elapsed_time(self, other):
        return 5.0

    def set_device(self, card):
        self.calls.append(f"set {card}")

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def empty_cache(self):
        self.calls.append("empty")

    def device_count(self):
        return 1

    def get_device_name(self, index):
        return "NVIDIA H200"


@pytest.fixture(params=[True, False], ids=["captured", "eager"])
def bench(request, monkeypatch):
    """A bench on that stand-in, whose cases are built on the CPU."""
    card = Card(request.param)
    for name in [name for name in dir(card) if not name.startswith("__") and hasattr(torch.cuda, name)]:
        monkeypatch.setattr(torch.cuda, name, getattr(card, name))
    monkeypatch.setattr(cuda_bench, "open_meter", lambda kind: Meter("unavailable", f"No energy counter for {kind}."))
    made = cuda_bench.CudaBench("cuda:0")
    made.stand_in = card
    return made


def on_cpu(case):
    return EnergyCase(case.config, "copy", "op", case.view, lambda device: counted(case.build("cpu")), 3, pause=1e-3)


def counted(run):
    def once():
        once.calls += 1
        return run()

    once.calls = 0
    counted.last = once
    return once


def test_a_call_is_all_repeats_and_the_pause_captured_where_it_can_be(bench):
    card = bench.stand_in
    call = bench.open(on_cpu(point_case(POINT)))
    warmed = 3 * 3 + (3 if card.captures else 0)
    assert counted.last.calls == warmed
    assert card.calls[0] == "set cuda:0"
    # 10 million cycles in 5 ms: 2 GHz, so that a millisecond is two million.
    assert card.calls.count("sleep 2000000") == warmed // 3
    before = len(card.calls)
    call()
    assert card.calls[before:] == (["replay"] if card.captures else ["sleep 2000000"])
    assert counted.last.calls == warmed + (0 if card.captures else 3)
    bench.release()
    assert card.calls[-1] == "empty"


def test_float32_is_no_tf32_while_a_case_runs(bench, monkeypatch):
    seen = []

    def build(device):
        return lambda: seen.append((torch.backends.cudnn.allow_tf32, torch.is_inference_mode_enabled()))

    before = torch.backends.cudnn.allow_tf32
    bench.open(EnergyCase("seen", "conv", "op", lambda: POINT.net, build))()
    assert set(seen) == {(False, True)}
    assert torch.backends.cudnn.allow_tf32 == before


def test_the_counter_must_be_that_of_the_card(bench):
    assert bench.device == "NVIDIA H200"
    assert bench.driver == ""
    bench._device = "NVIDIA A100"
    with pytest.raises(InputError, match="PCI_BUS_ID"):
        bench.open(point_case(POINT))
    with pytest.raises(InputError, match="no cuda:1"):
        cuda_bench.card_name("cuda:1")


def test_the_name_comes_from_the_counter_before_a_context_is_opened(bench, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: pytest.fail("opened a context"))
    bench.meter = SimulatedBench(load_device("h200"), 1).meter
    assert bench.device == "simulated card, seed 1"
    assert bench.driver == "simulated"


def test_idle_states_are_left_to_the_meter(bench):
    assert bench.idle().label == "unavailable"
