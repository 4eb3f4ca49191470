"""The tamper table: every row for H.264 and H.265, without and with manifest, and as docs/video.md says it."""

import re
from pathlib import Path

import pytest
import tamper_kit as table
import video_kit as kit
from seal_kit import remux

from secguard.core import Outcome
from secguard.video import Expectation, VideoVerdict, manifest_path, verify

DOCS = Path(__file__).parents[3] / "docs" / "video.md"
Pair = tuple[str, Path, Path]
_GOPS = "keyint=12:min-keyint=12:scenecut=0"
CODECS = {
    "h264": ("libx264", None),
    "h265": ("libx265", None),
    "open": (
        "libx265",
        {"x265-params": "keyint=12:min-keyint=12:scenecut=0:open-gop=1:bframes=3:log-level=none:pools=1"},
    ),
}


@pytest.fixture(scope="session", params=list(CODECS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, pki: kit.Pki) -> Pair:
    """Codec, a recording of 5 GOPs, and another one of the same camera."""
    folder = tmp_path_factory.mktemp(request.param)
    codec, options = CODECS[request.param]
    for name, seed, noise in (("signed", 1, 24), ("other", 9, 40)):
        source = kit.make_clip(
            folder / f"{name}-in.mp4", codec=codec, frames=60, gop=12, seed=seed, noise=noise, options=options
        )
        kit.sign_clip(source, folder / f"{name}.mp4", pki.camera)
    return request.param, folder / "signed.mp4", folder / "other.mp4"


def _judge(case: table.Case, path: Path, *, sealed: bool) -> VideoVerdict:
    envelope = manifest_path(case.signed).read_bytes() if sealed else None
    expected = Expectation(device=case.device, must_sign=case.must_sign, manifest=envelope)
    return verify(path, case.trust or case.pki.trust, case.at, expected)


@pytest.mark.parametrize("row", table.ROWS, ids=[row.name for row in table.ROWS])
def test_what_is_done_is_named(row: table.Row, pair: Pair, pki: kit.Pki, tmp_path: Path) -> None:
    codec, signed, other = pair
    if codec not in row.codecs:
        return
    case = table.Case(signed, other, tmp_path, pki, codec)
    path = row.act(case)
    for sealed, codes, outcome in zip((False, True), row.codes, row.outcomes, strict=True):
        answer = _judge(case, path, sealed=sealed)
        assert codes <= kit.codes(answer), (sealed, kit.codes(answer))
        assert answer.verdict.outcome == outcome
        wrong = {item.code for item in answer.verdict.findings if item.outcome is Outcome.FAIL}
        assert bool(wrong) == (outcome == "fail")


@pytest.mark.parametrize("way", ["mkv", "ts", "ps", "fragmented.mp4"])
@pytest.mark.parametrize("row", [row for row in table.ROWS if row.anywhere], ids=lambda row: row.name)
def test_in_any_container(row: table.Row, way: str, pair: Pair, pki: kit.Pki, tmp_path: Path) -> None:
    codec, signed, other = pair
    if codec == "open" or (codec == "h265" and way == "ps"):
        return  # FFmpeg writes no program stream of H.265
    case = table.Case(signed, other, tmp_path, pki, codec)
    path = remux(row.act(case), tmp_path / f"contained.{way}")
    for sealed, codes in zip((False, True), row.codes, strict=True):
        answer = _judge(case, path, sealed=sealed)
        assert codes <= kit.codes(answer), (sealed, kit.codes(answer))
        assert answer.verdict.outcome == row.outcomes[sealed]


def _cell(codes: str, outcome: str) -> str:
    return f"{'violation' if outcome == 'fail' else 'unknown'}: {', '.join(f'`{code}`' for code in codes.split())}"


def test_the_docs_show_this_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    shown = re.findall(
        r"^\| (.+?) \| ((?:violation|unknown): .+?) \| ((?:violation|unknown): .+?) \|$", text, re.MULTILINE
    )
    meant = [(row.name, _cell(row.bare, row.outcomes[0]), _cell(row.sealed, row.outcomes[1])) for row in table.ROWS]
    assert shown == meant
