"""Coordinates of China: what can be right, and the systems WGS-84, CGCS2000 and GCJ-02.

WGS-84 to CGCS2000 is left to PROJ (package pyproj, extra ``geo``). For GCJ-02, the shifted system that Chinese map
services must draw in, no library on PyPI is kept up, and PROJ does not know it, so its published formula is here;
the way back has no closed form and is found by iteration, to below a millimetre.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import StrEnum

from gateway.errors import GatewayError

Point = tuple[float, float]
"""Longitude and latitude in degrees."""

_CHINA = (73.4, 3.3, 135.1, 53.6)
"""West, south, east, north of the territory with its islands, in degrees."""
_SHIFTED = (72.004, 0.8293, 137.8347, 55.8271)
"""Outside of this frame map services do not shift."""
_AXIS_M = 6378245.0
_ECCENTRICITY = 0.00669342162296594323
"""Square of it; the ellipsoid of Krassovsky, which the shift is computed on."""
_ITERATIONS = 10
EXTRA_MISSING = "CGCS2000 needs the extra geo: pip install gb28181-gateway[geo]"


class CoordinateSystem(StrEnum):
    """What degrees mean. Devices report WGS-84 (GB/T 28181-2022 A.2.1.9)."""

    WGS84 = "wgs84"
    GCJ02 = "gcj02"
    CGCS2000 = "cgcs2000"


TITLES: dict[CoordinateSystem, str] = {
    CoordinateSystem.WGS84: "WGS-84",
    CoordinateSystem.GCJ02: "GCJ-02",
    CoordinateSystem.CGCS2000: "CGCS2000",
}
EPSG: dict[CoordinateSystem, int] = {CoordinateSystem.WGS84: 4326, CoordinateSystem.CGCS2000: 4490}


class ConversionMissing(GatewayError):
    """The library for this conversion is not installed."""

    cause = "not_installed"
    status = 501


def coordinate_fault(longitude: float | None, latitude: float | None) -> str:
    """ "" or what is wrong: missing | zero | out_of_range | outside_china (G155)."""
    if longitude is None or latitude is None:
        return "missing"
    if abs(longitude) > 180 or abs(latitude) > 90:
        return "out_of_range"
    if abs(longitude) < 1e-6 and abs(latitude) < 1e-6:
        return "zero"
    return "" if _inside(_CHINA, longitude, latitude) else "outside_china"


def to_gcj02(longitude: float, latitude: float) -> Point:
    """WGS-84 degrees as Chinese map services draw them; unchanged outside of China."""
    if not _inside(_SHIFTED, longitude, latitude):
        return longitude, latitude
    east, north = _shift(longitude, latitude)
    return longitude + east, latitude + north


def from_gcj02(longitude: float, latitude: float) -> Point:
    """The WGS-84 point that :func:`to_gcj02` draws here."""
    found = longitude, latitude
    for _ in range(_ITERATIONS):
        there = to_gcj02(*found)
        found = found[0] - (there[0] - longitude), found[1] - (there[1] - latitude)
    return found


def convert(points: Sequence[Point], system: CoordinateSystem) -> list[Point]:
    """WGS-84 points, or none, in another system. Raises ConversionMissing."""
    return _CONVERSIONS[system](points)


def _to_cgcs2000(points: Sequence[Point]) -> list[Point]:
    try:
        from pyproj import Transformer
    except ImportError as error:
        raise ConversionMissing(EXTRA_MISSING) from error
    if not points:
        return []  # pyproj refuses to transform nothing
    transformer = Transformer.from_crs(
        EPSG[CoordinateSystem.WGS84], EPSG[CoordinateSystem.CGCS2000], always_xy=True
    )
    return [(float(east), float(north)) for east, north in transformer.itransform(points)]


_CONVERSIONS: dict[CoordinateSystem, Callable[[Sequence[Point]], list[Point]]] = {
    CoordinateSystem.WGS84: list,
    CoordinateSystem.GCJ02: lambda points: [to_gcj02(*point) for point in points],
    CoordinateSystem.CGCS2000: _to_cgcs2000,
}


def _inside(frame: tuple[float, float, float, float], longitude: float, latitude: float) -> bool:
    west, south, east, north = frame
    return west <= longitude <= east and south <= latitude <= north


def _shift(longitude: float, latitude: float) -> Point:
    """How far the map is shifted here, in degrees."""
    x, y = longitude - 105.0, latitude - 35.0
    root = math.sqrt(abs(x))
    common = (20.0 * math.sin(6.0 * x * math.pi) + 20.0 * math.sin(2.0 * x * math.pi)) * 2.0 / 3.0
    north_m = -100.0 + 2.0 * x + 3.0 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * root + common
    north_m += _waves(y, (20.0, 1.0), (40.0, 3.0)) + _waves(y, (160.0, 12.0), (320.0, 30.0))
    east_m = 300.0 + x + 2.0 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * root + common
    east_m += _waves(x, (20.0, 1.0), (40.0, 3.0)) + _waves(x, (150.0, 12.0), (300.0, 30.0))
    bend = 1 - _ECCENTRICITY * math.sin(math.radians(latitude)) ** 2
    meridian_m = _AXIS_M * (1 - _ECCENTRICITY) / (bend * math.sqrt(bend))
    parallel_m = _AXIS_M / math.sqrt(bend) * math.cos(math.radians(latitude))
    return math.degrees(east_m / parallel_m), math.degrees(north_m / meridian_m)


def _waves(value: float, *terms: tuple[float, float]) -> float:
    return sum(height * math.sin(value * math.pi / length) for height, length in terms) * 2.0 / 3.0
