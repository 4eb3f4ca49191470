"""The steps of the demo. Each does the real thing through the library, breaks it on purpose, and looks at the answer.

A step passes when the answer is the right one: an intact video passes *and* a changed one is told.
"""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from secguard.core.errors import SecguardError
from secguard.core.findings import describe
from secguard.core.progress import Progress
from secguard.core.verdict import Axis, Finding, Outcome, Verdict
from secguard.events import long_act, new_event_id
from secguard.gbid import GbId
from secguard.keys import make_passphrase
from secguard.report import Text
from secguard.workspace.demo.accesses import NEEDLE, write_accesses
from secguard.workspace.demo.clip import make_clip
from secguard.workspace.workspace import Workspace

if TYPE_CHECKING:
    from secguard.isolation.lab.lab import LabResult
    from secguard.video import VideoVerdict

__all__ = ["CASE", "STEPS", "Shown", "Stage"]

_CAMERAS = tuple(f"3201160000132{number:07d}" for number in range(1, 13))
CASE = "A32012026-0042"


@dataclass(frozen=True, slots=True)
class Shown:
    """What a step saw; outcome None: it could not run."""

    outcome: Outcome | None
    evidence: Text


@dataclass(slots=True)
class Stage:
    """What the steps hand on to each other, and the report reads.

    Attributes:
        workspace: the fresh workspace.
        folder: where the demo's files go.
        own_video: the user's clip, or None.
        events: access events to import.
    """

    workspace: Workspace
    folder: Path
    own_video: Path | None
    events: int
    good: "VideoVerdict | None" = None
    bad: "VideoVerdict | None" = None
    labs: "dict[str, LabResult]" = field(default_factory=dict)
    index_findings: list[Finding] = field(default_factory=list)
    bundle: Verdict | None = None
    broken_bundle: Verdict | None = None

    @property
    def signed(self) -> Path:
        """The signed recording."""
        return self.folder / "signed.mp4"

    @property
    def camera(self) -> GbId:
        """The camera that signs."""
        return GbId.parse(_CAMERAS[0])


def _ensure(condition: bool, en: str, zh: str) -> Shown | None:
    return None if condition else Shown(Outcome.FAIL, Text(en, zh))


_NOTHING_SIGNED = Shown(None, Text("did not run: there is no signed recording", "未运行：没有已签名的录像"))


def _codes(verdict: Verdict) -> str:
    return ", ".join(sorted({f.code for f in verdict.findings if f.outcome is not Outcome.PASS})) or "-"


def _judge(stage: Stage, video: Path) -> "VideoVerdict":
    """Verify a recording as the camera's, by the manifest of what was signed."""
    from secguard.video import Expectation, manifest_path, verify

    expectation = Expectation(stage.camera, must_sign=True, manifest=manifest_path(stage.signed).read_bytes())
    return verify(video, stage.workspace.trust(), stage.workspace.clock.now(), expectation)


def issue(stage: Stage, progress: Progress) -> Shown:
    """Root, authorities and certificates; then a chain is verified, and a foreign district's camera is refused."""
    from secguard.identity import Request
    from secguard.trust import Purpose

    workspace = stage.workspace
    authority = workspace.create_authority(make_passphrase(workspace.state / "passphrase"))
    for number, camera in enumerate(_CAMERAS, 1):
        authority.issue([Request(camera, "camera")])
        progress(number, len(_CAMERAS), "cameras")
    _, chain = workspace.media_signer(stage.camera)
    judgement = workspace.trust().judge_chain(chain, Purpose.MEDIA_SIGNING, workspace.clock.now(), gbid=stage.camera)
    if wrong := _ensure(judgement.believed and judgement.unrevoked, "the chain is not believed", "证书链未通过"):
        return wrong
    try:
        authority.issue([Request("11010100001320000001", "camera")])
    except SecguardError as refused:
        reason = refused.code
    else:
        return Shown(Outcome.FAIL, Text("another city's camera got a certificate", "外市摄像机获得了证书"))
    count = sum(1 for _ in workspace.registry.certificates())
    return Shown(
        Outcome.PASS,
        Text(
            f"{len(_CAMERAS)} cameras, {count} certificates, one root; a camera of another city was refused ({reason})",
            f"{len(_CAMERAS)} 台摄像机，{count} 张证书，一个根；外市摄像机被拒绝（{reason}）",
        ),
    )


