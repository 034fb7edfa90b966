"""Repositories on file systems that lack what ext4, XFS and tmpfs have."""
import contextlib
import os
import shutil
import time

import pytest

import images
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
