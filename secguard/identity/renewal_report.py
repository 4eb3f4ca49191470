"""When certificates end: by week, by profile and CA, with the cliffs; as findings and as a report in two languages."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from secguard.core import Axis, Finding, Verdict, finding, judge
from secguard.identity.records import CaRecord, CaStatus
from secguard.report import BarPlot, Code, LinePlot, Report, Section, Series, Table, Text, Value

__all__ = ["Ends", "expiry_report", "expiry_verdict", "week_of"]

_WEEKS = 106  # a certificate of 730 days ends in the 105th week from now
_SERIES = 3
_CLIFF_SHARE = 0.1
_CLIFF_MIN = 50
_SHOWN = 1000


def week_of(day: date) -> str:
    """The ISO 8601 week of a day, `2027-W31`."""
    year, week, _ = day.isocalendar()
    return f"{year}-W{week:02d}"


@dataclass(frozen=True, slots=True)
class Ends:
    """When the certificates in force end.

    Attributes:
        days: (day, profile, issuing CA, count), from `Registry.expiries`.
        cas: the site's CAs.
        now: the time.
        longest: validity in days that each CA's longest profile gives; a CA that ends sooner cuts it short.
        soon: end and profile of those that have ended or end soon, to the second.
    """

    days: Sequence[tuple[date, str, str, int]]
    cas: Sequence[CaRecord]
    now: datetime
    longest: Mapping[str, int]
    soon: Sequence[tuple[datetime, str]]

    @property
    def total(self) -> int:
        """All certificates in force and those that have ended without being replaced."""
        return sum(count for *_, count in self.days)

    def before(self, moment: datetime, *, since: datetime | None = None) -> Counter[str]:
        """How many end before a time, by profile."""
        return Counter(profile for end, profile in self.soon if end < moment and (since is None or end >= since))

    def weeks(self) -> Counter[str]:
        """How many end in each ISO week from now on."""
        found: Counter[str] = Counter()
        for day, _, _, count in self.days:
            if day >= self.now.date():
                found[week_of(day)] += count
        return found

    def cliffs(self) -> list[tuple[str, int]]:
        """Weeks in which a tenth or more of all certificates end, and at least fifty."""
        floor = max(_CLIFF_MIN, self.total * _CLIFF_SHARE)
        return [(week, count) for week, count in sorted(self.weeks().items()) if count >= floor]


def expiry_verdict(ends: Ends, subject: str, critical: int) -> Verdict:
    """Judge: nothing has ended, and neither certificate nor CA ends within `critical` days."""
    return judge(
        subject, ends.now, examined=[Axis.CONFORMANCE], findings=_findings(ends, critical), default=[Axis.CONFORMANCE]
    )


def _findings(ends: Ends, critical: int) -> list[Finding]:
    found: list[Finding] = []
    limit = ends.now + timedelta(days=critical)
    for profile, count in sorted(ends.before(ends.now).items()):
        found.append(finding("identity.expiry.ended", profile, count=count))
    if critical:
        for profile, count in sorted(ends.before(limit, since=ends.now).items()):
            found.append(finding("identity.expiry.critical", profile, count=count, days=critical))
    for ca in ends.cas:
        if ca.status != CaStatus.CURRENT:
            continue
        end = ca.x509().not_valid_after_utc
        left = (end - ends.now).days
        if end <= limit:
            found.append(finding("identity.expiry.ca", f"CA {ca.name}", day=end.date().isoformat()))
        elif left < ends.longest.get(ca.name, 0):
            data: dict[str, Any] = {"left": left, "days": ends.longest[ca.name]}
            found.append(finding("identity.expiry.ca-short", f"CA {ca.name}", **data))
    for week, count in ends.cliffs():
        found.append(finding("identity.expiry.cliff", week, count=count, share=round(100 * count / ends.total)))
    return found


def expiry_report(ends: Ends, rows: Sequence[Mapping[str, Any]], days: int, verdict: Verdict | None) -> Report:
    """The plot of ends over time, the fullest weeks, the CAs, and the certificates that end within `days`."""
    title = Text("When certificates end", "证书到期情况")
    sections = [_plot(ends), _fullest(ends), _by_issuer(ends), _authorities(ends), _list(rows, days)]
    facts = [
        (Text("Certificates in force", "有效证书数"), ends.total - sum(ends.before(ends.now).values())),
        (Text("Ended, not replaced", "已过期且未更换"), sum(ends.before(ends.now).values())),
        (Text(f"End within {days} days", f"{days} 天内到期"), len(rows)),
    ]
    if verdict is None:
        return Report(title=title, sections=sections, facts=facts, made=ends.now)
    return Report.of(verdict, title, sections, facts=facts, made=ends.now)


def _plot(ends: Ends) -> Section:
    start = ends.now.date() - timedelta(days=ends.now.weekday())
    names = [week_of(start + timedelta(weeks=number)) for number in range(_WEEKS)]
    last = max((number for number, name in enumerate(names) if ends.weeks()[name]), default=7)
    names = names[: max(8, last + 1)]
    totals: Counter[str] = Counter()
    by: dict[str, Counter[str]] = {}
    later = 0
    for day, profile, _, count in ends.days:
        week = week_of(day)
        if day >= ends.now.date() and week in names:
            by.setdefault(profile, Counter())[week] += count
            totals[profile] += count
        elif day >= ends.now.date():
            later += count
    ranked = [profile for profile, _ in totals.most_common()]
    shown = ranked if len(ranked) <= _SERIES + 1 else ranked[:_SERIES]
    series = [Series(profile, _points(by[profile], names)) for profile in shown]
    if len(shown) < len(ranked):
        rest: Counter[str] = sum((by[profile] for profile in ranked[_SERIES:]), Counter())
        series.append(Series(Text("others", "其他"), _points(rest, names)))
    cliffs = ends.cliffs()
    en = "; ".join(f"{count:,} certificates end in week {week}" for week, count in cliffs[:3])
    zh = "；".join(f"{week} 周内有 {count:,} 张证书到期" for week, count in cliffs[:3])
    more_en = f"{later:,} end after {names[-1]}." if later else ""
    more_zh = f"{later:,} 张证书在 {names[-1]} 周之后到期。" if later else ""
    return LinePlot(
        Text("Certificates that end, by week", "每周到期证书数"),
        series,
        Text("ISO week", "ISO 周"),
        Text("certificates", "证书数"),
        names,
        Text(f"{en}. {more_en}".strip() if en else more_en, f"{zh}。{more_zh}" if zh else more_zh),
    )


def _points(counts: Mapping[str, int], names: Sequence[str]) -> list[tuple[float, float]]:
    return [(float(number), float(counts.get(name, 0))) for number, name in enumerate(names)]


def _fullest(ends: Ends) -> Section:
    fullest = sorted(ends.weeks().most_common(12))
    return BarPlot(
        Text("The fullest weeks", "到期最集中的周"),
        [(week, float(count)) for week, count in fullest],
        Text("certificates", "张"),
    )


def _by_issuer(ends: Ends) -> Section:
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], date] = {}
    final: dict[tuple[str, str], date] = {}
    for day, profile, issuer, count in ends.days:
        key = (profile, issuer)
        counts[key] += count
        first.setdefault(key, day)
        final[key] = day
    rows: list[list[Value]] = [
        [p, i, counts[p, i], first[p, i].isoformat(), final[p, i].isoformat()] for p, i in sorted(counts)
    ]
    columns = [
        Text("Profile", "模板"),
        Text("Issuing CA", "签发 CA"),
        Text("Certificates", "证书数"),
        Text("First end", "最早到期"),
        Text("Last end", "最晚到期"),
    ]
    return Table(Text("By profile and CA", "按模板与签发 CA"), columns, rows)


def _authorities(ends: Ends) -> Section:
    columns = [Text("CA", "CA"), Text("Status", "状态"), Text("Valid until", "有效期至"), Text("Days left", "剩余天数")]
    rows: list[list[Value]] = []
    for ca in ends.cas:
        if ca.status != CaStatus.PENDING:
            end = ca.x509().not_valid_after_utc
            rows.append([ca.name, str(ca.status), end, (end - ends.now).days])
    return Table(Text("The CAs themselves", "CA 证书"), columns, rows)


def _list(rows: Sequence[Mapping[str, Any]], days: int) -> Section:
    columns = [
        Text("Holder", "持有者"),
        Text("Profile", "模板"),
        Text("Issuing CA", "签发 CA"),
        Text("Serial number", "序列号"),
        Text("Valid until", "有效期至"),
        Text("Key", "私钥位置"),
    ]
    here, device = Text("here", "本机"), Text("in the device", "设备内")
    cells = [
        [
            Code(row["holder"]),
            row["profile"],
            row["issuer"],
            Code(row["serial"]),
            datetime.fromisoformat(row["not_after"]),
            here if row["key"] else device,
        ]
        for row in rows[:_SHOWN]
    ]
    title = Text(f"Ending within {days} days", f"{days} 天内到期的证书")
    return Table(title, columns, cells, total=len(rows) if len(rows) > _SHOWN else None)
