"""The archive: any zip program opens it, and no byte of it can change unseen."""

import hashlib
import io
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import FormatError, RefusedError, SystemPartError, UsageError
from secguard.evidence import archive
from secguard.evidence.archive import Source, fingerprint, read_archive, write_archive

FILES = {"README.txt": b"hello\n", "empty": b"", "a/b-1.json": b"{}", "video/recording.mp4": bytes(range(128))}


def build(files: dict[str, bytes] | None = None) -> bytes:
    stream = io.BytesIO()
    write_archive(stream, [Source.of(name, data) for name, data in (FILES if files is None else files).items()])
    return stream.getvalue()


def read(tmp_path: Path, data: bytes, spool: bool = False) -> list[archive.Member]:
    path = tmp_path / "b.zip"
    path.write_bytes(data)
    return read_archive(path, {"video/recording.mp4": tmp_path / "spool"} if spool else {})


def test_round_trip(tmp_path: Path) -> None:
    members = read(tmp_path, build(), spool=True)
    assert [item.name for item in members] == list(FILES)
    assert all(item.sound for item in members)
    assert [item.sha256 for item in members] == [hashlib.sha256(data).hexdigest() for data in FILES.values()]
    assert members[3].data is None
    assert (tmp_path / "spool").read_bytes() == FILES["video/recording.mp4"]


def test_other_programs_open_it(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(build())
    with zipfile.ZipFile(path) as opened:
        assert opened.testzip() is None
        assert {name: opened.read(name) for name in opened.namelist()} == FILES
    unzip = shutil.which("unzip")
    if unzip is None:
        pytest.skip("needs unzip: apt-get install unzip")
    done = subprocess.run([unzip, "-tqq", path], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def seen(tmp_path: Path, data: bytes) -> bool:
    """Whether a change shows: in the structure, or in a member's content."""
    try:
        members = read(tmp_path, data)
    except FormatError:
        return True
    content = {item.name: item.sha256 for item in members}
    return content != {name: hashlib.sha256(value).hexdigest() for name, value in FILES.items()} or not all(
        item.sound for item in members
    )


def test_every_changed_byte_is_seen(tmp_path: Path) -> None:
    good = build()
    for position in range(len(good)):
        for change in (0x01, 0x80, 0xFF):
            bad = bytearray(good)
            bad[position] ^= change
            assert seen(tmp_path, bytes(bad)), (position, change)


def test_every_cut_and_every_added_byte_is_seen(tmp_path: Path) -> None:
    good = build({"one": b"1", "two": b"22"})
    for position in range(len(good)):
        with pytest.raises(FormatError):
            read(tmp_path, good[:position])
    for position in range(len(good) + 1):
        assert seen(tmp_path, good[:position] + b"\0" + good[position:]), position


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.booleans())
def test_hostile_bytes_are_refused_in_one_line(tmp_path: Path, data: bytes, start: bool) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, (b"PK\3\4" if start else b"") + data)
    assert caught.value.where


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a\\b", "a/../b", ".x", "a/b/c/d", "x\x00", "é", "", "a" * 65])
def test_names_with_tricks_are_refused(tmp_path: Path, name: str) -> None:
    stream = io.BytesIO()
    raw = name.encode()
    data = archive._local(raw, 0, 0)
    stream.write(data + archive._directory([(raw, 0, 0, 0)], len(data)))
    with pytest.raises(FormatError, match=r"file name|directory"):
        read(tmp_path, stream.getvalue())


def test_no_room_for_the_recording(tmp_path: Path) -> None:
    path = tmp_path / "b.zip"
    path.write_bytes(build())
    with pytest.raises(SystemPartError, match="No space") as caught:
        read_archive(path, {"video/recording.mp4": Path("/dev/full")})
    assert caught.value.where == "/dev/full"


def test_duplicate_names_are_refused(tmp_path: Path) -> None:
    one = archive._local(b"a", 0, 0)
    data = one + one + archive._directory([(b"a", 0, 0, 0), (b"a", 0, 0, len(one))], 2 * len(one))
    with pytest.raises(FormatError, match="twice") as caught:
        read(tmp_path, data)
    assert caught.value.where == f"byte {len(one)}"


def test_zip_files_of_other_programs_are_no_bundles(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as opened:
            opened.writestr("README.txt", "x" * 100)
        with pytest.raises(FormatError) as caught:
            read(tmp_path, stream.getvalue())
        assert caught.value.code == "evidence.archive.structure"


def test_what_is_no_zip_at_all(tmp_path: Path) -> None:
    with pytest.raises(FormatError) as caught:
        read(tmp_path, b"not a zip file, but long enough to hold an end record")
    assert caught.value.code == "evidence.bundle.format"
    with pytest.raises(UsageError):
        read_archive(tmp_path / "none.zip", {})


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = build()
    monkeypatch.setattr(archive, "_MAX_MEMORY", 100)
    with pytest.raises(FormatError, match="small files"):
        read(tmp_path, good)
    monkeypatch.setattr(archive, "MAX_DOCUMENT", 50)
    with pytest.raises(FormatError, match="larger than 50"):
        read(tmp_path, good)
    monkeypatch.setattr(archive, "MAX_MEMBERS", 2)
    with pytest.raises(FormatError, match="more than 2 files"):
        read(tmp_path, good)


def test_a_bundle_that_32_bits_cannot_say_is_refused() -> None:
    huge = Source("video/recording.mp4", Path("/nowhere"), 1 << 32, 0, "")
    with pytest.raises(RefusedError) as caught:
        write_archive(io.BytesIO(), [huge])
    assert caught.value.code == "evidence.bundle.too-large"


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(b"1234")
    source = fingerprint("video/recording.mp4", path)
    path.write_bytes(b"1235")
    with pytest.raises(RefusedError) as caught:
        write_archive(io.BytesIO(), [source])
    assert caught.value.code == "evidence.file.changed"
    with pytest.raises(UsageError):
        fingerprint("x", tmp_path / "none")
