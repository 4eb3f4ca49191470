"""`secguard identity`: the CAs, certificates and their holders; each command is one call of `secguard.identity`."""

from secguard.cli.lazy import LazyGroup

__all__ = ["identity"]

_HERE = "secguard.cli.identity"
# name -> (module, attribute, one-line help), in the order of a site's life.
_COMMANDS = {
    "ca": (f"{_HERE}.ca", "ca", "The site's certificate authorities."),
    "device": (f"{_HERE}.device", "device", "The register of devices."),
    "issue": (f"{_HERE}.certificates", "issue", "Issue a certificate."),
    "provision": (f"{_HERE}.provision", "provision", "Issue certificates for a list of devices."),
    "renew": (f"{_HERE}.renewal", "renew", "Renew one certificate, or all that end soon."),
    "enrol": (f"{_HERE}.enrol", "enrol", "Which devices may enrol over the network."),
    "revoke": (f"{_HERE}.status", "revoke", "Revoke a certificate, or all of a device."),
    "crl": (f"{_HERE}.status", "crl", "Publish fresh revocation lists."),
    "list": (f"{_HERE}.certificates", "list_", "List all certificates."),
    "expiring": (f"{_HERE}.renewal", "expiring", "List certificates that end soon."),
    "verify": (f"{_HERE}.verify", "verify", "Judge a certificate."),
    "probe": (f"{_HERE}.probe", "probe", "Ask live devices for their certificates."),
    "probe-credentials": (f"{_HERE}.probe", "probe_credentials", "Make client certificates that must be refused."),
    "profile": (f"{_HERE}.profile", "profile", "What each profile issues."),
    "lint": (f"{_HERE}.lint", "lint", "Hold what is issued against the standards."),
}

identity = LazyGroup(
    name="identity", table=_COMMANDS, help="Device certificates: issue, verify, revoke.", no_args_is_help=True
)
