"""`policies/register.yaml`: which entries of a catalog are to be registered, and what a full record is."""

import hashlib
import math
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from secguard.core import FormatError
from secguard.core.limits import read_bounded

__all__ = ["Bounds", "Measure", "RegisterPolicy", "load_register_policy"]

Measure = Literal["registered", "complete", "located", "certified"]
_Point = tuple[float, float]
_Prefix = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}$")]
_FieldName = Literal[
    "name", "vendor_serial", "mac", "model", "maker", "address", "site", "longitude", "latitude", "datum", "zone",
    "sensitivity",
]  # fmt: skip
_AREA = r"^([0-9]{2}){1,4}$"


class Bounds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The ground of an area.

    Attributes:
        datum: of these coordinates.
        box: west, south, east, north in degrees.
        polygon: three or more corners (longitude, latitude); the last is joined to the first.
    """

    datum: Literal["WGS-84", "GCJ-02", "CGCS2000"]
    box: tuple[float, float, float, float] | None = None
    polygon: Annotated[tuple[_Point, ...], msgspec.Meta(max_length=5000)] = ()


class RegisterPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the register owes.

    Attributes:
        version: 1.
        types: type codes, or starts of them, whose entries count.
        mandatory: fields that a record must fill.
        measures: what must reach the target.
        target: per cent, of every measure.
        areas: bounds by area code (2 to 8 digits); the longest that fits an ID counts.
        digest: SHA-256 of the file; set by the loader.
    """

    version: Literal[1] = msgspec.field(default=1, name="register")
    types: Annotated[tuple[_Prefix, ...], msgspec.Meta(min_length=1, max_length=200)] = (
        "111", "112", "113", "118", "121", "122", "130", "131", "132",
    )  # fmt: skip
    mandatory: tuple[_FieldName, ...] = ("name", "maker", "model", "site", "longitude", "latitude")
    measures: Annotated[tuple[Measure, ...], msgspec.Meta(min_length=1)] = (
        "registered", "complete", "located", "certified",
    )  # fmt: skip
    target: Annotated[float, msgspec.Meta(gt=0, le=100)] = 100.0
    areas: dict[str, Bounds] = {}
    digest: str = ""

    def counts(self, type_code: str) -> bool:
        """Tell whether entries of a type are to be registered."""
        return type_code.startswith(self.types)

    def bounds(self, gbid: str) -> Bounds | None:
        """The ground of the smallest known area that holds an ID."""
        for size in (8, 6, 4, 2):
            if found := self.areas.get(gbid[:size]):
                return found
        return None


def load_register_policy(path: Path) -> RegisterPolicy:
    """Read the policy; what it leaves out, and a missing file, take the defaults.

    Raises:
        FormatError: an unknown key, or a value that cannot be; `where` is `file:line`.
        SystemPartError: it cannot be read.
    """
    if not path.exists():
        return RegisterPolicy()
    from secguard.core.yamltree import load

    data = read_bounded(path, 1 << 20)
    tree = load(data, str(path), "identity.register-policy")
    try:
        policy = msgspec.convert(tree.value, RegisterPolicy)
    except msgspec.ValidationError as error:
        text = str(error)
        key = text.partition("`$.")[2].rstrip("`").replace("[...]", "").split(".")
        line = tree.line(*[part for part in key if part])
        raise _wrong(f"{path}:{line}", text) from None
    if policy.digest:
        raise _wrong(f"{path}:{tree.line('digest')}", "unknown key digest")
    for code, area in policy.areas.items():
        _check_area(f"{path}:{tree.line('areas', code)}", code, area)
    return msgspec.structs.replace(policy, digest=hashlib.sha256(data).hexdigest())


def _wrong(where: str, reason: str) -> FormatError:
    return FormatError(
        "identity.register-policy.value", reason[:300], hint="docs/register.md shows a whole policy", where=where
    )


def _check_area(where: str, code: str, area: Bounds) -> None:
    if not (code.isascii() and code.isdigit() and len(code) in {2, 4, 6, 8}):
        raise _wrong(where, f"{code[:20]!r} is no area code of 2, 4, 6 or 8 digits (write it in quotes)")
    if (area.box is None) == (not area.polygon):
        raise _wrong(where, "an area has either a box or a polygon")
    points = [*area.polygon]
    if area.box is not None:
        west, south, east, north = area.box
        if not (west < east and south < north):
            raise _wrong(where, "a box is [west, south, east, north]")
        points = [(west, south), (east, north)]
    elif len(points) < 3:
        raise _wrong(where, "a polygon has three or more corners")
    if not all(math.isfinite(x) and math.isfinite(y) and abs(x) <= 180 and abs(y) <= 90 for x, y in points):
        raise _wrong(where, "a corner is [longitude, latitude] in degrees")
