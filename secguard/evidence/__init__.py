"""Floor 6: the custody bundle: all about one exported recording, verifiable offline from one root certificate."""

from secguard.evidence.archive import MAX_ARCHIVE
from secguard.evidence.bundle import Exported, Sealers, export
from secguard.evidence.custody import Custody
from secguard.evidence.manifest import PAYLOAD_TYPE, BundleManifest, Listed, Recording
from secguard.evidence.report import bundle_report
from secguard.evidence.scan_verdict import JudgedScan
from secguard.evidence.scans import KeptScans
from secguard.evidence.verify import DEFAULT_AXES, BundleVerdict, verify_bundle

__all__ = [
    "DEFAULT_AXES",
    "MAX_ARCHIVE",
    "PAYLOAD_TYPE",
    "BundleManifest",
    "BundleVerdict",
    "Custody",
    "Exported",
    "JudgedScan",
    "KeptScans",
    "Listed",
    "Recording",
    "Sealers",
    "bundle_report",
    "export",
    "verify_bundle",
]
