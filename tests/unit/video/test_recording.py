"""A recording of several files, judged by its chain: files and lines missing, moved, replaced, cut, put in."""

import base64
import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import video_kit as kit
from seal_kit import Acts, operator, seal_folder

from secguard.core import Axis, FixedClock, FormatError, Outcome, UsageError
from secguard.keys import generate, seal
from secguard.video.recording import RecordingVerdict, judge_recording
from secguard.video.recording_chain import CHAIN_TYPE, MAX_LINE, Record, read_lines
from secguard.video.recording_files import CHAIN_NAME
from secguard.video.recording_writer import Promise

START = datetime(2026, 10, 1, 7, 0, tzinfo=UTC)
SEALED_AXES = (Axis.INTEGRITY, Axis.COMPLETENESS, Axis.PRESENTATION, Axis.PROVENANCE, Axis.REVOCATION)


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.glob("*.mp4"))


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("segments")
    return [
        kit.make_clip(folder / f"seg{number}.mp4", frames=24, seed=number, noise=30) for number in (8, 9, 10, 11, 12)
    ]


@pytest.fixture(scope="session")
def sealed(clips: list[Path], tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Path:
    """Five signed segments, sealed and closed."""
    folder = tmp_path_factory.mktemp("recording")
    for number, path in enumerate(clips):
        kit.sign_clip(path, folder / path.name, pki.camera, start=START + timedelta(seconds=1.6 * number))
        (folder / f"{path.name}.manifest.json").unlink()
    seal_folder(folder, pki.camera, start=START, close=True)
    return folder


@pytest.fixture
def folder(sealed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sealed, tmp_path / "recording"))


def judged(path: Path, pki: kit.Pki, **options: Any) -> RecordingVerdict:
    return judge_recording(path, pki.trust, options.pop("at", kit.NOW), **options)


def told(answer: RecordingVerdict) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for item in answer.verdict.findings:
        if item.code != "trust.anchor.foreign" and item.axis is not Axis.CONFORMANCE:
            found.setdefault(item.code, []).append(item.where)
    return found


def lines(folder: Path) -> list[bytes]:
    return (folder / CHAIN_NAME).read_bytes().splitlines(keepends=True)


def rewrite(folder: Path, data: list[bytes]) -> None:
    (folder / CHAIN_NAME).write_bytes(b"".join(data))


def edited(line: bytes, who: kit.Identity | None = None, **values: Any) -> bytes:
    """The line with other values: signed anew, or with the old signature."""
    envelope = json.loads(line)
    payload = json.loads(base64.b64decode(envelope["payload"])) | values
    if who is not None:
        return seal(json.dumps(payload).encode(), CHAIN_TYPE, who.signer)
    envelope["payload"] = base64.b64encode(json.dumps(payload).encode()).decode()
    return json.dumps(envelope).encode() + b"\n"


def test_intact(folder: Path, pki: kit.Pki) -> None:
    answer = judged(folder, pki)
    assert answer.verdict.outcome is Outcome.PASS
    assert told(answer) == {}
    assert [row.state for row in answer.segments] == ["intact"] * 5
    assert [row.name for row in answer.segments] == [f"seg{number}.mp4" for number in (8, 9, 10, 11, 12)]
    assert answer.closed
    assert answer.until == kit.NOW
    assert answer.device == kit.CAMERA.value
    assert judged(folder / CHAIN_NAME, pki).verdict.outcome is Outcome.PASS


def strip(path: Path) -> None:
    samples = [
        item.of(nal for nal in item.nals if not (nal[0] & 31 == 6 and kit.UUID in nal[:40]))
        for item in kit.take_apart(path)
    ]
    kit.put_together(path, samples, path.with_name("new"))
    path.with_name("new").replace(path)


def cut(path: Path, low: int, high: int) -> None:
    kit.put_together(path, kit.take_apart(path)[low:high], path.with_name("new"))
    path.with_name("new").replace(path)


