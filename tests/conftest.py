"""Which tests of the long suites run, and the random examples of all: seeded by the commit, so that every commit looks at other parts and
the same commit at the same ones everywhere."""

import hashlib
import math
import os
import subprocess
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

SHARE_OF_LONG = 0.2


def commit_of(folder: Path) -> str:
    """The commit checked out in `folder`, or "no-commit" where git cannot say."""
    try:
        command = ["git", "rev-parse", "HEAD"]
        answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "no-commit"
    return answer.stdout.strip() if answer.returncode == 0 else "no-commit"


def sample(names: list[str], seed: str, share: float = SHARE_OF_LONG) -> set[str]:
    """A share of `names`, at least one, the same for the same seed and names."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    return set(ranked[: math.ceil(len(ranked) * share)])


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all-long", action="store_true", help="run every test marked long, not only a sample")
    parser.addoption("--long-seed", default=None, help="seed of the sample of long tests (default: the commit)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--hypothesis-seed") is None:
        seed = config.getoption("--long-seed") or commit_of(config.rootpath)
        config.option.hypothesis_seed = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    long = [item for item in items if item.get_closest_marker("long")]
    if not long:
        return
    if config.getoption("--all-long") or config.getoption("markexpr"):
        config.stash[SUMMARY] = f"long tests: all {len(long)}"
        return
    seed = config.getoption("--long-seed") or commit_of(config.rootpath)
    shares = {item.nodeid: item.get_closest_marker("long").kwargs.get("share", SHARE_OF_LONG) for item in long}
    kept = set().union(
        *(sample([name for name in shares if shares[name] == share], seed, share) for share in set(shares.values()))
    )
    left_out = [item for item in long if item.nodeid not in kept]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.stash[SUMMARY] = f"long tests: {len(kept)} of {len(long)}, sampled with --long-seed={seed}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker tells the process that prints; there, nothing was collected."""
    if hasattr(session.config, "workeroutput") and SUMMARY in session.config.stash:
        session.config.workeroutput["long"] = session.config.stash[SUMMARY]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    told = getattr(node, "workeroutput", {}).get("long")
    if told:
        node.config.stash[SUMMARY] = told


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if SUMMARY in config.stash:
        terminalreporter.write_line(config.stash[SUMMARY])


SUMMARY = pytest.StashKey[str]()