def sign(stage: Stage, progress: Progress) -> Shown:
    """A clip is signed for its camera; what was signed passes on all axes."""
    from secguard.video import sign as sign_video

    workspace = stage.workspace
    source = stage.own_video or stage.folder / "clip.mp4"
    if stage.own_video is None:
        make_clip(source)
    signer, chain = workspace.media_signer(stage.camera)
    with sign_video(
        source,
        stage.signed,
        signer=signer,
        chain=chain,
        device=stage.camera,
        clock=workspace.clock,
        progress=progress,
    ) as signed:
        workspace.record("video.signed", stage.camera.value, data=signed.event_data())
    stage.good = _judge(stage, stage.signed)
    verdict = stage.good.verdict
    if wrong := _ensure(
        verdict.outcome is Outcome.PASS, f"the signed clip: {_codes(verdict)}", f"签名视频：{_codes(verdict)}"
    ):
        return wrong
    return Shown(
        Outcome.PASS,
        Text(
            f"{stage.good.frames} frames in {stage.good.gops} GOPs, {stage.good.valid_seis} of {stage.good.seis} "
            "signatures right, all axes pass",
            f"{stage.good.frames} 帧、{stage.good.gops} 个 GOP，"
            f"{stage.good.valid_seis}/{stage.good.seis} 个签名正确，各项全部通过",
        ),
    )


