"""The report of a scan, in a real browser and in other people's parsers."""

import csv
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from secguard.cli.main import main
from secguard.core.files import atomic_write
from secguard.isolation.agent.observations import Observations
from secguard.isolation.judge.matrix import Cell
from secguard.isolation.judge.show import report
from secguard.isolation.runs.conclude import RunResult
from secguard.report import write_report
from tests.support.isolation_kit import POLICY, make_run

POLICY_FILE = Path(__file__).parents[3] / "policies" / "isolation" / "example.yaml"
OTHER_ZONES = "".join(line for line in POLICY.splitlines(keepends=True) if not line.startswith("  c: "))
HOSTILE = """<img src=x onerror="document.title='taken'"><script>alert(1)</script>'"&{{7*7}}</style>=1+1"""
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
    "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom",
]  # fmt: skip
# Follows the link of a cell, empties a box, and says what is shown then.
SCRIPT = """<script>addEventListener("load", async () => {
  const seen = (s) => [...document.querySelectorAll(s)].filter(e => e.checkVisibility()).length;
  const out = {alien: document.querySelectorAll("img, object, iframe, link, [onerror], [src]").length,
    held: getComputedStyle(document.querySelector(".matrix tbody th")).position,
    closed: seen("details.group"), links: document.querySelectorAll(".matrix td a").length};
  const link = document.querySelector(".matrix td.fail a");
  link.click();
  await new Promise(done => setTimeout(done, 200));
  const mark = document.getElementById(link.getAttribute("href").slice(1));
  out.opened = mark.closest("details").open;
  out.title = mark.closest("details").querySelector("strong").textContent;
  out.groups = seen("details.group");
  const box = document.querySelector(".show-pass"); box.click();
  out.without = {pass: seen(".cases details.pass"), fail: seen("details.group.fail")};
  box.click(); document.querySelector(".show-fail").click();
  out.others = {pass: seen(".cases > details.pass"), fail: seen("details.group.fail")};
  document.querySelector(".show-fail").click();
  for (const item of document.querySelectorAll("details")) item.open = true;
  out.wide = [...document.querySelectorAll("body *")].filter(e => {
    if (e.closest(".scroll") && !e.matches(".scroll")) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > document.documentElement.clientWidth + 1;
  }).map(e => e.tagName + "." + e.getAttribute("class"));
  out.scroll = document.documentElement.scrollWidth;
  parent.postMessage(out, "*");
});</script>"""


@pytest.fixture(scope="module")
def run() -> RunResult:
    def lose(seen: list[Observations]) -> None:
        seen[1].beacons["6"].heard = [4, 0, 4]
        seen[2].problems.append(HOSTILE)

    return make_run([("c", "a", "tcp", 22), ("c", "a", "tcp", 80), ("b", "a", "udp", 53)], change=lose)


