"""What a run rests on: health of both ends, what was probed and what was not, and the run's own facts."""

import ipaddress
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime

from secguard.core import Outcome
from secguard.isolation.agent.observations import PHASES, Observations
from secguard.isolation.judge.kinds import result_words
from secguard.isolation.judge.show_cells import spans, zone_words
from secguard.isolation.plan.plan import Plan
from secguard.isolation.plan.tokens import phase_of
from secguard.isolation.policy.model import PROFILES
from secguard.isolation.runs.conclude import RunResult
from secguard.report import Code, Facts, Section, Table, Text, Value

__all__ = ["coverage", "facts", "health", "sweeps"]

_NOT = Text("not tested", "未测试")
_TESTED = Text("tested", "已测试")
_IN_PART = Text("in part", "部分")
_WHOLE = Text("every address", "全部地址")


def _time(nanoseconds: int) -> datetime:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def facts(result: RunResult) -> Facts:
    """Digests, times, agents."""
    plan = result.plan
    rows: list[tuple[Text, Value]] = [
        (Text("Policy (SHA-256)", "策略（SHA-256）"), Code(plan.policy)),
        (Text("Plan (SHA-256)", "计划（SHA-256）"), Code(result.digest)),
        (Text("Run", "批次"), Code(plan.run)),
    ]
    if result.observations:
        rows += [
            (Text("Started", "开始"), _time(min(item.started for item in result.observations))),
            (Text("Ended", "结束"), _time(max(item.ended for item in result.observations))),
        ]
    swept = sum(item.size for item in plan.sweeps)
    rows += [
        (Text("Cases", "用例"), len(plan.cases)),
        *([(Text("Probes of sweeps", "批量探测"), swept)] if swept else []),
        (Text("Attempts a case", "每例次数"), plan.attempts),
        (Text("Packets a second and agent, at most", "每探针每秒报文上限"), plan.rate),
    ]
    return Facts(Text("The scan", "扫描"), rows)


def _beacons(item: Observations) -> tuple[str, str, int, int]:
    """Beacons heard of those sent, and answers of the next hop, by family and phase; and both sums."""
    heard, hops = [], []
    sums = [0, 0]
    for family, beacons in sorted(item.beacons.items()):
        pairs = [f"{min(b, a)}/{a}" for a, b in zip(beacons.sent, beacons.heard, strict=True)]
        heard.append(f"IPv{family} {' '.join(pairs)}")
        hops.append(f"IPv{family} {' '.join(map(str, beacons.neighbour))}")
        sums[0] += sum(beacons.sent)
        sums[1] += sum(min(a, b) for a, b in zip(beacons.sent, beacons.heard, strict=True))
    return "; ".join(heard), "; ".join(hops), sums[0], sums[1]


def _canaries(plan: Plan, seen: Sequence[Observations], agent: int) -> tuple[int, int]:
    """Canaries that were to arrive at an agent in each phase, and those that did."""
    wanted = {case for case, canary in enumerate(plan.cases.canary) if canary and plan.cases.dst[case] == agent}
    came: set[tuple[int, int]] = set()
    for item in seen:
        if item.agent == agent:
            rows = zip(item.arrivals.case, item.arrivals.seq, strict=True)
            came = {(case, phase_of(seq)) for case, seq in rows if case in wanted and phase_of(seq)}
    return len(wanted) * len(PHASES), len(came)


