"""The caches of a machine, as the operating system reports them, counted once each."""

import pytest

from szilard.cost_model.device import load_device
from szilard.rewriter.cpu_caches import with_caches

BASE = load_device("cpu")
K, M = 2**10, 2**20


@pytest.fixture
def machine(tmp_path):
    """Writes what the system would report: for each cpu, (level, kind, size, cpus that share it)."""

    def report(caches):
        for cpu, lines in caches.items():
            for index, texts in enumerate(lines):
                folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{index}"
                folder.mkdir(parents=True)
                for name, text in zip(("level", "type", "size", "shared_cpu_list"), texts, strict=True):
                    (folder / name).write_text(f"{text}\n", encoding="utf-8")
        return tmp_path

    return report


def core(threads, last, size="1024K"):
    lines = [(1, "Data", "48K", threads), (1, "Instruction", "4096K", threads), (2, "Unified", size, threads)]
    return [*lines, (3, "Unified", "32M", last)]


def sizes(folder, cpus):
    found = with_caches(BASE, folder, cpus)
    return found.value("capacity.near"), found.value("capacity.cache")


def test_a_core_of_one_thread_has_a_second_level_for_itself(machine):
    folder = machine({0: core("0", "0-1"), 1: core("1", "0-1")})
    assert sizes(folder, {0, 1}) == (2 * M, 32 * M)
    assert sizes(folder, {1}) == (M, 32 * M), "a process that may use one core has one"


@pytest.mark.parametrize("pairs", [("0-1", "2-3"), ("0,64", "1,65")])
def test_two_threads_of_a_core_share_one_second_level(machine, pairs):
    names = [int(cpu) for pair in pairs for cpu in pair.replace("-", ",").split(",")]
    folder = machine({cpu: core(pairs[index // 2], "0-127") for index, cpu in enumerate(names)})
    assert sizes(folder, set(names)) == (2 * M, 32 * M)
    assert sizes(folder, {names[0], names[2]}) == (2 * M, 32 * M), "one thread of each core"
    assert sizes(folder, {names[0], names[1]}) == (M, 32 * M), "both threads of one core"


def test_chips_have_last_levels_of_their_own_and_cores_may_differ(machine):
    folder = machine({0: core("0", "0"), 1: core("1", "1", "512K")})
    assert sizes(folder, {0, 1}) == (1536 * K, 64 * M)


def test_what_is_not_reported_stays_as_it_was(machine, tmp_path):
    assert with_caches(BASE, tmp_path / "none", {0}) == BASE
    folder = machine({0: [(1, "Data", "48K", "0")], 1: [(2, "Unified", "unknown", "1")], 2: [("x", "Unified", "1M", "2")]})
    assert with_caches(BASE, folder, {0, 1, 2, 3}) == BASE


def test_the_numbers_say_where_they_come_from(machine):
    found = with_caches(BASE, machine({0: core("0", "0")}), {0}).coefficients["capacity.near"]
    assert (found.provenance, found.low, found.high) == ("datasheet", M, M)
    assert "operating system" in found.source


def test_this_machine_can_be_asked():
    assert with_caches(BASE).value("capacity.cache") > 0
