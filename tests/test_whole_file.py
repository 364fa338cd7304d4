"""A file is written whole or not at all, and what cannot be written is told in a sentence."""

import os

import pytest

from szilard.cost_model.errors import InputError
from szilard.cost_model.whole_file import check_place, write_whole
from szilard.rewriter.command_line_output import fault_sentence


def test_text_arrives_as_it_is(tmp_path):
    for text in ("µ\r\nb\n", ""):
        write_whole(tmp_path / "a.txt", text)
        assert (tmp_path / "a.txt").read_bytes() == text.encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fault):
    write_whole(tmp_path / "a.txt", "old")

    def fails(*names):
        raise fault

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(KeyboardInterrupt if fault is KeyboardInterrupt else InputError):
        write_whole(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_places_that_take_no_file_are_named_with_the_reason_and_what_to_do(tmp_path):
    (tmp_path / "folder").mkdir()
    for place, reason in (("none/a.txt", "No such file or directory"), ("folder", "Is a directory"), ("a" * 300, "too long")):
        with pytest.raises(InputError, match=rf"cannot be written: .*{reason}; name a file in a folder that can be written\.$"):
            write_whole(tmp_path / place, "text")
    with pytest.raises(InputError, match="Is a directory; try --csv"):
        write_whole(tmp_path / "folder", "text", "try --csv")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("folder", "Is a directory"),
        ("file/a.txt", "Not a directory"),
        ("/proc/a.txt", ""),
        ("a" * 300, "too long"),
        ("pipe", "plain file"),
    ],
)
def test_places_that_take_no_file_are_known_before(tmp_path, monkeypatch, place, reason):
    monkeypatch.chdir(tmp_path)
    os.mkdir("folder")
    os.mkfifo("pipe")
    write_whole("file", "text")
    with pytest.raises(InputError, match=rf"^{place} cannot be written: .*{reason}; try --csv\.$"):
        check_place(place, "try --csv")
    for good in ("file", "new.txt", "none/such/a.txt"):
        check_place(good)
    assert sorted(os.listdir()) == ["file", "folder", "pipe"]
    assert (tmp_path / "file").read_text() == "text"


def test_what_is_no_plain_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(InputError, match=f"{name} cannot be written: Not a plain file; name a file"):
            write_whole(tmp_path / name, "text")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "link").is_symlink()


def test_the_file_behind_a_link_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/a.txt")
    for text in ("first", "second"):
        write_whole(tmp_path / "link", text)
        assert (tmp_path / "folder" / "a.txt").read_text() == text
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["a.txt"]


def test_a_full_disk_is_still_seen_as_one(tmp_path, monkeypatch):
    def full(*names):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError) as caught:
        write_whole(tmp_path / "a.txt", "text")
    assert fault_sentence(caught.value)[0].startswith("There is no space left on the disk")
