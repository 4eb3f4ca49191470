"""The fields of a device as people and platforms name them, and how a text becomes a value."""

import ipaddress
import math
import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from secguard.core import UsageError
from secguard.gbid import GbId
from secguard.identity.records import Datum, DeviceStatus

__all__ = ["CHINESE", "EDITABLE", "FIELDS", "GUARDED", "IGNORED", "field_named", "guard", "parse_field", "unguard"]

CHINESE: Mapping[str, str] = {
    "gbid": "设备编码",
    "name": "名称",
    "vendor_serial": "序列号",
    "status": "状态",
    "registered": "登记时间",
    "mac": "MAC地址",
    "model": "型号",
    "maker": "厂商",
    "address": "TLS地址",
    "site": "安装地址",
    "longitude": "经度",
    "latitude": "纬度",
    "datum": "坐标系",
    "zone": "网络区域",
    "sensitivity": "敏感等级",
    "must_sign": "须签名",
    "updated": "更新时间",
}
"""Field -> the head of its column in Chinese."""
FIELDS = tuple(CHINESE)
EDITABLE = tuple(name for name in FIELDS if name not in {"gbid", "status", "registered", "updated"})
"""What people may set; the rest follows from what happens."""
IGNORED = frozenset({"registered", "updated"})
"""Known columns that an import does not read."""

_OTHER = {
    "gbid": "deviceid gbdeviceid gbcode channelid 国标编码 国标编号 国标id 设备国标编码 设备编号 设备id 通道编码 编码",
    "name": "devicename channelname gbname 监控点名称 设备名称 通道名称 摄像机名称 点位名称",
    "vendor_serial": "serialnumber serial serialno sn vendorserialnumber 设备序列号 出厂序列号 厂商序列号",
    "status": "设备状态",
    "mac": "macaddress mac地址 物理地址",
    "model": "devicemodel gbmodel 设备型号 规格型号",
    "maker": "manufacturer manufacture gbmanufacturer vendor 设备厂商 生产厂商 制造商 厂家 品牌",
    "address": "tlsaddress endpoint 接入地址 tls端点",
    "site": "location gbaddress installationsite 安装位置 安装地点 地址 位置",
    "longitude": "lon lng gblongitude 设备经度",
    "latitude": "lat gblatitude 设备纬度",
    "datum": "crs coordinatesystem 坐标基准 坐标类型",
    "zone": "networkzone 区域 网络分区",
    "sensitivity": "class 敏感级别 密级",
    "must_sign": "mustsign 签名义务 是否签名 是否须签名",
    "registered": "注册时间",
    "updated": "修改时间",
    "ip": "ipaddress ip地址 设备ip",
}
_NOISE = re.compile(r"[\s_\-*:：（(°]+|[)）]$")


def _plain(head: str) -> str:
    return _NOISE.sub("", unicodedata.normalize("NFKC", head).casefold())


_BY_HEAD = {
    **{_plain(word): name for name, words in _OTHER.items() for word in [name, *words.split()]},
    **{_plain(word): name for name, word in CHINESE.items()},
}


def field_named(head: str) -> str:
    """The field that a column head, a JSON key or an element's name means; empty if none.

    `ip` is no field of a record: it becomes part of `address` where the port is known.
    """
    return _BY_HEAD.get(_plain(head), "")


# What spreadsheets take for a formula or command, as `secguard.report.tables`; an apostrophe in front makes it a text.
_TRIGGERS = "=+-@\t\r\n|%＝＋－＠"
_BLANKS = " \t\r\n\v\f\u00a0\u3000"
GUARDED = re.compile(rf"'*[{_BLANKS}]*[{re.escape(_TRIGGERS)}]")
_QUOTED = re.compile(r'="([^"]*)"')
"""How other programs keep a spreadsheet from making a number of an ID."""
_DIGITS = re.compile(r"'*[0-9][0-9.eE+-]*")


def guard(text: str, *, numbers: bool = False) -> str:
    """Make a text safe in a spreadsheet; `unguard` undoes it exactly. `numbers`: also what would become a number."""
    if GUARDED.match(text) or (numbers and _DIGITS.fullmatch(text)):
        return f"'{text}"
    return text


def unguard(text: str) -> str:
    """Take the apostrophe away that `guard`, or the report's CSV, put in front; or the `="..."` of other exports."""
    if found := _QUOTED.fullmatch(text):
        return found[1]
    if text.startswith("'") and (GUARDED.match(text) or _DIGITS.fullmatch(text)):
        return text[1:]
    return text


_SCIENTIFIC = re.compile(r"[0-9](\.[0-9]+)?[eE]\+?[0-9]{1,2}")
_MAC = re.compile(r"(?:[0-9a-f]{2}([:-]?)(?:[0-9a-f]{2}\1){4}[0-9a-f]{2}|[0-9a-f]{4}\.[0-9a-f]{4}\.[0-9a-f]{4})")
_SEPARATORS = str.maketrans("", "", ":-.")
_SERIAL = re.compile(r"[A-Za-z0-9 '()+,./:=?-]{1,64}")  # PrintableString of X.520, as certificates hold it
_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*", re.IGNORECASE)
_ZONE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_BREAKS = re.compile(r"[ \t\r\n\u3000\u00a0]+")
_LOOSE = re.compile(r"[\s_-]")
_DATUMS = {
    "wgs84": Datum.WGS84,
    "gps": Datum.WGS84,
    "epsg4326": Datum.WGS84,
    "gcj02": Datum.GCJ02,
    "火星坐标": Datum.GCJ02,
    "火星坐标系": Datum.GCJ02,
    "cgcs2000": Datum.CGCS2000,
    "2000国家大地坐标系": Datum.CGCS2000,
}
_YES = {"1", "true", "yes", "y", "是", "需要", "on"}
_NO = {"0", "false", "no", "n", "否", "不需要", "off"}
_PRESENCE = {"true", "false", "on", "off", "ok", "online", "offline", "在线", "离线", "vlost", "defect"}
_STATUSES = {
    "登记": "registered",
    "已登记": "registered",
    "已签发": "issued",
    "已安装": "installed",
    "在用": "active",
    "已退役": "retired",
    "退役": "retired",
}
_SIZES = {"name": 128, "model": 64, "maker": 64, "site": 256, "sensitivity": 64}