@needs_browser
@pytest.mark.parametrize(("width", "lang"), [(390, "zh"), (1280, "both")])
def test_cells_open_their_cases_and_boxes_hide_them(run: RunResult, tmp_path: Path, width: int, lang: str) -> None:
    page = tmp_path / "r.html"
    write_report(page, report(run), lang)
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    inner = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", SCRIPT + "</body>")
    (tmp_path / "inner.html").write_text(inner, encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>'
        '<script>addEventListener("message", e => out.textContent = JSON.stringify(e.data))</script>',
        encoding="utf-8",
    )
    command = [str(BROWSER), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="out">(.+?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    said = json.loads(found[1].replace("&gt;", ">").replace("&amp;", "&"))
    assert (said["alien"], said["held"]) == (0, "sticky"), "names stay in sight when a wide matrix is scrolled"
    assert (said["closed"], said["links"]) == (0, 6), "whole tables wait for a click"
    assert said["opened"]
    assert said["title"] == "b 公安信息网 → a 视频专网"
    assert said["groups"] > 0
    assert said["without"]["pass"] == 0
    assert said["without"]["fail"] > 0
    assert said["others"]["pass"] > 0
    assert said["others"]["fail"] == 0
    assert (said["wide"], said["scroll"] <= width) == ([], True)


@needs_browser
def test_a_browser_has_nothing_to_say_and_prints_what_is_wrong(run: RunResult, tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_report(page, report(run), "zh")
    command = [
        str(BROWSER), *FLAGS[:-2], f"--user-data-dir={tmp_path / 'profile'}", "--no-pdf-header-footer",
        f"--print-to-pdf={tmp_path / 'r.pdf'}", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "CONSOLE" not in done.stderr
    if shutil.which("pdftotext"):
        text = subprocess.run(["pdftotext", tmp_path / "r.pdf", "-"], capture_output=True, text=True, check=True).stdout
        assert "TCP 22, 80" in text, "cases that did not pass are printed though nobody opened them"
    else:
        assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")


def test_it_says_what_was_tested_and_what_was_not(run: RunResult, tmp_path: Path) -> None:
    for lang, words in (
        ("en", ["Subnets tested", "Profiles tested", "Health of both ends", "not tested", "chance that all attempts",
                run.plan.policy, run.digest, "10.3.0.0/16", "a-b", "flow media", "6 of 6"]),
        ("zh", ["已测试的网段", "已测试的探测方案", "两端健康状况", "未测试", "漏检概率", "信标丢失率"]),
    ):  # fmt: skip
        page = tmp_path / f"{lang}.html"
        write_report(page, report(run), lang)
        text = page.read_text(encoding="utf-8")
        for word in words:
            assert word in text, word
        assert run.plan.secret not in text
        assert len(text) < 1_000_000


def test_many_zones_make_no_endless_page(run: RunResult, tmp_path: Path) -> None:
    """Thirty zones: what passed is counted, what did not is still there in full."""
    zones = [f"zone-{number}" for number in range(30)]
    pairs = [(a, b) for a in zones for b in zones if a != b]
    once = [case for case, src in enumerate(run.columns["src"]) if src == "c"]
    columns = {name: [column[case] for _ in pairs for case in once] for name, column in run.columns.items()}
    columns["src"] = [a for a, _ in pairs for _ in once]
    columns["dst"] = [b for _, b in pairs for _ in once]
    matrix = [Cell(a, b, "fail", len(once), 2, 0, 2, ["leak.open"], 0.0) for a, b in pairs]
    labels = dict.fromkeys(zones, HOSTILE)
    columns["detail"] = [HOSTILE for _ in columns["detail"]]
    plan = msgspec.structs.replace(run.plan, labels=labels)
    many = replace(run, columns=columns, matrix=matrix, plan=plan, problems=[HOSTILE])
    began = time.process_time()
    write_report(tmp_path / "r.html", report(many), "en")
    assert time.process_time() - began < 20
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert len(text) < 200 * len(pairs) * 100
    assert "&lt;img" in text
    assert not re.search(r"<(img|script|object|iframe|link)\b|<[^>]* on[a-z]+=[^>]*>", text), (
        "what others wrote is text"
    )
    assert text.count("TCP 22, 80") >= len(pairs)


def test_csv_has_one_row_a_case(run: RunResult, tmp_path: Path) -> None:
    write_report(tmp_path / "r.csv", report(run), "en")
    rows = list(csv.reader((tmp_path / "r.csv").read_text(encoding="utf-8-sig").splitlines()))
    start = rows.index(["Cases"])
    heads, cases = rows[start + 1], rows[start + 2 : start + 2 + len(run.plan.cases)]
    assert heads[:3] == ["Case", "From", "To"]
    assert sorted(int(row[0]) for row in cases) == list(range(len(run.plan.cases)))
    assert {row[heads.index("Outcome")] for row in cases} == {"Pass", "Fail", "Inconclusive"}


def test_junit_has_a_case_a_pair_and_profile(run: RunResult, tmp_path: Path) -> None:
    write_report(tmp_path / "r.xml", report(run), "en")
    suite = ET.parse(tmp_path / "r.xml").getroot()[0]
    cases = {case.get("name"): case for case in suite.iter("testcase") if case.get("classname") == "Zones"}
    pairs = {tuple(str(name).split(" l4")[0].split(" → ")) for name in cases if " l4 · IPv4" in str(name)}
    assert len(pairs) == 6
    leak = cases["c 互联网 → a 视频专网 l4 · IPv4"].find("failure")
    assert leak is not None
    assert "TCP 22, 80" in str(leak.text)
    error = cases["a 视频专网 → b 公安信息网 l4 · IPv6"].find("error")
    assert error is not None, "inconclusive is an error, never a pass"
    assert len(cases["a 视频专网 → c 互联网 l4 · IPv4"].findall("failure")) == 0
    assert int(suite.get("errors", "0")) > 0


def test_commands_on_kept_scans(
    secguard: Callable[..., "subprocess.CompletedProcess[str]"],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """list, verify, diff, baseline, findings and close, as a user meets them."""
    from datetime import timedelta

    from secguard.isolation.evidence.folder import run_name, save_run
    from tests.support.isolation_kit import NOW

    site = tmp_path / "site"
    assert secguard("init", site, "--area", "320116").returncode == 0
    runs = [
        make_run([("c", "a", "tcp", 22)], at=NOW),
        make_run([("c", "a", "tcp", 22), ("b", "a", "udp", 53)], at=NOW + timedelta(days=1)),
        make_run([("b", "a", "udp", 53)], at=NOW + timedelta(days=2)),
    ]
    folders = [site / "state" / "isolation" / run_name(result) for result in runs]

    def call(*words: object, code: int = 0) -> dict[str, object]:
        # In this process: twenty starts of Python would cost more than all that is shown here.
        monkeypatch.setattr("sys.argv", ["secguard", "isolation", *map(str, words), "-w", str(site), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.out + printed.err
        document: dict[str, object] = json.loads(printed.out)
        return document

    assert call("list")["data"] == {"scans": []}
    assert "error" in call("diff", code=2)
    from secguard.cli.isolation.drift import update
    from secguard.workspace import Workspace

    for result, folder in zip(runs, folders, strict=True):
        save_run(result, folder, fresh=True)
    with Workspace.find(site) as workspace:
        update(workspace)
    names = [folder.name for folder in folders]
    listed = call("list")["data"]
    assert [(row["name"], row["outcome"]) for row in listed["scans"]] == [(name, "fail") for name in names]  # type: ignore[index]

    # Without a baseline it is the scan before by the same policy, though one by another policy came between.
    between = make_run(policy=OTHER_ZONES, at=NOW + timedelta(days=1, hours=1))
    kept = site / "state" / "isolation" / run_name(between)
    save_run(between, kept, fresh=True)
    drift = call("diff")["data"]
    assert isinstance(drift, dict)
    assert (drift["chosen"], drift["old"]["scan"]) == ("same-policy", names[1])
    assert call("diff", names[1], code=1)["data"]["old"]["scan"] == names[0]  # type: ignore[index]
    error = call("diff", kept.name, code=2)["error"]
    assert isinstance(error, dict)
    assert error["code"] == "isolation.baseline.none"
    assert error["hint"]
    call("baseline", kept.name)
    assert call("diff")["data"]["chosen"] == "same-policy", "a baseline of another policy is none of ours"  # type: ignore[index]

    pem = folders[0] / "signer.pem"
    assert call("verify", "last", "--trust", pem)["outcome"] == "pass"
    assert call("verify", names[0], code=3)["axes"] == {"integrity": "pass", "provenance": "unknown"}
    capture = folders[2] / "capture-a-a.pcapng"
    capture.write_bytes(capture.read_bytes()[:-1] + b"\1")
    assert call("verify", names[2], "--trust", pem, code=1)["outcome"] == "fail"
    assert "error" in call("judge", folders[2], code=2)
    assert call("judge", folders[0], "--trust", pem, code=1)["outcome"] == "fail"

    # An operator's certificate vouches for what the operator signed, here and where nothing but the root is known.
    with Workspace.find(site) as workspace:
        workspace.create_authority(b"a passphrase of a test")
        atomic_write(site / "state" / "passphrase", b"a passphrase of a test", mode=0o600)
        signer, chain = workspace.operator_signer()
    signed = tmp_path / "signed"
    save_run(make_run(signer=signer, chain=chain), signed)
    assert call("verify", signed)["outcome"] == "pass"
    with Workspace.find(site) as workspace:
        root, crls = workspace.root_certificate, [("--crl", path) for path in workspace.crl_paths()]
    done = secguard("isolation", "verify", signed, "--root", root, *(word for pair in crls for word in pair))
    assert done.returncode == 0, done.stderr
    assert secguard("isolation", "verify", signed, "--root", root).returncode == 3, "nobody knows what was revoked"

    call("baseline", names[1])
    call("baseline", names[0], "--case", "C-1")
    assert call("baseline")["data"] == {"baseline": names[0], "baselines": [names[0], kept.name]}
    (site / "state" / "isolation" / "baseline").write_text(f"{names[0]}\n")
    shutil.rmtree(kept)
    assert call("baseline")["data"] == {"baseline": names[0], "baselines": [names[0]]}
    drift = call("diff", code=1)["data"]
    assert isinstance(drift, dict)
    assert (drift["old"]["scan"], drift["new"]["scan"]) == (names[0], names[2])
    assert (len(drift["new_leaks"]), len(drift["closed_leaks"])) == (1, 1)
    assert call("diff", names[1], names[2])["outcome"] == "pass"

    for words, code in ((("diff",), 1), (("findings",), 0), (("verify", names[0]), 3), (("lint", POLICY_FILE), 0)):
        for kind in ("html", "csv", "xml"):
            call(*words, "--report", tmp_path / f"{words[0]}.{kind}", code=code)
    assert "isolation.drift.new" in (tmp_path / "diff.xml").read_text(encoding="utf-8")
    assert "TCP 22" in (tmp_path / "diff.html").read_text(encoding="utf-8")

    found = call("findings")["data"]["findings"]  # type: ignore[index]
    assert [(item["src"], item["dst"], item["seen"]) for item in found] == [("b", "a", 2)]
    assert "error" in call("close", found[0]["id"], code=2)
    closed = call("close", found[0]["id"], "--case", "C-2", "--reason", "rule removed")["data"]
    assert closed["finding"]["state"] == "closed"  # type: ignore[index]
    assert call("findings")["data"] == {"findings": []}
    again = make_run([("b", "a", "udp", 53)], at=NOW + timedelta(days=3))
    save_run(again, site / "state" / "isolation" / run_name(again), fresh=True)
    with Workspace.find(site) as workspace:
        assert [change.verb for change in update(workspace)] == ["reopened"]
        assert update(workspace) == []
    (reopened,) = call("findings")["data"]["findings"]  # type: ignore[index]
    assert (reopened["state"], reopened["reopened"], reopened["case"]) == ("open", 1, "C-2")
    with Workspace.find(site) as workspace:
        events = [workspace.ledger.event(seq) for seq in range(workspace.ledger.size)]
    acts = [event.kind for event in events if event.kind.startswith(("finding.", "baseline."))]
    assert acts == ["finding.opened", "finding.opened", "finding.closed", *["baseline.set"] * 3, "finding.closed",
                    "finding.reopened"]  # fmt: skip
    assert next(event for event in reversed(events) if event.kind == "finding.closed").case == "C-2"

    # A scan that was carried here as files is kept like one that was run here, once.
    carried = make_run([("c", "a", "tcp", 80)], at=NOW + timedelta(days=4))
    for name, data in carried.envelopes.items():
        (tmp_path / name).write_bytes(data)
    seen = sorted(tmp_path.glob("observations-*.json"))
    words = ["judge", tmp_path / "plan.json", *seen, "--trust", tmp_path / "signer.pem"]
    assert "folder" not in call(*words, code=1)["data"]  # type: ignore[operator]
    data = call(*words, "--keep", "--case", "C-4", "-o", tmp_path / "copy", code=1)["data"]
    assert isinstance(data, dict)
    assert Path(data["folder"]).parent == folders[0].parent
    assert data["copy"] == str(tmp_path / "copy")
    assert call("verify", "last")["outcome"] == "pass", "the ledger vouches for it"
    assert call("verify", tmp_path / "copy")["outcome"] == "pass"
    assert call("findings")["data"]["findings"][0]["probes"] == ["TCP 80"]  # type: ignore[index]
    error = call(*words, "--keep", code=2)["error"]
    assert isinstance(error, dict)
    assert error["code"] == "isolation.folder.exists"
    assert (site / "state" / "isolation" / "baseline").stat().st_mode & 0o077 == 0
