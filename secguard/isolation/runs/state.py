"""The state of a long run: what it takes to go on after a kill. A private folder that vanishes when the run is over.

`plan.json` is the signed plan, `run.json` says where the agents are, `keys.json` holds the keys that this run made for
itself (0600: they are worth what the plan's secret is worth), `agents/` the journals of rounds.
"""

import shutil
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from secguard.core.errors import FormatError, RefusedError, UsageError
from secguard.core.files import atomic_write
from secguard.core.limits import MAX_CONFIG, read_bounded
from secguard.isolation.agent.keys import parse_key
from secguard.keys import Algorithm, KeySigner, Signer, generate

__all__ = ["RunState"]

_HINT = "name the folder that the interrupted run left: OUTPUT.part"


class _Run(msgspec.Struct, forbid_unknown_fields=True):
    places: dict[str, str]
    trust: str
    output: str = ""
    v: int = 1


class RunState:
    """One run's folder.

    Attributes:
        folder: where.
        places: zone or agent -> where its agent is.
        trust: public key of the plan's signer (SPKI, base64).
        output: where the result goes; empty if nowhere in particular.
        plan: the signed plan; empty while there is none.
    """

    def __init__(self, folder: Path, places: dict[str, str], trust: str, output: str = "", plan: bytes = b"") -> None:
        self.folder = folder
        self.places = places
        self.trust = trust
        self.output = output
        self.plan = plan
        self._keys: dict[str, str] = {}

    @classmethod
    def begin(cls, folder: Path, places: dict[str, str], output: str = "") -> "RunState":
        """A new run's folder.

        Raises:
            RefusedError: there is an interrupted run in it.
            SystemPartError: it cannot be made.
        """
        if (folder / "plan.json").exists():
            raise RefusedError(
                "isolation.resume.exists",
                "an interrupted run is there",
                hint=f"go on with: secguard isolation resume {folder}, or remove the folder",
                where=str(folder),
            )
        return cls(folder, places, "", output)

    @classmethod
    def open(cls, folder: Path) -> "RunState":
        """The folder of an interrupted run.

        Raises:
            UsageError: there is none.
            FormatError: it is not one.
        """
        if not (folder / "plan.json").is_file():
            raise UsageError("isolation.resume.none", "no interrupted run is there", hint=_HINT, where=str(folder))
        try:
            run = msgspec.json.decode(read_bounded(folder / "run.json", MAX_CONFIG), type=_Run)
            keys = msgspec.json.decode(read_bounded(folder / "keys.json", MAX_CONFIG), type=dict[str, str])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise FormatError("isolation.resume.format", "not the state of a run", where=str(folder)) from None
        state = cls(folder, run.places, run.trust, run.output, read_bounded(folder / "plan.json"))
        state._keys = keys
        return state

    def save(self, plan: bytes) -> None:
        """Write everything down, the plan last: before the first packet leaves.

        Raises:
            SystemPartError: it cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        run = _Run(self.places, self.trust, self.output)
        atomic_write(self.folder / "run.json", msgspec.json.encode(run), mode=0o600)
        atomic_write(self.folder / "keys.json", msgspec.json.encode(self._keys), mode=0o600)
        atomic_write(self.folder / "plan.json", plan, mode=0o600)
        self.plan = plan

    def key(self, name: str) -> Signer:
        """A key of this run by name; made when it is first asked for.

        Raises:
            FormatError: what is kept is no key.
        """
        if name not in self._keys:
            signer = generate(Algorithm.ED25519)
            pem = signer.private_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            self._keys[name] = pem.decode()
            return signer
        try:
            return KeySigner(load_pem_private_key(self._keys[name].encode(), None))
        except (ValueError, TypeError):
            raise FormatError("isolation.resume.format", "not the state of a run", where=str(self.folder)) from None

    def has(self, name: str) -> bool:
        """Whether this run made that key."""
        return name in self._keys

    def pem(self, name: str) -> bytes:
        """The same key, as PKCS#8 in PEM, for the agent's process."""
        self.key(name)
        return self._keys[name].encode()

    @property
    def signer(self) -> PublicKeyTypes:
        """The plan's signer."""
        key: PublicKeyTypes = parse_key(self.trust)
        return key

    @property
    def journals(self) -> Path:
        """Where agents of this machine keep their rounds."""
        return self.folder / "agents"

    def end(self) -> None:
        """The run is over: nothing of it is needed here any more."""
        shutil.rmtree(self.folder, ignore_errors=True)