def health(result: RunResult) -> Table:
    """One row an agent: is its silence worth anything?"""
    plan = result.plan
    by_agent = {item.agent: item for item in result.observations}
    wrong = {
        str(found.data.get("detail", "")).partition(":")[0]
        for found in result.verdict.findings
        if found.code.startswith("isolation.health.")
    }
    rows: list[list[Value]] = []
    for number, agent in enumerate(plan.agents):
        item = by_agent.get(number)
        head: list[Value] = [agent.name, zone_words(result, agent.zone)]
        sensor = Text("mirror port", "镜像口") if agent.mirror else Text("its own host", "本机")
        where = Code(", ".join(agent.addresses))
        if item is None:
            rows.append([*head, Outcome.UNKNOWN, sensor, where, Text("no report", "无报告"), *[None] * 6])
            continue
        heard, hops, sent, back = _beacons(item)
        own = [item.egress[case] for case, src in enumerate(plan.cases.src) if src == number]
        canaries, came = _canaries(plan, result.observations, number)
        rows.append(
            [
                *head,
                Outcome.UNKNOWN if agent.name in wrong else Outcome.PASS,
                sensor,
                where,
                heard,
                hops,
                sum(own),
                own.count(0),
                f"{came} / {canaries}" if canaries else None,
                item.drops,
                f"{100 * (1 - back / sent):.1f} %" if sent else None,
            ]
        )
    columns = [
        Text("Agent", "探针"),
        Text("Zone", "区域"),
        Text("Healthy", "健康"),
        Text("Hears", "监听"),
        Text("Addresses", "地址"),
        Text("Beacons heard (before, during, after)", "收到信标（前 中 后）"),
        Text("Next hop answered", "下一跳应答"),
        Text("Own packets seen leaving", "已离开本机的报文"),
        Text("Cases not seen leaving", "未见离开的用例"),
        Text("Canaries arrived", "金丝雀到达"),
        Text("Frames lost", "监听丢帧"),
        Text("Beacon loss", "信标丢失率"),
    ]
    note = Text(
        "Silence counts as isolation only between two healthy agents.",
        "仅两端探针均健康时，静默才视为隔离。",
    )
    return Table(Text("Health of both ends", "两端健康状况"), columns, rows, note=note)


def coverage(result: RunResult) -> list[Section]:
    """Subnets and profiles that were probed, and those that were not."""
    return [_subnets(result), _profiles(result), *_sampled(result)]


def _subnets(result: RunResult) -> Table:
    plan = result.plan
    rows: list[list[Value]] = []
    for zone, blocks in plan.zones.items():
        own = [text for agent in plan.agents if agent.zone == zone for text in agent.addresses]
        more = {
            text
            for dst, text in zip(plan.cases.dst, plan.cases.target, strict=True)
            if text and plan.agents[dst].zone == zone
        }
        for block in blocks:
            network = ipaddress.ip_network(block)
            probed = [text for text in (*own, *sorted(more)) if ipaddress.ip_address(text) in network]
            sweeps = [item for item in plan.sweeps if item.zone == zone and _inside(item.cidr, network)]
            swept = {item.cidr: (item.hosts, item.population) for item in sweeps}
            extra = [f"{cidr}: {hosts} / {named}" for cidr, (hosts, named) in swept.items()]
            spared = [text for text in plan.exclude if _inside(text, network)]
            rest = network.num_addresses - len(probed) - sum(hosts for hosts, _ in swept.values())
            rows.append(
                [
                    zone_words(result, zone),
                    Code(block),
                    _NOT if not (probed or swept) else _IN_PART if rest > 0 else _WHOLE,
                    Code(", ".join(probed)) if probed else None,
                    "; ".join(extra) or None,
                    f"{rest:,}" if rest < 1 << 32 else f"2^{rest.bit_length() - 1}",
                    Code(", ".join(spared)) if spared else None,
                ]
            )
    columns = [
        Text("Zone", "区域"),
        Text("Subnet", "网段"),
        Text("Tested", "已测试"),
        Text("Addresses probed", "探测的地址"),
        Text("Swept (hosts probed / in the block)", "批量探测（已探测 / 段内主机）"),
        Text("Addresses not probed", "未探测地址数"),
        Text("Spared", "排除"),
    ]
    note = Text(
        "A case goes to an address that a sensor hears. What holds for other addresses of a subnet follows only if"
        " the boundary treats them alike.",
        "用例只发往有监听的地址；仅当边界对网段内地址一视同仁时，结论才适用于其余地址。",
    )
    return Table(Text("Subnets tested", "已测试的网段"), columns, rows, note=note)


