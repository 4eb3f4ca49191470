"""Isolation scans in a bundle: the ones that were in force, proven from the root alone; anything else is a finding."""

import hashlib
import json
import os
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import evidence_kit as kit
import isolation_kit
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from secguard.core import Axis, Outcome, describe, rfc3339
from secguard.evidence import BundleVerdict, KeptScans, bundle_report, verify_bundle
from secguard.evidence.bundle import CHECKPOINT, LOG_CHAIN, MANIFEST, SEGMENT, VIDEO
from secguard.evidence.manifest import PAYLOAD_TYPE, ListedScan
from secguard.evidence.scans import scan_members
from secguard.identity import Request
from secguard.isolation.evidence.folder import run_name
from secguard.isolation.judge.result import RESULT_TYPE
from secguard.isolation.runs.conclude import conclude
from secguard.keys import seal
from secguard.report.html import render_html
from secguard.trust import chain_pem

NIGHTLY = os.environ.get("SECGUARD_TEST_PROFILE") == "nightly"
DSA = dsa.generate_private_key(1024).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
"""A key of a kind that signs nothing here."""
LEAKS = [("c", "a", "tcp", 22), ("b", "a", "udp", 53)]
Change = Callable[[dict[str, bytes]], None]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Site]:
    made = kit.Site(tmp_path_factory.mktemp("site"))
    yield made
    made.close()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[kit.Site]:
    """A site for a story of its own."""
    (tmp_path / "own").mkdir()
    made = kit.Site(tmp_path / "own")
    yield made
    made.close()


