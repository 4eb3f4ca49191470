"""Client certificates that devices must refuse: another device's, a revoked and an expired one, all on record.

They name devices that do not exist, the last serial numbers of an area, and none of them lives longer than a day.
"""

from datetime import timedelta
from pathlib import Path

from secguard.core import RefusedError, SecguardError, UsageError
from secguard.gbid import GbId
from secguard.identity.authority import Authority
from secguard.identity.certificate import Validity
from secguard.identity.issuing.order import Order
from secguard.identity.records import CertificateRecord, Status
from secguard.keys import Algorithm, generate, key_id, load_signer
from secguard.keys.files import save_private_key
from secguard.store import atomic_write
from secguard.trust import chain_pem, parse_certificates

__all__ = ["TEST_SERIALS", "end_credentials", "make_credentials"]

TEST_SERIALS = {"other": 999_999, "revoked": 999_998, "expired": 999_997}
"""Serial numbers of the devices that the credentials name."""

_LIFE = timedelta(days=1)


def make_credentials(
    authority: Authority, folder: Path, *, profile: str, area: str, type_code: str
) -> dict[str, CertificateRecord]:
    """Make `<name>.pem` (certificate and issuing CA) and `<name>.key.pem` for each of `TEST_SERIALS`.

    Args:
        authority: the opened authority; records each issue and the revocation, and publishes the lists.
        folder: where they go, made with mode 0700.
        profile: a device profile for TLS clients.
        area: 2 to 8 digits of the devices' area.
        type_code: their type code, one that the profile admits.

    Returns:
        The records, by name.

    Raises:
        RefusedError: `identity.probe.credentials.there`: the folder has some already; out of the CA's scope.
        UsageError: a wrong profile, area or passphrase.
        SystemPartError: a write failed.
    """
    there = [name for name in TEST_SERIALS if (folder / f"{name}.key.pem").exists()]
    if there:
        raise RefusedError(
            "identity.probe.credentials.there",
            f"there are credentials already: {', '.join(there)}",
            hint="end them first: probe-credentials --end",
            where=str(folder),
        )
    if authority.passphrase is None:
        raise UsageError("keys.passphrase.missing", "no passphrase", hint="give --passphrase-file FILE")
    now = authority.clock.now().replace(microsecond=0)
    lives = {name: Validity(now - timedelta(minutes=5), now + _LIFE) for name in TEST_SERIALS}
    lives["expired"] = Validity(now - 2 * _LIFE, now - _LIFE)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made: dict[str, CertificateRecord] = {}
    try:
        for name, serial in TEST_SERIALS.items():
            gbid = GbId.build(area=area, type_code=type_code, serial=serial)
            # The key is on the disk before it is certified, so that --end finds whatever was left.
            signer = generate(Algorithm.P256)
            reference = save_private_key(folder / f"{name}.key.pem", signer, authority.passphrase)
            order = Order(
                gbid.value,
                profile,
                public=signer.public_key(),
                key=authority.reference(Path(reference.removeprefix("file:"))),
                replace=True,
                name="identity probe",
                validity=lives[name],
            )
            (answer,) = authority.certify([order])
            if isinstance(answer, SecguardError):
                raise answer
            made[name] = answer.record
            chain = [item for data in answer.chain for item in parse_certificates(data)]
            atomic_write(folder / f"{name}.pem", chain_pem(chain))
        authority.revoke(made["revoked"].serial, "cessationOfOperation")
    except BaseException:
        end_credentials(authority, folder)
        raise
    return made


def end_credentials(authority: Authority, folder: Path) -> list[str]:
    """Revoke what is still valid of a folder's credentials, then remove its files.

    Returns:
        Serial numbers of what was revoked.

    Raises:
        SecguardError: as `Authority.revoke`; the files stay.
    """
    ended = []
    for name in TEST_SERIALS:
        path = folder / f"{name}.key.pem"
        if not path.exists():
            continue
        # By the key, which was there first: an interrupted run may have left no certificate file.
        key = key_id(load_signer(f"file:{path}", authority.passphrase).public_key())
        for record in authority.registry.with_key(key):
            live = record.status in {Status.ACTIVE, Status.SUPERSEDED}
            if live and not record.expired(authority.clock.now()):
                authority.revoke(record.serial, "cessationOfOperation")
                ended.append(record.serial)
        (folder / f"{name}.pem").unlink(missing_ok=True)
        path.unlink()
    return ended
