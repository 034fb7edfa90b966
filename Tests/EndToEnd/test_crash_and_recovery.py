"""Power cuts, lost catalogs, full disks: nothing that can't be restored is ever called complete."""
import os
import random
import shutil
import time

import pytest

import images
from images import MIB


def big_image(workspace, megabytes=256):
    path = workspace / "images/vm1.raw"
    generator = random.Random(7)
    with open(path, "wb") as disk:
        for _ in range(megabytes):
            disk.write(generator.randbytes(MIB))
    return path


@pytest.mark.parametrize("delay", [0.05, 0.3, 1.0])
def test_killed_in_mid_backup_leaves_nothing_that_claims_to_be_complete(start, workspace, delay):
    server = start()
    server.make_repository()
    source = big_image(workspace)
    server.register(source, "raw")
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 64 * MIB}).json()
    time.sleep(delay)
    server.kill()
    assert not list((workspace / "backup").rglob("0*-*.json")), "no manifest"

    server.start()
    ended = server.get(f"/jobs/{job['id']}")
    assert ended["state"] == "interrupted" and ended["error"]["code"] == "interrupted"
    assert images.work_files(workspace / "backup") == []
    assert [item["state"] for item in server.get("/backups")["items"]] in (["failed"], [])

    backup = server.back_up()
    target = workspace / "images/back.raw"
    server.restore_to(target, backup)
    assert images.same(source, "raw", target, "raw")


def test_killed_in_mid_restore_leaves_no_file(start, workspace):
    server = start()
    server.make_repository()
    source = big_image(workspace)
    server.register(source, "raw")
    backup = server.back_up(compression="none")
    target = workspace / "images/back.raw"
    server.expect(202, "POST", f"/backups/{backup['id']}/restore", {
        "target": {"kind": "file", "path": str(target), "format": "raw"}})
    for _ in range(400):
        if list((workspace / "images").glob(".*")) or list((workspace / "images").glob("*.part")):
            break
        time.sleep(0.005)
    server.kill()

    server.start()
    assert [path.name for path in (workspace / "images").iterdir() if path.name not in ("vm1.raw", "back.raw")] == []
    if not target.exists():
        server.restore_to(target, backup)
    assert images.same(source, "raw", target, "raw")


def test_a_restores_leftover_goes_also_when_no_job_tells_of_it(start, workspace):
    """As after a second kill, in the start that had noted the job's end."""
    server = start()
    server.make_repository()
    source = big_image(workspace)
    server.register(source, "raw")
    backup = server.back_up(compression="none")
    server.expect(202, "POST", f"/backups/{backup['id']}/restore", {
        "target": {"kind": "file", "path": str(workspace / "images/back.raw"), "format": "raw"}})
    left = []
    for _ in range(2000):
        if left := list((workspace / "images").glob(".*")):
            break
        time.sleep(0.001)
    server.kill()
    assert left and left[0].exists()
    kept = workspace / left[0].name
    shutil.copy(left[0], kept)

    server.start()
    assert server.stop() == 0
    shutil.move(kept, left[0])
    server.start()
    deadline = time.monotonic() + 30
    while left[0].exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not left[0].exists()


def test_lost_catalog_is_rebuilt_from_the_repository(start, workspace):
    server = start()
    server.make_repository()
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    image = server.register(source, "qcow2")
    before = server.back_up()
    assert server.stop() == 0
    shutil.rmtree(workspace / "state")
    (workspace / "state").mkdir()

    server.start()
    assert server.get("/images")["items"] == []
    repository = server.make_repository()
    assert repository["id"] == before["repository"]
    server.succeeded("POST", f"/repositories/{repository['id']}/rescan")
    after = server.get(f"/backups/{before['id']}")
    volatile = ("verifiedAt", "verifyLevel", "job")
    assert {k: v for k, v in after.items() if k not in volatile} == \
        {k: v for k, v in before.items() if k not in volatile}
    assert server.get("/images/vm1")["id"] == image["id"]

    target = workspace / "images/back.raw"
    server.restore_to(target, after)
    assert images.same(source, "qcow2", target, "raw")


def test_full_repository_fails_the_job_and_is_cleaned(start, workspace):
    if os.geteuid() != 0:
        pytest.fail("this test mounts a small tmpfs and needs root")
    small = workspace / "backup/small"
    small.mkdir()
    images.run("mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small)
    try:
        server = start()
        server.make_repository("small")
        source = big_image(workspace, 64)
        server.register(source, "raw")
        job = server.finished(server.expect(202, "POST", "/backups", {
            "images": ["vm1"], "repository": "small", "kind": "full"}).json())
        assert job["state"] == "failed" and job["error"]["code"] == "storage-full", job
        assert job["result"]["backups"][0]["outcome"] == "failed"
        assert images.work_files(small) == [] and not list(small.rglob("*.qcow2"))
        assert list(small.rglob("0*.json")) == []

        with open(source, "r+b") as disk:
            disk.truncate(0)
            disk.truncate(64 * MIB)
            disk.write(b"fits now")
        backup = server.back_up(repository="small")
        assert server.verify(backup)["state"] == "succeeded"
        server.end()
    finally:
        images.run("umount", "-l", small)


def test_cancelled_backup_leaves_nothing(server, workspace):
    server.register(big_image(workspace, 64), "raw")
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 4 * MIB}).json()
    for _ in range(100):
        if server.get(f"/jobs/{job['id']}")["progress"]["done"] > 0:
            break
        time.sleep(0.1)
    server.expect(202, "POST", f"/jobs/{job['id']}/pause")
    for _ in range(100):
        if server.get(f"/jobs/{job['id']}")["state"] == "paused":
            break
        time.sleep(0.05)
    paused = server.get(f"/jobs/{job['id']}")
    assert paused["state"] == "paused"
    server.expect(202, "POST", f"/jobs/{job['id']}/resume")
    server.expect(202, "POST", f"/jobs/{job['id']}/cancel")
    assert server.finished(job)["state"] == "cancelled"
    server.problem(409, "job-finished", "POST", f"/jobs/{job['id']}/cancel")
    assert images.work_files(workspace / "backup") == []
    assert server.get("/backups?state=complete")["items"] == []


def test_stop_in_mid_backup_ends_in_time_and_is_told(start, workspace):
    server = start()
    server.make_repository()
    server.register(big_image(workspace, 64), "raw")
    job = server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full", "speedLimit": 1 * MIB}).json()
    time.sleep(0.5)
    assert server.stop() == 0
    server.start()
    assert server.get(f"/jobs/{job['id']}")["state"] == "interrupted"
    assert images.work_files(workspace / "backup") == []
