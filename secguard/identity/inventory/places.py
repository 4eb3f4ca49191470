"""Where a point lies: datums, boxes and polygons.

GCJ-02 is the shifted datum of Chinese web maps; no official formula is public, the one here is the well-known
reconstruction, good to a few metres. CGCS2000 and WGS-84 differ by centimetres and count as one.
"""

import math

from secguard.core import Outcome
from secguard.identity.inventory.policy import Bounds
from secguard.identity.records import Datum

__all__ = ["inside", "to_gcj02", "to_wgs84"]

# Krasovsky 1940
_AXIS = 6378245.0
_ECCENTRICITY = 0.00669342162296594323


def _waves(value: float, *pairs: tuple[float, float]) -> float:
    return sum(weight * math.sin(value * factor * math.pi) for weight, factor in pairs) * 2 / 3


def _shift(longitude: float, latitude: float) -> tuple[float, float]:
    x, y = longitude - 105.0, latitude - 35.0
    root = math.sqrt(abs(x))
    common = _waves(x, (20.0, 6.0), (20.0, 2.0))
    east = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root + common
    east += _waves(x, (20.0, 1.0), (40.0, 1 / 3), (150.0, 1 / 12), (300.0, 1 / 30))
    north = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root + common
    north += _waves(y, (20.0, 1.0), (40.0, 1 / 3), (160.0, 1 / 12), (320.0, 1 / 30))
    angle = math.radians(latitude)
    magic = 1 - _ECCENTRICITY * math.sin(angle) ** 2
    metres_north = _AXIS * (1 - _ECCENTRICITY) / magic**1.5 * math.pi / 180
    metres_east = _AXIS / math.sqrt(magic) * math.cos(angle) * math.pi / 180
    return east / metres_east, north / metres_north


def to_gcj02(longitude: float, latitude: float) -> tuple[float, float]:
    """WGS-84 degrees to GCJ-02; outside of China nothing is shifted."""
    if not (72.004 <= longitude <= 137.8347 and 0.8293 <= latitude <= 55.8271):
        return longitude, latitude
    east, north = _shift(longitude, latitude)
    return longitude + east, latitude + north


def to_wgs84(longitude: float, latitude: float) -> tuple[float, float]:
    """GCJ-02 degrees to WGS-84, by iteration (below a centimetre against `to_gcj02`)."""
    x, y = longitude, latitude
    for _ in range(5):
        east, north = to_gcj02(x, y)
        x, y = x + longitude - east, y + latitude - north
    return x, y


def _within(bounds: Bounds, x: float, y: float) -> bool:
    if bounds.box is not None:
        west, south, east, north = bounds.box
        return west <= x <= east and south <= y <= north
    odd = False
    corners = bounds.polygon
    for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if (ay > y) != (by > y) and x < (bx - ax) * (y - ay) / (by - ay) + ax:
            odd = not odd
    return odd


def _in_datum(x: float, y: float, given: str, wanted: str) -> tuple[float, float]:
    if (given == Datum.GCJ02) == (wanted == Datum.GCJ02):
        return x, y
    return to_gcj02(x, y) if wanted == Datum.GCJ02 else to_wgs84(x, y)


def inside(bounds: Bounds, longitude: float, latitude: float, datum: str) -> Outcome:
    """Tell whether a point lies in an area; of unknown datum it passes or fails only if it does so in every datum."""
    given = [datum] if datum else [Datum.WGS84, Datum.GCJ02]
    found = {_within(bounds, *_in_datum(longitude, latitude, one, bounds.datum)) for one in given}
    if len(found) > 1:
        return Outcome.UNKNOWN
    return Outcome.PASS if found.pop() else Outcome.FAIL
