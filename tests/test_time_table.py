"""The table of times: kept across processes, by machine, and never the reason why a run fails."""

import json
import multiprocessing

import pytest

from szilard.cost_model.time_table import TimeTable, machine_fingerprint

HERE = {"cpu": "here"}
THERE = {"cpu": "there"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "below" / "times.json"


def test_what_is_put_is_found_by_a_later_table(path):
    table = TimeTable(path, HERE)
    assert table.get("gemm/7x5") is None
    table.put("gemm/7x5", 1.25e-5)
    assert table.get("gemm/7x5") == 1.25e-5
    assert TimeTable(path, HERE).get("gemm/7x5") == 1.25e-5
    assert [each.name for each in path.parent.iterdir()] == ["times.json"]


def test_times_of_another_machine_are_kept_and_not_used(path):
    TimeTable(path, HERE).put("k", 1.0)
    there = TimeTable(path, THERE)
    assert there.get("k") is None
    there.put("k", 2.0)
    assert TimeTable(path, HERE).get("k") == 1.0
    fingerprints = [machine["fingerprint"] for machine in json.loads(path.read_text())["machines"].values()]
    assert fingerprints == [HERE, THERE]


def test_two_tables_open_at_once_lose_nothing(path):
    one, two = TimeTable(path, HERE), TimeTable(path, HERE)
    assert one.get("a") is two.get("b") is None
    one.put("a", 1.0)
    two.put("b", 2.0)
    one.put("c", 3.0)
    found = TimeTable(path, HERE)
    assert [found.get(key) for key in "abc"] == [1.0, 2.0, 3.0]
    assert two.get("a") == 1.0


def _put_many(path, name):
    table = TimeTable(path, HERE)
    for number in range(20):
        table.put(f"{name}{number}", 1.0)


def test_processes_that_write_at_once_leave_a_whole_file(path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_put_many, args=(path, name)) for name in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    table = TimeTable(path, HERE)
    assert any(table.get(f"{name}19") == 1.0 for name in "ab")
    assert not table.notes


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\x00",
        b"[]",
        b'{"format": 9, "machines": {}}',
        b'{"format": 1, "machines": {"m": {"seconds": {"k": "fast"}}}}',
        b'{"format": 1, "machines": {"m": {"seconds": {"k": -1}}}}',
        b'{"format": 1, "machines": {"m": 3}}',
    ],
)
def test_a_corrupt_file_is_made_anew_with_a_note(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    table = TimeTable(path, HERE)
    assert table.get("k") is None
    assert "made anew" in table.notes[0]
    assert str(path) in table.notes[0]
    table.put("k", 2.0)
    assert TimeTable(path, HERE).get("k") == 2.0
    assert len(table.notes) == 1


def test_a_place_that_cannot_be_written_costs_the_table_not_the_run(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    table = TimeTable(blocked / "times.json", HERE)
    table.put("k", 2.0)
    assert table.get("k") == 2.0
    assert any("cannot be written" in note for note in table.notes)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_only_real_durations_are_kept(path, seconds):
    with pytest.raises(ValueError, match="positive"):
        TimeTable(path, HERE).put("k", seconds)
    assert not path.exists()


def test_the_fingerprint_names_the_machine_its_threads_and_versions():
    found = machine_fingerprint(threads=3)
    assert found["threads"] == "3"
    assert found["cpu"]
    assert "torch" in found
    assert TimeTable(fingerprint=found).machine != TimeTable(fingerprint={**found, "threads": "4"}).machine
    assert TimeTable(fingerprint=found).path.name == "times.json"