def swap(folder: Path) -> None:
    (folder / "seg9.mp4").rename(folder / "x")
    (folder / "seg10.mp4").rename(folder / "seg9.mp4")
    (folder / "x").rename(folder / "seg10.mp4")


def flip(folder: Path) -> None:
    path = folder / "seg10.mp4"
    samples = kit.take_apart(path)
    data = bytearray(samples[3].data)
    data[-2] ^= 1
    at = path.read_bytes().find(samples[3].data)
    kit.flip(path, path, at + len(data) - 2)


Edit = Callable[[Path], object]
FILES: list[tuple[str, Edit, dict[str, list[str]]]] = [
    ("missing", lambda f: (f / "seg10.mp4").unlink(), {"video.recording.missing": ["seg10.mp4"]}),
    ("last missing", lambda f: (f / "seg12.mp4").unlink(), {"video.recording.missing": ["seg12.mp4"]}),
    ("two exchanged", swap, {"video.recording.reordered": ["seg10.mp4", "seg9.mp4"]}),
    (
        "renamed to the end",
        lambda f: (f / "seg8.mp4").rename(f / "seg99.mp4"),
        {"video.recording.reordered": ["seg99.mp4"]},
    ),
    ("byte changed", flip, {"video.recording.changed": ["seg10.mp4"]}),
    ("tail cut", lambda f: cut(f / "seg10.mp4", 0, 20), {"video.recording.truncated": ["seg10.mp4"]}),
    (
        "cut off in the middle",
        lambda f: (f / "seg10.mp4").write_bytes((f / "seg10.mp4").read_bytes()[:3000]),
        {"video.recording.truncated": ["seg10.mp4"]},
    ),
    (
        "copied in",
        lambda f: shutil.copy(f / "seg9.mp4", f / "seg9b.mp4"),
        {"video.recording.repeated": ["seg9b.mp4"]},
    ),
    (
        "one repeated in the place of another",
        lambda f: shutil.copy(f / "seg9.mp4", f / "seg10.mp4"),
        {"video.recording.repeated": ["seg10.mp4"], "video.recording.missing": ["seg10.mp4"]},
    ),
    ("signatures stripped", lambda f: strip(f / "seg10.mp4"), {"video.recording.changed": ["seg10.mp4"]}),
]


@pytest.mark.parametrize("stripped", [False, True], ids=["signed", "all SEIs stripped"])
@pytest.mark.parametrize("row", FILES, ids=[row[0] for row in FILES])
def test_files(
    clips: list[Path], folder: Path, pki: kit.Pki, row: tuple[str, Edit, dict[str, list[str]]], *, stripped: bool
) -> None:
    _, edit, wanted = row
    if stripped:
        # Sealed without any SEI: what the chain finds, it finds alone.
        shutil.rmtree(folder)
        folder.mkdir()
        for path in clips:
            shutil.copy(path, folder)
        seal_folder(folder, pki.camera, start=START, close=True)
        if edit is FILES[-1][1]:
            return
    edit(folder)
    answer = judged(folder, pki)
    assert {code: sorted(where) for code, where in told(answer).items()} == wanted
    assert answer.verdict.outcome is Outcome.FAIL


def test_another_recording_in_its_place(folder: Path, pki: kit.Pki, tmp_path: Path) -> None:
    strange = kit.make_clip(tmp_path / "strange.mp4", frames=24, seed=77, noise=40)
    kit.sign_clip(strange, tmp_path / "other.mp4", pki.other)
    shutil.copy(tmp_path / "other.mp4", folder / "seg10.mp4")
    shutil.copy(tmp_path / "other.mp4", folder / "seg13.mp4")
    shutil.copy(tmp_path / "other.mp4.manifest.json", folder / "seg13.mp4.manifest.json")
    answer = judged(folder, pki)
    assert told(answer) == {
        "video.recording.replaced": ["seg10.mp4"],
        "video.recording.other-camera": ["seg10.mp4", "seg13.mp4"],
        "video.recording.unlisted": ["seg13.mp4"],
    }
    assert [row.state for row in answer.segments] == ["intact", "intact", "replaced", "intact", "intact", "unlisted"]
    shutil.copy(tmp_path / "strange.mp4", folder / "seg10.mp4")
    assert told(judged(folder, pki))["video.recording.replaced"] == ["seg10.mp4"]


