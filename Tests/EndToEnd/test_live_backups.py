"""Backups of images that a guest goes on writing to."""
import json
import subprocess
import time

import pytest

import images
import nbd_tools

pytestmark = pytest.mark.usefixtures("each_version")
SIZE = 256 << 20
# Writes a number to one disk and then to the other until its input ends, and says when it has begun and how many.
WRITER = """
import select, sys, nbd
handles = [nbd.NBD(), nbd.NBD()]
for handle, uri in zip(handles, sys.argv[1:]):
    handle.connect_uri(uri)
number = 0
while not select.select([sys.stdin], [], [], 0)[0]:
    number += 1
    for handle in handles:
        handle.pwrite(number.to_bytes(8, "big") * 64, 4096)
    if number == 1:
        print("begun", flush=True)
print(number)
"""


@pytest.fixture
def guest(server, workspace):
    """Where the guest's disk is, which is exported to it."""
    path = images.make_image(workspace / "images/vm1.qcow2", size="256M")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
        "listen": {"unix": str(workspace / "run/vm1.sock")}})
    return path


def uri(workspace):
    return f"nbd+unix:///vm1?socket={workspace / 'run/vm1.sock'}"


def wait_for_the_moment(server, job):
    deadline = time.monotonic() + 30
    while not any("is held" in entry["message"] for entry in server.get(f"/jobs/{job['id']}/log")["items"]):
        assert time.monotonic() < deadline, server.log()
        time.sleep(0.05)


def live_backup(server, **fields):
    backup = server.back_up(**fields)
    assert backup["consistency"] == "crash" and backup["guestImpact"] is not None, backup
    return backup


def test_fio_verifies_while_increments_are_made(server, workspace, guest):
    """A guest that checks all that it reads, while one live backup follows another; each is restored and compared with
    the view of its moment that a pause of the guest gives."""
    live_backup(server, kind="full")
    points = []
    for _ in range(3):
        fio = subprocess.Popen(
            ["fio", "--name=guest", "--ioengine=nbd", f"--uri={uri(workspace)}", "--rw=randwrite", "--bsrange=4k-64k",
             "--blockalign=4k", "--iodepth=8", f"--size={SIZE}", "--io_size=24m", "--verify=crc32c", "--do_verify=1",
             "--verify_state_save=0", "--rate_iops=2000", f"--randseed={len(points) + 1}", "--output-format=json"],
            stdout=subprocess.PIPE, text=True)
        during = live_backup(server, kind="incremental", compression="zstd" if len(points) % 2 else "none")
        output, _ = fio.communicate(timeout=120)
        report = json.loads(output[output.index("{"):])
        assert fio.returncode == 0 and report["jobs"][0]["error"] == 0, output
        assert during["fallbackReason"] is None, during["reason"]
        # The guest rests: what it has is what the next backup holds.
        point = workspace / f"images/point-{len(points)}.raw"
        images.run("nbdcopy", uri(workspace), str(point))
        points.append((live_backup(server, kind="incremental"), point, during))
    for backup, point, during in points:
        back = workspace / "images/back.raw"
        server.restore_to(back, backup)
        assert images.same(back, "raw", point, "raw")
        back.unlink()
        assert server.verify(during)["state"] == "succeeded"
    server.expect(204, "DELETE", "/exports/vm1")
    images.check(guest)


def test_a_backup_slows_down_for_its_guest(server, workspace, guest):
    """No request is answered within a microsecond: the backup slows down, and ends all the same. It tells how long requests
    took."""
    with subprocess.Popen(
            ["fio", "--name=guest", "--ioengine=nbd", f"--uri={uri(workspace)}", "--rw=randwrite", "--bs=4k", "--iodepth=4",
             f"--size={SIZE}", "--rate_iops=400", "--time_based", "--runtime=60"], stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL) as fio:
        try:
            deadline = time.monotonic() + 30
            while server.get("/exports/vm1")["activity"]["writes"]["count"] < 300:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            quick = live_backup(server, kind="copy", compression="none")
            assert min(quick["guestImpact"][when]["count"] for when in ("latencyBefore", "latencyDuring")) > 0
            job = server.expect(202, "POST", "/backups", {
                "images": ["vm1"], "repository": "local", "kind": "copy", "guestLatencyBudget": {"microseconds": 1}}).json()
            deadline = time.monotonic() + 30
            while not any("slows down" in entry["message"] for entry in server.get(f"/jobs/{job['id']}/log")["items"]):
                assert time.monotonic() < deadline, server.log()
                time.sleep(0.2)
            assert server.finished(job)["state"] == "succeeded"
        finally:
            fio.terminate()


