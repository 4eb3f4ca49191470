"""Evidence of a scan: captures that others read, a folder in which every byte counts."""

import json
import os
import shutil
import signal
import stat
import subprocess
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from secguard.core import FixedClock, FormatError, Outcome, RefusedError, SecguardError, UsageError
from secguard.isolation.evidence.folder import Checked, check_folder, run_name, save_run, signer_of
from secguard.isolation.evidence.handout import MAX_RESULT, read_handout
from secguard.isolation.evidence.manifest import MANIFEST_TYPE, open_manifest
from secguard.isolation.evidence.pcapng import Kept, write_pcapng
from secguard.isolation.evidence.summary import read_result, summary_of
from secguard.isolation.judge.result import RESULT_TYPE, ScanResult, open_result
from secguard.isolation.runs.conclude import RunResult, conclude
from secguard.keys import Algorithm, generate, seal
from tests.support.isolation_kit import NOW, make_run

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def run() -> RunResult:
    return make_run([("c", "a", "tcp", 22), ("b", "a", "udp", 53)])


@pytest.fixture(scope="module")
def kept(run: RunResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / run_name(run)
    save_run(run, folder, fresh=True)
    return folder


def _check(folder: Path, run: RunResult) -> Checked:
    assert run.signer is not None
    return check_folder(folder, trusted=[run.signer.public_key()], clock=FixedClock(NOW))


def _codes(checked: Checked) -> set[str]:
    return {found.code for found in checked.verdict.findings}


def test_a_whole_folder_is_whole_and_private(kept: Path, run: RunResult) -> None:
    names = {path.name for path in kept.iterdir()}
    agents = ("a-a", "a-b", "a-c")
    assert names == {
        "plan.json", "result.json", "signer.pem", "manifest.json",
        *(f"observations-{name}.json" for name in agents), *(f"capture-{name}.pcapng" for name in agents),
    }  # fmt: skip
    assert stat.S_IMODE(kept.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept.iterdir()} == {0o600}
    checked = _check(kept, run)
    assert checked.verdict.outcome is Outcome.PASS, _codes(checked)
    assert checked.result is not None
    assert checked.result.verdict.outcome is Outcome.FAIL
    assert kept.name.startswith("20261001T083000Z-")


def test_whose_key_it_is_must_be_known(kept: Path, run: RunResult) -> None:
    assert _codes(check_folder(kept)) == {"isolation.evidence.unvouched"}
    assert check_folder(kept).verdict.outcome is Outcome.UNKNOWN
    other = generate(Algorithm.ED25519).public_key()
    assert _codes(check_folder(kept, trusted=[other])) == {"isolation.evidence.other-key"}
    known = run.summary()["result_sha256"]
    assert check_folder(kept, recorded={run.digest: known}.get).verdict.outcome is Outcome.PASS
    assert _codes(check_folder(kept, recorded={run.digest: "0" * 64}.get)) == {"isolation.evidence.ledger"}


def test_another_may_judge_than_who_planned(run: RunResult, tmp_path: Path) -> None:
    judge = generate(Algorithm.ED25519)
    reports = [run.envelopes[f"observations-{name}.json"] for name in ("a-a", "a-b", "a-c")]
    assert run.signer is not None
    again = conclude(run.envelopes["plan.json"], reports, [run.signer.public_key()], signer=judge)
    save_run(again, tmp_path / "again")
    assert check_folder(tmp_path / "again", trusted=[judge.public_key()]).verdict.outcome is Outcome.PASS
    assert _codes(_check(tmp_path / "again", run)) == {"isolation.evidence.other-key"}
    assert read_result(tmp_path / "again").run == run.plan.run


def test_every_flipped_byte_is_caught(kept: Path, run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(kept, folder)
    for path in sorted(folder.iterdir()):
        good = path.read_bytes()
        places = {0, len(good) // 3, len(good) - 2, len(good) - 1, *range(0, len(good), max(1, len(good) // 5))}
        for at in sorted(places):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            checked = _check(folder, run)
            assert checked.verdict.outcome is Outcome.FAIL, (path.name, at)
            assert _codes(checked) & {"isolation.evidence.changed", "isolation.evidence.refused"}
        path.write_bytes(good)
    assert _check(folder, run).verdict.outcome is Outcome.PASS


def test_every_byte_of_the_manifest_counts(kept: Path, run: RunResult) -> None:
    key = signer_of(kept)
    good = (kept / "manifest.json").read_bytes()
    assert open_manifest(good, key).run == run.plan.run
    for at in range(len(good)):
        with pytest.raises(Exception, match=r"manifest|envelope|holds|signed") as error:
            open_manifest(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :], key)
        assert type(error.value).__name__ in {"FormatError", "RefusedError"}, at


def test_missing_added_and_swapped_files(kept: Path, run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(kept, folder)
    (folder / "notes.txt").write_text("seen on Monday")
    assert _codes(_check(folder, run)) == {"isolation.evidence.unlisted"}
    assert _check(folder, run).verdict.outcome is Outcome.PASS
    (folder / "capture-a-b.pcapng").unlink()
    assert "isolation.evidence.missing" in _codes(_check(folder, run))
    other = make_run()
    save_run(other, folder)
    assert _check(folder, run).verdict.outcome is Outcome.PASS
    (folder / "observations-a-a.json").write_bytes((kept / "observations-a-a.json").read_bytes())
    assert "isolation.evidence.changed" in _codes(_check(folder, run))
    with pytest.raises(UsageError):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["signer.pem", "observations-a-a.json", "extra"])
def test_pipes_and_links_are_refused(kept: Path, run: RunResult, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(kept, folder)
    path = folder / name
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert _codes(_check(folder, run)) == {"isolation.evidence.refused"}
    path.unlink()
    path.symlink_to("/dev/zero")
    assert _codes(_check(folder, run)) == {"isolation.evidence.refused"}


def test_a_result_that_does_not_follow_is_named(run: RunResult, tmp_path: Path) -> None:
    """Whoever holds the signer's key still cannot sign a result that plan and observations contradict."""
    assert run.signer is not None
    envelope = json.loads(run.envelopes["result.json"])
    document = json.loads(b64decode(envelope["payload"])) | {"outcome": "pass", "findings": []}
    forged = seal(json.dumps(document).encode(), envelope["payloadType"], run.signer)
    run.envelopes["result.json"], good = forged, run.envelopes["result.json"]
    try:
        save_run(run, tmp_path / "forged")
    finally:
        run.envelopes["result.json"] = good
    checked = _check(tmp_path / "forged", run)
    assert _codes(checked) == {"isolation.evidence.result"}
    assert checked.verdict.outcome is Outcome.FAIL


def test_a_result_says_its_axes_and_its_window(kept: Path, run: RunResult) -> None:
    said = read_result(kept)
    assert said.axes == {axis.value: outcome.value for axis, outcome in run.verdict.axes.items()}
    assert (said.not_before, said.not_after) == (run.plan.not_before, run.plan.not_after)
    document = json.loads(b64decode(json.loads(run.envelopes["result.json"])["payload"]))
    older = {name: value for name, value in document.items() if name not in {"axes", "not_before", "not_after"}}
    assert _opened(older, run).not_before is None
    for name in ("at", "not_before", "not_after"):
        with pytest.raises(FormatError, match="a time without offset"):
            _opened(document | {name: "2026-10-01T08:30:00"}, run)


def _opened(document: dict[str, Any], run: RunResult) -> ScanResult:
    assert run.signer is not None
    return open_result(seal(json.dumps(document).encode(), RESULT_TYPE, run.signer), [run.signer.public_key()])


def test_manifests_with_strange_names_are_refused(run: RunResult) -> None:
    assert run.signer is not None
    for name in ("../x", "a/b", ".hidden", "", "x" * 300):
        files = [{"name": name, "size": 0, "sha256": "0" * 64}]
        payload = json.dumps({"run": "r", "plan": "p", "files": files, "v": 1}).encode()
        with pytest.raises(Exception, match="strange names"):
            open_manifest(seal(payload, MANIFEST_TYPE, run.signer), run.signer.public_key())


def test_a_run_is_kept_whole_or_not_at_all(run: RunResult, tmp_path: Path) -> None:
    folder = tmp_path / "state" / "run"
    save_run(run, folder, fresh=True)
    with pytest.raises(UsageError, match="kept before"):
        save_run(run, folder, fresh=True)
    assert sorted(path.name for path in folder.parent.iterdir()) == [".saving.lock", "run"]
    assert summary_of(folder).outcome == "fail"
    assert read_result(folder).matrix == run.matrix
    assert summary_of(tmp_path).outcome == "unreadable"


def _forked_save(run: RunResult, folder: Path, after: int, signal_: int) -> int:
    """Save in a process of its own that sends itself a signal while its `after`-th file is written; its process ID."""
    pid = os.fork()
    if pid == 0:
        try:
            fsync, left = os.fsync, [after]

            def stop(descriptor: int) -> None:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal_)
                fsync(descriptor)

            os.fsync = stop
            save_run(run, folder, fresh=True)
        finally:
            os._exit(0)
    return pid


def test_what_a_killed_run_left_is_private_and_removed_by_the_next(run: RunResult, tmp_path: Path) -> None:
    state = tmp_path / "state"
    for after in (1, 4, 9):
        os.waitpid(_forked_save(run, state / f"killed-{after}", after, signal.SIGKILL), 0)
        assert not (state / f"killed-{after}").exists()
        (left,) = [path for path in state.iterdir() if path.name.endswith(".tmp")]
        assert stat.S_IMODE(left.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in left.iterdir()} == {0o600}
        assert any("plan.json" in path.name for path in left.iterdir()) or after == 1
    save_run(run, state / "next", fresh=True)
    assert {path.name for path in state.iterdir()} == {".saving.lock", "next"}


def test_a_run_that_is_being_saved_is_left_alone_by_others(run: RunResult, tmp_path: Path) -> None:
    pid = _forked_save(run, tmp_path / "slow", 4, signal.SIGSTOP)
    os.waitpid(pid, os.WUNTRACED)
    save_run(run, tmp_path / "quick", fresh=True)
    os.kill(pid, signal.SIGCONT)
    os.waitpid(pid, 0)
    assert {path.name for path in tmp_path.iterdir()} == {".saving.lock", "quick", "slow"}
    assert _check(tmp_path / "slow", run).verdict.outcome is Outcome.PASS


# --- captures -------------------------------------------------------------------------------------------------------


def test_scapy_reads_both_ends_with_comments(kept: Path, run: RunResult) -> None:
    from scapy.layers.inet import IP, TCP
    from scapy.utils import RawPcapNgReader, rdpcap

    packets = rdpcap(str(kept / "capture-a-a.pcapng"))
    (leak,) = [
        packet
        for packet in packets
        if IP in packet and TCP in packet and packet[TCP].dport == 22 and packet[IP].src == "10.3.0.2"
    ]
    comment = leak.comment.decode() if isinstance(leak.comment, bytes) else leak.comment
    assert "arrived: c -> a IPv4 TCP" in comment
    assert comment.endswith("expected deny: open (syn-ack), fail")
    case = int(comment.split()[1].rstrip(","))
    assert run.columns["outcome"][case] == "fail"
    assert leak[TCP].sport == run.columns["sport"][case]
    token = run.plan.tokens().find(bytes(leak))
    assert token[0].case == case

    there = rdpcap(str(kept / "capture-a-c.pcapng"))
    assert [bytes(packet) for packet in there if b"case %d, left" % case in (packet.comment or b"")]

    with RawPcapNgReader(str(kept / "capture-a-a.pcapng")) as reader:
        rows = list(reader)
    times = [meta.tshigh << 32 | meta.tslow for _, meta in rows]
    assert times == sorted(times)
    assert {meta.direction for _, meta in rows} == {1, 2}
    assert {(meta.tsresol, meta.linktype) for _, meta in rows} == {(10**9, 101)}


@pytest.mark.skipif(shutil.which("tcpdump", path=PATH) is None, reason="needs tcpdump: apt-get install tcpdump")
def test_tcpdump_reads_them_to_the_nanosecond(kept: Path) -> None:
    command = [str(shutil.which("tcpdump", path=PATH)), "-nn", "--nano", "-tt", "-r", str(kept / "capture-a-a.pcapng")]
    done = subprocess.run([*command, "dst port 22"], capture_output=True, text=True, timeout=60, check=True)
    assert "link-type RAW" in done.stderr
    assert [line for line in done.stdout.splitlines() if "IP 10.3.0.2." in line and "> 10.1.0.2.22: Flags [S]" in line]
    assert {len(line.split()[0].partition(".")[2]) for line in done.stdout.splitlines()} == {9}


def test_pcapng_cuts_comments_and_keeps_lengths(tmp_path: Path) -> None:
    from scapy.utils import RawPcapNgReader

    path = tmp_path / "x.pcapng"
    data = bytes([0x45, 0, 0x05, 0xDC]) + bytes(17)
    path.write_bytes(
        write_pcapng(
            [Kept(2**60 + 1, True, data, 1500, "警" * 2000), Kept(2**60 + 2, False, b"", 0, "")],
            name="e", about="x", made_by="y",
        )
    )  # fmt: skip
    with RawPcapNgReader(str(path)) as reader:
        (first, meta), (second, _) = list(reader)
    assert (first, meta.wirelen, meta.tshigh << 32 | meta.tslow) == (data, 1500, 2**60 + 1)
    assert [comment.decode() for comment in meta.comments] == ["警" * 333]
    assert second == b""


# --- what is handed out of a scan -----------------------------------------------------------------------------------


def test_what_is_handed_out_holds_no_secret_and_every_byte_of_it_counts(kept: Path, run: RunResult) -> None:
    made = read_handout(kept)
    assert made.open().outcome == "fail"
    assert made.chain == ()
    for part in (made.result, made.files, made.signer):
        assert run.plan.secret.encode() not in part
    assert run.plan.secret.encode() not in b64decode(json.loads(made.result)["payload"])
    for name in ("result", "files", "signer"):
        good = getattr(made, name)
        for at in sorted({0, len(good) - 1, len(good) - 2, *range(0, len(good), max(1, len(good) // 150))}):
            bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
            with pytest.raises(SecguardError):
                replace(made, **{name: bad}).open()


def test_a_handout_of_parts_of_two_scans_is_refused(kept: Path, tmp_path: Path) -> None:
    other = make_run()
    save_run(other, tmp_path / "other")
    made, foreign = read_handout(kept), read_handout(tmp_path / "other")
    with pytest.raises(RefusedError, match="another scan"):
        replace(made, files=foreign.files).open()
    with pytest.raises(FormatError, match="larger than"):
        replace(made, result=b" " * (MAX_RESULT + 1)).open()
    (tmp_path / "other" / "result.json").unlink()
    os.mkfifo(tmp_path / "other" / "result.json")
    with pytest.raises(FormatError, match="no plain file"):
        read_handout(tmp_path / "other")
