"""Repositories on file systems that lack what ext4, XFS and tmpfs have."""
import contextlib
import os
import shutil
import time

import pytest

import images
import nbd_tools
from images import MIB

LOOP_PATH = {"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}


@contextlib.contextmanager
def mounted(image, folder):
    """The file system in the file `image`, mounted over `folder`."""
    if os.geteuid() != 0:
        pytest.fail("this test mounts a file system from a loop device and needs root")
    folder.mkdir(exist_ok=True)
    images.run("mount", "-o", "loop", image, folder)
    try:
        yield folder
    finally:
        images.run("umount", "-l", folder)


def test_folders_whose_entries_have_no_type_are_read(start, workspace):
    disk = workspace / "fs.img"
    with open(disk, "wb") as file:
        file.truncate(64 * MIB)
    images.run("mkfs.ext4", "-q", "-F", "-O", "^filetype", disk, env=LOOP_PATH)
    with mounted(disk, workspace / "backup/plain") as folder:
        server = start()
        server.make_repository("plain")
        source = images.make_image(workspace / "images/vm1.raw", "raw", "3M")
        images.qemu_io(source, "raw", "write -P 5 1M 1M")
        server.register(source, "raw")
        backup = server.back_up(repository="plain")
        job = server.succeeded("POST", "/repositories/plain/rescan", {})
        assert job["result"]["backupsMissing"] == 0, job
        assert server.get(f"/backups/{backup['id']}")["state"] == "complete"
        server.stop()

        # A catalog that is lost is filled again from the same folder.
        shutil.rmtree(workspace / "state")
        (workspace / "state").mkdir()
        server.start()
        server.make_repository("plain")
        job = server.succeeded("POST", "/repositories/plain/rescan", {})
        assert job["result"]["backupsAdded"] == 1, job
        target = workspace / "images/back.raw"
        server.restore_to(target, backup)
        assert images.same(source, "raw", target, "raw")

        # What a killed backup leaves is found and removed.
        server.succeeded("DELETE", f"/backups/{backup['id']}")
        server.expect(202, "POST", "/backups", {
            "images": ["vm1"], "repository": "plain", "kind": "full", "speedLimit": 100_000})
        for _ in range(400):
            if images.work_files(folder / "images"):
                break
            time.sleep(0.02)
        server.kill()
        server.start()
        assert images.work_files(folder / "images") == []
        server.end()


def test_read_only_storage_can_be_read_from(start, workspace):
    if os.geteuid() != 0:
        pytest.fail("this test mounts a folder to be read only and needs root")
    folder = workspace / "backup/nas"
    server = start()
    server.make_repository("nas")
    source = images.make_image(workspace / "images/vm1.raw", "raw", "3M")
    images.qemu_io(source, "raw", "write -P 6 1M 1M")
    server.register(source, "raw")
    backup = server.back_up(repository="nas")
    assert server.get("/repositories/nas")["readOnly"] is False
    server.stop()
    images.run("mount", "--bind", folder, folder)
    try:
        images.run("mount", "-o", "remount,bind,ro", folder)
        server.start()
        repository = server.get("/repositories/nas")
        assert (repository["state"], repository["readOnly"]) == ("ready", True), repository
        body = {"images": ["vm1"], "repository": "nas", "kind": "full"}
        server.problem(409, "repository-read-only", "POST", "/backups", body)
        server.problem(409, "repository-read-only", "DELETE", f"/backups/{backup['id']}")
        assert server.verify(backup)["state"] == "succeeded"
        server.restore_to(workspace / "images/back.raw", backup)
        assert images.same(source, "raw", workspace / "images/back.raw", "raw")
        server.expect(201, "POST", "/exports", {
            "name": "look", "source": {"kind": "backup", "backup": backup["id"]},
            "listen": {"unix": str(workspace / "run/look.sock")}})
        server.expect(204, "DELETE", "/exports/look")
        images.run("mount", "-o", "remount,bind,rw", folder)
        server.back_up(repository="nas")
        assert server.get("/repositories/nas")["readOnly"] is False
        server.end()
    finally:
        images.run("umount", "-l", folder)


def test_storage_that_is_unplugged_and_comes_back_is_noticed(start, workspace):
    server = start()
    server.make_repository("nas")
    source = images.make_image(workspace / "images/vm1.raw", "raw", "3M")
    server.register(source, "raw")
    backup = server.back_up(repository="nas")
    (workspace / "backup/nas").rename(workspace / "away")
    assert server.verify(backup)["error"]["code"] == "repository-unavailable"
    assert server.get("/repositories/nas")["state"] == "unavailable"
    server.problem(409, "repository-unavailable", "POST", "/backups",
                   {"images": ["vm1"], "repository": "nas", "kind": "full"})
    (workspace / "away").rename(workspace / "backup/nas")
    server.back_up(repository="nas")
    assert server.get("/repositories/nas")["state"] == "ready"


def test_a_fleecing_folder_without_room_costs_the_backup_alone(start, workspace):
    """Too little to begin with; and enough by its size, but filled by somebody else meanwhile."""
    disk = workspace / "fs.img"
    with open(disk, "wb") as file:
        file.truncate(16 * MIB)
    images.run("mkfs.ext4", "-q", "-F", disk, env=LOOP_PATH)
    with mounted(disk, workspace / "fleecing") as folder:
        server = start(fleecingFolder="fleecing", copyBuffer=MIB)
        server.make_repository()
        path = images.make_image(workspace / "images/vm1.qcow2", size="128M")
        images.qemu_io(path, "qcow2", "write -P 1 0 32M")
        server.register(path, "qcow2")
        export = {"name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
                  "listen": {"unix": str(workspace / "run/vm1.sock")}}
        server.expect(201, "POST", "/exports", export)
        uri = f"nbd+unix:///vm1?socket={workspace / 'run/vm1.sock'}"
        request = {"images": ["vm1"], "repository": "local", "kind": "full", "compression": "none",
                   "speedLimit": 4 * MIB}
        job = server.finished(server.expect(202, "POST", "/backups", request).json())
        assert (job["state"], job["error"]["code"]) == ("failed", "temp-full"), job
        assert str(64 * MIB) in job["error"]["detail"], job["error"]
        server.stop()

        server.settings["fleecingSize"] = 8 * MIB
        server.start()
        job = server.expect(202, "POST", "/backups", request).json()
        deadline = time.monotonic() + 30
        while not any("is held" in entry["message"] for entry in server.get(f"/jobs/{job['id']}/log")["items"]):
            assert time.monotonic() < deadline, server.log()
            time.sleep(0.05)
        with contextlib.suppress(OSError), open(folder / "others", "wb") as others:
            while True:
                others.write(bytes(MIB))
                others.flush()
        nbd_tools.io(uri, "write -P 9 0 32M", "flush", "read -P 9 0 32M")
        job = server.finished(job)
        assert (job["state"], job["error"]["code"]) == ("failed", "point-in-time-lost"), job
        (folder / "others").unlink()
        backup = server.back_up(kind="full")
        back = workspace / "images/back.raw"
        server.restore_to(back, backup)
        images.qemu_io(back, "raw", "read -P 9 0 32M", "read -P 0 32M 96M")
        server.expect(204, "DELETE", "/exports/vm1")
        server.stop()
