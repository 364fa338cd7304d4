"""What a program's sites are before anything is priced, and the phase they are looked at in (rewriter/site_groups.py)."""

import torch

from szilard.cost_model.plan import Phase, Workload
from szilard.rewriter.backend_torch import TorchBackend
from szilard.rewriter.site_groups import largest_phase, site_groups
from szilard.rewriter.trace_torch import trace_module

from .tiny_models import Block, samples


def test_new_tokens_of_a_decode_phase_do_not_say_how_long_sequences_are():
    short, long = Phase("1x4", {"x": (1, 4)}), Phase("1x64", {"x": (1, 64)})
    decode = Phase("128x1@9", {"x": (128, 1)}, context=9)
    assert largest_phase(Workload((short, decode, long))).name == "1x64"
    assert largest_phase(Workload((decode,))).name == "128x1@9"


def test_the_program_itself_stays_as_it_is():
    program = trace_module(Block().eval(), {"x": torch.from_numpy(samples()[0]["x"])})
    before = str(program.graph.graph)
    phase = Phase("sample", {name: array.shape for name, array in program.sample.items()})
    graph, net, groups = site_groups(program, TorchBackend(program), Workload((phase,)))
    assert graph is not program.graph
    assert str(program.graph.graph) == before
    assert [group.kind for group in groups] == ["linear", "linear", "region"]
    assert all(op in net.ops for group in groups for op in group.ops)
