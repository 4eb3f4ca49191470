"""The authority as others use it: one object over issuing, revoking and publishing."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from cryptography import x509

from secguard.core import SecguardError
from secguard.identity.issuing import certify as certifying
from secguard.identity.issuing import issue as issuing
from secguard.identity.issuing.issue import Issued, Request
from secguard.identity.issuing.order import Certified, Order
from secguard.identity.records import CertificateRecord
from secguard.identity.site import Site, no_certificate
from secguard.identity.status import revoke as revoking
from secguard.identity.status.publish import publish
from secguard.identity.status.revoke import Revocation
from secguard.keys import Signer

__all__ = ["Authority"]


class Authority(Site):
    """A site's CAs, opened; see `Site` for the arguments."""

    def issue(self, requests: Sequence[Request]) -> list[Issued]:
        """Issue certificates and their companions; see `secguard.identity.issuing.issue.issue`."""
        return issuing.issue(self, requests)

    def certify(self, orders: Sequence[Order]) -> list[Certified | SecguardError]:
        """Certify keys, one answer an order, no files; see `secguard.identity.issuing.certify.certify`."""
        return certifying.certify(self, orders)

    def renew(self, holder: str, profile: str, folder: Path | None = None) -> Issued:
        """Certify an active certificate's key again; see `secguard.identity.issuing.issue.renew`."""
        return issuing.renew(self, holder, profile, folder)

    def revoke(
        self,
        target: str,
        reason: str = "unspecified",
        *,
        since: datetime | None = None,
        profile: str = "",
        case: str = "",
    ) -> list[CertificateRecord]:
        """Revoke and publish; see `secguard.identity.status.revoke.revoke`."""
        return revoking.revoke(self, [Revocation(target, reason, since)], profile=profile, case=case)

    def revoke_all(
        self, revocations: Sequence[Revocation], *, profile: str = "", case: str = ""
    ) -> list[CertificateRecord]:
        """Revoke many at once; see `secguard.identity.status.revoke.revoke`."""
        return revoking.revoke(self, revocations, profile=profile, case=case)

    def publish_crls(self, *, every: bool = False) -> list[Path]:
        """Publish the revocation lists that need it, and name all; see `secguard.identity.status.publish.publish`."""
        return [item.path for item in publish(self, every=every)]

    def device_signer(self, gbid: str, profile: str = "media-signing") -> tuple[Signer, list[x509.Certificate]]:
        """A device's key and chain (end entity first, no root); see `Site.holder_signer`."""
        return self.holder_signer(gbid, profile)

    def log_signer(self, origin: str | None = None) -> tuple[Signer, list[x509.Certificate]]:
        """The ledger's key and chain; the latest log's if no `origin` is given. See `Site.holder_signer`."""
        return self.holder_signer(self._holder(origin, "log"), "log")

    def operator_signer(self, name: str | None = None) -> tuple[Signer, list[x509.Certificate]]:
        """An operator's key and chain; the latest one's if no `name` is given. See `Site.holder_signer`."""
        return self.holder_signer(self._holder(name, "operator"), "operator")

    def _holder(self, name: str | None, profile: str) -> str:
        if name is not None:
            return name
        holders = self.registry.holders(profile)
        if not holders:
            raise no_certificate("NAME", profile)
        return holders[0]
