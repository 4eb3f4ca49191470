"""Export and verify with real keys, log and video: what holds, what is named when it does not."""

import errno
import hashlib
import json
import os
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import evidence_kit as kit
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import Axis, FormatError, Outcome, RefusedError, SystemPartError, UsageError
from secguard.evidence import bundle_report, verify_bundle
from secguard.evidence.bundle import CHECKPOINT, LOG_CHAIN, MANIFEST, OPERATOR_CHAIN, SEGMENT, VERDICT, VIDEO
from secguard.ledger import check_receipt
from secguard.report import write_report
from secguard.report.html import render_html
from secguard.video import frame_offsets

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"


def test_a_bundle_holds_with_the_root_alone(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    far = tmp_path / "far.zip"
    far.write_bytes(bundle.read_bytes())
    answer = verify_bundle(far, [site.root])
    assert answer.verdict.outcome is Outcome.PASS
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}
    assert [item.code for item in answer.verdict.findings] == ["evidence.time.ledger"]
    assert [item.event.kind for item in answer.custody] == ["video.signed", "evidence.exported"]
    assert answer.custody[-1].event.case == kit.CASE
    assert answer.video is not None
    assert answer.video.device == kit.CAMERA
    assert answer.sha256 == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_the_export_is_in_the_log_before_the_file_is_there(site: kit.Site, tmp_path: Path) -> None:
    target = tmp_path / "case.zip"
    seen: list[bool] = []

    class Watched:
        def __getattr__(self, name: str) -> object:
            return getattr(site.ledger, name)

        def record(self, events: object) -> object:
            seen.append(target.exists())
            return site.ledger.record(events)  # type: ignore[arg-type]

    done = site.export(target, ledger=Watched())
    assert seen == [False]
    assert site.ledger.event(done.receipt.index).data["bundle"] == done.manifest.id
    assert done.size == target.stat().st_size
    assert done.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()


