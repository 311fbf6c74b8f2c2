"""Instants: whole microseconds since 1970-01-01T00:00:00 UTC inside, aware datetimes outside."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from eventstore.errors import InvalidInstant

__all__ = [
    "FIRST_INSTANT",
    "LAST_INSTANT",
    "Clock",
    "format_instant",
    "from_microseconds",
    "parse_instant",
    "to_microseconds",
    "wall_clock",
]

Clock = Callable[[], datetime]
"""Returns the current time as an aware datetime."""

LAST_INSTANT = 253_402_300_799_999_999
"""9999-12-31T23:59:59.999999Z, the last that a datetime can say."""

FIRST_INSTANT = -62_135_596_800_000_000
"""0001-01-01T00:00:00Z, the first that a datetime can say."""

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d)(:\d\d)?(?:[.,](\d{1,9}))?\s?([Zz]|[+-]\d\d(?::?\d\d)?)?", re.ASCII
)
_REMEDY = "give an aware datetime or ISO 8601 with a zone, such as 2026-11-24T06:50:00Z"


def to_microseconds(instant: datetime) -> int:
    """Microseconds since the epoch of an aware datetime; `InvalidInstant` for a naive one.

    Also for one that its zone puts before the year 1 or after 9999, which could not be said in UTC.
    """
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise InvalidInstant(f"instant {instant.isoformat()} has no time zone: {_REMEDY}")
    microseconds = (instant - _EPOCH) // _MICROSECOND
    if not FIRST_INSTANT <= microseconds <= LAST_INSTANT:
        raise InvalidInstant(f"instant {instant.isoformat()} is not within the years 1 to 9999 of UTC: {_REMEDY}")
    return microseconds


def from_microseconds(microseconds: int) -> datetime:
    """The aware UTC datetime of microseconds since the epoch."""
    return _EPOCH + timedelta(microseconds=microseconds)


def format_instant(microseconds: int) -> str:
    """ISO 8601 in UTC, always with six decimals: `2026-11-24T06:50:00.000000+00:00`."""
    return from_microseconds(microseconds).isoformat(timespec="microseconds")


def parse_instant(instant: datetime | str, name: str = "as_of") -> int:
    """Microseconds since the epoch of an aware datetime or of an ISO 8601 string with a zone.

    Fractions finer than a microsecond are cut off. `InvalidInstant` names the argument, `name`.
    """
    if isinstance(instant, datetime):
        return to_microseconds(instant)
    if not isinstance(instant, str):
        raise InvalidInstant(f"{name} is of type {type(instant).__name__}, not an instant: {_REMEDY}")
    match = _ISO.fullmatch(instant.strip())
    if match is None:
        raise InvalidInstant(f"{name} {instant[:80]!r} is not an instant: {_REMEDY}")
    day, minute, second, fraction, zone = match.groups()
    if zone is None:
        raise InvalidInstant(f"{name} {instant!r} has no time zone: {_REMEDY}")
    zone = "+00:00" if zone in "Zz" else zone if ":" in zone else f"{zone[:3]}:{zone[3:] or '00'}"
    micro = (fraction or "0")[:6].ljust(6, "0")
    try:
        return to_microseconds(datetime.fromisoformat(f"{day}T{minute}{second or ':00'}.{micro}{zone}"))
    except (ValueError, OverflowError) as error:
        if isinstance(error, InvalidInstant):
            raise
        raise InvalidInstant(f"{name} {instant!r} is not an instant ({error}): {_REMEDY}") from None


def wall_clock() -> int:
    """Microseconds since the epoch, now, by the machine's clock."""
    return time.time_ns() // 1000
