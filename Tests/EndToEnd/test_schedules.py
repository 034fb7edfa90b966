"""Schedules as a form asks for them, in the time zones of the host."""
import datetime
import shutil
import time
import zoneinfo

ZONES = "/usr/share/zoneinfo"


def preview(server, schedule, **fields):
    return server.expect(200, "POST", "/schedules/preview", {"schedule": schedule, **fields}).json()


def times(answer, key="atUTC"):
    return [datetime.datetime.fromisoformat(item[key].replace("Z", "+00:00")) for item in answer["items"]]


def test_a_preview_shows_what_a_clock_change_does(start):
    server = start(timeZone="America/New_York")
    assert server.get("/server")["timeZone"] == "America/New_York"
    daily = preview(server, ["30 2 * * *"], **{"from": "2026-03-07T12:00:00Z"}, count=2)
    assert [item["at"] for item in daily["items"]] == ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]
    assert "02:00 to 03:00" in daily["items"][0]["shifted"] and daily["items"][1]["shifted"] is None
    assert daily["normalized"] == ["02:30"] and daily["inWords"] == ["every day at 02:30"]
    hourly = times(preview(server, ["hourly"], timeZone="Europe/Berlin", **{"from": "2026-10-24T20:00:00Z"}, count=10))
    assert {b - a for a, b in zip(hourly, hourly[1:])} == {datetime.timedelta(hours=1)}


def test_a_thousand_runs_are_those_of_the_calendar(start):
    server = start(timeZone="Europe/Berlin")
    begun = time.monotonic()
    answer = preview(server, ["mon..fri 22:15", "sun *-*~1..7 4:00"], **{"from": "2026-01-01T00:00:00Z"}, count=1000)
    assert time.monotonic() - begun < 5
    berlin, expected, day = zoneinfo.ZoneInfo("Europe/Berlin"), [], datetime.date(2026, 1, 1)
    while len(expected) < 1000:
        if day.weekday() < 5:
            expected.append(datetime.datetime(day.year, day.month, day.day, 22, 15, tzinfo=berlin))
        if day.weekday() == 6 and (day + datetime.timedelta(days=7)).month != day.month:
            expected.append(datetime.datetime(day.year, day.month, day.day, 4, 0, tzinfo=berlin))
        day += datetime.timedelta(days=1)
    assert times(answer) == expected and times(answer, "at") == expected


def test_an_update_of_tzdata_counts_under_a_running_server(start, workspace, monkeypatch):
    zones = workspace / "zoneinfo"
    (zones / "Europe").mkdir(parents=True)
    shutil.copy(f"{ZONES}/Europe/Berlin", zones / "Europe/Berlin")
    monkeypatch.setenv("TZDIR", str(zones))
    server = start(timeZone="Europe/Berlin")
    noon = {"from": "2026-07-01T00:00:00Z", "count": 1}
    assert preview(server, ["12:00"], **noon)["items"][0]["at"] == "2026-07-01T12:00:00+02:00"
    # As a package manager does it: a new file in the place of the old one.
    shutil.copy(f"{ZONES}/Asia/Tokyo", zones / "new")
    (zones / "new").rename(zones / "Europe/Berlin")
    assert preview(server, ["12:00"], **noon)["items"][0]["at"] == "2026-07-01T12:00:00+09:00"
    shutil.rmtree(zones)
    problem = server.problem(422, "unknown-reference", "POST", "/schedules/preview", {"schedule": ["12:00"], **noon})
    assert "has no time zones" in problem["detail"] and "install the package tzdata" in problem["remedy"]
    assert preview(server, ["12:00"], timeZone="UTC", **noon)["items"][0]["at"] == "2026-07-01T12:00:00+00:00"


def test_a_zone_that_the_host_lacks_keeps_the_server_from_starting(workspace, start):
    server = start()
    problem = server.problem(422, "unknown-reference", "POST", "/schedules/preview",
                             {"schedule": ["daily"], "timeZone": "europe/berlin"})
    assert problem["errors"][0]["pointer"] == "/timeZone" and "'Europe/Berlin'" in problem["detail"]
    server.stop()
    server.settings["timeZone"] = "Europe/Belrin"
    server.launch()
    assert server.process.wait(timeout=30) != 0
    assert "timeZone: there is no time zone 'Europe/Belrin'; the nearest is 'Europe/Berlin'" in server.log()


def test_a_schedule_that_is_refused_says_where_and_what_instead(server):
    problem = server.problem(400, "invalid-field", "POST", "/schedules/preview",
                             {"schedule": ["daily", "0 4 * * 6#3", "61 * * * *"]})
    assert [error["pointer"] for error in problem["errors"]] == ["/schedule/1", "/schedule/2"]
    assert "'6#3' at character 9" in problem["errors"][0]["detail"]
    assert "'sat *-*-15..21 04:00' says the same" in problem["errors"][0]["detail"]
    problem = server.problem(422, "never-fires", "POST", "/schedules/preview", {"schedule": ["*-2-30"]})
    assert problem["errors"][0]["pointer"] == "/schedule/0"