def test_nothing_is_released_when_recording_fails(site: kit.Site, tmp_path: Path) -> None:
    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(site.ledger, name)

        def record(self, events: object) -> object:
            raise SystemPartError("core.write.failed", "cannot write: no space left on device")

    with pytest.raises(SystemPartError):
        site.export(tmp_path / "case.zip", ledger=Broken())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(site: kit.Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("secguard.evidence.bundle.write_archive", full)
    with pytest.raises(SystemPartError):
        site.export(tmp_path / "case.zip")
    assert not list(tmp_path.iterdir())


def test_refusals(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    before = site.ledger.size
    operator = site.sealers
    swapped = kit.Sealers(operator.log, operator.operator_chain, operator.log, operator.log_chain)
    for values, code in (
        ({"output": bundle}, "evidence.bundle.exists"),
        ({"case": " "}, "evidence.case.missing"),
        ({"output": tmp_path / "none" / "x.zip"}, "evidence.bundle.folder"),
        ({"sealers": swapped}, "evidence.chain.key"),
        ({"source": tmp_path / "none.mp4"}, "evidence.file.missing"),
    ):
        with pytest.raises((UsageError, RefusedError)) as caught:
            site.export(**{"output": tmp_path / "case.zip", **values})  # type: ignore[arg-type]
        assert caught.value.code == code
    assert site.ledger.size == before
    assert not list(tmp_path.iterdir())


def test_what_is_no_bundle_is_an_error(site: kit.Site) -> None:
    with pytest.raises(FormatError) as caught:
        site.verify(site.signed)
    assert caught.value.code == "evidence.bundle.format"
    with pytest.raises(UsageError):
        site.verify(site.folder / "none.zip")


def test_a_foreign_zip_is_a_violation(site: kit.Site, tmp_path: Path) -> None:
    path = tmp_path / "z.zip"
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("README.txt", "hello")
    answer = site.verify(path)
    assert kit.codes(answer) == {"evidence.archive.structure"}
    assert answer.verdict.outcome is Outcome.FAIL
    answer = site.verify(kit.pack(path, {"README.txt": b"x"}))
    assert kit.places(answer, "evidence.member.missing") == [MANIFEST, OPERATOR_CHAIN]
    assert answer.verdict.outcome is Outcome.FAIL


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_a_changed_file_is_named(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    files = kit.unpack(bundle)
    for name in files:
        changed = {**files, name: flipped(files[name], len(files[name]) // 2)}
        answer = site.verify(kit.pack(tmp_path / "b.zip", changed))
        assert answer.verdict.outcome is Outcome.FAIL, name
        if name != MANIFEST:
            assert name in kit.places(answer, "evidence.member.changed")


def test_a_missing_and_an_extra_file_are_named(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    files = kit.unpack(bundle)
    for name in files:
        rest = {key: data for key, data in files.items() if key != name}
        answer = site.verify(kit.pack(tmp_path / "b.zip", rest))
        assert name in kit.places(answer, "evidence.member.missing")
        assert answer.verdict.outcome is Outcome.FAIL
    answer = site.verify(kit.pack(tmp_path / "b.zip", {**files, "extra.txt": b"x"}))
    assert kit.places(answer, "evidence.member.extra") == ["extra.txt"]
    swapped = dict(reversed(files.items()))
    answer = site.verify(kit.pack(tmp_path / "b.zip", swapped))
    assert "evidence.archive.structure" in kit.codes(answer)


def test_a_list_that_another_key_signed(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    stranger = kit.resealed(bundle, tmp_path / "b.zip", site.sealers.log)
    assert "evidence.manifest.signature" in kit.codes(site.verify(stranger))


def test_unsigned_bytes_of_the_list_are_found(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    files = kit.unpack(bundle)
    envelope = json.loads(files[MANIFEST])
    other = dict(envelope, signatures=[dict(envelope["signatures"][0], keyid="00")])
    for data in (json.dumps(envelope).encode(), json.dumps(other, separators=(",", ":")).encode() + b"\n"):
        answer = site.verify(kit.pack(tmp_path / "b.zip", {**files, MANIFEST: data}))
        assert kit.codes(answer) == {"evidence.manifest.form"}


def test_a_file_that_cannot_be_read(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    for name in ("crls/00.crl", LOG_CHAIN, CHECKPOINT, SEGMENT, VIDEO, VERDICT, OPERATOR_CHAIN):
        broken = kit.resealed(
            bundle, tmp_path / "b.zip", site.sealers.operator, lambda files, name=name: files.update({name: b"junk"})
        )
        answer = site.verify(broken)
        assert "evidence.member.malformed" in kit.codes(answer), name
        assert answer.verdict.outcome is Outcome.FAIL


def test_a_forged_receipt(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    def forge(files: dict[str, bytes]) -> None:
        name = next(item for item in files if "video.signed" in item)
        document = json.loads(files[name])
        document["salt"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        files[name] = json.dumps(document).encode()

    def swap(files: dict[str, bytes]) -> None:
        name = next(item for item in files if "video.signed" in item)
        document = json.loads(files[name])
        document["chain"] = document["chain"][:1]
        files[name] = json.dumps(document).encode()

    answer = site.verify(kit.resealed(bundle, tmp_path / "b.zip", site.sealers.operator, swap))
    assert kit.codes(answer) == {"evidence.receipt.invalid"}
    answer = site.verify(kit.resealed(bundle, tmp_path / "c.zip", site.sealers.operator, forge))
    assert any("video.signed" in place for place in kit.places(answer, "evidence.receipt.invalid"))
    assert "evidence.custody.signing-missing" in kit.codes(answer)


def test_a_log_that_nobody_certified(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    operator_chain = kit.unpack(bundle)[OPERATOR_CHAIN]
    broken = kit.resealed(
        bundle, tmp_path / "b.zip", site.sealers.operator, lambda files: files.update({LOG_CHAIN: operator_chain})
    )
    answer = site.verify(broken)
    assert "evidence.receipt.unverified" in kit.codes(answer)
    assert answer.verdict.axes[Axis.TIME] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL


def test_another_checkpoint_of_the_same_log(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    newer = site.export(tmp_path / "newer.zip")
    checkpoint = kit.unpack(newer.path)[CHECKPOINT]
    broken = kit.resealed(
        bundle, tmp_path / "b.zip", site.sealers.operator, lambda files: files.update({CHECKPOINT: checkpoint})
    )
    assert "evidence.checkpoint.differs" in kit.codes(site.verify(broken))


def test_acts_on_another_recording_do_not_belong(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.mp4"
    site.sign(other)
    foreign = kit.unpack(site.export(tmp_path / "other.zip", other).path)
    receipt = next(name for name in foreign if "video.signed" in name)
    broken = kit.resealed(
        bundle, tmp_path / "b.zip", site.sealers.operator, lambda files: files.update({receipt: foreign[receipt]})
    )
    answer = site.verify(broken)
    assert kit.places(answer, "evidence.custody.foreign") == [receipt]
    # And a whole bundle cannot be passed off as another export of the same log.
    renamed = kit.resealed(bundle, tmp_path / "c.zip", site.sealers.operator, id="another")
    assert "evidence.custody.export-missing" in kit.codes(site.verify(renamed))


def test_another_case_than_the_log_knows(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    for fields, name in (
        ({"case": "B-1"}, "case"),
        ({"reason": "none"}, "reason"),
        ({"created": "2026-10-01T09:00:00Z"}, "time"),
    ):
        answer = site.verify(kit.resealed(bundle, tmp_path / "b.zip", site.sealers.operator, **fields))
        found = [item for item in answer.verdict.findings if item.code == "evidence.custody.mismatch"]
        assert [item.data["field"] for item in found] == [name]
        assert answer.verdict.outcome is Outcome.FAIL


def test_a_log_that_names_another_camera(site: kit.Site, tmp_path: Path) -> None:
    source = tmp_path / "signed.mp4"
    site.sign(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    manifest = hashlib.sha256(source.with_name("signed.mp4.manifest.json").read_bytes()).hexdigest()
    data = {"output_sha256": digest, "manifest_sha256": manifest, "certificate_sha256": "00"}
    site.record("video.signed", "32011600001310000099", data)
    answer = site.verify(site.export(tmp_path / "b.zip", source).path)
    assert {"evidence.custody.device", "evidence.custody.mismatch"} <= kit.codes(answer)
    listed = kit.msgspec.structs.replace(answer.manifest.recording, device="32011600001310000099")
    answer = site.verify(kit.resealed(tmp_path / "b.zip", tmp_path / "c.zip", site.sealers.operator, recording=listed))
    assert "evidence.recording.device" in kit.codes(answer)


def test_a_clock_set_back_makes_times_doubtful(site: kit.Site, tmp_path: Path) -> None:
    source = tmp_path / "signed.mp4"
    site.sign(source)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    site.record("video.verified", kit.CAMERA.value, {"sha256": digest}, time=kit.START - timedelta(days=1))
    answer = site.verify(site.export(tmp_path / "b.zip", source).path)
    assert kit.codes(answer) == {"evidence.time.order"}
    assert answer.verdict.outcome is Outcome.UNKNOWN


def test_an_unsigned_recording_is_bundled_and_stays_unknown(site: kit.Site, tmp_path: Path) -> None:
    plain = tmp_path / "plain.mp4"
    plain.write_bytes(site.plain.read_bytes())
    answer = site.verify(site.export(tmp_path / "b.zip", plain).path)
    assert answer.verdict.outcome is Outcome.UNKNOWN
    assert "evidence.custody.signing-missing" in kit.codes(answer)
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.UNKNOWN


def test_a_tampered_recording_is_bundled_as_what_it_is(site: kit.Site, tmp_path: Path) -> None:
    bad = tmp_path / "bad.mp4"
    frames = frame_offsets(site.signed)
    bad.write_bytes(flipped(site.signed.read_bytes(), int(frames.offset[2] + frames.size[2] // 2)))
    segment = site.signed.with_name("signed.mp4.manifest.json")
    answer = site.verify(site.export(tmp_path / "b.zip", bad, segment=segment).path)
    assert answer.verdict.outcome is Outcome.FAIL
    assert any("frame 3" in place for place in kit.places(answer, "video.gop.hash-mismatch"))


def test_another_verdict_than_the_site_wrote_down(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    def lie(files: dict[str, bytes]) -> None:
        document = json.loads(files[VERDICT])
        document["outcome"] = "fail"
        files[VERDICT] = json.dumps(document).encode()

    answer = site.verify(kit.resealed(bundle, tmp_path / "b.zip", site.sealers.operator, lie))
    assert kit.codes(answer) == {"evidence.verdict.differs"}


def test_another_root_believes_nothing(bundle: Path, tmp_path: Path) -> None:
    other = kit.Site(tmp_path)
    try:
        answer = verify_bundle(bundle, [other.root])
    finally:
        other.close()
    assert answer.verdict.outcome is Outcome.FAIL
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    assert answer.verdict.axes[Axis.TIME] is Outcome.UNKNOWN


def test_at_another_time_certificates_have_ended(site: kit.Site, bundle: Path) -> None:
    answer = site.verify(bundle, at=datetime(2060, 1, 1, tzinfo=UTC))
    assert answer.source is None
    assert answer.verdict.outcome is Outcome.FAIL
    assert "trust.certificate.expired" in kit.codes(answer)


def test_a_newer_revocation_list_is_heard(tmp_path: Path) -> None:
    site = kit.Site(tmp_path / "site" if (tmp_path / "site").mkdir() is None else tmp_path)
    try:
        done = site.export(tmp_path / "b.zip")
        site.authority.revoke(kit.OPERATOR.name, "superseded")
        newer = kit.read_crls([site.authority.crl_folder])
        later = site.clock.now()
        assert site.verify(done.path, crls=newer).verdict.outcome is Outcome.PASS  # it was good when it signed
        answer = site.verify(done.path, crls=newer, at=later)
        assert answer.verdict.axes[Axis.REVOCATION] is Outcome.FAIL
        assert "trust.certificate.revoked" in kit.codes(answer)
    finally:
        site.close()


def test_narrowed_axes_are_said(site: kit.Site, bundle: Path) -> None:
    answer = site.verify(bundle, require=[Axis.INTEGRITY])
    assert answer.verdict.narrowed
    assert answer.verdict.required == {Axis.INTEGRITY}


def test_every_receipt_stands_alone(site: kit.Site, bundle: Path) -> None:
    files = kit.unpack(bundle)
    keys = site.trust.log_keys([site.sealers.log_chain], site.clock.now()).keys
    for name, data in files.items():
        if name.startswith("receipts/"):
            assert check_receipt(data, keys).event.kind in name


def test_the_reports(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    report = bundle_report(site.verify(bundle))
    for name in ("r.html", "r.csv", "r.xml"):
        write_report(tmp_path / name, report, "both")
    page = render_html(report, "zh")
    assert "保管链" in page
    assert kit.CAMERA.value in page
    assert "evidence.exported" in page


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_hostile_files_of_a_dishonest_operator_are_findings(
    site: kit.Site, bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    files = kit.unpack(bundle)
    name = data.draw(st.sampled_from([item for item in files if item not in {MANIFEST, "README.txt"}]))
    changed = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    broken = kit.resealed(
        bundle, tmp_path / "b.zip", site.sealers.operator, lambda found: found.update({name: bytes(changed)})
    )
    answer = site.verify(broken)  # never an exception
    if bytes(changed) != files[name] and name in {VIDEO, SEGMENT, CHECKPOINT}:
        assert answer.verdict.outcome is Outcome.FAIL


@pytest.mark.slow
def test_every_changed_byte_of_a_bundle_is_reported(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    good = bundle.read_bytes()
    target = tmp_path / "b.zip"

    # In CI each byte of the archive's own structure, of the list and of small files, and every seventh of large ones.
    skipped: set[int] = set()
    with zipfile.ZipFile(bundle) as opened:
        for item in opened.infolist():
            start = item.header_offset + 30 + len(item.filename)
            if not NIGHTLY and item.filename != MANIFEST and item.file_size > 1000:
                skipped.update(at for at in range(start, start + item.file_size) if at % 7)
    assert not kit.change_seen(good)
    assert not [at for at in range(len(good)) if at not in skipped and not kit.change_seen(flipped(good, at))]
    # The same through the front door, for a sample of all places.
    for position in range(0, len(good), len(good) // 60):
        target.write_bytes(flipped(good, position))
        answer = site.verify(target)
        assert answer.verdict.outcome is Outcome.FAIL, position
        assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
