"""Scopes: which IDs a certificate, a policy or a query may speak for."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from secguard.core.errors import UsageError
from secguard.gbid.gbid import GbId

__all__ = ["Scope"]

_MAX_TEXT = 4096
_KEYS = {"area": "areas", "type": "types", "network": "networks"}
_PATTERNS = {
    "areas": re.compile(r"(?:[0-9]{2}){1,4}", re.ASCII),
    "types": re.compile(r"[0-9]{1,3}", re.ASCII),
    "networks": re.compile(r"[0-9]", re.ASCII),
}
_HINTS = {
    "areas": "2, 4, 6 or 8 digits: 32, 3201, 320116",
    "types": "a type code or the start of one: 132, 13",
    "networks": "one digit: 0",
}


def _covering(prefixes: Iterable[str]) -> tuple[str, ...]:
    """Sorted, without prefixes that a shorter one covers already."""
    kept: list[str] = []
    for prefix in sorted(set(prefixes)):
        if not kept or not prefix.startswith(kept[-1]):
            kept.append(prefix)
    return tuple(kept)


@dataclass(frozen=True, slots=True)
class Scope:
    """A set of IDs; an empty tuple allows any value of that field. Kept sorted and minimal, so equal sets are equal.

    Attributes:
        areas: prefixes of the centre code, an even number of digits. `320100` covers exactly the centres that start so;
            the whole of Nanjing is `3201`.
        types: type codes, or prefixes of them.
        networks: network digits.
    """

    areas: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, pattern in _PATTERNS.items():
            values = getattr(self, name)
            for value in values:
                if not pattern.fullmatch(value):
                    raise UsageError(
                        "gbid.scope.value", f"{value[:40]!r} cannot stand here", hint=_HINTS[name], where=name
                    )
            object.__setattr__(self, name, _covering(values))

    @classmethod
    def parse(cls, text: str) -> "Scope":
        """Read `area=320116,3202 type=131,132 network=0`; keys may be left out, `any` is the scope of all IDs.

        Raises:
            UsageError: `gbid.scope.format` or `gbid.scope.value`; `where` names the part.
        """
        if len(text) > _MAX_TEXT:
            raise UsageError("gbid.scope.format", f"a scope of more than {_MAX_TEXT} characters")
        found: dict[str, tuple[str, ...]] = {}
        words = text.split()
        for word in [] if words == ["any"] else words:
            key, sign, values = word.partition("=")
            name = _KEYS.get(key)
            if name is None or not sign or name in found:
                raise UsageError(
                    "gbid.scope.format",
                    f"cannot read {word[:40]!r}",
                    hint="write: area=320116,3202 type=131,132 network=0, each at most once; or: any",
                    where="scope",
                )
            found[name] = tuple(values.split(","))
        if not words:
            raise UsageError("gbid.scope.format", "an empty scope", hint="write `any` to allow every ID")
        return cls(**found)

    @property
    def text(self) -> str:
        """The scope in the form that `parse` reads."""
        fields = (("area", self.areas), ("type", self.types), ("network", self.networks))
        return " ".join(f"{key}={','.join(values)}" for key, values in fields if values) or "any"

    def __str__(self) -> str:
        return self.text

    def covers(self, gbid: GbId) -> bool:
        """Tell whether the ID lies in the scope."""
        return (
            (not self.areas or gbid.value.startswith(self.areas))
            and (not self.types or gbid.type_code.startswith(self.types))
            and (not self.networks or gbid.network in self.networks)
        )

    def within(self, other: "Scope") -> bool:
        """Tell whether every ID of this scope lies in `other` too (a certificate's scope in its issuer's)."""
        pairs = ((self.areas, other.areas), (self.types, other.types), (self.networks, other.networks))
        return all(
            not theirs or (bool(ours) and all(value.startswith(theirs) for value in ours)) for ours, theirs in pairs
        )
