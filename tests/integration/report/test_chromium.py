"""Reports in a real browser: nothing overflows a phone, no console message, the language switch works."""

import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from secguard.core import Axis, Outcome
from secguard.report import (
    Bar,
    BarPlot,
    Cell,
    Code,
    Facts,
    LinePlot,
    Matrix,
    Proof,
    Proven,
    Report,
    Series,
    Table,
    Text,
    Timeline,
    write_report,
)

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs chromium: apt-get install chromium")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
]
DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
ZONES = [Text(name, name) for name in ("Video network", "Police network", "Boundary DMZ", "Internet")]
REPORT = Report(
    title=Text("Verification of a very long and unusual title", "关于一个很长的标题的验证报告"),
    subject=Code("/srv/video/" + "x" * 120 + ".mp4"),
    outcome=Outcome.UNKNOWN,
    summary=Text("Something could not be judged.", "有一项无法判定。"),
    axes={Axis.INTEGRITY: Outcome.PASS, Axis.REVOCATION: Outcome.UNKNOWN},
    facts=[("SHA-256", Code(DIGEST)), ("word", "w" * 200)],
    made=datetime(2026, 11, 23, tzinfo=UTC),
    sections=[
        Proven([Proof("c" * 90, Outcome.PASS, Code(DIGEST).value), Proof("claim", None)]),
        Timeline("GOPs", [Bar(str(i), i, i + 1, Outcome.FAIL if i == 7 else Outcome.PASS) for i in range(90)]),
        Matrix("Zones", ZONES, ZONES, {(0, 1): Cell(Outcome.FAIL, "1 leak", ["u" * 150]), (1, 0): Cell(None)}),
        Facts("Facts", [("n" * 80, Code(DIGEST))]),
        Table("Events", [f"column {i}" for i in range(12)], [[Code(DIGEST), *["王小明 " * 9] * 11]]),
        BarPlot("Bars", [("b" * 60, 3), ("short", 1)]),
        LinePlot("Lines", [Series("one", [(x, x * x) for x in range(20)])]),
    ],
)


def chromium(tmp_path: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    assert BROWSER is not None
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=90)


def measured(page: Path, width: int) -> Path:
    """A frame of the given width around a copy of the page that may run our measuring script."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    script = """<script>addEventListener("load", () => {
      const wide = [...document.querySelectorAll("body *")].filter(e => {
        if (e.closest(".scroll") && !e.matches(".scroll")) return false;
        const box = e.getBoundingClientRect();
        return box.width > 0 && box.right > document.documentElement.clientWidth + 1;
      }).map(e => e.tagName + "." + e.getAttribute("class"));
      const seen = (s) => [...document.querySelectorAll(s)].filter(e => e.getClientRects().length).length;
      parent.postMessage({wide, scroll: document.documentElement.scrollWidth, en: seen(".en"), zh: seen(".zh"),
        font: getComputedStyle(document.querySelector("p")).fontSize}, "*");
    });</script>"""
    inner = page.with_name("inner.html")
    inner.write_text(text.replace("</body>", script + "</body>"), encoding="utf-8")
    outer = page.with_name("outer.html")
    outer.write_text(
        f'<iframe src="inner.html" style="width:{width}px;height:900px;border:0"></iframe><pre id="out"></pre>'
        '<script>addEventListener("message", e => out.textContent = JSON.stringify(e.data))</script>',
        encoding="utf-8",
    )
    return outer


@pytest.mark.parametrize("lang", ["en", "zh", "both"])
def test_nothing_overflows_a_phone(tmp_path: Path, lang: str) -> None:
    page = tmp_path / "r.html"
    write_report(page, REPORT, lang)
    done = chromium(
        tmp_path, measured(page, 390), "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"
    )
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    assert '"wide":[]' in found[1]
    scroll = re.search(r'"scroll":(\d+)', found[1])
    assert scroll
    assert int(scroll[1]) <= 390


def test_the_switch_shows_one_language_at_a_time(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_report(page, REPORT, "both")
    text = page.read_text(encoding="utf-8")
    shown = {}
    for chosen in ("en", "zh"):
        variant = text.replace(" checked>", ">").replace(f'id="lang-{chosen}"', f'id="lang-{chosen}" checked')
        page.write_text(variant, encoding="utf-8")
        outer = measured(page, 1000)
        done = chromium(tmp_path, outer, "--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom")
        found = re.search(r'"en":(\d+),"zh":(\d+)', done.stdout)
        assert found, done.stderr[-2000:]
        shown[chosen] = (int(found[1]) > 0, int(found[2]) > 0)
    assert shown == {"en": (True, False), "zh": (False, True)}


def test_the_browser_has_nothing_to_complain_about(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_report(page, REPORT, "both")
    done = chromium(tmp_path, page, "--window-size=1280,2000", f"--screenshot={tmp_path / 'r.png'}")
    assert "CONSOLE" not in done.stderr
    assert (tmp_path / "r.png").stat().st_size > 20_000


def test_it_prints(tmp_path: Path) -> None:
    page = tmp_path / "r.html"
    write_report(page, REPORT, "zh")
    chromium(tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'r.pdf'}")
    assert (tmp_path / "r.pdf").read_bytes().startswith(b"%PDF")
