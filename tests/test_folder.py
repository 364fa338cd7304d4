"""The output folder is the old one or the new one, whatever happens on the way."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from szilard.cost_model.errors import InputError
from szilard.rewriter import folder as folder_module
from szilard.rewriter.folder import check_target, is_emitted, new_folder

WRITER = """
import sys, time
from pathlib import Path
from szilard.rewriter.folder import new_folder
with new_folder(Path(sys.argv[1]), force=True) as partial:
    (partial / "plan.json").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def fill(folder: Path, text: str) -> None:
    (folder / "plan.json").write_text(json.dumps(text))
    (folder / "report.json").write_text("{}")


def emitted(folder: Path, text: str = "old") -> Path:
    folder.mkdir()
    fill(folder, text)
    return folder


def write_then_fail(out: Path, fault: type[BaseException], force: bool = False) -> None:
    with new_folder(out, force) as partial:
        fill(partial, "new")
        raise fault("stop")


def write_while_another_run_does(out: Path) -> None:
    with new_folder(out) as partial:
        fill(partial, "new")
        emitted(out, "other run")


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_new_folder_appears_whole_and_only_at_the_end(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as partial:
        fill(partial, "new")
        assert not out.exists()
        assert partial.name == f".out.partial-{os.getpid()}"
    assert names(tmp_path) == ["out"]
    assert is_emitted(out)


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_then_fail(tmp_path / "out", RuntimeError)
    assert names(tmp_path) == []


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_error_leaves_the_old_folder(tmp_path, fault):
    out = emitted(tmp_path / "out")
    with pytest.raises(fault):
        write_then_fail(out, fault, force=True)
    assert names(tmp_path) == ["out"]
    assert (out / "plan.json").read_text() == '"old"'


@pytest.mark.parametrize("exchange", [True, False])
def test_force_exchanges_the_old_folder(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(folder_module, "_exchange", lambda first, second: False)
    out = emitted(tmp_path / "out")
    (out / "steps").mkdir()
    with new_folder(out, force=True) as partial:
        fill(partial, "new")
    assert names(tmp_path) == ["out"]
    assert (out / "plan.json").read_text() == '"new"'
    assert not (out / "steps").exists()


def test_the_exchange_is_one_step_on_linux(tmp_path):
    if not sys.platform.startswith("linux"):
        pytest.skip("renameat2 is a Linux call")
    first, second = emitted(tmp_path / "a", "a"), emitted(tmp_path / "b", "b")
    assert folder_module._exchange(first, second)
    assert (first / "plan.json").read_text() == '"b"'


@pytest.mark.parametrize(
    ("make", "force", "words"),
    [
        (lambda out: out.mkdir(), False, "--force"),
        (lambda out: emitted(out), False, "--force"),
        (lambda out: out.write_text("a file"), True, "is a file"),
        (lambda out: (out.mkdir(), (out / "thesis.tex").write_text("mine")), True, "not a folder that szilard wrote"),
    ],
)
def test_what_is_in_the_way_is_refused_and_kept(tmp_path, make, force, words):
    out = tmp_path / "out"
    make(out)
    before = names(out) if out.is_dir() else out.read_text()
    with pytest.raises(InputError, match=words):
        check_target(out, force)
    with pytest.raises(InputError, match=words), new_folder(out, force):
        pytest.fail("the block must not run")
    assert (names(out) if out.is_dir() else out.read_text()) == before


def test_a_missing_parent_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist"), new_folder(tmp_path / "nowhere" / "out"):
        pytest.fail("the block must not run")
    assert names(tmp_path) == []


def test_the_root_is_refused():
    with pytest.raises(InputError, match="root"):
        check_target("/", force=True)


def test_a_folder_that_appears_meanwhile_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(InputError, match="exists already"):
        write_while_another_run_does(out)
    assert (out / "plan.json").read_text() == '"other run"'
    assert names(tmp_path) == ["out"]


def test_an_old_folder_that_was_renamed_away_comes_back(tmp_path):
    emitted(tmp_path / ".out.old-1", "old")
    with pytest.raises(InputError, match="--force"), new_folder(tmp_path / "out"):
        pytest.fail("the block must not run")
    assert (tmp_path / "out" / "plan.json").read_text() == '"old"'


def test_only_the_stale_partials_of_this_name_go(tmp_path):
    for name in (".out.partial-1", ".out.partial-77", ".other.partial-1"):
        (tmp_path / name).mkdir()
    with new_folder(tmp_path / "out") as partial:
        fill(partial, "new")
    assert names(tmp_path) == [".other.partial-1", "out"]


def start_writer(out: Path) -> subprocess.Popen:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(out)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_sigkill_leaves_the_old_folder_and_the_next_run_cleans_up(tmp_path):
    out = emitted(tmp_path / "out")
    writer = start_writer(out)
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert (out / "plan.json").read_text() == '"old"'
    assert names(tmp_path) == [f".out.partial-{writer.pid}", "out"]
    with new_folder(out, force=True) as partial:
        fill(partial, "new")
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)])
def test_a_signal_removes_the_partial_folder(tmp_path, number, code):
    out = emitted(tmp_path / "out")
    writer = start_writer(out)
    time.sleep(0.05)
    writer.send_signal(number)
    assert writer.wait() == code
    assert names(tmp_path) == ["out"]
    assert (out / "plan.json").read_text() == '"old"'


def test_a_live_run_keeps_its_partial_folder(tmp_path):
    writer = start_writer(tmp_path / "out")
    try:
        with new_folder(tmp_path / "out") as partial:
            fill(partial, "new")
        assert f".out.partial-{writer.pid}" in names(tmp_path)
    finally:
        writer.kill()
        writer.wait()


def test_names_with_glob_characters_are_literal(tmp_path):
    (tmp_path / ".ab.partial-1").mkdir()
    with new_folder(tmp_path / "a[b]") as partial:
        fill(partial, "new")
    assert names(tmp_path) == [".ab.partial-1", "a[b]"]