def test_writes_after_the_moment_are_not_in_the_backup(server, workspace, guest):
    """A backup that is slowed down, so that the guest overwrites everything before it is read."""
    before = workspace / "images/before.raw"
    images.run("nbdcopy", uri(workspace), str(before))
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 2 << 20}).json()
    wait_for_the_moment(server, job)
    nbd_tools.io(uri(workspace), "write -P 77 0 64M", "discard 64M 64M", "write -z 128M 64M", "write -P 78 192M 64M", "flush")
    assert server.finished(job)["state"] == "succeeded"
    backup = server.get("/backups?limit=1")["items"][0]
    impact = backup["guestImpact"]
    assert impact["cbwCount"] > 0 and impact["waits"]["count"] > 0 and impact["sourceBytesRead"] > 0, impact
    back = workspace / "images/back.raw"
    server.restore_to(back, backup)
    assert images.same(back, "raw", before, "raw")
    assert not list((workspace / "fleecing").iterdir())


def test_several_images_are_of_one_moment(server, workspace, guest):
    """A guest that writes a number to one disk and then to the other: no group has more in the second."""
    second = images.make_image(workspace / "images/vm2.qcow2", size="64M")
    server.register(second, "qcow2", "vm2")
    server.expect(201, "POST", "/exports", {
        "name": "vm2", "source": {"kind": "image", "image": "vm2"}, "readOnly": False,
        "listen": {"unix": str(workspace / "run/vm2.sock")}})
    # The interpreter that has libnbd's module.
    writer = subprocess.Popen(
        ["/usr/bin/python3", "-c", WRITER, uri(workspace), f"nbd+unix:///vm2?socket={workspace / 'run/vm2.sock'}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    groups = []
    assert writer.stdout.readline() == "begun\n"
    try:
        for _ in range(5):
            job = server.succeeded("POST", "/backups", {
                "images": ["vm1", "vm2"], "repository": "local", "kind": "auto"})
            groups.append([part["backup"] for part in job["result"]["backups"]])
    finally:
        count, _ = writer.communicate("", timeout=60)
    assert writer.returncode == 0 and int(count) > 5
    for group in groups:
        numbers = []
        for identity in group:
            back = workspace / f"images/{identity}.raw"
            server.restore_to(back, {"id": identity})
            numbers.append(int.from_bytes(back.read_bytes()[4096:4104], "big"))
        assert numbers[0] - numbers[1] in (0, 1), numbers


def test_a_server_that_is_killed_in_a_live_backup_goes_on_from_the_last_one(server, workspace, guest):
    """The bitmap of before has all that changed, before the moment and after it."""
    # Recorded before there is anything that a crash leaves of the image's changes.
    server.expect(201, "POST", "/images/vm1/bitmaps", {"name": "mine"})
    nbd_tools.io(uri(workspace), "write -P 4 16M 64k", "flush")
    live_backup(server, kind="full")
    nbd_tools.io(uri(workspace), "write -P 5 32M 64k", "flush")
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 1 << 20}).json()
    wait_for_the_moment(server, job)
    nbd_tools.io(uri(workspace), "write -P 6 48M 64k", "flush")
    server.kill()
    server.start()
    assert server.get(f"/jobs/{job['id']}")["state"] == "interrupted"
    # Nobody knows what it missed, so nobody is told that it missed nothing.
    assert server.get("/images/vm1/bitmaps/mine")["state"] == "inconsistent"
    nbd_tools.io(uri(workspace), "write -P 7 56M 64k", "flush")
    after = workspace / "images/after.raw"
    images.run("nbdcopy", uri(workspace), str(after))
    backup = live_backup(server, kind="incremental")
    assert backup["fallbackReason"] is None, backup["reason"]
    assert 3 * 65536 <= backup["dirtyBytes"] < 4 << 20, backup
    back = workspace / "images/back.raw"
    server.restore_to(back, backup)
    assert images.same(back, "raw", after, "raw")


def test_what_is_possible_during_a_live_backup(server, workspace, guest):
    """Other exports come and go; the image itself stays until the backup has ended."""
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 1 << 20}).json()
    wait_for_the_moment(server, job)
    server.expect(201, "POST", "/exports", {
        "name": "second", "source": {"kind": "image", "image": "vm1"}, "readOnly": True,
        "listen": {"unix": str(workspace / "run/second.sock")}})
    assert nbd_tools.info(f"nbd+unix:///second?socket={workspace / 'run/second.sock'}")["export-size"] == SIZE
    server.expect(201, "POST", "/images/vm1/bitmaps", {"name": "mine"})
    server.expect(204, "DELETE", "/exports/second")
    refusal = server.problem(409, "image-in-use", "DELETE", "/exports/vm1")
    assert job["id"] in refusal["detail"], refusal
    nbd_tools.io(uri(workspace), "write -P 9 1M 64k", "flush")
    server.expect(202, "POST", f"/jobs/{job['id']}/cancel")
    assert server.finished(job)["state"] == "cancelled"
    assert server.get("/images/vm1/bitmaps/mine")["dirtyBytes"] == 65536
    server.expect(204, "DELETE", "/exports/vm1")
    assert server.get("/images/vm1")["state"] == "detached"
    images.check(guest)
