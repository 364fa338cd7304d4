"""Photographs that scikit-image and scikit-learn ship, cropped at random, to calibrate an image classifier on and to compare it on."""

from functools import cache
from pathlib import Path

import numpy as np

from .packages import package_file

REQUIREMENTS = {"skimage": "scikit-image==0.26.0", "sklearn": "scikit-learn==1.9.1"}
HELD_OUT = ("camera.png", "chelsea.png", "coffee.png", "flower.jpg", "motorcycle_left.png")
"""Photographs of one thing that ImageNet has a class for."""

CALIBRATION = (
    "astronaut.png",
    "china.jpg",
    "clock_motion.png",
    "coins.png",
    "hubble_deep_field.jpg",
    "retina.jpg",
    "rocket.jpg",
)
FOLDERS = {"china.jpg": ("sklearn", "datasets", "images"), "flower.jpg": ("sklearn", "datasets", "images")}
SIDE = 224
SMALLEST = SIDE
"""Side in pixels of the smallest crop: none is enlarged, but for those of photographs that are smaller."""


def crops(count: int, names: tuple[str, ...], seed: int = 0) -> np.ndarray:
    """`count` square crops of the named photographs in turn, of random sizes and places, half of them mirrored, as float32
    [count, 3, 224, 224] in (value - 127) / 128, which EfficientNet-Lite reads. ModuleNotFoundError without the packages."""
    from PIL import Image

    generator = np.random.default_rng(seed)
    found = []
    for index in range(count):
        # One place later in each turn: every second crop, which a calibration holds back, is of all photographs too.
        photograph = _photograph(names[(index + index // len(names)) % len(names)])
        largest = min(photograph.shape[:2])
        side = int(generator.integers(min(SMALLEST, largest), largest + 1))
        top, left = (int(generator.integers(0, size - side + 1)) for size in photograph.shape[:2])
        crop = photograph[top : top + side, left : left + side]
        crop = crop[:, ::-1] if generator.integers(2) else crop
        scaled = Image.fromarray(np.ascontiguousarray(crop)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        found.append(np.asarray(scaled, np.float32).transpose(2, 0, 1))
    return (np.stack(found) - 127) / 128


@cache
def _photograph(name: str) -> np.ndarray:
    """uint8 [height, width, 3]; a grey one has three equal channels."""
    from PIL import Image

    with Image.open(_path(name)) as image:
        return np.asarray(image.convert("RGB"))


def _path(name: str) -> Path:
    package, *folders = FOLDERS.get(name, ("skimage", "data"))
    return package_file(package, REQUIREMENTS[package], *folders, name)
