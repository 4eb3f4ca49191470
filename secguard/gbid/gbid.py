"""The 20-digit ID of GB/T 28181, annex D (2016) or E (2022): centre 8, industry 2, type 3, network 1, serial 6."""

from dataclasses import dataclass
from typing import NamedTuple

from secguard.core.errors import UsageError
from secguard.gbid.tables import DEFAULT_EDITION, PROVINCES, tables

__all__ = ["GbId", "Part"]

_LENGTH = 20
_EXAMPLE = "32011600001320000001"
_FIELDS = (
    ("area", 0, 8, "Administrative area", "中心编码（行政区划）"),
    ("industry", 8, 10, "Industry", "行业编码"),
    ("type_code", 10, 13, "Type", "类型编码"),
    ("network", 13, 14, "Network", "网络标识"),
    ("serial", 14, 20, "Serial number", "序号"),
)


class Part(NamedTuple):
    """One field of an ID, explained: its name, first and last position counted from 1, digits, and their meaning."""

    name: str
    first: int
    last: int
    digits: str
    meaning: str


@dataclass(frozen=True, slots=True, order=True)
class GbId:
    """A well-formed GB/T 28181 ID; made by `parse` or `build`.

    Attributes:
        value: the 20 digits.
    """

    value: str

    def __post_init__(self) -> None:
        _check_shape(self.value)

    def __str__(self) -> str:
        return self.value

    @classmethod
    def parse(cls, text: str) -> "GbId":
        """Read an ID; white space around it is ignored, nothing else.

        Only the shape is checked, since sites use codes of their own; `validate` checks the tables too.

        Raises:
            UsageError: `gbid.length` or `gbid.digit`; `where` names the position, counted from 1.
        """
        return cls(text.strip())

    @classmethod
    def build(cls, *, area: str, type_code: str, serial: int, industry: str = "00", network: str = "0") -> "GbId":
        """Put an ID together.

        Args:
            area: 2, 4, 6 or 8 digits of administrative area; filled with zeros on the right.
            type_code: 3 digits.
            serial: 0 to 999999.
            industry: 2 digits.
            network: 1 digit.

        Raises:
            UsageError: a field has the wrong length, other characters than digits, or is out of range.
        """
        if len(area) not in {2, 4, 6, 8}:
            raise UsageError(
                "gbid.area", f"an area of {len(area)} digits", hint="give 2, 4, 6 or 8 digits: 320116", where="area"
            )
        if not 0 <= serial <= 999_999:
            raise UsageError(
                "gbid.serial", "the serial number is out of range", hint="give 0 to 999999", where="serial"
            )
        for name, text, size in (("industry", industry, 2), ("type", type_code, 3), ("network", network, 1)):
            if len(text) != size:
                raise UsageError(f"gbid.{name}", f"{name} has {len(text)} digits, not {size}", where=name)
        return cls(f"{area:0<8}{industry}{type_code}{network}{serial:06}")

    @property
    def centre(self) -> str:
        """Positions 1-8: administrative area with the basic unit."""
        return self.value[:8]

    @property
    def area(self) -> str:
        """Administrative area: 6 digits (GB/T 2260), or all 8 when the basic unit is given."""
        return self.value[:6] if self.value[6:8] == "00" else self.value[:8]

    @property
    def industry(self) -> str:
        """Positions 9-10."""
        return self.value[8:10]

    @property
    def type_code(self) -> str:
        """Positions 11-13: what kind of device, server or user it is."""
        return self.value[10:13]

    @property
    def network(self) -> str:
        """Position 14: the network it is attached to."""
        return self.value[13]

    @property
    def serial(self) -> str:
        """Positions 15-20."""
        return self.value[14:]

    def problems(self, edition: str = DEFAULT_EDITION) -> list[UsageError]:
        """What the tables of an edition (`2016`, `2022`) do not know about this ID; empty when all is well."""
        known = tables(edition)
        found = []
        if self.value[:2] not in PROVINCES:
            found.append(
                UsageError(
                    "gbid.province",
                    f"{self.value[:2]} is no province-level code of GB/T 2260",
                    hint="an ID starts with its administrative area, for example 3201 for Nanjing",
                    where="positions 1-2",
                )
            )
        for code, (name, first, last), table in (
            ("gbid.industry", ("industry", 9, 10), known.industries),
            ("gbid.type", ("type", 11, 13), known.types),
            ("gbid.network", ("network", 14, 14), known.networks),
        ):
            digits = self.value[first - 1 : last]
            if known.meaning(table, digits) is None:
                place = f"positions {first}-{last}" if last > first else f"position {first}"
                hint = f"known: {', '.join(sorted(table))}"
                found.append(
                    UsageError(code, f"{name} {digits} is not in the {edition} edition", hint=hint, where=place)
                )
        return found

    def validate(self, edition: str = DEFAULT_EDITION) -> "GbId":
        """Check the ID against an edition's tables and return it.

        Raises:
            UsageError: the first of `problems`, or `gbid.edition` for an unknown edition.
        """
        for problem in self.problems(edition):
            raise problem
        return self

    def explain(self, edition: str = DEFAULT_EDITION, lang: str = "en") -> tuple[Part, ...]:
        """Name every field and what its digits mean, in `en` or `zh`; an empty meaning where the table is silent."""
        known = tables(edition)
        chinese = lang == "zh"
        area = PROVINCES.get(self.value[:2])
        meanings = {
            "area": area,
            "industry": known.meaning(known.industries, self.industry),
            "type_code": known.meaning(known.types, self.type_code),
            "network": known.meaning(known.networks, self.network),
        }
        parts = []
        for name, start, stop, en, zh in _FIELDS:
            meaning = meanings.get(name)
            text = "" if meaning is None else meaning.zh if chinese else meaning.en
            parts.append(Part(zh if chinese else en, start + 1, stop, self.value[start:stop], text))
        return tuple(parts)


def _check_shape(text: str) -> None:
    if len(text) != _LENGTH:
        difference = len(text) - _LENGTH
        what = f"{difference} too many" if difference > 0 else f"{-difference} missing"
        raise UsageError(
            "gbid.length",
            f"a GB/T 28181 ID has 20 digits, this one has {len(text)} characters ({what})",
            hint=f"8 area + 2 industry + 3 type + 1 network + 6 serial, for example {_EXAMPLE}",
            where=repr(text[:40]),
        )
    for index, character in enumerate(text):
        if not "0" <= character <= "9":
            name = next(en for _, start, stop, en, _ in _FIELDS if start <= index < stop)
            raise UsageError(
                "gbid.digit",
                f"{character!r} is not a digit ({name.lower()})",
                hint=f"write all 20 digits without separators, for example {_EXAMPLE}",
                where=f"{text!r} position {index + 1}",
            )
