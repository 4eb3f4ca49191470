"""A clip in a bundle: proven offline from the root alone; cut by a process that may die at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import evidence_kit as kit
import msgspec
import pytest

from secguard.core import Outcome
from secguard.evidence import bundle_report, verify_bundle
from secguard.evidence.bundle import CLIP, VIDEO
from secguard.report.html import render_html
from secguard.video.clip import clip
from secguard.video.clip_record import OpenedClip, clip_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kit.Site]:
    """A site of its own: clips belong to the story of the recording, which other tests count."""
    made = kit.Site(tmp_path_factory.mktemp("clips"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def cut(site: kit.Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The second of the recording's two GOPs, its making recorded."""
    return make(site, tmp_path_factory.mktemp("cut") / "clip.mp4")


def make(site: kit.Site, target: Path, *, begin: str = "+0.15", end: str = "+0.2", recorded: bool = True) -> Path:
    signer, chain = site.authority.operator_signer(kit.OPERATOR.name)
    options = {"case": kit.CASE, "reason": "调取", "approver": "Li Na"}
    with clip(
        [site.signed], target, begin=begin, end=end, signer=signer, chain=chain, clock=site.clock, **options
    ) as made:  # type: ignore[arg-type]
        if recorded:
            values = {name: value for name, value in options.items() if name != "case"}
            site.record("clip.made", kit.CAMERA.value, made.event_data(), case=kit.CASE, **values)
    return target


