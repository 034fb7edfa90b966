"""Views of images at one moment, as other programs use them."""
import json
import pathlib
import re
import subprocess
import time

import pytest

import images
import nbd_tools

pytestmark = pytest.mark.usefixtures("each_version")
SIZE = 64 << 20


@pytest.fixture
def guest(server, workspace):
    """The export of a guest's disk."""
    path = images.make_image(workspace / "images/vm1.qcow2", size="64M")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    return export(server, workspace, "vm1")


def export(server, workspace, name):
    return server.expect(201, "POST", "/exports", {
        "name": name, "source": {"kind": "image", "image": name}, "readOnly": False,
        "listen": {"unix": str(workspace / f"run/{name}.sock")}}).json()["uri"]


def fleece(server, workspace, *names, **fields):
    """The fleecing, active."""
    job = server.succeeded("POST", "/fleecings", {
        "images": list(names) or ["vm1"], "listen": {"unix": str(workspace / "run/fleece.sock")}, **fields})
    assert job["links"]["fleecing"] == job["result"]["fleecing"]
    fleecing = server.get(f"/fleecings/{job['result']['fleecing']}")
    assert fleecing["state"] == "active" and fleecing["why"] is None, fleecing
    return fleecing


def uri(fleecing, index=0):
    return fleecing["images"][index]["uri"]


def temp(server, fleecing):
    return server.get(f"/fleecings/{fleecing['id']}")["images"][0]["temp"]


def copy(workspace, source, name):
    target = workspace / f"images/{name}.raw"
    target.unlink(missing_ok=True)
    images.run("nbdcopy", source, target)
    return target


def fio(source, seed=1, io_size="8m"):
    return subprocess.Popen(
        ["fio", "--name=guest", "--ioengine=nbd", f"--uri={source}", "--rw=randwrite", "--bsrange=4k-64k",
         "--blockalign=4k", "--iodepth=8", f"--size={SIZE}", f"--io_size={io_size}", "--verify=crc32c", "--do_verify=1",
         "--verify_state_save=0", "--rate_iops=500", f"--randseed={seed}", "--output-format=json"],
        stdout=subprocess.PIPE, text=True)


def verified(guest):
    output, _ = guest.communicate(timeout=120)
    report = json.loads(output[output.index("{"):])
    assert guest.returncode == 0 and report["jobs"][0]["error"] == 0, output


def wait_for(server, fleecing, state):
    deadline = time.monotonic() + 30
    while (found := server.get(f"/fleecings/{fleecing['id']}"))["state"] != state:
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def finish(server, fleecing, outcome="success", **fields):
    job = server.succeeded("POST", f"/fleecings/{fleecing['id']}/finish", {"outcome": outcome, **fields})
    return job["result"]


def bring_up(path, fleecing):
    """Runs the README's client, which copies what is dirty."""
    text = (pathlib.Path(__file__).resolve().parents[2] / "README.md").read_text()
    client = re.search(r"```python\n(import os, sys, nbd\n.*?)```", text, re.S).group(1)
    # The interpreter that has libnbd's module.
    subprocess.run(["/usr/bin/python3", "-c", client, uri(fleecing), fleecing["images"][0]["context"], str(path)],
                   check=True, timeout=120)


def is_served(source):
    answer = subprocess.run([images.program("nbdinfo"), "--size", source], capture_output=True, timeout=60)
    return answer.returncode == 0


