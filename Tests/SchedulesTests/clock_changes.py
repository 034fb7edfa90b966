#!/usr/bin/python3
"""What runs around every change of a clock, worked out in steps of five minutes with Python's zoneinfo.

Prints one line of JSON for each change: zone, start and end of the window (seconds since 1970), and for each schedule its
runs as [seconds, mark], where mark is "", "skipped" or "repeated". Shares nothing with the code that it judges.
"""
import json
import sys
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

UTC = timezone.utc
STEP = 300
ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca", "Pacific/Apia"]
EVERY = range(24)
# Text, hours, minutes, whether it goes by elapsed time.
SCHEDULES = [
    ("daily", [0], [0], False), ("00:30", [0], [30], False), ("01:30", [1], [30], False), ("02:30", [2], [30], False),
    ("0,2,3:00", [0, 2, 3], [0], False), ("30 1,2 * * *", [1, 2], [30], False), ("2:0/15", [2], range(0, 60, 15), False),
    ("23:00", [23], [0], False), ("@daily", [0], [0], False), ("0:0/5", [0], range(0, 60, 5), False),
    ("hourly", EVERY, [0], True), ("*:30", EVERY, [30], True), ("*/15 * * * *", EVERY, range(0, 60, 15), True),
    ("*:0/15", EVERY, range(0, 60, 15), True), ("0..5:30", range(0, 6), [30], True), ("0 1-3 * * *", [1, 2, 3], [0], True),
    ("0/2:00", range(0, 24, 2), [0], True), ("0,2..3:15", [0, 2, 3], [15], True), ("22..23:0/30", [22, 23], [0, 30], True),
]


def changes(zone, first, last):
    """The first instants with a new offset: days are compared, then the change is found by halving."""
    def offset(time):
        return datetime.fromtimestamp(time, zone).utcoffset()
    for day in range(first, last, 86400):
        low, high = day, day + 86400
        if offset(low) == offset(high):
            continue
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offset(low) else (low, middle)
        yield high


def window(zone, start, end):
    """(instant, wall clock) of every step."""
    return [(time, datetime.fromtimestamp(time, zone).replace(tzinfo=None, fold=0)) for time in range(start, end, STEP)]


def intervals(clock, shown, hours, minutes):
    for time, wall in clock:
        if wall.hour in hours and wall.minute in minutes:
            yield time, "repeated" if shown[wall] > 1 else ""


def times_of_day(clock, shown, zone, hours, minutes):
    day = clock[0][1].date()
    while day <= clock[-1][1].date():
        for hour in hours:
            for minute in minutes:
                wall = datetime(day.year, day.month, day.day, hour, minute)
                instant = wall.replace(tzinfo=zone).astimezone(UTC)
                if instant.astimezone(zone).replace(tzinfo=None, fold=0) == wall:
                    yield int(instant.timestamp()), "repeated" if shown.get(wall, 1) > 1 else ""
                else:
                    after = next((time for time, shows in clock if shows >= wall), None)
                    if after is not None:
                        yield after, "skipped"
        day += timedelta(days=1)


def main():
    first, last = (int(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (2000, 2041))
    for name in ZONES:
        zone = ZoneInfo(name)
        for change in changes(zone, first, last):
            # One day more on both sides, so that what the window's edge would cut off is seen.
            middle = change - change % STEP
            start, end = middle - 30 * 3600, middle + 30 * 3600
            clock = window(zone, start - 86400, end + 86400)
            shown = {}
            for _, wall in clock:
                shown[wall] = shown.get(wall, 0) + 1
            runs = {}
            for text, hours, minutes, is_interval in SCHEDULES:
                found = {}
                hours, minutes = set(hours), set(minutes)
                made = (intervals(clock, shown, hours, minutes) if is_interval
                        else times_of_day(clock, shown, zone, sorted(hours), sorted(minutes)))
                for time, mark in made:
                    if start <= time < end:
                        # Of two runs at one instant the one that was moved there is told.
                        found[time] = "skipped" if "skipped" in (found.get(time), mark) else mark
                runs[text] = sorted(found.items())
            json.dump({"zone": name, "start": start, "end": end, "runs": runs}, sys.stdout)
            print()


if __name__ == "__main__":
    main()
