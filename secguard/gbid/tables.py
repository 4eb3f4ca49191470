"""The code tables of GB/T 28181 by edition, kept as data in `editions/<year>.toml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

from secguard.core.errors import UsageError

__all__ = ["DEFAULT_EDITION", "EDITIONS", "PROVINCES", "Meaning", "Tables", "tables"]

EDITIONS = ("2016", "2022")
DEFAULT_EDITION = "2022"


class Meaning(NamedTuple):
    """What a code stands for, in English and Chinese."""

    en: str
    zh: str


@dataclass(frozen=True, slots=True)
class Tables:
    """One edition's tables: code or range of codes (`217-299`) -> meaning.

    Attributes:
        edition: `2016` or `2022`.
        types: three digits: kind of device, server or user.
        industries: two digits.
        networks: one digit.
    """

    edition: str
    types: Mapping[str, Meaning]
    industries: Mapping[str, Meaning]
    networks: Mapping[str, Meaning]

    @staticmethod
    def meaning(table: Mapping[str, Meaning], code: str) -> Meaning | None:
        """Look a code up, first by itself, then in the ranges; None when the table does not know it."""
        if code in table:
            return table[code] if "-" not in code else None
        for key, value in table.items():
            first, dash, last = key.partition("-")
            if dash and len(code) == len(first) and first <= code <= last:
                return value
        return None


@cache
def tables(edition: str = DEFAULT_EDITION) -> Tables:
    """The tables of an edition.

    Raises:
        UsageError: `gbid.edition`.
    """
    if edition not in EDITIONS:
        raise UsageError("gbid.edition", f"unknown edition {edition[:20]!r}", hint=f"known: {', '.join(EDITIONS)}")
    import tomllib  # only when codes are explained or validated

    source = (files("secguard.gbid") / "editions" / f"{edition}.toml").read_text(encoding="utf-8")
    read = {name: {k: Meaning(**v) for k, v in rows.items()} for name, rows in tomllib.loads(source).items()}
    return Tables(edition, **read)


# Province-level codes of GB/T 2260, the first two digits of every ID.
PROVINCES: Mapping[str, Meaning] = {
    "11": Meaning("Beijing", "北京市"),
    "12": Meaning("Tianjin", "天津市"),
    "13": Meaning("Hebei", "河北省"),
    "14": Meaning("Shanxi", "山西省"),
    "15": Meaning("Inner Mongolia", "内蒙古自治区"),
    "21": Meaning("Liaoning", "辽宁省"),
    "22": Meaning("Jilin", "吉林省"),
    "23": Meaning("Heilongjiang", "黑龙江省"),
    "31": Meaning("Shanghai", "上海市"),
    "32": Meaning("Jiangsu", "江苏省"),
    "33": Meaning("Zhejiang", "浙江省"),
    "34": Meaning("Anhui", "安徽省"),
    "35": Meaning("Fujian", "福建省"),
    "36": Meaning("Jiangxi", "江西省"),
    "37": Meaning("Shandong", "山东省"),
    "41": Meaning("Henan", "河南省"),
    "42": Meaning("Hubei", "湖北省"),
    "43": Meaning("Hunan", "湖南省"),
    "44": Meaning("Guangdong", "广东省"),
    "45": Meaning("Guangxi", "广西壮族自治区"),
    "46": Meaning("Hainan", "海南省"),
    "50": Meaning("Chongqing", "重庆市"),
    "51": Meaning("Sichuan", "四川省"),
    "52": Meaning("Guizhou", "贵州省"),
    "53": Meaning("Yunnan", "云南省"),
    "54": Meaning("Tibet", "西藏自治区"),
    "61": Meaning("Shaanxi", "陕西省"),
    "62": Meaning("Gansu", "甘肃省"),
    "63": Meaning("Qinghai", "青海省"),
    "64": Meaning("Ningxia", "宁夏回族自治区"),
    "65": Meaning("Xinjiang", "新疆维吾尔自治区"),
    "71": Meaning("Taiwan", "台湾省"),
    "81": Meaning("Hong Kong", "香港特别行政区"),
    "82": Meaning("Macao", "澳门特别行政区"),
}
