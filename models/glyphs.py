"""Pictures of text lines for the reading models, drawn from a five by seven dot font, so that no font file is needed."""

import numpy as np

# Seven rows of five dots, the leftmost dot the highest bit.
FONT = {
    "0": "0e11131519110e", "1": "040c040404040e", "2": "0e11010204081f", "3": "1f02040201110e", "4": "02060a121f0202",
    "5": "1f101e0101110e", "6": "0608101e11110e", "7": "1f010204080808", "8": "0e11110e11110e", "9": "0e11110f01020c",
    "A": "0e11111f111111", "B": "1e11111e11111e", "C": "0e11101010110e", "D": "1c12111111121c", "E": "1f10101e10101f",
    "F": "1f10101e101010", "G": "0e11101711110f", "H": "1111111f111111", "I": "0e04040404040e", "J": "0702020202120c",
    "K": "11121418141211", "L": "1010101010101f", "M": "111b1515111111", "N": "11111915131111", "O": "0e11111111110e",
    "P": "1e11111e101010", "Q": "0e11111115120d", "R": "1e11111e141211", "S": "0f10100e01011e", "T": "1f040404040404",
    "U": "1111111111110e", "V": "11111111110a04", "W": "1111111515150a", "X": "11110a040a1111", "Y": "1111110a040404",
    "Z": "1f01020408101f", " ": "00000000000000",
}  # fmt: skip
WORDS = "ENERGY JOULE HEAT ENGINE BIT LANDAUER SZILARD MATMUL KERNEL CACHE PRICE BUDGET TRACE WEIGHT LAYER 1929 0254 7318"


def draw(text: str, scale: int = 5, noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """`text` (capitals, digits, spaces) dark on light: float64 grey values [9 * scale, (6 * len(text) + 1) * scale] in 0..255.

    `noise` is the standard deviation of Gaussian noise in grey values.
    """
    dots = np.zeros((9, 6 * len(text) + 1))
    for index, character in enumerate(text):
        rows = np.frombuffer(bytes.fromhex(FONT[character]), np.uint8)
        dots[1:8, 6 * index + 1 : 6 * index + 6] = np.unpackbits(rows[:, None], axis=1)[:, 3:]
    picture = 225.0 - 190.0 * np.kron(dots, np.ones((scale, scale)))
    blurred = picture
    for axis in (0, 1):
        blurred = (2 * blurred + np.roll(blurred, 1, axis) + np.roll(blurred, -1, axis)) / 4
    return np.clip(blurred + noise * np.random.default_rng(seed).standard_normal(blurred.shape), 0, 255)


def lines(count: int, seed: int = 0) -> list[str]:
    """`count` lines of one to four words, drawn with a seed."""
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS.split(), int(generator.integers(1, 5)))) for _ in range(count)]
