"""The rules of the house hold for this tree, and each check fails on a tree that breaks its rule."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import szilard

from . import house
from .conftest import sample

ROOT = Path(szilard.__file__).parent
UNTESTED: dict[str, str] = {}


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "__init__.py").touch()
    return folder


def test_imports_between_rooms_only_go_down():
    assert house.upward_imports(ROOT) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("cost_model/a.py", "from ..kernels import b"),
        ("kernels/deep/a.py", "from ...passes.b import c"),
        ("kernels/deep/a.py", "def f():\n    from ... import rewriter"),
        ("models/a.py", "from ..cost_model import net"),
        ("passes/a.py", "from ..models import b"),
        ("passes/a.py", "import szilard.kernels"),
        ("rewriter/a.py", "from szilard.passes import b"),
        ("rewriter/a.py", "import kernels.b"),
        ("rewriter/a.py", "from ..benchmarks import b"),
        ("__init__.py", "from .models import b"),
    ],
)
def test_an_import_that_goes_up_is_found(tmp_path, place, line):
    assert len(house.upward_imports(tree(tmp_path, {place: line}))) == 1


def test_imports_that_go_down_are_accepted(tmp_path):
    files = {
        "rewriter/a.py": "from ..models import b\nfrom . import c\nfrom ..passes.d import e\nimport torch",
        "kernels/deep/a.py": "from ...cost_model.net import Net\nfrom .b import c\nfrom ..other import d",
        "__init__.py": "from .rewriter.rewrite import rewrite",
    }
    assert house.upward_imports(tree(tmp_path, files)) == []


def test_no_file_is_long():
    assert house.long_files(ROOT) == []


def test_a_long_file_is_found(tmp_path):
    files = {"tests/a.py": "x = 1\n" * 301, "passes/b.py": "x = 1\n" * 300, "out-1/model.py": "x = 1\n" * 301}
    assert [sentence.split()[0] for sentence in house.long_files(tree(tmp_path, files))] == [str(Path("tests/a.py"))]


def test_what_is_public_has_a_docstring():
    assert house.missing_docstrings(ROOT) == []


@pytest.mark.parametrize("text", ["x = 1", '"""M."""\ndef f(): ...', '"""M."""\nclass C: ...', '"""M."""\nasync def f(): ...'])
def test_a_missing_docstring_is_found(tmp_path, text):
    assert len(house.missing_docstrings(tree(tmp_path, {"kernels/a.py": text}))) == 1


def test_private_names_need_no_docstring(tmp_path):
    assert house.missing_docstrings(tree(tmp_path, {"kernels/a.py": '"""M."""\ndef _f(): ...'})) == []


def test_no_environment_variable_changes_behaviour():
    assert house.environment_reads(ROOT) == []


@pytest.mark.parametrize("text", ["import os\nos.environ['A']", "import os\nos.getenv('A')", "from os import environ"])
def test_an_environment_read_is_found(tmp_path, text):
    assert len(house.environment_reads(tree(tmp_path, {"passes/a.py": text}))) == 1


def test_the_wheel_holds_every_package():
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert house.packages_out_of_step(ROOT, listed) == []


def test_a_package_out_of_step_is_found(tmp_path):
    root = tree(tmp_path, {"kernels/__init__.py": "", "kernels/new/__init__.py": "", "tests/__init__.py": ""})
    assert house.packages_out_of_step(root, ["szilard", "szilard.kernels", "szilard.kernels.new"]) == []
    wrong = house.packages_out_of_step(root, ["szilard", "szilard.kernels", "szilard.gone"])
    assert [sentence.split()[0] for sentence in wrong] == ["szilard.kernels.new", "szilard.gone"]


def test_every_source_has_a_test():
    assert house.untested_sources(ROOT, UNTESTED) == []


def test_an_untested_source_is_found(tmp_path):
    files = {
        "passes/named.py": "",
        "passes/imported.py": "",
        "passes/borrowed.py": "",
        "kernels/deep/part.py": "",
        "passes/told.py": "",
        "passes/forgotten.py": "",
        "passes/excepted.py": "",
        "tests/test_named.py": "from szilard.passes import imported\nfrom szilard.passes.borrowed import thing",
        "tests/test_deep_part.py": '"""Covers told.py."""',
    }
    wrong = house.untested_sources(tree(tmp_path, files), {"passes/excepted.py": "a reason"})
    assert [sentence.split()[0] for sentence in wrong] == [str(Path("passes/forgotten.py"))]


@pytest.mark.parametrize("room", ["kernels", "models", "passes"])
def test_a_room_is_not_importable_at_top_level(room):
    """In an interpreter of its own: other tests load factories, for which the working folder goes on the path."""
    command = [sys.executable, "-P", "-c", f"import importlib.util; print(importlib.util.find_spec({room!r}))"]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert found.strip() == "None" or str(ROOT) not in found


def test_long_tests_are_sampled_by_the_commit():
    names = [f"tests/test_{i}.py::test" for i in range(50)]
    first = sample(names, "a")
    assert first == sample(names[::-1], "a") != sample(names, "b")
    assert len(first) == 10
    assert first < set(names)
    assert sample(names[:1], "a") == {names[0]}
    assert set.union(*(sample(names, str(seed)) for seed in range(60))) == set(names)
