"""The demo proves what it says: each step passes on real input, and a step that cannot run is shown as not run."""

import json

import pytest

from secguard.core import Outcome
from secguard.isolation.lab import lab
from secguard.workspace.demo import run_demo


@pytest.fixture
def no_lab(monkeypatch):
    monkeypatch.setattr(lab, "available", lambda: "nft is not installed")


def test_the_whole_demo(secguard, tmp_path):
    if reason := lab.available():
        pytest.skip(reason)
    done = secguard("demo", "--dir", "d", "--events", "500", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [step["outcome"] for step in document["data"]["steps"]] == ["pass"] * 7
    report = (tmp_path / "d").glob("*/report.html")
    text = next(report).read_text(encoding="utf-8")
    assert "证明了什么" in text
    assert "What was proven" in text
    assert str(tmp_path) not in text
    assert "the proof that zones were apart" in text
    assert "区域隔离的证明" in text


def test_a_step_that_cannot_run_is_not_run(tmp_path, no_lab):
    done = run_demo(tmp_path, events=200)
    outcomes = [step.outcome for step in done.steps]
    assert outcomes.count(None) == 1
    assert outcomes.count(Outcome.PASS) == 6
    assert done.outcome is Outcome.UNKNOWN
    assert "nft is not installed" in done.report.read_text(encoding="utf-8")


def test_a_wrong_video_fails_its_steps_only(tmp_path, no_lab):
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk" * 100)
    done = run_demo(tmp_path / "d", video=junk, events=200)
    assert done.outcome is Outcome.FAIL
    by_name = {step.name.en: step.outcome for step in done.steps}
    assert by_name["A signed recording passes"] is Outcome.FAIL
    assert by_name["Nothing can be removed from the record of access"] is Outcome.PASS
    assert done.report.exists()


def test_two_demos_at_once_use_two_folders(tmp_path, no_lab):
    first, second = (run_demo(tmp_path, events=100) for _ in range(2))
    assert first.workspace != second.workspace
