"""Which processors need weights of seven bits, and which multiply bfloat16."""

import pytest

from szilard.cost_model.cpu_features import multiplies_bfloat16, products_saturate


@pytest.mark.parametrize(
    ("text", "saturate"),
    [
        ("flags\t\t: fpu sse avx2 avx512f avx512_vnni", False),
        ("flags\t\t: fpu avx2 avx_vnni", False),
        ("flags\t\t: fpu sse avx2 avx512f", True),
        ("Features\t: asimd dotprod", False),
    ],
)
def test_only_x86_without_vnni_saturates(tmp_path, text, saturate):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{text}\n")
    assert products_saturate(info) is saturate


@pytest.mark.parametrize(
    ("text", "multiplies"),
    [
        ("flags\t\t: avx2 avx512f avx512_bf16", True),
        ("flags\t\t: avx2 amx_bf16 amx_tile", True),
        ("flags\t\t: avx2 avx512f avx512_vnni", False),
        ("Features\t: asimd bf16", True),
        ("Features\t: asimd dotprod", False),
    ],
)
def test_bfloat16_needs_instructions_of_its_own(tmp_path, text, multiplies):
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\n{text}\n")
    assert multiplies_bfloat16(info) is multiplies


def test_a_machine_that_does_not_say(tmp_path):
    assert products_saturate(tmp_path / "none") is False
    assert multiplies_bfloat16(tmp_path / "none") is False
