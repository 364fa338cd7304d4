"""How wide heads may be for the Triton kernels of spectral attention, for those too who ask without triton."""

from __future__ import annotations

import torch

MOST_WIDTH = {torch.float16: 256, torch.bfloat16: 256, torch.float32: 128}
"""Columns of a head that the kernels hold without spills; a float32 product takes three on tensor cores, and registers for each."""
