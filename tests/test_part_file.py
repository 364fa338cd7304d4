"""What a stopped measurement leaves behind is taken up again, by the same machine only."""

from szilard.rewriter.part_file import PartFile


def test_rows_come_back_under_the_same_stamp(tmp_path):
    first = PartFile(tmp_path / "out.json", {"cpu": "one"})
    first.put("a", {"seconds": [1.0]})
    first.write()
    assert PartFile(tmp_path / "out.json", {"cpu": "one"}).rows == {"a": {"seconds": [1.0]}}


def test_another_machine_starts_anew(tmp_path):
    first = PartFile(tmp_path / "out.json", {"cpu": "one"})
    first.put("a", 1)
    first.write()
    assert PartFile(tmp_path / "out.json", {"cpu": "two"}).rows == {}


def test_a_broken_file_starts_anew_and_is_replaced(tmp_path):
    (tmp_path / "out.json.part").write_text("{", encoding="utf-8")
    part = PartFile(tmp_path / "out.json", {})
    assert part.rows == {}
    part.put("a", 1)
    part.write()
    assert PartFile(tmp_path / "out.json", {}).rows == {"a": 1}


def test_it_is_gone_when_the_result_is_there(tmp_path):
    part = PartFile(tmp_path / "out.json", {})
    part.write()
    part.remove()
    part.remove()
    assert list(tmp_path.iterdir()) == []
