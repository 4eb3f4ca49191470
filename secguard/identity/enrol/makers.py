"""Makers of devices whose own certificates (IDevID, IEEE 802.1AR) are believed: one file a maker in certs/makers.

`certs/makers/NAME.pem` holds a maker's root, and the CAs below it; `NAME.crl`, if it is there, its revocation list. A
maker numbers only its own devices, so the NAME counts: it must be the maker in the device's record.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from secguard.core import Axis, Finding, FormatError, Outcome, RefusedError, SecguardError, UsageError, describe
from secguard.gbid import GbId
from secguard.identity.records import DeviceRecord, DeviceStatus
from secguard.identity.registry import Registry
from secguard.trust import MALFORMED, Purpose, TrustPolicy, der, read_certificates, read_crls

__all__ = ["Maker", "load_makers", "serial_of", "which_device"]

_MAX_MAKERS = 256
_HARDWARE_MODULE_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4")


@dataclass(frozen=True)
class Maker:
    """One maker.

    Attributes:
        name: the file's name without `.pem`.
        certificates: its root and the CAs below it.
        policy: judges its devices.
        listed: its revocation list is here, so a device must not be on it.
    """

    name: str
    certificates: tuple[x509.Certificate, ...]
    policy: TrustPolicy
    listed: bool

    def judge(self, leaf: x509.Certificate, at: datetime) -> Finding | None:
        """Why a device's certificate is not believed, or None; an end of 9999-12-31 (802.1AR) is a date like any."""
        judgement = self.policy.judge_chain([leaf, *self.certificates], Purpose.DEVICE, at)
        for item in judgement.findings:
            if item.outcome is Outcome.PASS or item.code == "trust.purpose.unstated":
                continue
            if item.axis is Axis.REVOCATION and not self.listed and item.outcome is Outcome.UNKNOWN:
                continue  # makers rarely publish lists for certificates that never end
            if item.axis in {Axis.PROVENANCE, Axis.REVOCATION}:
                return item
        return None


def load_makers(folder: Path) -> list[Maker]:
    """Read the makers of a site; none if there is no such folder.

    Raises:
        FormatError: a file holds no certificate, no root, or one that is not a CA's.
        SystemPartError: a file cannot be read.
    """
    makers = []
    files = sorted(folder.glob("*.pem"))
    if len(files) > _MAX_MAKERS:
        raise FormatError("identity.makers.too-many", f"more than {_MAX_MAKERS} makers", where=str(folder))
    for path in files:
        certificates = read_certificates(path)
        roots = [one for one in certificates if one.subject == one.issuer]
        crl = path.with_suffix(".crl")
        try:
            policy = TrustPolicy(roots, read_crls([crl]) if crl.exists() else ())
        except UsageError as error:
            raise FormatError(
                "identity.makers.root",
                f"no trust anchor of a maker: {error.message}",
                hint="put the maker's root certificate into the file, and the CAs below it",
                where=str(path),
            ) from error
        makers.append(Maker(path.stem, tuple(certificates), policy, crl.exists()))
    return makers


def serial_of(leaf: x509.Certificate) -> str:
    """The maker's serial number in an IDevID: serialNumber of the subject (802.1AR, 8.6), else of hardwareModuleName.

    Raises:
        RefusedError: `identity.enrol.serial`: there is none, or two that differ.
    """
    try:
        found = {str(item.value) for item in leaf.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)}
        if not found:
            found = _hardware_serials(leaf)
    except (SecguardError, *MALFORMED):
        found = set()
    if len(found) != 1 or not next(iter(found)):
        raise RefusedError(
            "identity.enrol.serial",
            "the maker's certificate names no serial number, or several",
            hint="enrol this device with a one-time secret",
        )
    return found.pop()


def _hardware_serials(leaf: x509.Certificate) -> set[str]:
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    found = set()
    for name in names.get_values_for_type(x509.OtherName):
        if name.type_id == _HARDWARE_MODULE_NAME:
            fields = list(der.children(der.single(name.value, der.SEQUENCE)))
            found |= {content.decode("utf-8") for tag, content in fields if tag == der.OCTET_STRING}
    return found


def which_device(
    makers: Sequence[Maker], leaf: x509.Certificate, registry: Registry, at: datetime
) -> tuple[GbId, DeviceRecord]:
    """The registered device that a maker's certificate belongs to.

    Args:
        makers: those that are believed.
        leaf: what the device presented; it has proven that it holds the key.
        registry: an open registry.
        at: now, aware.

    Raises:
        RefusedError: no maker certified it, or its maker and serial number are not those of exactly one device.
    """
    problem: Finding | None = None
    for maker in makers:
        found = maker.judge(leaf, at)
        if found is None:
            return _registered(maker, serial_of(leaf), registry, alone=len(makers) == 1)
        if problem is None or found.code not in {"trust.chain.incomplete", "trust.chain.untrusted"}:
            problem = found
    raise RefusedError(
        "identity.enrol.foreign",
        f"the device's certificate is not believed{f': {describe(problem)}' if problem else ''}",
        hint="put its maker's root into certs/makers, or enrol the device with a one-time secret",
    )


def _registered(maker: Maker, serial: str, registry: Registry, *, alone: bool) -> tuple[GbId, DeviceRecord]:
    known = [one for one in registry.devices_with_serial(serial) if one.status != DeviceStatus.RETIRED]
    fit = [one for one in known if one.maker.casefold() == maker.name.casefold()]
    if not fit and alone:
        fit = [one for one in known if not one.maker]
    if len(fit) == 1:
        return GbId.parse(fit[0].gbid), fit[0]
    if len(fit) > 1:
        what = f"{len(fit)} devices of {maker.name} are registered with the serial number {serial[:64]}"
    elif known:
        what = f"the device with the serial number {serial[:64]} is not registered as one of {maker.name}"
    else:
        what = f"no device is registered with the serial number {serial[:64]}"
    raise RefusedError(
        "identity.enrol.unregistered",
        what,
        hint=f"enter maker ({maker.name}) and serial number into the register",
    )
