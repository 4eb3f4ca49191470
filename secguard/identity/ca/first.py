"""The first certificates of a site: its ledger's and its operator's; and the first lists; and then `root.pem`."""

from secguard.identity.authority import Authority
from secguard.identity.ca.setting import Setting
from secguard.identity.issuing.issue import Request
from secguard.identity.records import CaStatus
from secguard.store import atomic_write
from secguard.trust import Purpose, chain_pem, stated_purposes

__all__ = ["LOG_PROFILE", "OPERATOR_PROFILE", "first_certificates"]

LOG_PROFILE = "log"
OPERATOR_PROFILE = "operator"


def first_certificates(authority: Authority, setting: Setting) -> None:
    """Certify the ledger's key and an operator's, where a CA for them is in force and they have none; publish lists.

    `root.pem` comes last: its presence says that the site is complete.

    Raises:
        SecguardError: as `Authority.issue` and `Authority.publish_crls`.
    """
    purposes = {
        purpose
        for name, record in authority.cas.items()
        if record.status == CaStatus.CURRENT
        for purpose in stated_purposes(authority.certificates[name])
    }
    requests = []
    if Purpose.LOG in purposes and setting.registry.active(setting.origin, LOG_PROFILE) is None:
        requests.append(Request(setting.origin, LOG_PROFILE, folder=setting.keys, stem=_stem(setting, LOG_PROFILE)))
    if Purpose.OPERATOR in purposes and not setting.registry.holders(OPERATOR_PROFILE):
        stem = _stem(setting, OPERATOR_PROFILE)
        requests.append(Request(setting.operator, OPERATOR_PROFILE, folder=setting.keys, stem=stem))
    if requests:
        authority.issue(requests)
    authority.publish_crls()
    atomic_write(setting.root_file, chain_pem([authority.root]))


def _stem(setting: Setting, profile: str) -> str:
    """The plain file name, unless a key of another holder has it (a site that was restored with a new ledger)."""
    holder = setting.origin if profile == LOG_PROFILE else setting.operator
    taken = any(other != holder for other in setting.registry.holders(profile))
    return "" if taken else profile