def test_nbdcopy_and_qemu_img_pull_the_moment_while_fio_writes(server, workspace, guest):
    before = copy(workspace, guest, "before")
    fleecing = fleece(server, workspace)
    assert fleecing["images"][0]["export"] == f"vm1@{fleecing['id']}"
    assert [item["name"] for item in server.get("/exports")["items"]] == ["vm1"]
    assert [item["id"] for item in server.get("/fleecings?state=active,finishing")["items"]] == [fleecing["id"]]
    writer = fio(guest)
    for number in range(2):
        assert images.same(copy(workspace, uri(fleecing), f"view{number}"), "raw", before, "raw")
    converted = workspace / "images/converted.qcow2"
    images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri(fleecing), converted)
    verified(writer)
    assert images.same(converted, "qcow2", before, "raw")
    assert images.same(copy(workspace, uri(fleecing), "late"), "raw", before, "raw")
    info = nbd_tools.info(uri(fleecing))
    assert info["is_read_only"] and info["contexts"] == ["base:allocation"], info
    assert nbd_tools.refuses(uri(fleecing), "write 0 64k")
    kept = temp(server, fleecing)
    assert 0 < kept["bytes"] <= kept["highWater"], kept
    job = server.succeeded("POST", f"/fleecings/{fleecing['id']}/finish", {"outcome": "success"})
    assert job["kind"] == "finish-fleecing" and job["result"]["outcome"] == "success", job
    ended = server.get(f"/fleecings/{fleecing['id']}")
    assert (ended["state"], ended["outcome"], ended["images"][0]["temp"]) == ("finished", "success", None), ended
    assert not is_served(uri(fleecing))
    for path, body in (("done", {"image": "vm1", "extents": [{"offset": 0, "length": 1}]}), ("renew", {}),
                       ("finish", {"outcome": "failure"})):
        server.problem(409, "fleecing-ended", "POST", f"/fleecings/{fleecing['id']}/{path}", body)
    server.expect(204, "DELETE", "/exports/vm1")
    images.check(workspace / "images/vm1.qcow2")


def test_views_of_different_moments_share_what_was_copied_aside(server, workspace, guest):
    views = []
    for number in range(3):
        views.append((fleece(server, workspace), copy(workspace, guest, f"moment{number}")))
        nbd_tools.io(guest, f"write -P {40 + number} {number}M 8M", "discard 30M 1M", "write -z 33M 1M", "flush")
    for fleecing, moment in reversed(views):
        assert images.same(copy(workspace, uri(fleecing), "view"), "raw", moment, "raw")
    server.expect(204, "DELETE", f"/fleecings/{views[1][0]['id']}")
    ended = server.get(f"/fleecings/{views[1][0]['id']}")
    assert (ended["state"], ended["outcome"]) == ("finished", "failure"), ended
    for fleecing, moment in (views[0], views[2]):
        assert images.same(copy(workspace, uri(fleecing), "view"), "raw", moment, "raw")


def test_several_images_are_of_one_moment(server, workspace, guest):
    """One that a guest writes to, and one that lies still."""
    second = images.make_image(workspace / "images/vm2.raw", format="raw", size="8M")
    images.qemu_io(second, "raw", "write -P 9 1M 1M")
    server.register(second, "raw", "vm2")
    before = copy(workspace, guest, "before")
    fleecing = fleece(server, workspace, "vm1", "vm2")
    nbd_tools.io(guest, "write -P 50 0 4M", "flush")
    assert images.same(copy(workspace, uri(fleecing), "first"), "raw", before, "raw")
    assert images.same(copy(workspace, uri(fleecing, 1), "second"), "raw", second, "raw")
    assert nbd_tools.refuses(str(second), "write 0 64k")
    for path in ("/images/vm2/attach", "/images/vm1/detach"):
        refusal = server.problem(409, "image-in-use", "POST", path)
        assert fleecing["id"] in refusal["detail"], refusal
    refusal = server.problem(409, "image-in-use", "DELETE", "/exports/vm1?mode=hard")
    assert fleecing["id"] in refusal["detail"], refusal
    server.expect(204, "DELETE", f"/fleecings/{fleecing['id']}")
    server.expect(204, "DELETE", "/exports/vm1")


