"""Private keys that stay in a PKCS#11 token: ECDSA over P-256 and P-384, shaped as keys of `cryptography`.

`TokenKey` is an `ec.EllipticCurvePrivateKey`, so certificates, lists, requests and OCSP answers are built with it as
with any key. Its signatures are not repeatable: whoever signs keeps the signature before he hands it out.
"""

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, encode_dss_signature

from secguard.core.errors import RefusedError, SystemPartError, UsageError
from secguard.core.limits import read_bounded
from secguard.keys.files import check_private
from secguard.keys.pkcs11uri import Pkcs11Uri
from secguard.keys.signer import Algorithm, KeySigner

if TYPE_CHECKING:
    import pkcs11

__all__ = ["TokenKey", "generate_in_token", "open_token_key"]

_CURVES: dict[Algorithm, tuple[str, ec.EllipticCurve]] = {
    Algorithm.P256: ("secp256r1", ec.SECP256R1()),
    Algorithm.P384: ("secp384r1", ec.SECP384R1()),
}
_MAX_PIN = 256


@dataclass(slots=True)
class _Login:
    """An open session of one token in one process; PKCS#11 sessions do one thing at a time, and end with a fork."""

    session: "pkcs11.Session"
    process: int
    lock: threading.RLock


_logins: dict[tuple[str, str, str], _Login] = {}
_logging_in = threading.Lock()


class TokenKey(ec.EllipticCurvePrivateKey):
    """A private key that only the token can use; the token is asked anew when the process has forked."""

    def __init__(self, uri: Pkcs11Uri) -> None:
        self._uri = uri
        self._public = _public_key(uri)
        self._handle: tuple[pkcs11.Session, Any] | None = None

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "TokenKey":
        return self

    def __repr__(self) -> str:
        return f"TokenKey({self._uri.text})"

    @property
    def curve(self) -> ec.EllipticCurve:
        """The curve."""
        return self._public.curve

    @property
    def key_size(self) -> int:
        """Bits of the curve."""
        return self.curve.key_size

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """Sign in the token; DER (RFC 3279).

        Raises:
            SystemPartError: the token failed or is gone.
        """
        if not isinstance(signature_algorithm, ec.ECDSA):
            raise TypeError("only ECDSA")
        algorithm = signature_algorithm.algorithm
        if isinstance(algorithm, Prehashed):
            digest = bytes(data)
        else:
            hasher = hashes.Hash(algorithm)
            hasher.update(data)
            digest = hasher.finalize()
        import pkcs11

        size = (self.key_size + 7) // 8
        with _session(self._uri) as session:
            if self._handle is None or self._handle[0] is not session:
                self._handle = (session, _find(session, self._uri, pkcs11.ObjectClass.PRIVATE_KEY))
            raw = bytes(self._handle[1].sign(digest[:size], mechanism=pkcs11.Mechanism.ECDSA))
        if len(raw) != 2 * size:
            raise SystemPartError("keys.pkcs11.failed", "the token gave no ECDSA signature", where=self._uri.text)
        return encode_dss_signature(int.from_bytes(raw[:size]), int.from_bytes(raw[size:]))

    def exchange(self, *_: object) -> bytes:
        """Refused: these keys sign."""
        self._stays()

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        """Refused: the key stays in the token."""
        self._stays()

    def private_bytes(self, *_: object, **__: object) -> bytes:
        """Refused: the key stays in the token."""
        self._stays()

    def _stays(self) -> NoReturn:
        raise RefusedError("keys.pkcs11.stays", "the key stays in its token; it only signs", where=self._uri.text)


def open_token_key(reference: str) -> KeySigner:
    """Open a key in a token, as `keys.load_signer` does for `pkcs11:`.

    Raises:
        UsageError: not a URI; the extra, the module, the token, the key or the PIN is missing or wrong.
        RefusedError: others may read the file of the PIN.
        SystemPartError: the token failed.
    """
    return KeySigner(TokenKey(Pkcs11Uri.parse(reference)))


