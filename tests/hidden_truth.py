"""A machine with known coefficients: what microbenchmarks and models would be measured at on it, noise included."""

import numpy as np

from szilard.cost_model.measurement import Measurement

TRUTH = {
    "flop.float32": 7e-12,
    "flop.float16.tensor": 6e-13,
    "byte.memory": 1e-10,
    "byte.cache": 2.5e-11,
    "launch": 5e-5,
    "static": 110.0,
}
RATES = {"flop.float32": 40e12, "flop.float16.tensor": 600e12, "byte.memory": 3e12, "byte.cache": 9e12, "launch": 3e5}


def seconds_of(work: dict[str, float]) -> float:
    """The least seconds that the work takes."""
    return sum(amount / RATES[key] for key, amount in work.items())


def cost(work: dict[str, float]) -> float:
    """The true joules of work that includes "static"."""
    return sum(TRUTH[key] * amount for key, amount in work.items())


def sweep(rng: np.random.Generator, rows: int) -> list[dict[str, float]]:
    """Work of matched microbenchmarks [keys of TRUTH]: each row leans on another key, seconds vary with the occupancy."""
    found = []
    for row in range(rows):
        work = {
            "byte.memory": 10 ** rng.uniform(8, 10),
            "byte.cache": 10 ** rng.uniform(8, 10),
            "launch": float(rng.integers(1, 200)),
        }
        lead = list(TRUTH)[row % len(TRUTH)]
        if lead != "static":
            work[lead] = work.get(lead, 0.0) + 0.05 * RATES[lead]
        work["static"] = seconds_of(work) * rng.uniform(1, 2.5)
        found.append(work)
    return found


def noisy(rows: list[dict[str, float]], rng: np.random.Generator, noise: float) -> list[float]:
    """The joules of rows with a relative error of standard deviation `noise`."""
    return [cost(row) * (1 + noise * rng.standard_normal()) for row in rows]


def measured(
    config: str, family: str, scope: str, work: dict[str, float], rng: np.random.Generator, **more: object
) -> Measurement:
    """A row as a meter with 1 % of noise would write it; `work` includes "static"."""
    seconds, joules = work["static"], noisy([work], rng, 0.01)[0]
    rest = {key: amount for key, amount in work.items() if key != "static"}
    interval = (joules, 0.99 * joules, 1.01 * joules)
    return Measurement(
        config, family, scope, rest, seconds, 0.995 * seconds, 1.005 * seconds, *interval, "measured", device="Hidden", **more
    )


def microbenchmarks(rng: np.random.Generator, rows: int = 40) -> list[Measurement]:
    """The fit families, "matmul" and "copy"."""
    return [measured(f"micro {i}", ("matmul", "copy")[i % 2], "op", work, rng) for i, work in enumerate(sweep(rng, rows))]


def models(rng: np.random.Generator, families: tuple[str, ...] = ("bert", "llama", "vit")) -> list[Measurement]:
    """Three batches of each family in float32, and each rewritten to float16: cheaper, but for one batch where a slow kernel loses."""
    rows = []
    for family in families:
        for batch in (1, 8, 64):
            flops, size = batch * 10 ** rng.uniform(10, 11), 10 ** rng.uniform(8, 9) + batch * 10 ** rng.uniform(6, 8)
            launches = float(rng.integers(100, 400))
            before = {"flop.float32": flops, "byte.memory": size, "byte.cache": 3 * size, "launch": launches}
            after = {"flop.float16.tensor": flops, "byte.memory": size / 2, "byte.cache": 1.5 * size, "launch": launches}
            for name, work in (("float32", before), ("float16", after)):
                least = seconds_of(work)
                slow = 1.3 if name == "float32" else 20.0 if batch == 1 else 2.0
                row = {**work, "static": least * slow * rng.uniform(0.9, 1.1)}
                source = f"{family} {batch} float32" if name == "float16" else ""
                guess = least * slow
                rows.append(
                    measured(
                        f"{family} {batch} {name}", family, "model", row, rng, predicted_seconds=guess, rewritten_from=source
                    )
                )
    return rows