def test_a_server_that_is_killed_in_mid_fleecing_tells_that_it_is_broken(server, workspace, guest):
    fleecing = fleece(server, workspace)
    nbd_tools.io(guest, "write -P 60 0 8M", "flush")
    # A reader in the middle, slow enough to be there when the server dies.
    reader = subprocess.Popen([images.program("nbdcopy"), uri(fleecing), "-"], stdout=subprocess.PIPE)
    reader.stdout.read(1 << 16)
    server.kill()
    reader.stdout.close()
    assert reader.wait(timeout=60) != 0
    server.start()
    broken = server.get(f"/fleecings/{fleecing['id']}")
    assert broken["state"] == "broken" and "server stopped" in broken["why"], broken
    assert broken["error"]["code"] == "point-in-time-lost", broken
    # The guest's disk is served again, and the view isn't.
    assert is_served(guest) and not is_served(uri(fleecing))
    after = copy(workspace, guest, "after")
    again = fleece(server, workspace)
    assert not is_served(uri(fleecing)) and is_served(uri(again))
    assert images.same(copy(workspace, uri(again), "view"), "raw", after, "raw")
    server.expect(204, "DELETE", f"/fleecings/{fleecing['id']}")
    server.problem(404, "not-found", "GET", f"/fleecings/{fleecing['id']}")
    assert server.stop() == 0
    assert not list((workspace / "fleecing").iterdir())
    server.start()
    assert server.get(f"/fleecings/{again['id']}")["state"] == "broken"


def test_a_reader_that_died_holds_temp_until_the_expiry_only(server, workspace, guest):
    fleecing = fleece(server, workspace, expiresIn=3)
    reader = subprocess.Popen([images.program("nbdcopy"), uri(fleecing), "-"], stdout=subprocess.PIPE)
    reader.stdout.read(1 << 16)
    reader.kill()
    reader.wait(timeout=30)
    nbd_tools.io(guest, "write -P 70 0 8M", "flush")
    assert temp(server, fleecing)["bytes"] > 0
    renewed = server.expect(200, "POST", f"/fleecings/{fleecing['id']}/renew", {"expiresIn": 1}).json()
    assert renewed["expiresAt"] < fleecing["expiresAt"], renewed
    expired = wait_for(server, fleecing, "expired")
    assert expired["outcome"] == "failure" and not is_served(uri(fleecing)), expired
    assert [event["payload"]["state"] for event in events(server, "fleecing.changed")] == ["active", "active", "expired"]
    nbd_tools.io(guest, "write -P 71 0 8M", "flush")


def events(server, kind):
    found = []
    with server.call("GET", "/events", stream=True, headers={"Last-Event-ID": "0"}) as stream:
        deadline = time.monotonic() + 2
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("data:") and f'"{kind}"' in line:
                found.append(json.loads(line[5:]))
            if time.monotonic() > deadline or found and found[-1]["payload"]["state"] in ("expired", "broken"):
                return found
    return found


def test_trim_and_done_extents_free_temp(server, workspace, guest):
    """A client that says what it is done with, as oVirt's and libnbd's copiers can."""
    before = copy(workspace, guest, "before")
    fleecing = fleece(server, workspace, release="trim")
    nbd_tools.io(guest, "write -P 80 0 16M", "flush")
    high = temp(server, fleecing)
    assert high["bytes"] >= 1 << 20, high
    head = workspace / "images/head.raw"
    images.run("qemu-img", "convert", "-f", "raw", "-O", "raw", uri(fleecing), head)
    assert images.same(head, "raw", before, "raw")
    images.run("qemu-io", "-f", "raw", "-d", "unmap", "-c", "discard 0 8M", uri(fleecing))
    trimmed = temp(server, fleecing)
    assert trimmed["bytes"] < high["bytes"] and trimmed["highWater"] == high["highWater"], (high, trimmed)
    server.expect(204, "POST", f"/fleecings/{fleecing['id']}/done", {
        "image": "vm1", "extents": [{"offset": 8 << 20, "length": 4 << 20}, {"offset": 12 << 20, "length": 52 << 20}]})
    assert temp(server, fleecing)["bytes"] == 0
    nbd_tools.io(guest, "write -P 81 0 64M", "flush")
    assert temp(server, fleecing)["bytes"] == 0
    assert nbd_tools.refuses(uri(fleecing), "write 0 64k")
    server.problem(400, "invalid-field", "POST", f"/fleecings/{fleecing['id']}/done", {
        "image": "vm1", "extents": [{"offset": SIZE, "length": 1}]})


