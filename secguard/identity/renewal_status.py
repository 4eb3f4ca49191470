"""How certificates and lists stand, in a few facts: for `secguard status`, and for people who look once a day."""

from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from secguard.core.files import translate_os_error
from secguard.identity.certificate import ROOT, crl_file
from secguard.identity.records import CaStatus
from secguard.identity.registry import Registry

__all__ = ["SOON", "standing"]

SOON = 30
"""Days before their end in which certificates are counted."""
_NAMED = 5


def standing(registry: Registry, crl_folder: Path, now: datetime) -> dict[str, int | str]:
    """Certificates in force, soon to end and ended; CAs that end; whether the published lists are fresh.

    Args:
        registry: the registry.
        crl_folder: where lists are published.
        now: the time, aware.

    Raises:
        SystemPartError: a list cannot be read.
    """
    in_force = sum(count for name, count in registry.in_force(now).items() if name != ROOT)
    soon = ended = 0
    for record in registry.expiring(now + timedelta(days=SOON), bare=True):
        if record.expired(now):
            ended += 1
        else:
            soon += 1
    facts: dict[str, int | str] = {
        "certificates in force": in_force,
        f"certificates ending within {SOON} days": soon,
        "certificates ended, not replaced": ended,
    }
    cas = [ca for ca in registry.authorities().values() if ca.status in {CaStatus.CURRENT, CaStatus.RETIRING}]
    ending = [ca.name for ca in cas if ca.x509().not_valid_after_utc < now + timedelta(days=SOON)]
    if ending:
        facts["CAS ENDING"] = ", ".join(ending)
    count, wrong = _lists(crl_folder, now)
    wrong += [f"{ca.name}: no list" for ca in cas if not (crl_folder / crl_file(ca.name)).exists()]
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        facts["REVOCATION LISTS STALE"] = f"{'; '.join(wrong[:_NAMED])}{more} (run: secguard identity crl)"
    else:
        facts["revocation lists"] = f"{count}, all fresh"
    return facts


def _lists(folder: Path, now: datetime) -> tuple[int, list[str]]:
    """How many lists are published, and what is wrong with them."""
    paths = sorted(folder.glob("*.crl"))
    wrong = []
    for path in paths:
        try:
            end = x509.load_der_x509_crl(path.read_bytes()).next_update_utc
        except OSError as error:
            raise translate_os_error(error, path) from error
        except ValueError:
            wrong.append(f"{path.name}: damaged")
            continue
        if end is None or end < now:
            wrong.append(f"{path.name}: since {end:%Y-%m-%d %H:%M}" if end else f"{path.name}: no end")
    return len(paths), wrong
