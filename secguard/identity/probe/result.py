"""What is kept of each endpoint: small, printable, ready for JSON."""

import msgspec

from secguard.core import Axis, Finding, Outcome

__all__ = ["Endpoint", "Served"]


class Served(msgspec.Struct, frozen=True, omit_defaults=True):
    """The end entity's certificate that an endpoint served; texts are printable and short.

    Attributes:
        subject: its CN, else its subject.
        issuer: the issuer's name.
        serial: serial number, lower-case hex.
        not_before: RFC 3339.
        not_after: RFC 3339.
        key: kind and size of its key.
        signature: hash of its signature.
        spki: SHA-256 of its SubjectPublicKeyInfo.
        sha256: SHA-256 of the certificate.
        gbid: the GB/T 28181 ID it names; a mere claim unless the chain is believed.
        sent: certificates that were sent.
        believed: the chain leads to a trusted root, and nothing on it is wrong.
    """

    subject: str
    issuer: str
    serial: str
    not_before: str
    not_after: str
    key: str
    signature: str
    spki: str
    sha256: str
    gbid: str = ""
    sent: int = 1
    believed: bool = False


class Endpoint(msgspec.Struct, omit_defaults=True):
    """One endpoint and the verdict on it.

    Attributes:
        target: `host:port`.
        host: as asked for.
        port: as asked for.
        outcome: pass, fail or unknown.
        address: the IP address that answered.
        device: the device that must answer there, by the registry or the list.
        state: what happened (`secguard.identity.probe.handshake.Answer`).
        protocol: TLS version, or the protocol of a plain port.
        cipher: cipher suite.
        certificate: what it served.
        clients: outcome of each client certificate that was tried.
        active: it serves the active certificate that the registry has of its device.
        seconds: how long it took.
        findings: everything worth saying.
        axes: outcome per axis.
    """

    target: str
    host: str
    port: int
    outcome: Outcome = Outcome.UNKNOWN
    address: str = ""
    device: str = ""
    state: str = ""
    protocol: str = ""
    cipher: str = ""
    certificate: Served | None = None
    clients: dict[str, str] = {}
    active: bool = False
    seconds: float = 0.0
    findings: list[Finding] = []
    axes: dict[Axis, Outcome] = {}