def flip(stage: Stage, progress: Progress) -> Shown:
    """One byte of one frame is flipped; the verdict names the GOP and the frame."""
    from secguard.video import frame_offsets

    del progress
    if not stage.signed.exists():
        return _NOTHING_SIGNED
    changed = stage.folder / "changed.mp4"
    shutil.copyfile(stage.signed, changed)
    frames = frame_offsets(stage.signed)
    number = len(frames.offset) * 3 // 5
    position = int(frames.offset[number] + frames.size[number] // 2)
    _flip_byte(changed, position)
    stage.bad = _judge(stage, changed)
    gop = int(frames.gop[number])
    named = [f for f in stage.bad.verdict.findings if f"GOP {gop}" in f.where and f"frame {number + 1}" in f.where]
    if wrong := _ensure(
        stage.bad.verdict.outcome is Outcome.FAIL and bool(named),
        f"the changed frame {number + 1} was not named: {_codes(stage.bad.verdict)}",
        f"被改的第 {number + 1} 帧未被指出：{_codes(stage.bad.verdict)}",
    ):
        return wrong
    return Shown(
        Outcome.PASS,
        Text(
            f"byte {position} of {changed.stat().st_size} flipped: {named[0].where}: {describe(named[0])}",
            f"翻转第 {position} 字节（共 {changed.stat().st_size}）：{named[0].where}：{describe(named[0], 'zh')}",
        ),
    )


def _scan(workspace: Workspace, data: dict[str, str], digest: str) -> AbstractContextManager[dict[str, Any]]:
    subject = f"sha256:{digest}"
    return long_act(workspace.ledger, workspace.clock, "scan", actor=workspace.actor(), subject=subject, **data)


def separate(stage: Stage, progress: Progress) -> Shown:
    """The namespace lab: a tight firewall passes, a leaky one is caught, each leak by its kind.

    The tight one stands for the network of the demo's site: its scan is kept, and goes into the bundle.
    """
    from secguard.isolation.evidence.folder import run_name, save_run
    from secguard.isolation.judge.show import kind_words
    from secguard.isolation.lab import lab

    workspace = stage.workspace
    if reason := lab.available():
        return Shown(None, Text(f"did not run: {reason}", f"未运行：{reason}"))
    signer, _ = workspace.operator_signer()
    for kind in ("tight", "leaky"):
        mark: dict[str, str] = {"lab": kind} if kind == "leaky" else {}
        act = partial(_scan, workspace, mark)
        stage.labs[kind] = lab.run_lab(kind, progress, signer=signer, clock=workspace.clock, act=act)
    tight, leaky = stage.labs["tight"], stage.labs["leaky"]
    save_run(tight, workspace.state / "isolation" / run_name(tight), fresh=True)
    kinds = sorted({kind for cell in leaky.matrix for kind in cell.kinds})
    if wrong := _ensure(
        tight.verdict.outcome is Outcome.PASS, f"tight: {_codes(tight.verdict)}", f"严格防火墙：{_codes(tight.verdict)}"
    ) or _ensure(
        leaky.verdict.outcome is Outcome.FAIL and bool(kinds), "the planted leaks were not found", "未发现预设漏洞"
    ):
        return wrong
    cases = len(tight.columns["src"])
    words = [kind_words(kind) for kind in kinds]
    en, zh = ", ".join(word.en for word in words), "、".join(word.zh for word in words)
    return Shown(
        Outcome.PASS,
        Text(
            f"{cases} probes both ways: the tight firewall leaks nothing; the leaky one: {en}",
            f"双向 {cases} 个探测：严格防火墙无泄漏；有漏洞的防火墙：{zh}",
        ),
    )


def audit(stage: Stage, progress: Progress) -> Shown:
    """Access events are imported and searched; the index is tampered with, and each touched row is named."""
    from secguard.audit import compare, import_file, search

    workspace = stage.workspace
    source = stage.folder / "access.jsonl"
    write_accesses(source, _CAMERAS, stage.events, workspace.clock.now())
    imported = import_file(source, workspace.ledger, workspace.clock, workspace.actor(), progress=progress)
    page = search(NEEDLE, workspace.index, workspace.ledger, workspace.clock, workspace.actor(), limit=5, wait=True)
    written = source.read_text(encoding="utf-8").count(NEEDLE)
    if wrong := _ensure(
        imported.recorded == stage.events and page.total == written,
        f"{imported.recorded} of {stage.events} recorded, {page.total} of {written} found",
        f"记录 {imported.recorded}/{stage.events}，检索到 {page.total}/{written}",
    ):
        return wrong
    before, _, _, _ = compare(workspace.index, workspace.ledger)
    wanted = {"audit.index.missing", "audit.index.altered", "audit.index.extra"}
    with closing(sqlite3.connect(workspace.state / "index" / "audit.db")) as database, database:
        rows = [seq for (seq,) in database.execute("SELECT seq FROM event WHERE kind = 'video.exported' LIMIT 2")]
        database.execute("DELETE FROM event WHERE seq = ?", (rows[0],))
        database.execute("DELETE FROM words WHERE rowid = ?", (rows[0],))
        last = "(SELECT max(id) FROM name WHERE field = 'actor')"
        database.execute(f"UPDATE event SET actor = iif(actor = {last}, actor - 1, {last}) WHERE seq = ?", (rows[1],))  # noqa: S608 - our own constants
        names = [name for _, name, *_ in database.execute("PRAGMA table_info(event)") if name not in {"seq", "id"}]
        columns = ", ".join(f'"{name}"' for name in names)
        database.execute(
            f"INSERT INTO event (seq, id, {columns}) SELECT 10000000, ?, {columns} FROM event WHERE seq = ?",  # noqa: S608 - names from the schema
            (new_event_id(), rows[1]),
        )
    stage.index_findings, _, _, _ = compare(workspace.index, workspace.ledger)
    seen = {item.code for item in stage.index_findings}
    if wrong := _ensure(
        not [f for f in before if f.outcome is Outcome.FAIL] and wanted <= seen,
        f"the tampered index was not told: {sorted(seen)}",
        f"被篡改的索引未被发现：{sorted(seen)}",
    ):
        return wrong
    return Shown(
        Outcome.PASS,
        Text(
            f"{imported.recorded:,} events recorded, “{NEEDLE}” found {page.total} times; one row deleted, one edited, "
            f"one added in the index: all three named",
            f"记录 {imported.recorded:,} 个事件，检索“{NEEDLE}”命中 {page.total} 条；"
            "索引中删一行、改一行、加一行：三处全部指名",
        ),
    )


def hand_out(stage: Stage, progress: Progress) -> Shown:
    """The evidence bundle is exported and verified with the root alone; one byte is changed, and it is told."""
    from secguard.evidence import export, verify_bundle
    from secguard.trust import read_certificates

    if not stage.signed.exists():
        return _NOTHING_SIGNED
    workspace = stage.workspace
    bundle = stage.folder / "case-0042.zip"
    export(
        stage.signed,
        bundle,
        ledger=workspace.ledger,
        sealers=workspace.sealers(),
        trust=workspace.trust(),
        clock=workspace.clock,
        actor=workspace.actor(),
        case=CASE,
        reason="demo",
        scans=workspace.kept_scans(),
        progress=progress,
    )
    court = stage.folder / "court"
    court.mkdir()
    shutil.copyfile(workspace.root_certificate, court / "root.pem")
    roots = read_certificates(court / "root.pem")
    stage.bundle = verify_bundle(bundle, roots, workspace.clock.now()).verdict
    broken = stage.folder / "case-0042-changed.zip"
    shutil.copyfile(bundle, broken)
    _flip_byte(broken, broken.stat().st_size // 2)
    stage.broken_bundle = verify_bundle(broken, roots, workspace.clock.now()).verdict
    if wrong := _ensure(
        stage.bundle.outcome is Outcome.PASS, f"the bundle: {_codes(stage.bundle)}", f"证据包：{_codes(stage.bundle)}"
    ) or _ensure(stage.broken_bundle.outcome is Outcome.FAIL, "the changed bundle passed", "被改的证据包通过了"):
        return wrong
    apart = stage.bundle.axes.get(Axis.CONFORMANCE) is Outcome.PASS
    if wrong := _ensure(apart or not stage.labs, f"zones: {_codes(stage.bundle)}", f"隔离：{_codes(stage.bundle)}"):
        return wrong
    parts = Text("recording, certificates, acts", "录像、证书、操作记录")
    if apart:
        parts = Text(f"{parts.en} and the proof that zones were apart", f"{parts.zh}及区域隔离的证明")
    size = f"{bundle.stat().st_size:,}"
    return Shown(
        Outcome.PASS,
        Text(
            f"{size} bytes ({parts.en}) verified with the root certificate alone; one changed byte: "
            f"{_codes(stage.broken_bundle)}",
            f"{size} 字节（{parts.zh}）仅凭根证书核验通过；改一个字节：{_codes(stage.broken_bundle)}",
        ),
    )


def whole_ledger(stage: Stage, progress: Progress) -> Shown:
    """The whole log is verified, and every act above is in it."""
    from secguard.ledger import verify_log

    workspace = stage.workspace
    workspace.publish()
    verdict = verify_log(workspace.state / "ledger", workspace.log_keys(), at=workspace.clock.now(), progress=progress)
    if wrong := _ensure(verdict.outcome is Outcome.PASS, f"the ledger: {_codes(verdict)}", f"账本：{_codes(verdict)}"):
        return wrong
    size = workspace.ledger.size
    return Shown(
        Outcome.PASS,
        Text(
            f"{size:,} entries under one signed checkpoint, every tile, body and proof right",
            f"{size:,} 个条目在一个已签名检查点之下，所有瓦片、正文与证明正确",
        ),
    )


def _flip_byte(path: Path, position: int) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 0x01]))


STEPS: tuple[tuple[Text, Callable[[Stage, Progress], Shown]], ...] = (
    (Text("Every device has one certificate, of its own district", "每台设备一张证书，只限本辖区"), issue),
    (Text("Zones are apart, leaks are named", "区域相互隔离，泄漏逐一指名"), separate),
    (Text("A signed recording passes", "已签名的录像通过验证"), sign),
    (Text("One changed byte is found, the frame is named", "改动一个字节即被发现并指出所在帧"), flip),
    (Text("Nothing can be removed from the record of access", "访问记录无法被删改"), audit),
    (Text("A court verifies the bundle with one root certificate", "法庭仅凭一张根证书即可核验证据包"), hand_out),
    (Text("The whole ledger holds", "整个账本完整无误"), whole_ledger),
)