def generate_in_token(uri: Pkcs11Uri, algorithm: Algorithm) -> KeySigner:
    """Make a key pair in a token: sensitive, not extractable; one with the same `id` is taken up instead.

    Args:
        uri: names the token, and the new key by `label` and `key_id`.
        algorithm: P-256 or P-384.

    Raises:
        UsageError: as `open_token_key`, or another kind of key.
        SystemPartError: the token failed.
    """
    import_pkcs11()
    import pkcs11
    from pkcs11.util.ec import encode_named_curve_parameters

    if algorithm not in _CURVES:
        raise UsageError(
            "keys.pkcs11.algorithm", f"keys in a token are ECDSA, not {algorithm}", hint="change `key` in the profile"
        )
    with _session(uri) as session:
        if next(_objects(session, uri, pkcs11.ObjectClass.PRIVATE_KEY), None) is None:
            parameters = session.create_domain_parameters(
                pkcs11.KeyType.EC,
                {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[algorithm][0])},
                local=True,
            )
            parameters.generate_keypair(
                mechanism=pkcs11.Mechanism.EC_KEY_PAIR_GEN,
                store=True,
                id=uri.key_id,
                label=uri.label,
                public_template={pkcs11.Attribute.VERIFY: True},
                private_template={
                    pkcs11.Attribute.SENSITIVE: True,
                    pkcs11.Attribute.EXTRACTABLE: False,
                    pkcs11.Attribute.SIGN: True,
                    pkcs11.Attribute.DERIVE: False,
                },
            )
    return KeySigner(TokenKey(uri))


def import_pkcs11() -> None:
    """Import the extra.

    Raises:
        SystemPartError: `keys.pkcs11.extra`: it is not installed.
    """
    try:
        import pkcs11  # noqa: F401 - only whether it is there
    except ImportError as error:
        raise SystemPartError(
            "keys.pkcs11.extra", "PKCS#11 is not installed", hint="pip install 'secguard[pkcs11]'"
        ) from error


def _public_key(uri: Pkcs11Uri) -> ec.EllipticCurvePublicKey:
    import_pkcs11()
    import pkcs11

    with _session(uri) as session:
        _find(session, uri, pkcs11.ObjectClass.PRIVATE_KEY)
        public = _find(session, uri, pkcs11.ObjectClass.PUBLIC_KEY)
        parameters, point = public[pkcs11.Attribute.EC_PARAMS], bytes(public[pkcs11.Attribute.EC_POINT])
    from pkcs11.util.ec import encode_named_curve_parameters

    curve = next((c for n, c in _CURVES.values() if encode_named_curve_parameters(n) == bytes(parameters)), None)
    if curve is None:
        raise UsageError("keys.algorithm.unsupported", "not an ECDSA key over P-256 or P-384", where=uri.text)
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    try:  # a DER OCTET STRING around the point; some modules leave it out
        return ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:])
    except ValueError as error:
        raise SystemPartError("keys.pkcs11.failed", "the token gave no public key", where=uri.text) from error


def _objects(session: "pkcs11.Session", uri: Pkcs11Uri, kind: "pkcs11.ObjectClass") -> Iterator[Any]:
    import pkcs11

    wanted: dict[Any, Any] = {pkcs11.Attribute.CLASS: kind}
    if uri.key_id:
        wanted[pkcs11.Attribute.ID] = uri.key_id
    if uri.label:
        wanted[pkcs11.Attribute.LABEL] = uri.label
    yield from list(session.get_objects(wanted))


def _find(session: "pkcs11.Session", uri: Pkcs11Uri, kind: "pkcs11.ObjectClass") -> Any:
    found = list(_objects(session, uri, kind))
    if not found:
        raise UsageError(
            "keys.pkcs11.key",
            "the token holds no such key",
            hint="see: p11tool --list-all, or pkcs11-tool -O",
            where=uri.text,
        )
    if len(found) > 1:
        raise UsageError("keys.pkcs11.key", "the URI fits several keys", hint="add id=%..", where=uri.text)
    return found[0]


