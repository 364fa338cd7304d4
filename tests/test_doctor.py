"""What the doctor says about installations, broken ones above all."""

import sys

import pytest

from szilard.rewriter import doctor
from szilard.rewriter.doctor import Finding, examine, onnxruntime_finding, supported_range


def test_two_distributions_of_onnxruntime_are_a_problem():
    finding = onnxruntime_finding({"onnxruntime": "1.31.0", "onnxruntime-gpu": "1.31.1"})
    assert finding.state == "problem"
    assert "onnxruntime 1.31.0 and onnxruntime-gpu 1.31.1" in finding.sentence
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in finding.sentence


def test_no_onnxruntime_is_a_problem():
    finding = onnxruntime_finding({})
    assert finding.state == "problem"
    assert "szilard[cpu]" in finding.sentence


def test_one_onnxruntime_names_its_providers():
    finding = onnxruntime_finding({"onnxruntime": "1.31.0"})
    assert finding.state == "ok"
    assert "CPU" in finding.sentence


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("2.11.0", "ok"),
        ("2.13.0+cpu", "ok"),
        ("2.15.9", "ok"),
        ("2.16.0", "problem"),
        ("2.10.3", "problem"),
        ("2.16.0a0", "problem"),
    ],
)
def test_the_supported_range(version, state):
    finding = supported_range("torch<2.16,>=2.11", version)
    assert (finding.name, finding.state) == ("torch", state)
    assert version in finding.sentence
    assert ("<2.16,>=2.11" in finding.sentence) == (state == "problem")


def test_a_check_that_fails_becomes_a_problem(monkeypatch):
    def broken():
        raise ImportError("libcuda.so is not there")

    monkeypatch.setattr(doctor, "_gpu", broken)
    (gpu,) = [finding for finding in examine() if finding.name == "gpu"]
    assert gpu.state == "problem"
    assert "libcuda.so" in gpu.sentence


def test_every_finding_is_a_sentence():
    findings = examine()
    assert [f.name for f in findings][:4] == ["python", "torch", "onnxruntime", "cores"]
    assert len({f.name for f in findings}) == len(findings)
    for finding in findings:
        assert isinstance(finding, Finding)
        assert finding.state in ("ok", "note", "problem")
        assert finding.sentence.endswith(".")
    assert sys.version.split()[0] in findings[0].sentence


def test_a_missing_extra_says_what_is_lost(monkeypatch):
    monkeypatch.setattr(doctor, "_installed", lambda names: {})
    by_name = {finding.name: finding for finding in examine()}
    assert by_name["transformers"] == Finding(
        "transformers", "note", "transformers is not installed: hf:DIR models cannot be loaded."
    )
    assert by_name["torch"].state == "problem"