def _refuse(name: str, reason: str, hint: str = "") -> UsageError:
    return UsageError(f"identity.import.{name.replace('_', '-')}", reason, hint=hint, where=name)


def _gbid(text: str) -> str:
    if _SCIENTIFIC.fullmatch(text):
        raise _refuse(
            "gbid",
            f"{text} was an ID until a spreadsheet made a number of it; its last digits are lost",
            "format the column as text and fill it again; `device export --excel` writes IDs that stay texts",
        )
    return GbId.parse(text).value


def _mac(text: str) -> str:
    lower = text.lower()
    if not _MAC.fullmatch(lower):
        raise _refuse(
            "mac", f"{text[:40]!r} is no MAC address", "six bytes: aa:bb:cc:dd:ee:ff, AA-BB-.., aabb.ccdd.eeff"
        )
    bare = lower.translate(_SEPARATORS)
    if bare in {"0" * 12, "f" * 12} or int(bare[1], 16) & 1:
        raise _refuse("mac", f"{text[:40]} is no device's MAC address", "leave it empty where it is not known")
    return f"{bare[:2]}:{bare[2:4]}:{bare[4:6]}:{bare[6:8]}:{bare[8:10]}:{bare[10:]}"


def _serial(text: str) -> str:
    if not _SERIAL.fullmatch(text):
        raise _refuse(
            "vendor_serial",
            f"{text[:70]!r} cannot stand in a certificate as a serial number",
            "1 to 64 ASCII letters, digits, spaces and '()+,-./:=?",
        )
    return text


def _address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    good = bool(colon) and port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= 65535
    if good and bare != host:
        try:
            return f"[{ipaddress.IPv6Address(bare)}]:{int(port)}"
        except ValueError:
            good = False
    if not good or not _HOST.fullmatch(host):
        raise _refuse(
            "address",
            f"{text[:60]!r} is not HOST:PORT",
            "the TLS endpoint: 10.10.1.7:443 or [fd00::7]:443; where the device is installed is `site`",
        )
    return f"{host.lower()}:{int(port)}"


def _degrees(name: str, limit: int) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text) if len(text) <= 40 and text.isascii() and "_" not in text else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or abs(value) > limit:
            exchanged = "; exchanged with the longitude?" if limit < abs(value) <= 180 else ""
            raise _refuse(
                name, f"{text[:40]!r} is no {name}{exchanged}", f"decimal degrees from -{limit} to {limit}: 118.7781"
            )
        return value

    return parse


def _datum(text: str) -> str:
    found = _DATUMS.get(_LOOSE.sub("", text).casefold())
    if found is None:
        raise _refuse("datum", f"{text[:40]!r} is no known datum", "WGS-84, GCJ-02 or CGCS2000")
    return found


def _flag(text: str) -> bool:
    if text.casefold() in _YES:
        return True
    if text.casefold() in _NO:
        return False
    raise _refuse("must_sign", f"{text[:40]!r} is neither yes nor no", "yes or no, 是 or 否, 1 or 0")


def _status(text: str) -> str:
    if text.casefold() in _PRESENCE:
        return ""  # whether the platform sees it now is no status of a record
    value = _STATUSES.get(text, text.casefold())
    if value not in set(DeviceStatus):
        raise _refuse("status", f"{text[:40]!r} is no status", f"one of {', '.join(DeviceStatus)}")
    return value


def _zone(text: str) -> str:
    if not _ZONE.fullmatch(text):
        raise _refuse(
            "zone", f"{text[:63]!r} is no name of a zone", "as in the isolation policy: letters, digits, . _ -"
        )
    return text


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise _refuse("ip", f"{text[:40]!r} is no IP address") from None


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "gbid": _gbid,
    "vendor_serial": _serial,
    "mac": _mac,
    "address": _address,
    "longitude": _degrees("longitude", 180),
    "latitude": _degrees("latitude", 90),
    "datum": _datum,
    "must_sign": _flag,
    "status": _status,
    "zone": _zone,
    "ip": _ip,
}


def parse_field(name: str, text: str) -> Any:
    """The value of a field; an empty text (after stripping) gives an empty string, for every field.

    Line breaks and tabs inside become one space; other control characters, bidirectional marks and U+FFFD are refused.

    Raises:
        UsageError: the text is no value of this field; `where` is its name.
    """
    if text.isascii() and text.isprintable():
        clean = text.strip(" ")
    else:
        clean = _BREAKS.sub(" ", text).strip(" \ufeff")
        if "\ufffd" in clean:
            raise _refuse("text", "bytes that are no text in this encoding", "give --encoding, or correct the row")
        for character in "" if clean.isprintable() else clean:
            kind = unicodedata.category(character)
            if (
                kind in {"Cc", "Cs", "Co", "Cn"}
                or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
            ):
                raise _refuse("text", f"a character that is not allowed: U+{ord(character):04X}", "take it out")
    if not clean:
        return ""
    if name in _SIZES:
        if len(clean) > _SIZES[name]:
            raise _refuse(name, f"{len(clean)} characters; {_SIZES[name]} are the limit", "shorten it")
        return clean
    return _PARSERS[name](clean)