def _pin(uri: Pkcs11Uri) -> str:
    path = uri.pin_file
    if path is None:
        raise UsageError(
            "keys.pkcs11.pin",
            "no PIN for the token",
            hint="write it into a file of mode 0600, and add pin-source=/path/to/it to the URI",
            where=uri.text,
        )
    check_private(path)
    try:
        pin = read_bounded(path, _MAX_PIN).rstrip(b"\r\n").decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError("keys.pkcs11.pin", "the file holds no PIN", where=str(path)) from error
    if not pin:
        raise UsageError("keys.pkcs11.pin", "the file of the PIN is empty", where=str(path))
    return pin


@contextlib.contextmanager
def _session(uri: Pkcs11Uri) -> Iterator["pkcs11.Session"]:
    """The open session of a token, for one operation; what PKCS#11 says is translated."""
    import_pkcs11()
    import pkcs11

    place = (uri.module_file, uri.token, uri.serial)
    try:
        with _logging_in:
            login = _logins.get(place)
            if login is None or login.process != os.getpid():
                login = _logins[place] = _Login(_log_in(uri, place[0]), os.getpid(), threading.RLock())
        with login.lock:
            yield login.session
    except (pkcs11.PKCS11Error, RuntimeError) as error:
        _logins.pop(place, None)  # a token that was taken out is opened anew next time
        raise _translate(error, uri) from error


def _log_in(uri: Pkcs11Uri, module: str) -> "pkcs11.Session":
    import pkcs11

    pin = _pin(uri)
    try:
        library = pkcs11.lib(module)
    except (pkcs11.PKCS11Error, RuntimeError, OSError) as error:
        raise UsageError(
            "keys.pkcs11.module", "cannot load this PKCS#11 module", hint="is it for this machine?", where=module
        ) from error
    for key in [key for key, login in _logins.items() if login.process != os.getpid()]:
        del _logins[key]  # the parent's; a child must begin anew (PKCS#11 2.40, 5.4)
    if not any(key[0] == module for key in _logins):
        with contextlib.suppress(pkcs11.PKCS11Error):
            library.reinitialize()  # sees also tokens that were put in since
    wanted: dict[str, Any] = {}
    if uri.token:
        wanted["token_label"] = uri.token
    if uri.serial:
        wanted["token_serial"] = uri.serial.encode()
    token = library.get_token(**wanted)
    try:
        return token.open(rw=True, user_pin=pin)
    except pkcs11.UserAlreadyLoggedIn:
        return token.open(rw=True)


def _translate(error: Exception, uri: Pkcs11Uri) -> UsageError | SystemPartError:
    import pkcs11

    where = uri.text
    if isinstance(error, pkcs11.NoSuchToken):
        return UsageError(
            "keys.pkcs11.token", "no such token", hint="put it in; softhsm2-util --show-slots", where=where
        )
    if isinstance(error, pkcs11.MultipleTokensReturned):
        return UsageError("keys.pkcs11.token", "several tokens have this label", hint="add serial=...", where=where)
    if isinstance(error, pkcs11.PinLocked):
        return UsageError("keys.pkcs11.pin", "the token's PIN is locked", hint="unlock it with the SO PIN", where=where)
    if isinstance(error, pkcs11.PinIncorrect | pkcs11.PinInvalid | pkcs11.PinLenRange):
        return UsageError(
            "keys.pkcs11.pin", "the token refuses this PIN", hint="correct the file before it locks", where=where
        )
    name = type(error).__name__
    return SystemPartError(
        "keys.pkcs11.failed", f"the token failed: {name} {error}".rstrip(), hint="is it still there?", where=where
    )