def test_a_full_temp_breaks_the_fleecing_and_not_the_guest(start, workspace):
    server = start(fleecingSize=0, copyBuffer=1 << 20)
    images.fill(images.make_image(workspace / "images/vm1.qcow2", size="64M"), "qcow2")
    server.register(workspace / "images/vm1.qcow2", "qcow2")
    guest = export(server, workspace, "vm1")
    fleecing = fleece(server, workspace)
    writer = fio(guest)
    broken = wait_for(server, fleecing, "broken")
    assert "no room" in broken["why"] and broken["error"]["code"] == "point-in-time-lost", broken
    verified(writer)
    assert not is_served(uri(fleecing))
    server.expect(204, "DELETE", "/exports/vm1")
    images.check(workspace / "images/vm1.qcow2")


def test_increments_are_pulled_while_fio_writes(server, workspace, guest):
    """A copy that the README's client brings up to date is the disk of each moment, whatever fails in between."""
    first = fleece(server, workspace)
    ours = copy(workspace, uri(first), "ours")
    result = finish(server, first, checkpoint="monday")
    assert result["checkpoint"] == first["checkpoint"] and result["label"] == "monday", result
    tracker, = server.get("/images/vm1/trackers")["items"]
    assert (tracker["name"], tracker["owner"], tracker["checkpoint"]) == ("external", "fleecing", first["checkpoint"])
    base = first["checkpoint"]
    for number, outcome in enumerate(["success", "failure", "expiry", "success"]):
        nbd_tools.io(guest, f"write -P {90 + number} {5 + number}M 300k", "discard 40M 64k", "flush")
        moment = copy(workspace, guest, "moment")
        fleecing = fleece(server, workspace, since={"checkpoint": base}, access="dirty",
                          expiresIn=2 if outcome == "expiry" else 600)
        assert 0 < fleecing["images"][0]["dirtyBytes"] < 16 << 20, fleecing
        writer = fio(guest, seed=number, io_size="2m")
        theirs = workspace / "images/theirs.raw"
        theirs.write_bytes(ours.read_bytes())
        bring_up(theirs, fleecing)
        verified(writer)
        assert images.same(theirs, "raw", moment, "raw"), outcome
        if outcome == "success":
            theirs.rename(ours)
            base = finish(server, fleecing)["checkpoint"]
        elif outcome == "failure":
            assert "checkpoint" not in finish(server, fleecing, "failure")
        else:
            wait_for(server, fleecing, "expired")
    # Of QEMU and this server both.
    server.expect(204, "DELETE", "/exports/vm1")
    images.check(workspace / "images/vm1.qcow2")
    images.qemu_io(workspace / "images/vm1.qcow2", "qcow2", "write -P 34 7M 64k")
    atrest = fleece(server, workspace, since={"checkpoint": base}, access="dirty")
    bring_up(ours, atrest)
    assert images.same(ours, "raw", workspace / "images/vm1.qcow2", "qcow2")
    again = finish(server, atrest)["checkpoint"]
    server.problem(404, "not-found", "POST", "/fleecings", {
        "images": ["vm1"], "since": {"checkpoint": atrest["id"]}, "listen": {"unix": str(workspace / "run/f.sock")}})
    refused = server.finished(server.expect(202, "POST", "/fleecings", {
        "images": ["vm1"], "since": {"checkpoint": base}, "listen": {"unix": str(workspace / "run/f.sock")}}).json())
    assert refused["state"] == "failed" and refused["error"]["code"] == "tracking-lost", refused
    assert images.same(ours, "raw", workspace / "images/vm1.qcow2", "qcow2") and again != base


