"""The frames of a case: probes attempt by attempt, and the guard that nothing leaves the policy's blocks."""

from collections.abc import Iterator

from secguard.isolation.agent.session import Session
from secguard.isolation.plan.tokens import Kind
from secguard.isolation.probes import headers, packets

__all__ = ["frame", "probes"]


def frame(
    session: Session,
    kind: str,
    destination: str,
    token: bytes,
    *,
    ports: tuple[int, int],
    isn: int = 0,
    ident: int = 0,
    source: str = "",
    inner: str = "",
) -> bytes:
    """A finished frame; empty if the next hop is unknown. The last guard: never outside the policy's blocks.

    `inner` is where a tunnel's content goes, if elsewhere than its outer packet.
    """
    if destination not in session.permitted:
        near = session.beacon_targets[6 if ":" in destination else 4]
        if not (session.plan.permits(destination) or destination in near):
            raise PermissionError(f"{destination} is outside the policy's blocks")
        session.permitted.add(destination)
    hop = headers.packed(session.hop.get(destination, destination))
    mac = session.sensor.neighbours.get(hop)
    if mac is None:
        return b""
    there = headers.packed(destination)
    family = 4 if len(there) == 4 else 6
    within = inner or destination
    ends = {len(there): (headers.packed(source or session.info.address(family)), headers.packed(within))}
    other = next((a for a in session.plan.agents if within in a.addresses), None)
    rest = 6 if family == 4 else 4
    if other is not None and other.address(rest) and session.info.address(rest):
        far = headers.packed(other.address(rest))
        ends[len(far)] = (headers.packed(session.info.address(rest)), far)
    form = session.plan.templates[f"{kind}/{family}"]
    body = packets.fill(form, ends, token, ports=ports, isn=isn, ident=ident, via=hop, outer=there if inner else b"")
    return mac + session.wire.interface.mac + (b"\x08\x00" if family == 4 else b"\x86\xdd") + body


def probes(session: Session, phase: int, cases: list[int]) -> Iterator[bytes]:
    """The frames of a phase: attempt by attempt over all cases, so that attempts of one case lie apart in time."""
    table = session.plan.cases
    for attempt in range(session.plan.attempts):
        jobs: list[tuple[int, str, int]] = []
        for case in cases:
            names = packets.parts(table.profile[case], table.protocol[case], attempt)
            jobs += [(case, name, phase << 8 | attempt * len(names) + i) for i, name in enumerate(names)]
        tokens = session.tokens.make(Kind.PROBE, [job[0] for job in jobs], [job[2] for job in jobs])
        for (case, name, _), token in zip(jobs, tokens, strict=True):
            _, there = session.plan.ends(case)
            ident = (case * 16 + attempt * 4 + phase) & 0xFFFF
            ports = table.sport[case], table.dport[case]
            hint, source = session.tokens.hint(case), table.source[case]
            inner = session.plan.inner(case)
            made = frame(session, name, there, token, ports=ports, isn=hint, ident=ident, source=source, inner=inner)
            if made:
                yield made
