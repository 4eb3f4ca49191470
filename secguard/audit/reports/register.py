"""The register of viewing and retrieving (查阅/调取登记表): one row an access, on A4, to be signed and filed."""

from html import escape

from secguard.audit.reports.accesses import Access, Accesses
from secguard.audit.reports.document import zone_name
from secguard.audit.reports.words import OUTCOMES, moment, name_of, span
from secguard.report import Text
from secguard.report.words import clean, pick

__all__ = ["VOLUME", "render_register", "volumes_of"]

VOLUME = 10_000
"""Rows of one page, which a browser still prints; a longer register has several volumes."""
_GROUPS = {"watched", "searched", "taken"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_HEADS = (
    ("no", Text("No.", "序号")),
    ("time", Text("time", "时间")),
    ("act", Text("act", "方式")),
    ("who", Text("viewed or retrieved by", "查阅/调取人（单位）")),
    ("camera", Text("camera", "摄像机编码")),
    ("span", Text("recorded time", "录像时段")),
    ("case", Text("case number", "案件编号")),
    ("why", Text("purpose", "事由")),
    ("leave", Text("approved by", "批准人")),
    ("result", Text("outcome, handed to, files", "结果、接收人、文件")),
    ("entry", Text("ledger entry", "账本序号")),
)
_STYLE = """
@page { size: A4 landscape; margin: 12mm 10mm 14mm;
  @bottom-left { content: "%(origin)s"; font: 8pt sans-serif; color: #444 }
  @bottom-right { content: counter(page) " / " counter(pages); font: 8pt sans-serif; color: #444 } }
* { box-sizing: border-box }
html { color: #111; background: #fff;
  font: 8.5pt/1.3 "Noto Sans CJK SC", "Source Han Sans SC", "Microsoft YaHei", "PingFang SC", "Noto Sans", sans-serif }
body { margin: 0 auto; max-width: 277mm; padding: 6mm 0 }
h1 { font-size: 16pt; text-align: center; margin: 0 0 3mm; letter-spacing: .1em }
.facts { display: flex; flex-wrap: wrap; gap: 1mm 8mm; margin: 0 0 2.5mm; padding: 0; list-style: none }
.facts b { font-weight: 600; margin-right: .5em }
table { width: 100%%; border-collapse: collapse; table-layout: fixed }
thead { display: table-header-group }
tr { break-inside: avoid }
th, td { border: .3mm solid #333; padding: .8mm 1mm; vertical-align: top; text-align: left; overflow-wrap: anywhere }
th { background: #eee; font-weight: 600; text-align: center; vertical-align: middle;
  -webkit-print-color-adjust: exact; print-color-adjust: exact }
td.no, td.entry { text-align: right; font-variant-numeric: tabular-nums }
td.camera, td.time, td.span { font-variant-numeric: tabular-nums }
td.missing { outline: .6mm solid #111; outline-offset: -.8mm; font-weight: 600 }
.no { width: 9mm } .time { width: 20mm } .act { width: 20mm } .who { width: 27mm } .camera { width: 36mm }
.span { width: 32mm } .case { width: 26mm } .leave { width: 17mm } .result { width: 34mm } .entry { width: 15mm }
td.camera, td.span, td.time { font-size: 8pt }
.none { text-align: center; color: #555 }
.sign { display: grid; grid-template-columns: repeat(3, 1fr); gap: 12mm; margin-top: 9mm; break-inside: avoid }
.sign div { border-top: .3mm solid #333; padding-top: 1mm }
.proof { margin-top: 5mm; font-size: 7.5pt; color: #333; overflow-wrap: anywhere; break-inside: avoid }
code { font-family: "Noto Sans Mono", monospace; font-size: .95em }
@media screen { html { background: #ddd } body { background: #fff; margin: 6mm auto; padding: 8mm 10mm;
  max-width: 297mm; box-shadow: 0 1mm 4mm #0004 } }
@media print { body { padding: 0; max-width: none } }
@media screen and (max-width: 800px) { body { margin: 0; overflow-x: auto } table { min-width: 1000px } }
"""


def _entered(found: Accesses) -> list[Access]:
    return [row for row in found.rows if row.group in _GROUPS]


def volumes_of(found: Accesses) -> int:
    """How many volumes the register has: one at least."""
    return max(1, -(-len(_entered(found)) // VOLUME))


def render_register(found: Accesses, organisation: str, lang: str = "zh", volume: int = 1) -> str:
    """A volume of the register as a printable HTML page: no script, nothing loaded.

    Args:
        found: the accesses; live view, playback, search and what was taken away are entered.
        organisation: who keeps the register.
        lang: `zh` or `en`.
        volume: which, from 1 to `volumes_of`.
    """
    rows = _entered(found)
    before, volumes = (volume - 1) * VOLUME, volumes_of(found)
    title = Text("Register of viewing and retrieving", "视频图像信息查阅/调取登记表")
    t = _Words(lang)
    checkpoint = found.checkpoint
    origin = str(checkpoint["origin"]) if checkpoint else ""
    heads = "".join(f'<th scope="col" class="{name}">{t(head)}</th>' for name, head in _HEADS)
    body = "".join(_row(found, number, row, t) for number, row in enumerate(rows[before : before + VOLUME], before + 1))
    nothing = t(Text("Nothing was viewed or retrieved.", "期间无查阅、调取记录。"))
    body = body or f'<tr><td class="none" colspan="{len(_HEADS)}">{nothing}</td></tr>'
    sign = "".join(
        f"<div>{t(words)}</div>"
        for words in (
            Text("entered by, date", "登记人、日期"),
            Text("reviewed by, date", "审核人、日期"),
            Text("approved by (seal), date", "批准人（盖章）、日期"),
        )
    )
    tag = "zh-CN" if lang == "zh" else "en"
    return (
        f'<!doctype html>\n<html lang="{tag}">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{t(title)}</title>\n<style>{_STYLE % {'origin': _css(origin)}}</style>\n</head>\n<body>\n"
        f'<h1>{t(title)}</h1>\n<ul class="facts">{_facts(found, organisation, len(rows), (volume, volumes), t)}</ul>\n'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>\n"
        f'<div class="sign">{sign}</div>\n<p class="proof">{_proof(found, t)}</p>\n</body>\n</html>\n'
    )


class _Words:
    def __init__(self, lang: str) -> None:
        self.lang = lang

    def plain(self, words: Text | str) -> str:
        return words if isinstance(words, str) else pick(words, self.lang)

    def __call__(self, words: Text | str) -> str:
        return escape(clean(self.plain(words)), quote=True)


def _css(text: str) -> str:
    """Text inside a CSS string inside a style element: letters, digits and a few signs."""
    return "".join(c for c in text if c.isalnum() or c in "./_-")[:120]


def _facts(found: Accesses, organisation: str, count: int, volume: tuple[int, int], t: _Words) -> str:
    scope = found.scope
    facts = [
        (Text("unit", "单位"), organisation),
        (Text("camera", "摄像机"), scope.camera),
        (Text("person", "人员"), scope.actor),
        (Text("case", "案件编号"), scope.case),
        (Text("period", "期间"), scope.period),
        (Text("entries", "条数"), str(count)),
        (Text("volume", "分册"), "{} / {}".format(*volume) if volume[1] > 1 else ""),
        (Text("times in", "时区"), zone_name(found)),
        (Text("made", "制表时间"), moment(found.made, scope.zone)),
    ]
    return "".join(f"<li><b>{t(name)}</b>{t(value)}</li>" for name, value in facts if value)


def _row(found: Accesses, number: int, row: Access, t: _Words) -> str:
    event, zone = row.event, found.scope.zone
    opened, closed, between = ("（", "）", "；") if t.lang == "zh" else (" (", ")", "; ")
    who = event.actor.name + (f"{opened}{event.actor.org}{closed}" if event.actor.org else "")
    ended: list[Text | str] = [OUTCOMES[event.outcome.value], row.recipient, *row.files]
    cells: dict[str, Text | str] = {
        "no": str(number),
        "time": moment(event.time, zone),
        "act": name_of(event.kind),
        "who": who,
        "camera": " ".join(row.cameras),
        "span": span(row, zone),
        "case": event.case,
        "why": event.reason,
        "leave": event.approver,
        "result": between.join(t.plain(item) for item in ended if item),
        "entry": str(row.index),
    }
    lacking = {"case": "case", "leave": "approver"}
    parts = []
    for name, value in cells.items():
        bad = lacking.get(name) in row.missing
        shown = Text("missing", "缺") if bad else value
        parts.append(f'<td class="{name}{" missing" if bad else ""}">{t(shown)}</td>')
    return f"<tr>{''.join(parts)}</tr>\n"


def _proof(found: Accesses, t: _Words) -> str:
    signed = found.checkpoint
    if signed is None:
        told = Text("The ledger has no signed checkpoint yet.", "账本尚无签名检查点。")
        return t(told)
    told = Text(
        f"From the ledger {signed['origin']}: {found.size} events, last checkpoint at {signed['size']}, root "
        f"{signed['root']}; {found.pruned} events deleted by retention; this register is entry {found.recorded}. "
        "Any row can be proven: secguard ledger prove ENTRY.",
        f"数据来自账本 {signed['origin']}：共 {found.size} 条事件，最近检查点覆盖 {signed['size']} 条，根哈希 "
        f"{signed['root']}；已按留存策略删除 {found.pruned} 条；本表登记为第 {found.recorded} 条。"
        "任一行均可离线证明：secguard ledger prove 账本序号。",
    )
    return t(told)
