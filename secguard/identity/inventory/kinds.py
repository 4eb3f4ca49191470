"""What the entries of a catalog are, by their type code: cameras and other front ends, or what is no device at all."""

from enum import StrEnum

__all__ = ["Kind", "kind_of"]


class Kind(StrEnum):
    """What an entry of a catalog stands for."""

    DEVICE = "device"
    ALARM = "alarm"
    PERIPHERAL = "peripheral"
    SERVER = "server"
    USER = "user"
    PLATFORM = "platform"
    DIRECTORY = "directory"
    OTHER = "other"


_CIVIL = {2, 4, 6, 8}


def kind_of(text: str) -> Kind:
    """Tell what an ID names (GB/T 28181-2022, annex E; 215 and 216 are directories in both editions).

    Args:
        text: the item's DeviceID, stripped: 20 digits, or an administrative area's 2 to 8.
    """
    if text.isascii() and text.isdigit() and len(text) in _CIVIL:
        return Kind.DIRECTORY
    if len(text) != 20 or not (text.isascii() and text.isdigit()):
        return Kind.OTHER
    code = int(text[10:13])
    if code in {117, 134, 135, 140}:
        return Kind.ALARM
    if code in {133, 136, 137, 138, 139} or 141 <= code <= 199:
        return Kind.PERIPHERAL
    if 111 <= code <= 132:
        return Kind.DEVICE
    if code in {215, 216}:
        return Kind.DIRECTORY
    for start, kind in ((200, Kind.SERVER), (300, Kind.USER), (500, Kind.PLATFORM)):
        if start <= code < (500 if start == 300 else start + 100):
            return kind
    return Kind.OTHER