@pytest.fixture(scope="module")
def bundle(site: kit.Site, cut: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.export(tmp_path_factory.mktemp("bundle") / "clip.zip", cut).path


def test_a_clip_in_a_bundle_holds_with_the_root_alone(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    far = tmp_path / "far.zip"
    shutil.copy(bundle, far)
    answer = verify_bundle(far, [site.root])
    assert kit.codes(answer) == set()
    assert answer.verdict.outcome is Outcome.PASS
    kinds = [item.event.kind for item in answer.custody]
    assert kinds[0] == "video.signed", "the recording's own story is told too"
    assert kinds[-2:] == ["clip.made", "evidence.exported"]
    assert answer.video is not None
    assert answer.video.clip is not None
    assert answer.video.clip.record.approver == "Li Na"
    assert answer.video.timeline.gop == [2]
    assert "Li Na" in render_html(bundle_report(answer), "en")


def test_one_byte_of_it_is_told(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    data = bundle.read_bytes()
    files = kit.unpack(bundle)
    for name in (VIDEO, CLIP):
        at = data.find(files[name]) + len(files[name]) // 2
        changed = bytearray(data)
        changed[at] ^= 1
        bad = tmp_path / "bad.zip"
        bad.write_bytes(changed)
        answer = verify_bundle(bad, [site.root])
        assert answer.verdict.outcome is Outcome.FAIL
        assert name in kit.places(answer, "evidence.member.changed")


def test_a_dishonest_operator_is_told(site: kit.Site, bundle: Path, tmp_path: Path) -> None:
    signer, _ = site.authority.operator_signer(kit.OPERATOR.name)

    def other_case(files: dict[str, bytes]) -> None:
        record = OpenedClip.read(files[CLIP]).record
        files[CLIP] = msgspec.structs.replace(record, case="B-1", approver="Wang").seal(signer)

    def no_record(files: dict[str, bytes]) -> None:
        del files[CLIP]

    bad = kit.resealed(bundle, tmp_path / "case.zip", signer, other_case)
    answer = verify_bundle(bad, [site.root])
    assert answer.verdict.outcome is Outcome.FAIL
    fields = [item.data["field"] for item in answer.verdict.findings if item.code == "evidence.custody.mismatch"]
    assert {"record_sha256", "case", "approver"} <= set(fields)
    answer = verify_bundle(kit.resealed(bundle, tmp_path / "none.zip", signer, no_record), [site.root])
    assert answer.verdict.outcome is Outcome.FAIL
    assert "evidence.member.changed" in kit.codes(answer)


def test_a_clip_whose_making_nobody_recorded(site: kit.Site, tmp_path: Path) -> None:
    path = make(site, tmp_path / "clip.mp4", begin="+0", end="+0.1", recorded=False)
    answer = site.verify(site.export(tmp_path / "clip.zip", path).path)
    assert kit.codes(answer) == {"evidence.custody.clip-missing"}
    assert answer.verdict.outcome is Outcome.UNKNOWN


@pytest.fixture(scope="module")
def workspace(site: kit.Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clip-site") / "site"
    environment = os.environ | {"XDG_STATE_HOME": str(folder.parent / "anchor")}
    program = str(Path(sys.executable).parent / "secguard")
    for arguments in (
        ("init", str(folder), "--area", "320116"),
        ("identity", "ca", "init", "--yes", "-w", str(folder)),
        ("identity", "issue", kit.CAMERA.value, "--profile", "camera", "-o", str(folder / "cam"), "-w", str(folder)),
        ("video", "sign", str(site.plain), str(folder / "s.mp4"), "--device", kit.CAMERA.value, "-w", str(folder)),
    ):
        done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder


_DIE = """
import os, signal, sys
import secguard.video.clip as module
from secguard.cli.main import main
point = sys.argv.pop(1)
def at(name, function):
    def wrapped(*values, **options):
        if point == "before-" + name:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*values, **options)
        if point == "after-" + name:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return wrapped
module.cut = at("cut", module.cut)
module.atomic_write = at("record", module.atomic_write)
from secguard.ledger import Ledger
Ledger.record = at("ledger", Ledger.record)
from secguard.video.signing.output import Pending
Pending.release = at("release", Pending.release)
main()
"""


def test_killed_at_each_step(workspace: Path, tmp_path: Path) -> None:
    steps = [f"{when}-{what}" for what in ("cut", "ledger", "record", "release") for when in ("before", "after")]
    environment = os.environ | {"XDG_STATE_HOME": str(workspace.parent / "anchor")}
    command = ["evidence", "clip", str(workspace / "s.mp4"), "--from", "+0", "--to", "+0.2", "--case", "A-1"]
    for step in steps:
        target = tmp_path / f"{step}.mp4"
        arguments = [*command, "-o", str(target), "-w", str(workspace)]
        script = [sys.executable, "-c", _DIE, step, *arguments]
        done = subprocess.run(script, env=environment, capture_output=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
        # A clip stands under its name only when its act is recorded and its record lies beside it, whole.
        assert target.exists() == (step == "after-release")
        assert clip_path(target).exists() == (step in {"after-record", "before-release", "after-release"})
        if clip_path(target).exists():
            assert OpenedClip.read(clip_path(target).read_bytes()).signed
    program = str(Path(sys.executable).parent / "secguard")
    search = [program, "audit", "search", "kind:clip.made", "--wait", "--json", "-w", str(workspace)]
    found = subprocess.run(search, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout)["data"]["total"] == 5


def test_from_the_site_to_the_court(workspace: Path, tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "secguard")

    def run(*arguments: object, site: bool = True) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"XDG_STATE_HOME": str(workspace.parent / "anchor")}
        words = [program, *map(str, arguments), *(["-w", str(workspace)] if site else [])]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)

    cut = ("evidence", "clip", workspace / "s.mp4", "--from", "+0.15", "--to", "+0.2", "-o", "clip.mp4")
    done = run(*cut)
    assert done.returncode == 2
    assert "--case" in done.stderr
    done = run(*cut, "--case", "A-1", "--reason", "调取", "--approver", "Li", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "secguard.evidence.clip/1"
    assert document["receipt"]["event_id"]
    assert (document["data"]["gops"], document["data"]["approver"]) == (1, "Li")
    done = run("video", "verify", "clip.mp4", "--json")
    assert done.returncode == 0, done.stderr + done.stdout
    assert json.loads(done.stdout)["data"]["clip"]["case"] == "A-1"
    assert run("evidence", "export", "clip.mp4", "-o", "b.zip", "--case", "A-1").returncode == 0
    shutil.copy(workspace / "certs" / "root.pem", tmp_path)
    done = run("evidence", "verify", "b.zip", "--root", "root.pem", "--json", site=False)
    assert done.returncode == 0, done.stdout
    # Without its record a clip is what is left of a recording; with the record of another one it is nothing.
    shutil.move(tmp_path / "clip.mp4.clip.json", tmp_path / "r.json")
    crls = ("--crl", workspace / "state" / "identity" / "crl")
    assert run("video", "verify", "clip.mp4", "--root", "root.pem", *crls, site=False).returncode in {1, 3}
    done = run("video", "verify", "clip.mp4", "--clip", "r.json", "--root", "root.pem", *crls, site=False)
    assert done.returncode == 0, done.stdout + done.stderr
    done = run("video", "verify", workspace / "s.mp4", "--clip", "r.json", "--root", "root.pem", *crls, site=False)
    assert done.returncode == 1


def test_interrupted(workspace: Path, tmp_path: Path) -> None:
    environment = os.environ | {"XDG_STATE_HOME": str(workspace.parent / "anchor")}
    target = tmp_path / "c.mp4"
    slow = "import time, secguard.video.clip as m\nm.cut = lambda *a, **o: (print('.', flush=True), time.sleep(30))"
    code = f"{slow}\nfrom secguard.cli.main import main\nmain()"
    words = ["evidence", "clip", str(workspace / "s.mp4"), "--from", "+0", "--to", "+0.2", "--case", "A-1"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "-o", str(target), "-w", str(workspace)],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130
    assert time.monotonic() - begin < 10
    assert list(tmp_path.iterdir()) == []
