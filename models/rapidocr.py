"""PP-OCRv6 as rapidocr ships it: trained detection (2.45 M parameters) and recognition (5.27 M) of printed text, two ONNX files of
convolutions with any width, opset 11; Apache-2.0.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .glyphs import draw, lines
from .packages import package_file

REQUIREMENT = "rapidocr==3.10.0"
HEIGHT = 48

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def detection() -> Path:
    """The detection file: x float32 [B, 3, H, W], sides multiples of 32 -> text map [B, 1, H, W]. ModuleNotFoundError if missing."""
    return package_file("rapidocr", REQUIREMENT, "models", "PP-OCRv6_det_small.onnx")


def recognition() -> Path:
    """The recognition file: x float32 [B, 3, 48, W] -> probabilities [B, W / 8, 18710]. ModuleNotFoundError if missing."""
    return package_file("rapidocr", REQUIREMENT, "models", "PP-OCRv6_rec_small.onnx")


def _network_input(grey: np.ndarray) -> np.ndarray:
    """Grey values [H, W] in 0..255 as float32 [1, 3, H, W] in -1..1."""
    return np.repeat((grey / 127.5 - 1)[None, None], 3, axis=1).astype(np.float32)


def line_input(text: str, noise: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    """One drawn line for the recognition model: {"x": float32 [1, 3, 48, W]}, W a multiple of 8."""
    drawn = draw(text, 5, noise, seed)
    grey = np.full((HEIGHT, -(-(drawn.shape[1] + 16) // 8) * 8), 225.0)
    grey[1 : 1 + drawn.shape[0], 8 : 8 + drawn.shape[1]] = drawn
    return {"x": _network_input(grey)}


def page_input(seed: int = 0, height: int = 320, width: int = 480) -> dict[str, np.ndarray]:
    """A drawn page for the detection model: {"x": float32 [1, 3, height, width]}, sides multiples of 32."""
    grey = np.full((height, width), 225.0)
    generator = np.random.default_rng(seed)
    for index, text in enumerate(lines(height // 45, seed)):
        drawn = draw(text, int(generator.integers(2, 5)), 6.0, seed + index)[:, : width - 20]
        top, left = 10 + 45 * index, int(generator.integers(4, max(5, width - drawn.shape[1] - 4)))
        grey[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn[: height - top]
    return {"x": _network_input(grey)}


def line_calibration(count: int = 16) -> list[dict[str, np.ndarray]]:
    """Drawn lines of many widths, half of them noisy; disjoint from those of `character_error`."""
    return [line_input(text, 12.0 * (index % 2), index) for index, text in enumerate(lines(count, seed=1))]


def page_calibration(count: int = 6) -> list[dict[str, np.ndarray]]:
    """Drawn pages of three sizes."""
    return [page_input(seed, 160 + 32 * (seed % 3), 320) for seed in range(count)]


def characters(path: Path) -> list[str]:
    """What each class of a recognition file stands for: "" the blank, then the alphabet in its metadata, then a space."""
    import onnx

    found = {item.key: item.value for item in onnx.load(path).metadata_props}
    return ["", *found["character"].splitlines(), " "]


def read(probabilities: np.ndarray, alphabet: list[str]) -> str:
    """Best path of one line [T, classes]: repeated classes and blanks removed."""
    best = probabilities.argmax(-1)
    return "".join(alphabet[best[step]] for step in range(len(best)) if step == 0 or best[step] != best[step - 1])


def _distance(left: str, right: str) -> int:
    row = list(range(len(right) + 1))
    for index, letter in enumerate(left, 1):
        previous, row[0] = row[0], index
        for column, other in enumerate(right, 1):
            previous, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, previous + (letter != other))
    return row[-1]


def character_error(run: Run, alphabet: list[str], count: int = 24, noise: float = 8.0) -> float:
    """Edits per character of `count` drawn lines as the recognition model reads them (0 is perfect)."""
    texts = lines(count, seed=2)
    edits = 0
    for index, text in enumerate(texts):
        output = next(iter(run(line_input(text, noise, index)).values()))
        edits += _distance(read(output[0], alphabet), text)
    return edits / sum(map(len, texts))
