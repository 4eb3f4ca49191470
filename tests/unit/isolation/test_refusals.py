"""What `isolation judge` refuses: one clear line with a hint, exit 2, whatever somebody carried here."""

import base64
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from secguard.cli.main import main
from secguard.core import SecguardError
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.keys import Algorithm, generate, seal
from tests.support.isolation_kit import make_run


def _unsigned(data: bytes) -> bytes:
    return json.dumps(json.loads(data) | {"signatures": []}).encode()


def _by_a_stranger(data: bytes) -> bytes:
    envelope = json.loads(data)
    return seal(base64.b64decode(envelope["payload"]), envelope["payloadType"], generate(Algorithm.ED25519))


def _another_key_id(data: bytes) -> bytes:
    at = data.index(b'"keyid":"') + 12
    return data[:at] + (b"0" if data[at : at + 1] != b"0" else b"1") + data[at + 1 :]


EDITS: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "unsigned": (_unsigned, "isolation.plan.signature", "isolation.observations.signature"),
    "by a stranger": (_by_a_stranger, "isolation.plan.signature", "isolation.observations.signature"),
    "another key ID": (_another_key_id, "isolation.plan.form", "isolation.observations.form"),
    "a blank more": (lambda data: data.replace(b":", b": ", 1), "isolation.plan.form", "isolation.observations.form"),
    "cut off": (lambda data: data[: len(data) // 2], "keys.dsse.format", "keys.dsse.format"),
    "nothing": (lambda _: b"", "keys.dsse.format", "keys.dsse.format"),
    "a tower": (lambda _: b"[" * (1 << 20), "keys.dsse.format", "keys.dsse.format"),
    "zeros": (lambda _: bytes(1 << 20), "keys.dsse.format", "keys.dsse.format"),
}


@pytest.fixture(scope="module")
def run() -> RunResult:
    return make_run([("c", "a", "tcp", 22)])


def _judge(run: RunResult, plan: bytes, reports: list[bytes]) -> SecguardError:
    assert run.signer is not None
    with pytest.raises(SecguardError) as refused:
        conclude(plan, reports, [run.signer.public_key()])
    return refused.value


@pytest.mark.parametrize("name", EDITS)
def test_edited_documents(run: RunResult, name: str) -> None:
    edit, of_plan, of_report = EDITS[name]
    plan = run.envelopes["plan.json"]
    first, *others = [data for name, data in run.envelopes.items() if name.startswith("observations-")]
    assert _judge(run, edit(plan), [first, *others]).code == of_plan
    assert _judge(run, plan, [edit(first), *others]).code == of_report


def test_observations_of_another_run_or_twice(run: RunResult) -> None:
    plan, other = run.envelopes["plan.json"], make_run()
    own, foreign = run.envelopes["observations-a-a.json"], other.envelopes["observations-a-a.json"]
    for reports, code in (([foreign], "isolation.observations.plan"), ([own, own], "isolation.observations.twice")):
        error = _judge(run, plan, reports)
        assert error.code == code
        assert error.hint


def test_the_command_says_one_line_and_takes_no_memory(
    run: RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, data in run.envelopes.items():
        (tmp_path / name).write_bytes(data)
    huge, edited = tmp_path / "huge", tmp_path / "edited.json"
    with huge.open("wb") as file:
        os.truncate(file.fileno(), 1 << 30)
    edited.write_bytes(_another_key_id(run.envelopes["plan.json"]))
    plan, seen, trust = tmp_path / "plan.json", tmp_path / "observations-a-a.json", tmp_path / "signer.pem"
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for words, text in (
        ((huge, seen, "--trust", trust), "larger than"),
        ((plan, huge, "--trust", trust), "larger than"),
        ((plan, seen, "--trust", seen), "not a public key"),
        ((plan, seen, "--trust", huge), "larger than"),
        ((edited, seen, "--trust", trust), "not as it was written"),
        ((plan, seen), "--trust"),
        ((plan, tmp_path / "none", "--trust", trust), "no such file"),
    ):
        monkeypatch.setattr("sys.argv", ["secguard", "isolation", "judge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr().err.strip()
        assert ended.value.code == 2, said
        assert text in said
        assert said.endswith(")"), "there is a hint"
        assert len(said.splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000, "kilobytes"
