"""PKCS#11 URIs (RFC 7512): the part that names a token, a key in it, its module, and where the PIN lies."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from secguard.core.errors import UsageError

__all__ = ["SCHEME", "Pkcs11Uri"]

SCHEME = "pkcs11:"
_MAX = 2048
_PATH = {"token": "token", "serial": "serial", "object": "label", "id": "key_id", "manufacturer": "", "model": ""}
_QUERY = {"module-path": "module", "pin-source": "pin_source"}
# Without `module-path`: what p11-kit installs, which loads the modules that the machine is configured for.
_MODULES = ("/usr/lib/x86_64-linux-gnu/p11-kit-proxy.so", "/usr/lib/aarch64-linux-gnu/p11-kit-proxy.so")
_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@dataclass(frozen=True, slots=True)
class Pkcs11Uri:
    """Where a key lies.

    Attributes:
        token: label of the token.
        serial: serial number of the token; empty: any.
        label: label of the key (`object`).
        key_id: CKA_ID of the key (`id`).
        module: file of the PKCS#11 module (`module-path`); empty: p11-kit's.
        pin_source: file that holds the PIN, mode 0600 (`pin-source`); empty: see `secguard.keys.pkcs11`.
    """

    token: str = ""
    serial: str = ""
    label: str = ""
    key_id: bytes = b""
    module: str = ""
    pin_source: str = ""

    @classmethod
    def parse(cls, text: str) -> "Pkcs11Uri":
        """Read a URI; attributes that name no key (`library-description`, `slot-id` ...) are refused.

        Raises:
            UsageError: `keys.pkcs11.uri`; also for a PIN in the URI, which every process list would show.
        """
        if not text.startswith(SCHEME) or len(text) > _MAX or not text.isascii() or _ESCAPE.search(text):
            raise _bad("not a PKCS#11 URI", text)
        path, _, query = text.removeprefix(SCHEME).partition("?")
        values: dict[str, bytes] = {}
        for known, part, separator in ((_PATH, path, ";"), (_QUERY, query, "&")):
            for item in filter(None, part.split(separator)):
                name, sign, value = item.partition("=")
                if name == "pin-value":
                    raise UsageError(
                        "keys.pkcs11.pin-value",
                        "a PIN in the URI can be read by every process",
                        hint="write it into a file of mode 0600 and name it: ?pin-source=/path/to/pin",
                    )
                if name == "type" and value == "private" and known is _PATH:
                    continue
                if not known.get(name) or not sign or known[name] in values:
                    raise _bad(f"attribute {name[:40]!r} is unknown here, or there twice", text)
                values[known[name]] = unquote_to_bytes(value)
        try:
            fields = {name: value if name == "key_id" else value.decode("utf-8") for name, value in values.items()}
        except UnicodeDecodeError as error:
            raise _bad("not UTF-8", text) from error
        if any(not str(value).isprintable() for value in fields.values()):
            raise _bad("a control character", text)
        uri = cls(**fields)  # type: ignore[arg-type] # each name has its own type, as above
        if not uri.token and not uri.serial:
            raise _bad("it names no token", text)
        if uri.pin_source and not uri.pin_file:
            raise _bad("pin-source is not an absolute path", text)
        return uri

    @property
    def text(self) -> str:
        """The URI, complete and in one form; it holds no secret."""
        path = [
            f"{name}={quote(value, safe='')}"
            for name, value in (("token", self.token), ("serial", self.serial), ("object", self.label))
            if value
        ]
        if self.key_id:
            path.append("id=" + "".join(f"%{byte:02X}" for byte in self.key_id))
        query = [
            f"{name}={quote(value, safe='/')}"
            for name, value in (("module-path", self.module), ("pin-source", self.pin_source))
            if value
        ]
        return f"{SCHEME}{';'.join(path)}" + (f"?{'&'.join(query)}" if query else "")

    @property
    def module_file(self) -> str:
        """The module to load.

        Raises:
            UsageError: `keys.pkcs11.module`: it is not named, or not there.
        """
        found = [self.module] if self.module else [path for path in _MODULES if Path(path).exists()]
        if not found:
            raise UsageError(
                "keys.pkcs11.module",
                "the URI names no PKCS#11 module, and p11-kit is not installed",
                hint="add ?module-path=/path/to/the/token's/module.so",
            )
        if not Path(found[0]).is_file():
            raise UsageError(
                "keys.pkcs11.module",
                "no such PKCS#11 module",
                hint="install the token maker's software, or correct module-path",
                where=found[0],
            )
        return found[0]

    @property
    def pin_file(self) -> Path | None:
        """The file of the PIN: `pin-source`, `$CREDENTIALS_DIRECTORY/secguard-pin`, or `SECGUARD_PIN_FILE`; or None."""
        if self.pin_source:
            name = self.pin_source.removeprefix("file://").removeprefix("file:")
            return Path(name) if name.startswith("/") else None
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory and (Path(directory) / "secguard-pin").exists():
            return Path(directory) / "secguard-pin"
        named = os.environ.get("SECGUARD_PIN_FILE")
        return Path(named) if named else None


def _bad(message: str, text: str) -> UsageError:
    return UsageError(
        "keys.pkcs11.uri",
        message,
        hint="such as pkcs11:token=CA;object=devices?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/pin",
        where=text[:120],
    )