@pytest.fixture(scope="module")
def bundle(site: kit.Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scanned by the operator, then recorded, then exported: all four pillars hold."""
    signer, chain = site.authority.operator_signer(kit.OPERATOR.name)
    site.scan(signer=signer, chain=chain)
    return export(site, tmp_path_factory.mktemp("bundle") / "joined.zip")


def export(site: kit.Site, target: Path, *, between: Callable[[], Any] = lambda: None, **values: Any) -> Path:
    """Record and sign, do something, export."""
    video = target.with_suffix(".mp4")
    site.sign(video)
    between()
    return site.export(target, video, **({"scans": site.scans} | values)).path


def said(answer: BundleVerdict) -> list[tuple[str, Outcome]]:
    """What is said on conformance."""
    return [(f.code, f.outcome) for f in answer.verdict.findings if f.axis is Axis.CONFORMANCE]


def differing(answer: BundleVerdict) -> list[str]:
    """Fields in which the bundle tells another story than the log."""
    return [item.data["field"] for item in answer.verdict.findings if item.code == "evidence.custody.mismatch"]


def conformance(answer: BundleVerdict) -> Outcome:
    return answer.verdict.axes[Axis.CONFORMANCE]


def forged(site: kit.Site, bundle: Path, target: Path, change: Change = lambda _: None, **fields: Any) -> BundleVerdict:
    """What is said of a bundle that a dishonest operator changed, listed anew and signed."""
    return site.verify(kit.resealed(bundle, target / "forged.zip", site.sealers.operator, change, **fields))


def listed(bundle: Path) -> tuple[ListedScan, ...]:
    return kit.manifest_of(kit.unpack(bundle)).scans


def relisted(bundle: Path, **values: Any) -> dict[str, Any]:
    """The list of scans with the first one changed."""
    first, *rest = listed(bundle)
    return {"scans": (msgspec.structs.replace(first, **values), *rest)}


# --- what an honest site hands out ----------------------------------------------------------------------------------


def test_four_pillars_hold_with_the_root_alone(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    far = tmp_path / "far.zip"
    shutil.copy(bundle, far)
    answer = verify_bundle(far, [site.root])
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}
    assert said(answer) == [("evidence.scan.apart", Outcome.PASS)]
    assert Axis.CONFORMANCE not in answer.verdict.required
    only = verify_bundle(far, [site.root], require=[Axis.CONFORMANCE])
    assert only.verdict.outcome is Outcome.PASS
    (scan,) = answer.scans
    assert scan.listed.in_force == ("recording", "export")
    assert scan.signer == kit.OPERATOR.name
    assert scan.result is not None
    assert [item.event.kind for item in answer.custody] == ["video.signed", "evidence.exported"]
    assert answer.custody[-1].event.data["scans"] == [scan.listed.result_sha256]
    (found,) = [item for item in answer.verdict.findings if item.code == "evidence.scan.apart"]
    assert "360 cases between 3 zones" in describe(found)
    assert f"signed by operator {kit.OPERATOR.name}, recorded in the log" in describe(found)
    assert "相互隔离" in describe(found, "zh")
    assert f"由操作员 {kit.OPERATOR.name} 签名" in describe(found, "zh")


def test_no_secret_and_no_packet_is_handed_out(site: kit.Site, bundle: Path) -> None:
    files = kit.unpack(bundle)
    (scan,) = listed(bundle)
    names = scan_members(scan.finished)
    assert [name for name in files if name.startswith("isolation/")] == list(names[:3]), "the signer is the operator"
    (folder,) = [path for path in site.scans.folder.iterdir() if not path.name.startswith(".")]
    plan = json.loads(b64decode(json.loads((folder / "plan.json").read_bytes())["payload"]))
    whole = b"".join(b64decode(json.loads(files[name])["payload"]) for name in names[:2])
    assert plan["secret"].encode() not in whole
    captures = json.loads(b64decode(json.loads(files[names[1]])["payload"]))["files"]
    digest = hashlib.sha256((folder / "capture-a-a.pcapng").read_bytes()).hexdigest()
    assert digest in {item["sha256"] for item in captures}, "the folder can be held against it later"


def test_the_report_and_the_readme_say_it(site: kit.Site, bundle: Path) -> None:
    page = render_html(bundle_report(site.verify(bundle)), "both")
    assert "Isolation before the recording ended, and before the export" in page
    assert "各区域相互隔离" in page
    text = kit.unpack(bundle)["README.txt"].decode()
    assert "last scan before the recording ended, and before the export: 2026-" in text
    assert "录像结束及导出前最近一次扫描" in text


def test_a_leak_that_was_found_before_the_export(own: kit.Site, tmp_path: Path) -> None:
    own.scan()
    path = export(own, tmp_path / "b.zip", between=lambda: own.scan(LEAKS))
    answer = own.verify(path)
    assert answer.verdict.outcome is Outcome.PASS, "zones do not decide about a recording unless they are asked about"
    assert conformance(answer) is Outcome.FAIL
    assert [scan.listed.in_force for scan in answer.scans] == [("recording",), ("export",)]
    assert [scan.outcome for scan in answer.scans] == [Outcome.PASS, Outcome.FAIL]
    (found,) = [item for item in answer.verdict.findings if item.code == "evidence.scan.leaks"]
    assert found.data["count"] == 2
    assert describe(found).endswith("2 violations (open).")
    assert describe(found, "zh").endswith("2 项违规（开放）。")
    asked = own.verify(path, require=[Axis.INTEGRITY, Axis.CONFORMANCE])
    assert asked.verdict.outcome is Outcome.FAIL
    assert "violations found" in render_html(bundle_report(answer), "en")


def test_of_several_scans_the_last_ones_count(own: kit.Site, tmp_path: Path) -> None:
    own.scan(LEAKS)
    before = own.scan()
    own.scan(LEAKS, begun={"lab": "leaky"}, keep=False)
    video = tmp_path / "v.mp4"
    own.sign(video)
    own.scan(LEAKS)
    last = own.scan()
    own.scan(LEAKS, begun={"lab": "leaky"}, keep=False)
    answer = own.verify(own.export(tmp_path / "b.zip", video, scans=own.scans).path)
    assert [scan.result.run for scan in answer.scans if scan.result] == [before.plan.run, last.plan.run]
    assert conformance(answer) is Outcome.PASS
    # Exported again, with nothing new in between: the same scans.
    again = own.verify(own.export(tmp_path / "c.zip", video, scans=own.scans).path)
    assert [scan.listed for scan in again.scans] == [scan.listed for scan in answer.scans]


def test_a_first_scan_after_the_recording_says_nothing_of_before(own: kit.Site, tmp_path: Path) -> None:
    answer = own.verify(export(own, tmp_path / "b.zip", between=own.scan))
    assert said(answer) == [("evidence.scan.apart", Outcome.PASS), ("evidence.scan.none", Outcome.UNKNOWN)]
    assert conformance(answer) is Outcome.UNKNOWN
    assert answer.verdict.outcome is Outcome.PASS


def test_without_a_scan_nothing_is_added_and_nothing_fails(own: kit.Site, tmp_path: Path) -> None:
    own.scan(begun={"lab": "tight"}, keep=False)
    for scans in (own.scans, KeptScans(tmp_path / "nowhere", "24h"), None):
        path = own.export(tmp_path / f"{id(scans)}.zip", scans=scans).path
        assert not [name for name in kit.unpack(path) if "isolation/" in name or "scan." in name]
        answer = own.verify(path)
        assert answer.verdict.outcome is Outcome.PASS
        assert said(answer) == []
        assert Axis.CONFORMANCE not in answer.verdict.axes
        asked = own.verify(path, require=[Axis.CONFORMANCE])
        assert said(asked) == [("evidence.scan.none", Outcome.UNKNOWN)]
        assert asked.verdict.outcome is Outcome.UNKNOWN
        assert "no scan is recorded" in kit.unpack(path)["README.txt"].decode()


@pytest.mark.parametrize("how", ["removed", "edited", "broken", "pipe"])
def test_a_scan_that_is_not_kept_as_it_was_is_still_told(own: kit.Site, tmp_path: Path, how: str) -> None:
    own.scan()
    hidden = own.scan()
    folder = own.scans.folder / run_name(hidden)
    if how == "removed":
        shutil.rmtree(folder)
    elif how == "edited":
        (folder / "result.json").write_bytes((folder / "result.json").read_bytes() + b" ")
    elif how == "broken":
        (folder / "manifest.json").unlink()
    else:
        (folder / "result.json").unlink()
        os.mkfifo(folder / "result.json")
    answer = own.verify(export(own, tmp_path / "b.zip"))
    assert said(answer) == [("evidence.scan.unkept", Outcome.UNKNOWN)]
    assert answer.verdict.outcome is Outcome.PASS


def test_a_leaky_scan_whose_folder_was_removed_is_a_leaky_scan(own: kit.Site, tmp_path: Path) -> None:
    own.scan()
    own.scan(LEAKS, keep=False)
    answer = own.verify(export(own, tmp_path / "b.zip"))
    assert said(answer) == [("evidence.scan.leaks", Outcome.FAIL)]
    assert not [name for name in kit.unpack(tmp_path / "b.zip") if name.startswith("isolation/")]


def test_a_schedule_makes_an_old_scan_too_old(own: kit.Site, tmp_path: Path) -> None:
    own.scan()
    daily = KeptScans(own.scans.folder, "24h")
    assert conformance(own.verify(export(own, tmp_path / "a.zip", scans=daily))) is Outcome.PASS
    own.clock.at += timedelta(days=3)
    answer = own.verify(export(own, tmp_path / "b.zip", scans=daily))
    assert said(answer) == [("evidence.scan.stale", Outcome.UNKNOWN)] * 2
    assert answer.verdict.outcome is Outcome.PASS
    weekly = KeptScans(own.scans.folder, "7d")
    assert conformance(own.verify(export(own, tmp_path / "c.zip", scans=weekly))) is Outcome.PASS
    # The schedule that the site had stands in its log: it cannot be talked away.
    without = forged(own, tmp_path / "b.zip", tmp_path, scan_every="")
    assert [f.data["field"] for f in without.verdict.findings if f.code == "evidence.custody.mismatch"] == [
        "scan_every"
    ]
    assert conformance(without) is Outcome.UNKNOWN


def test_a_scan_that_was_brought_home_late_is_as_old_as_its_probes(own: kit.Site, tmp_path: Path) -> None:
    own.scan(at=own.clock.at - timedelta(days=30))
    answer = own.verify(export(own, tmp_path / "b.zip", scans=KeptScans(own.scans.folder, "24h")))
    assert said(answer) == [("evidence.scan.stale", Outcome.UNKNOWN)] * 2


def test_what_is_inconclusive_never_reads_as_apart(own: kit.Site, tmp_path: Path) -> None:
    own.scan(silent=["c"])
    answer = own.verify(export(own, tmp_path / "b.zip"))
    assert said(answer) == [("evidence.scan.inconclusive", Outcome.UNKNOWN)]
    assert conformance(answer) is Outcome.UNKNOWN


def test_a_scan_that_was_judged_by_one_axis_shows_no_more_than_that(own: kit.Site, tmp_path: Path) -> None:
    for number, (values, axis, outcome) in enumerate(
        (({"leaks": LEAKS}, Axis.INTEGRITY, Outcome.FAIL), ({"silent": ["c"]}, Axis.CONFORMANCE, Outcome.UNKNOWN))
    ):
        whole = isolation_kit.make_run(**values, at=own.clock.now())
        assert whole.signer is not None
        reports = [data for name, data in whole.envelopes.items() if name.startswith("observations-")]
        narrowed = conclude(
            whole.envelopes["plan.json"], reports, [whole.signer.public_key()], clock=own.clock, signer=whole.signer,
            require=[axis],
        )  # fmt: skip
        own.scan(run=narrowed)
        answer = own.verify(export(own, tmp_path / f"{number}.zip"))
        assert conformance(answer) is outcome
        assert [scan.listed.outcome for scan in answer.scans] == [narrowed.verdict.outcome.value]


def test_certificates_of_another_signer_are_judged(own: kit.Site, tmp_path: Path) -> None:
    own.authority.issue([Request("li.na", "operator"), Request("scanner.test.internal", "isolation-agent")])
    own.scan(**dict(zip(("signer", "chain"), own.authority.operator_signer("li.na"), strict=True)))
    path = export(own, tmp_path / "b.zip")
    (scan,) = listed(path)
    assert scan_members(scan.finished)[3] in kit.unpack(path)
    answer = own.verify(path)
    assert [item.signer for item in answer.scans] == ["li.na"]
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}
    # For another purpose, or of nobody whom the root knows: the log alone vouches for the scan.
    signer, chain = own.authority.holder_signer("scanner.test.internal", "isolation-agent")
    own.scan(signer=signer, chain=chain)
    answer = own.verify(export(own, tmp_path / "c.zip"))
    assert [item.signer for item in answer.scans] == [""]
    assert conformance(answer) is Outcome.PASS
    # Who puts such certificates in is told.
    pem = chain_pem(chain)
    name = scan_members(listed(tmp_path / "c.zip")[0].finished)[3]
    answer = forged(own, tmp_path / "c.zip", tmp_path, lambda files: files.update({name: pem}))
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    assert conformance(answer) is Outcome.UNKNOWN


def test_a_key_that_is_older_than_its_certificate_of_today(own: kit.Site, tmp_path: Path) -> None:
    signer, _ = own.authority.operator_signer(kit.OPERATOR.name)
    now, own.clock.at = own.clock.at, own.clock.at - timedelta(days=90)
    own.scan(signer=signer)
    own.clock.at = now
    answer = own.verify(export(own, tmp_path / "b.zip"))
    assert [item.signer for item in answer.scans] == [""]
    assert set(answer.verdict.axes.values()) == {Outcome.PASS}


def test_bundles_of_before_verify_as_before(site: kit.Site, tmp_path: Path) -> None:
    files = kit.unpack(site.export(tmp_path / "new.zip").path)
    payload = json.loads(b64decode(json.loads(files[MANIFEST])["payload"]))
    for name in ("scans", "scan_every"):
        del payload[name]
    files[MANIFEST] = seal(json.dumps(payload).encode(), PAYLOAD_TYPE, site.sealers.operator)
    answer = site.verify(kit.pack(tmp_path / "old.zip", files))
    assert answer.verdict.outcome is Outcome.PASS
    assert kit.codes(answer) == set()


# --- what a dishonest operator tries ---------------------------------------------------------------------------------


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def scan_files(bundle: Path) -> list[str]:
    return [name for name in kit.unpack(bundle) if name.startswith("isolation/") or "-scan." in name]


def test_every_byte_of_a_scan_counts(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    """On the way to the court, and, signed anew, at the operator's."""
    files, data = kit.unpack(bundle), bundle.read_bytes()
    assert len(scan_files(bundle)) == 5
    assert not kit.change_seen(data)
    for name in scan_files(bundle):
        start, size = data.index(files[name]), len(files[name])
        own = range(start, start + size, 1 if NIGHTLY else 11)
        assert not [at for at in own if not kit.change_seen(flipped(data, at))]
        step = max(1, size // (400 if NIGHTLY else 25))
        for at in sorted({*range(0, size, step), size - 1}):
            (tmp_path / "b.zip").write_bytes(flipped(data, start + at))
            answer = site.verify(tmp_path / "b.zip")
            assert name in kit.places(answer, "evidence.member.changed")
            assert answer.verdict.outcome is Outcome.FAIL
            answer = forged(site, bundle, tmp_path, lambda found, n=name, a=at: found.update({n: flipped(found[n], a)}))
            assert answer.verdict.outcome is Outcome.FAIL, (name, at)
            assert conformance(answer) is Outcome.UNKNOWN, (name, at)


def test_a_frame_that_was_changed_is_not_the_scans_affair(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    for name, outcome in ((VIDEO, Outcome.PASS), (SEGMENT, Outcome.UNKNOWN), (CHECKPOINT, Outcome.UNKNOWN)):
        files = kit.unpack(bundle)
        answer = site.verify(kit.pack(tmp_path / "b.zip", {**files, name: flipped(files[name], len(files[name]) // 2)}))
        assert answer.verdict.outcome is Outcome.FAIL
        assert conformance(answer) is outcome, name


def test_a_missing_file_of_a_scan(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    for name in scan_files(bundle):
        answer = forged(site, bundle, tmp_path, lambda files, name=name: files.pop(name))
        assert answer.verdict.outcome is Outcome.FAIL, name
        assert conformance(answer) is Outcome.UNKNOWN
        expected = "evidence.scan.unrecorded" if "-scan." in name else "evidence.member.missing"
        assert expected in kit.codes(answer)


def test_a_scan_that_is_left_out_is_missed_by_the_log(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    def strip(files: dict[str, bytes]) -> None:
        for name in scan_files(bundle):
            del files[name]

    answer = forged(site, bundle, tmp_path, strip, scans=())
    assert kit.codes(answer) == {"evidence.custody.mismatch"}
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    kept = forged(site, bundle, tmp_path, scans=())
    assert {"evidence.custody.foreign", "evidence.scan.unrecorded"} <= kit.codes(kept)


def test_a_scan_of_another_site(site: kit.Site, own: kit.Site, bundle: Path, tmp_path: Path) -> None:
    own.scan()
    theirs = kit.unpack(export(own, tmp_path / "theirs.zip"))
    scans = kit.manifest_of(theirs).scans

    def swap(files: dict[str, bytes]) -> None:
        for name in scan_files(bundle):
            del files[name]
        files.update({name: theirs[name] for name in scan_files(tmp_path / "theirs.zip")})

    answer = forged(site, bundle, tmp_path, swap, scans=scans)
    assert {"evidence.receipt.invalid", "evidence.scan.unrecorded", "evidence.custody.mismatch"} <= kit.codes(answer)
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL
    assert conformance(answer) is Outcome.UNKNOWN


def test_another_scan_than_the_log_recorded(own: kit.Site, tmp_path: Path) -> None:
    """The site's own scan of another day, in place of the leaky one."""
    own.scan()
    path = export(own, tmp_path / "b.zip", between=lambda: own.scan(LEAKS))
    good, leaky = (scan_members(scan.finished) for scan in listed(path))

    def swap(files: dict[str, bytes]) -> None:
        files.update(dict(zip(leaky[:3], (files[name] for name in good[:3]), strict=True)))

    answer = forged(own, path, tmp_path, swap)
    fields = set(differing(answer))
    assert fields == {"subject", "outcome", "result_sha256", "findings"}
    # Or the leaky one is not mentioned, and the other one said to be the last.
    one = listed(path)[0]
    answer = forged(own, path, tmp_path, scans=(msgspec.structs.replace(one, in_force=("recording", "export")),))
    assert {"evidence.custody.mismatch", "evidence.custody.foreign"} <= kit.codes(answer)
    assert answer.verdict.outcome is Outcome.FAIL
    assert conformance(answer) is Outcome.UNKNOWN


def test_a_verdict_that_its_signer_edits_afterwards(own: kit.Site, tmp_path: Path) -> None:
    signer, chain = own.authority.operator_signer(kit.OPERATOR.name)
    own.scan(LEAKS, signer=signer, chain=chain)
    path = export(own, tmp_path / "b.zip")
    result, files_list, _, _ = scan_members(listed(path)[0].finished)

    def edit(files: dict[str, bytes]) -> None:
        document = json.loads(b64decode(json.loads(files[result])["payload"]))
        document |= {"outcome": "pass", "findings": [], "axes": dict.fromkeys(document["axes"], "pass")}
        for cell in document["matrix"]:
            cell |= {"outcome": "pass", "failed": 0, "kinds": []}
        files[result] = seal(json.dumps(document).encode(), RESULT_TYPE, signer)
        made = json.loads(b64decode(json.loads(files[files_list])["payload"]))
        for item in made["files"]:
            if item["name"] == "result.json":
                item |= {"size": len(files[result]), "sha256": hashlib.sha256(files[result]).hexdigest()}
        kind = json.loads(files[files_list])["payloadType"]
        files[files_list] = seal(json.dumps(made).encode(), kind, signer)

    answer = forged(own, path, tmp_path, edit)
    fields = differing(answer)
    assert fields == ["outcome", "result_sha256", "findings"]
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    assert conformance(answer) is Outcome.UNKNOWN
    answer = forged(own, path, tmp_path, edit, **relisted(path, outcome="pass"))
    assert answer.verdict.outcome is Outcome.FAIL


def test_a_log_that_was_told_something_else_than_the_result_says(own: kit.Site, tmp_path: Path) -> None:
    for told, field in (({"outcome": "pass"}, "outcome"), ({"findings": []}, "findings")):
        own.scan(LEAKS, told=told)
        answer = own.verify(export(own, tmp_path / f"{field}.zip"))
        assert differing(answer) == [field]
        assert conformance(answer) is Outcome.UNKNOWN
    own.scan(begun={"policy": "0" * 64})
    assert "evidence.custody.mismatch" in kit.codes(own.verify(export(own, tmp_path / "policy.zip")))
    own.scan(at=own.clock.at + timedelta(days=1))
    assert "evidence.custody.mismatch" in kit.codes(own.verify(export(own, tmp_path / "future.zip")))


def test_another_time_than_the_log_knows(own: kit.Site, tmp_path: Path) -> None:
    path = export(own, tmp_path / "b.zip", between=own.scan)
    answer = forged(own, path, tmp_path, **relisted(path, in_force=("recording", "export")))
    assert kit.codes(answer) == {"evidence.scan.late", "evidence.scan.unsound"}
    assert conformance(answer) is Outcome.UNKNOWN
    assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
    answer = forged(own, path, tmp_path, **relisted(path, recorded="2026-09-01T00:00:00Z"))
    assert differing(answer) == ["time"]


def test_a_clock_set_back_before_a_scan_makes_times_doubtful(own: kit.Site, tmp_path: Path) -> None:
    def scan() -> None:
        now = own.clock.at
        own.clock.at -= timedelta(days=1)
        own.scan()
        own.clock.at = now

    answer = own.verify(export(own, tmp_path / "b.zip", between=scan))
    assert "evidence.time.order" in kit.codes(answer)
    assert answer.verdict.axes[Axis.TIME] is Outcome.UNKNOWN


def test_a_lab_is_no_scan_of_the_site(own: kit.Site, tmp_path: Path) -> None:
    run = own.scan(begun={"lab": "tight"})
    ended = own.ledger.size - 1
    fields = {"in_force": ("recording", "export"), "started": ended - 1, "finished": ended, "outcome": "pass"}
    digest = run.summary()["result_sha256"]
    recorded = rfc3339(own.ledger.event(ended).time)
    path = export(own, tmp_path / "b.zip")
    pem = [item.public_bytes(Encoding.PEM).decode() for item in own.sealers.log_chain]
    scan = ListedScan(**fields, recorded=recorded, result_sha256=digest, kept=False)

    def add(files: dict[str, bytes]) -> None:
        for entry, kind in ((ended - 1, "scan.started"), (ended, "scan.finished")):
            files[f"receipts/{entry:012}-{kind}.json"] = own.ledger.receipt(entry, pem)

    answer = forged(own, path, tmp_path, add, scans=(scan,))
    assert {"evidence.scan.foreign", "evidence.custody.mismatch"} <= kit.codes(answer)
    assert answer.verdict.axes[Axis.PROVENANCE] is Outcome.FAIL


def test_lists_that_no_export_writes(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    (scan,) = listed(bundle)
    swapped = msgspec.structs.replace(scan, in_force=("export", "recording"))
    once = msgspec.structs.replace(scan, in_force=("recording",))
    for scans in ((swapped,), (once,), (scan, scan)):
        answer = forged(site, bundle, tmp_path, scans=scans)
        assert "evidence.scan.foreign" in kit.codes(answer)
        assert conformance(answer) is Outcome.UNKNOWN
    other = msgspec.structs.replace(scan, started=0, finished=1)
    answer = forged(site, bundle, tmp_path, scans=(other,))
    assert {"evidence.scan.unrecorded", "evidence.custody.foreign"} <= kit.codes(answer)
    stray = forged(site, bundle, tmp_path, lambda files: files.update({"isolation/notes.txt": b"all is well"}))
    assert kit.places(stray, "evidence.scan.unrecorded") == ["isolation/notes.txt"]


def test_a_key_that_cannot_be_believed_is_no_violation(own: kit.Site, tmp_path: Path) -> None:
    """Where nobody can check receipts, nothing is known of the scan; nobody is accused."""
    own.scan()
    path = export(own, tmp_path / "b.zip")

    def strip(files: dict[str, bytes]) -> None:
        for name in [item for item in files if item.startswith("crls/")]:
            del files[name]

    answer = forged(own, path, tmp_path, strip)
    assert "evidence.receipt.unverified" in kit.codes(answer)
    assert {code for code in kit.codes(answer) if ".scan." in code} == {"evidence.scan.unsound"}
    assert answer.verdict.outcome is Outcome.UNKNOWN


def test_hostile_documents_are_refused_in_a_line(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    result, files_list, signer, chain = scan_members(listed(bundle)[0].finished)
    deep = b"[" * 100_000
    key = site.sealers.operator
    nested = [seal(payload, RESULT_TYPE, key) for payload in (deep, b"{}")]
    hostile = {
        result: [b"", deep, b'{"payload":' + deep, *nested, b"0" * (33 << 20)],
        files_list: [b"", deep, b"0" * (2 << 20)],
        signer: [b"", b"-----BEGIN PUBLIC KEY-----\n", b"\0" * 1000, DSA],
        chain: [b"", b"junk", kit.unpack(bundle)[LOG_CHAIN]],
    }
    for name, values in hostile.items():
        for data in values:
            answer = forged(site, bundle, tmp_path, lambda files, n=name, d=data: files.update({n: d}))
            (found,) = [f for f in answer.verdict.findings if f.code == "evidence.member.malformed"]
            assert "\n" not in describe(found), name
            assert len(describe(found)) < 400
            assert answer.verdict.axes[Axis.INTEGRITY] is Outcome.FAIL
            assert conformance(answer) is Outcome.UNKNOWN


def test_a_time_that_cannot_be_compared(own: kit.Site, tmp_path: Path) -> None:
    own.scan(told={"act": "another"})
    assert said(own.verify(export(own, tmp_path / "a.zip"))) == []
    video = tmp_path / "v.mp4"
    own.sign(video)
    digest = hashlib.sha256(video.read_bytes()).hexdigest()
    own.record("video.verified", kit.CAMERA.value, {"sha256": digest}, time=kit.START.replace(tzinfo=None))
    answer = own.verify(own.export(tmp_path / "b.zip", video, scans=own.scans).path)
    assert "evidence.receipt.invalid" in kit.codes(answer)


@settings(max_examples=2000 if NIGHTLY else 60, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_noise_in_a_scan_is_a_finding(site: kit.Site, bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    files = kit.unpack(bundle)
    name = data.draw(st.sampled_from(scan_files(bundle)))
    changed = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del changed[data.draw(st.integers(0, len(changed) - 1)) :]
    answer = forged(site, bundle, tmp_path, lambda found: found.update({name: bytes(changed)}))
    assert (answer.verdict.outcome is Outcome.PASS) == (bytes(changed) == files[name])


@settings(max_examples=2000 if NIGHTLY else 30, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_result_of_any_shape_is_judged_or_refused(
    site: kit.Site, bundle: Path, tmp_path: Path, data: st.DataObject
) -> None:
    """Signed by who may sign, but not what the log recorded: never a traceback, never a pass."""
    result = scan_members(listed(bundle)[0].finished)[0]
    document = json.loads(b64decode(json.loads(kit.unpack(bundle)[result])["payload"]))
    name = data.draw(st.sampled_from(sorted(document)))
    document[name] = data.draw(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["pass", "fail"]),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        )
    )
    made = seal(json.dumps(document).encode(), RESULT_TYPE, site.sealers.operator)
    answer = forged(site, bundle, tmp_path, lambda files: files.update({result: made}))
    assert answer.verdict.outcome is Outcome.FAIL
    assert conformance(answer) is Outcome.UNKNOWN
