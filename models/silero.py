"""silero-vad: a trained voice-activity detector (0.31 M parameters), an ONNX file with a short Fourier transform, convolutions,
an LSTM cell and an `If`; MIT licence. It keeps a state from one frame of sound to the next.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from .packages import package_file

REQUIREMENT = "silero-vad==6.2.3"
RATE = 16000
FRAME = 512
CONTEXT = 64

Run = Callable[[dict[str, np.ndarray]], Mapping[str, np.ndarray]]


def path() -> Path:
    """The 16 kHz ONNX file: input [B, 576], state [2, B, 128], sr -> output [B, 1], stateN [2, B, 128].

    Raises ModuleNotFoundError when the package is missing.
    """
    return package_file("silero_vad", REQUIREMENT, "data", "silero_vad_16k_op15.onnx")


def sound(seconds: float, seed: int = 0) -> np.ndarray:
    """Made-up sound, float32 [seconds * 16000]: vowels (a gliding pitch through three formants) between stretches of faint noise."""
    generator = np.random.default_rng(seed)
    out = 0.003 * generator.standard_normal(int(seconds * RATE))
    start = int(0.4 * RATE)
    while start < len(out):
        time = np.arange(min(int(generator.uniform(0.15, 0.5) * RATE), len(out) - start)) / RATE
        pitch = generator.uniform(90, 220)
        phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 3 * time))) / RATE
        formants = generator.uniform((300, 900, 2200), (800, 1900, 3000))
        voice = np.zeros_like(time)
        for harmonic in range(1, int(4000 / pitch)):
            gains = np.exp(-(((harmonic * pitch - formants) / 120) ** 2)) * (1, 0.5, 0.25)
            voice += (gains.sum() + 0.02 / harmonic) * np.sin(harmonic * phase)
        out[start : start + len(time)] += 0.2 * voice * np.sin(np.pi * np.linspace(0, 1, len(time))) ** 0.5
        start += len(time) + int(generator.choice([0.03, 0.5]) * RATE)
    return out.astype(np.float32)


def stream(run: Run, audio: np.ndarray) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Speech probability of each 512-sample frame, [frames], and the inputs that each frame was given.

    Each frame is preceded by the last 64 samples of the one before, and by the state that the model left there.
    """
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), audio])
    state = np.zeros((2, 1, 128), np.float32)
    probabilities, inputs = [], []
    for start in range(0, len(audio) - FRAME + 1, FRAME):
        frame = {"input": padded[None, start : start + CONTEXT + FRAME], "state": state, "sr": np.array(RATE, np.int64)}
        inputs.append(frame)
        output, state = run(frame).values()
        probabilities.append(float(output.item()))
    return np.array(probabilities), inputs


def calibration(run: Run, count: int = 32) -> list[dict[str, np.ndarray]]:
    """`count` frames of made-up sound with the states that `run`, the original model, really had there."""
    return stream(run, sound(count * FRAME / RATE))[1]