def test_only_what_is_dirty_can_be_read_if_asked(server, workspace, guest):
    first = fleece(server, workspace)
    base = finish(server, first)["checkpoint"]
    nbd_tools.io(guest, "write -P 5 32M 1M", "flush")
    fleecing = fleece(server, workspace, since={"checkpoint": base}, access="dirty")
    context = fleecing["images"][0]["context"]
    assert context == f"qemu:dirty-bitmap:{base}" and context in nbd_tools.info(uri(fleecing))["contexts"]
    dirty = nbd_tools.dirty_of(uri(fleecing), base)
    assert any(offset <= 32 << 20 and offset + length >= 33 << 20 for offset, length in dirty), dirty
    nbd_tools.io(uri(fleecing), "read -P 5 32M 1M", read_only=True)
    answer = subprocess.run([images.program("qemu-io"), "-r", "-f", "raw", uri(fleecing), "-c", "read 32M 1088k"],
                            capture_output=True, text=True, timeout=60)
    assert "Operation not permitted" in answer.stdout + answer.stderr, answer
    # Changes of the rest cost nothing.
    nbd_tools.io(guest, "write -P 6 33M 31M", "flush")
    assert temp(server, fleecing)["highWater"] <= 4 * 65536
    server.problem(400, "invalid-field", "POST", "/fleecings", {
        "images": ["vm1"], "access": "dirty", "listen": {"unix": str(workspace / "run/f.sock")}})


def test_fleecings_and_backups_have_trackers_of_their_own(server, workspace, guest):
    """A fleecing since a backup takes nothing from the backup's line."""
    backup = server.back_up(kind="full")
    nbd_tools.io(guest, "write -P 5 3M 64k", "flush")
    fleecing = fleece(server, workspace, since={"backup": backup["id"]})
    dirty = nbd_tools.dirty_of(uri(fleecing), backup["id"])
    assert any(offset <= 3 << 20 < offset + length for offset, length in dirty), dirty
    finish(server, fleecing)
    assert server.back_up(kind="incremental")["fallbackReason"] is None
    owners = {tracker["name"]: tracker["owner"] for tracker in server.get("/images/vm1/trackers")["items"]}
    assert owners.pop("external") == "fleecing" and list(owners.values()) == ["backup"], owners
    name, = owners
    body = {"images": ["vm1"], "listen": {"unix": str(workspace / "run/f.sock")}}
    server.problem(409, "bitmap-busy", "POST", "/fleecings", {**body, "tracker": name})
    server.problem(409, "bitmap-busy", "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "tracker": "external"})
    server.expect(201, "POST", "/images/vm1/bitmaps", {"name": "b0"})
    nbd_tools.io(guest, "write -P 6 9M 64k", "flush")
    since = fleece(server, workspace, since={"bitmap": "b0"})
    assert nbd_tools.dirty_of(uri(since), "b0") == [(9 << 20, 65536)]


def test_a_server_that_is_killed_leaves_the_increment_whole(server, workspace, guest):
    first = fleece(server, workspace)
    ours = copy(workspace, uri(first), "ours")
    base = finish(server, first)["checkpoint"]
    nbd_tools.io(guest, "write -P 7 4M 64k", "flush")
    fleece(server, workspace, since={"checkpoint": base}, access="dirty")
    nbd_tools.io(guest, "write -P 8 24M 64k", "flush")
    server.kill()
    server.start()
    nbd_tools.io(guest, "write -P 9 44M 64k", "flush")
    moment = copy(workspace, guest, "moment")
    again = fleece(server, workspace, since={"checkpoint": base}, access="dirty")
    assert again["images"][0]["dirtyBytes"] < 4 << 20, again
    bring_up(ours, again)
    assert images.same(ours, "raw", moment, "raw")
    finish(server, again)