def sweeps(result: RunResult) -> list[Section]:
    """One row a sweep: what it covered, who listens there, and its probes by result."""
    rows: list[list[Value]] = []
    for item in result.sweeps:
        counts = sorted(item.counts.items(), key=lambda entry: -entry[1])
        words = [(result_words(name), count) for name, count in counts]
        rows.append(
            [
                f"{item.src} → {item.dst}",
                Code(item.target),
                f"IPv{item.family} {item.protocol.upper()} {item.ports}".strip(),
                f"{item.probed:,} / {item.named:,}",
                Text("a sensor", "有监听") if item.covered else Text("nobody: one-sided", "无监听：单端"),
                Text(
                    ", ".join(f"{word.en} {count:,}" for word, count in words),
                    "，".join(f"{word.zh} {count:,}" for word, count in words),
                ),
            ]
        )
    if not rows:
        return []
    heads = [
        Text("From → to", "从 → 到"),
        Text("Block", "网段"),
        Text("Probes", "探测"),
        Text("Hosts probed / in the block", "已探测 / 段内主机"),
        Text("Who listens there", "监听情况"),
        Text("Probes by result", "按结果统计"),
    ]
    note = Text(
        "Where nobody listens, silence proves nothing, and an answer may come from something in between.",
        "无监听处，静默不能证明隔离，应答也可能来自中间设备。",
    )
    return [Table(Text("Sweeps", "批量探测"), heads, rows, note=note)]


def _inside(text: str, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> bool:
    other = ipaddress.ip_network(text, strict=False)
    return other.version == network.version and other.subnet_of(network)  # type: ignore[arg-type] # same version


def _profiles(result: RunResult) -> Table:
    columns = result.columns
    counts: dict[str, dict[int, int]] = defaultdict(lambda: {4: 0, 6: 0})
    kinds: dict[str, set[str]] = defaultdict(set)
    ports: dict[str, set[int]] = defaultdict(set)
    for case, profile in enumerate(columns["profile"]):
        counts[profile][columns["family"][case]] += 1
        kinds[profile].add(str(columns["protocol"][case]))
        if profile == "l4" and columns["dport"][case]:
            ports[str(columns["protocol"][case])].add(columns["dport"][case])
    names = [*PROFILES, *(name for name in counts if name not in PROFILES)]
    rows: list[list[Value]] = []
    for name in names:
        said = ", ".join(sorted(kinds[name]))
        if name == "l4" and ports:
            said = "; ".join(f"{protocol.upper()} {spans(found)}" for protocol, found in sorted(ports.items()))
        if name in counts:
            rows.append([name, _TESTED, counts[name][4], counts[name][6], said])
        else:
            rows.append([name, _NOT, 0, 0, None])
    heads = [
        Text("Profile", "探测方案"),
        Text("Tested", "已测试"),
        Text("IPv4 cases", "IPv4 用例"),
        Text("IPv6 cases", "IPv6 用例"),
        Text("Protocols and ports", "协议与端口"),
    ]
    return Table(Text("Profiles tested", "已测试的探测方案"), heads, rows)


def _sampled(result: RunResult) -> list[Section]:
    plan = result.plan
    rows: list[list[Value]] = [
        [
            Text(f"flow {name}", f"业务流 {name}"),
            Text(
                f"{probed} of {named} ports probed: edges and middle", f"{named} 个端口中抽测 {probed} 个：两端与中点"
            ),
        ]
        for name, (named, probed) in plan.sampled.items()
    ]
    rows += [
        [
            f"{plan.agents[item.src].zone} → {item.zone} {item.cidr} {item.protocol.upper()}",
            Text(
                f"{item.hosts} of {item.population} hosts" + ("" if item.hearing else "; one-sided: no sensor there"),
                f"{item.population} 台主机中 {item.hosts} 台" + ("" if item.hearing else "；单端：该处无监听"),
            ),
        ]
        for item in plan.sweeps
        if item.hosts < item.population or not item.hearing
    ]
    rows += [
        [
            f"{src} → {dst} IPv{family}",
            Text("not probed: an agent has no address of this family", "未探测：探针没有该协议族的地址"),
        ]
        for src, dst, family in plan.uncovered
    ]
    rows += [
        [Text(f"flow {name}", f"业务流 {name}"), Text("past its date: probed as denied", "已过期：按拒绝探测")]
        for name in plan.expired
    ]
    if not rows:
        return []
    heads = [Text("What", "对象"), Text("How far", "范围")]
    return [Table(Text("Tested in part, or not at all", "部分测试或未测试"), heads, rows)]