def test_an_extra_file_of_an_open_recording_is_unknown(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    for path in clips[:2]:
        shutil.copy(path, tmp_path)
    seal_folder(tmp_path, pki.camera, start=START)
    shutil.copy(clips[3], tmp_path)
    answer = judged(tmp_path, pki)
    assert told(answer) == {"video.recording.unlisted": ["seg11.mp4"], "video.recording.unclosed": [""]}
    assert answer.verdict.outcome is Outcome.UNKNOWN


def test_renamed_in_order_and_remuxed_is_a_remark(folder: Path, pki: kit.Pki) -> None:
    for name in names(folder):
        (folder / name).rename(folder / f"case-{name}")
    answer = judged(folder, pki)
    assert answer.verdict.outcome is Outcome.PASS
    assert {row.state for row in answer.segments} == {"renamed"}
    assert "video.recording.renamed" in {item.code for item in answer.verdict.findings}
    for name in names(folder):
        (folder / name).rename(folder / name.removeprefix("case-"))
    kit.put_together(folder / "seg9.mp4", kit.take_apart(folder / "seg9.mp4"), folder / "new")
    (folder / "new").replace(folder / "seg9.mp4")
    answer = judged(folder, pki)
    assert "video.recording.remade" in {item.code for item in answer.verdict.findings}
    assert answer.verdict.outcome is Outcome.PASS


def test_manifests_gone_or_exchanged(folder: Path, pki: kit.Pki) -> None:
    (folder / "seg9.mp4.manifest.json").unlink()
    shutil.copy(folder / "seg8.mp4.manifest.json", folder / "seg10.mp4.manifest.json")
    answer = judged(folder, pki)
    found = {item.code: item.where for item in answer.verdict.findings}
    assert found["video.recording.manifest-missing"] == "seg9.mp4"
    assert found["video.recording.manifest-changed"] == "seg10.mp4"
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.PASS, "the chain names the files themselves"
    flip(folder)
    assert told(judged(folder, pki)) == {"video.recording.changed": ["seg10.mp4"]}


LINES: list[tuple[str, Callable[[list[bytes], kit.Pki], list[bytes]], dict[str, list[str]]]] = [
    ("line removed", lambda d, p: d[:3] + d[4:], {"video.recording.line-missing": ["line 4"]}),
    ("two lines removed", lambda d, p: d[:2] + d[4:], {"video.recording.line-missing": ["lines 3-4"]}),
    (
        "line edited",
        lambda d, p: [*d[:3], edited(d[3], time="2020-01-01T00:00:00Z"), *d[4:]],
        {"video.recording.line-changed": ["line 4"]},
    ),
    ("line no record", lambda d, p: [*d[:3], b"{}\n", *d[4:]], {"video.recording.line-changed": ["line 4"]}),
    ("line put in", lambda d, p: [*d[:3], b"{}\n", *d[3:]], {"video.recording.line-changed": ["line 4"]}),
    (
        "lines exchanged",
        lambda d, p: [*d[:3], d[4], d[3], *d[5:]],
        {"video.recording.line-moved": ["line 5"]},
    ),
    ("line repeated", lambda d, p: [*d[:4], d[3], *d[4:]], {"video.recording.line-moved": ["line 5"]}),
    (
        "signed by another camera",
        lambda d, p: [*d[:3], edited(d[3], p.other), *d[4:]],
        {"video.recording.line-changed": ["line 4"]},
    ),
    (
        "put in by another camera, with its certificate",
        lambda d, p: [
            *d[:3],
            edited(d[3], p.other, chain=p.other.chain[0].public_bytes(kit.serialization.Encoding.PEM).decode()),
            *d[3:],
        ],
        {"video.recording.line-foreign": ["line 4"]},
    ),
    (
        "line of another recording of this camera",
        lambda d, p: [*d[:3], edited(d[3], p.camera, recording="other"), *d[4:]],
        {"video.recording.line-foreign": ["line 4"], "video.recording.line-missing": ["line 4"]},
    ),
    (
        "two chains of one recording spliced",
        lambda d, p: [*d[:3], edited(d[3], p.camera, time="2020-01-01T00:00:00Z"), *d[4:]],
        {"video.recording.link": ["line 5"]},
    ),
    ("tail cut", lambda d, p: d[:-1], {"video.recording.unclosed": [""]}),
    (
        "torn",
        lambda d, p: [*d[:-1], d[-1][:100]],
        {"video.recording.line-torn": ["line 7"], "video.recording.unclosed": [""]},
    ),
    (
        "more after the end",
        lambda d, p: [*d, edited(d[5], p.camera, sequence=8, previous="")],
        {"video.recording.link": ["line 8", "line 8"]},
    ),
    (
        "first line removed",
        lambda d, p: d[1:],
        {"video.recording.unbelieved": [""], "video.recording.line-missing": ["line 1"]},
    ),
]


@pytest.mark.parametrize(("edit", "wanted"), [row[1:] for row in LINES], ids=[row[0] for row in LINES])
def test_lines(
    folder: Path, pki: kit.Pki, edit: Callable[[list[bytes], kit.Pki], list[bytes]], wanted: dict[str, list[str]]
) -> None:
    rewrite(folder, edit(lines(folder), pki))
    answer = judged(folder, pki)
    found = told(answer)
    assert {code: found.get(code) for code in wanted} == wanted
    rest = set(found) - set(wanted)
    assert rest <= {"video.recording.unlisted", "video.recording.line-missing", "video.recording.line-changed"}
    assert answer.verdict.outcome is not Outcome.PASS
    if not rest & {"video.recording.line-missing"} and set(wanted) <= {
        "video.recording.unclosed",
        "video.recording.line-torn",
    }:
        assert answer.verdict.outcome is Outcome.UNKNOWN


def test_every_line_matters(folder: Path, pki: kit.Pki) -> None:
    """Any one line removed, exchanged with the next, or changed by a bit is found."""
    data = lines(folder)
    for number in range(len(data)):
        rewrite(folder, data[:number] + data[number + 1 :])
        assert judged(folder, pki).verdict.outcome is not Outcome.PASS
        broken = bytearray(data[number])
        broken[len(broken) // 2] ^= 1
        rewrite(folder, [*data[:number], bytes(broken), *data[number + 1 :]])
        assert judged(folder, pki).verdict.outcome is Outcome.FAIL
        if number + 1 < len(data):
            rewrite(folder, [*data[:number], data[number + 1], data[number], *data[number + 2 :]])
            assert judged(folder, pki).verdict.outcome is Outcome.FAIL


def test_the_chain_of_a_key_that_is_not_believed(folder: Path, pki: kit.Pki) -> None:
    stranger = kit.make_pki()
    (folder / "seg9.mp4").unlink()
    answer = judge_recording(folder, stranger.trust, kit.NOW)
    assert "video.recording.unbelieved" in told(answer)
    assert "video.recording.missing" not in told(answer), "a chain that anybody could have written accuses nobody"
    assert {row.state for row in answer.segments} == {"unproven"}
    assert answer.verdict.outcome is Outcome.FAIL
    assert all(answer.verdict.axes[axis] is not Outcome.PASS for axis in SEALED_AXES)


def test_the_chain_of_another_camera(folder: Path, pki: kit.Pki) -> None:
    answer = judged(folder, pki, device=kit.OTHER)
    assert "video.device.mismatch" in told(answer)
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    own = pki.other.chain[0].public_bytes(kit.serialization.Encoding.PEM).decode()
    data, previous = [], ""
    for line in read_lines(folder / CHAIN_NAME):
        assert line.record is not None
        record = msgspec.structs.replace(line.record, previous=previous, chain=own if line.number == 1 else "")
        data.append(seal(msgspec.json.encode(record), CHAIN_TYPE, pki.other.signer))
        previous = __import__("hashlib").sha256(data[-1][:-1]).hexdigest()
    rewrite(folder, data)
    answer = judged(folder, pki)
    assert {"video.device.mismatch", "video.recording.unbelieved"} <= set(told(answer))
    assert answer.verdict.outcome is Outcome.FAIL


def test_silence_is_told_from_an_open_end(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    shutil.copy(clips[0], tmp_path)
    acts = Acts()
    seal_folder(tmp_path, pki.camera, acts, start=START, heartbeat=True, promise=Promise(heartbeat=60))
    assert acts.kinds == ["open", "segment", "heartbeat"]
    fresh = judged(tmp_path, pki, at=kit.NOW + timedelta(seconds=50))
    assert told(fresh) == {"video.recording.unclosed": [""]}
    assert fresh.until == kit.NOW
    late = judged(tmp_path, pki, at=kit.NOW + timedelta(seconds=61))
    assert told(late) == {"video.recording.silent": [""]}
    assert late.verdict.outcome is Outcome.UNKNOWN
    later = FixedClock(kit.NOW + timedelta(seconds=55))
    seal_folder(tmp_path, pki.camera, clock=later, close=True)
    assert judged(tmp_path, pki, at=kit.NOW + timedelta(days=9)).verdict.outcome is Outcome.PASS


def record_with(folder: Path, number: int, who: kit.Identity, **values: Any) -> None:
    """Sign one segment's line anew with other facts, and every line behind it."""
    import hashlib

    data, previous = [], ""
    for line in read_lines(folder / CHAIN_NAME):
        record = line.record
        assert record is not None
        if record.segment is not None and record.segment.number == number:
            record = msgspec.structs.replace(record, segment=msgspec.structs.replace(record.segment, **values))
        record = msgspec.structs.replace(record, previous=previous)
        data.append(seal(msgspec.json.encode(record), CHAIN_TYPE, who.signer))
        previous = hashlib.sha256(data[-1][:-1]).hexdigest()
    rewrite(folder, data)


def test_wall_clocks(folder: Path, pki: kit.Pki) -> None:
    record_with(folder, 3, pki.camera, start="2026-10-01T07:00:00Z")
    answer = judged(folder, pki)
    assert told(answer) == {"video.recording.overlap": ["seg9.mp4, seg10.mp4"]}
    assert answer.verdict.outcome is Outcome.UNKNOWN
    record_with(folder, 3, pki.camera, time_source="file")
    assert told(judged(folder, pki)) == {}, "file times change with every copy"


def test_a_gap_larger_than_promised(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    promise = Promise(max_gap=2.0)
    shutil.copy(clips[0], tmp_path)
    seal_folder(tmp_path, pki.camera, start=START, promise=promise)
    shutil.copy(clips[1], tmp_path)
    seal_folder(tmp_path, pki.camera, start=START + timedelta(seconds=10), close=True)
    answer = judged(tmp_path, pki)
    gaps = [item for item in answer.verdict.findings if item.code == "video.recording.gap"]
    assert [item.data["seconds"] for item in gaps] == [pytest.approx(8.4, abs=0.1)]
    assert answer.verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize(("promise", "outcome"), [(-1.0, Outcome.UNKNOWN), (5.0, Outcome.FAIL)])
def test_the_cameras_counter_jumps(
    clips: list[Path], pki: kit.Pki, tmp_path: Path, promise: float, outcome: Outcome
) -> None:
    """A stream that goes on over its files: what lies between two of them was taken away before sealing."""
    samples = kit.sign_samples([s for path in clips for s in kit.take_apart(path)], pki.camera)
    for name, low, high in (("a.mp4", 0, 24), ("b.mp4", 24, 48), ("d.mp4", 96, 120)):
        kit.put_together(clips[0], samples[low:high], tmp_path / name)
    seal_folder(tmp_path, pki.camera, start=START, close=True, promise=Promise(max_gap=promise))
    answer = judged(tmp_path, pki)
    assert told(answer) == {"video.recording.counter": ["b.mp4, d.mp4"]}
    assert answer.verdict.outcome is outcome


def test_sealed_at_import(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    for path in clips[:2]:
        shutil.copy(path, tmp_path)
    (tmp_path / "old.avi").write_bytes(b"RIFF" + bytes(100))
    seal_folder(tmp_path, operator(pki), sealed="import", device=kit.CAMERA, close=True)
    answer = judged(tmp_path, pki)
    assert told(answer) == {"video.manifest.imported": [""]}
    assert answer.imported
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.INTEGRITY] is answer.verdict.axes[Axis.COMPLETENESS] is Outcome.PASS
    (tmp_path / "old.avi").write_bytes(b"RIFF" + bytes(101))
    assert told(judged(tmp_path, pki))["video.recording.changed"] == ["old.avi"]


def test_a_renewed_certificate_continues_the_chain(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    renewed = kit.leaf(pki.key, pki.root, kit.CAMERA, 222)
    shutil.copy(clips[0], tmp_path)
    seal_folder(tmp_path, pki.camera, start=START)
    shutil.copy(clips[1], tmp_path)
    seal_folder(tmp_path, renewed, start=START + timedelta(seconds=2), close=True)
    answer = judged(tmp_path, pki)
    assert answer.verdict.outcome is Outcome.PASS
    assert answer.chain[0] == renewed.chain[0]


def test_files_hashed_elsewhere_are_not_read_again(folder: Path, pki: kit.Pki, monkeypatch: Any) -> None:
    import hashlib

    import secguard.video.recording as module

    facts = {
        name: ((folder / name).stat().st_size, hashlib.sha256((folder / name).read_bytes()).hexdigest())
        for name in names(folder)
    }
    monkeypatch.setattr(module, "hash_file", None)
    assert judged(folder, pki, facts=facts).verdict.outcome is Outcome.PASS


def test_manifests_and_chain_elsewhere(clips: list[Path], pki: kit.Pki, tmp_path: Path) -> None:
    """Read-only media: nothing is written beside the files."""
    media, out = tmp_path / "media", tmp_path / "out"
    (media / "08").mkdir(parents=True)
    shutil.copy(clips[0], media)
    shutil.copy(clips[1], media / "08")
    seal_folder(media, pki.camera, start=START, output=out, close=True)
    assert sorted(item.name for item in media.rglob("*") if item.is_file()) == ["seg8.mp4", "seg9.mp4"]
    answer = judged(out, pki, folder=media)
    assert [row.name for row in answer.segments] == ["08/seg9.mp4", "seg8.mp4"]
    assert answer.verdict.outcome is Outcome.PASS


def test_what_is_no_chain(pki: kit.Pki, tmp_path: Path) -> None:
    path = tmp_path / CHAIN_NAME
    with pytest.raises(UsageError):
        judged(tmp_path, pki)
    for data in (b"", b"\n\n", b"{}\n", b"\xff" * 100, seal(b"{}", CHAIN_TYPE, generate()), b"[" * 100_000):
        path.write_bytes(data)
        with pytest.raises(FormatError):
            judged(tmp_path, pki)
    path.write_bytes(b"x" * (MAX_LINE + 1))
    with pytest.raises(FormatError, match="a line of more than"):
        judged(tmp_path, pki)


def test_names_do_not_leave_the_folder(folder: Path, pki: kit.Pki) -> None:
    for name in ("../secret.mp4", "/etc/passwd", "a/../../b", "x\n.mp4", ""):
        record_with(folder, 3, pki.camera, name=name)
        answer = judged(folder, pki)
        assert answer.verdict.outcome is Outcome.FAIL
        rewrite(folder, lines(folder))


def test_the_format_is_strict() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"v": 1, "kind": "open", "recording": "../x", "device": "1", "sequence": 0, "time": ""}, Record)
