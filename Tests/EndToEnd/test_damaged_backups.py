"""Backups whose files changed after they were written, as exports and restores meet them."""
import subprocess

import pytest
import requests

import images
import nbd_tools


def exported(server, workspace, backup):
    return server.expect(201, "POST", "/exports", {
        "name": "look", "source": {"kind": "backup", "backup": backup["id"]},
        "listen": {"unix": str(workspace / "run/look.sock")}}).json()


@pytest.mark.usefixtures("each_version")
def test_a_flipped_byte_is_an_error_to_its_readers_alone_and_marks_the_backup(server, workspace):
    path = images.make_image(workspace / "images/vm1.raw", "raw", "8M")
    server.register(path, "raw", "vm1")
    images.qemu_io(path, "raw", "write -P 1 0 4M")
    full = server.back_up(compression="none")
    images.qemu_io(path, "raw", "write -P 2 1M 64k")
    increments = [server.back_up(kind="incremental", compression="none")]
    images.qemu_io(path, "raw", "write -P 3 2M 64k")
    increments.append(server.back_up(kind="incremental", compression="none"))
    copy = server.back_up(kind="copy")
    export = exported(server, workspace, increments[1])
    nbd_tools.io(export["uri"], "read -P 1 0 1M", "read -P 2 1M 64k", read_only=True)

    stored = images.stored_file(workspace / "backup", increments[0])
    content = bytearray(stored.read_bytes())
    content[content.index(b"\2" * 65536) + 99] ^= 1
    stored.write_bytes(content)
    # What was checked by an export isn't checked again by it.
    server.expect(204, "DELETE", "/exports/look")
    export = exported(server, workspace, increments[1])
    for command in (["nbdcopy", export["uri"], workspace / "copy.raw"],
                    ["qemu-img", "convert", "-f", "raw", "-O", "raw", export["uri"], workspace / "copy.raw"]):
        failed = subprocess.run([images.program(command[0]), *command[1:]], capture_output=True, text=True, timeout=60)
        assert failed.returncode != 0 and "nput/output error" in failed.stderr, failed.stderr
    nbd_tools.io(export["uri"], "read -P 1 0 1M", "read -P 1 1088k 960k", "read -P 3 2M 64k",
                 read_only=True)

    with requests.get(server.url + "/api/v1/events", headers={"Last-Event-ID": "0"}, stream=True, timeout=20) as stream:
        told = (line for line in stream.iter_lines(decode_unicode=True) if '"state":"corrupt"' in line)
        assert increments[0]["id"] in next(told) and increments[1]["id"] in next(told)
    damaged = server.get(f"/backups/{increments[0]['id']}")
    assert damaged["state"] == "corrupt" and str(stored) in damaged["failure"] and "'look'" in damaged["failure"]
    assert increments[0]["id"] in server.get(f"/backups/{increments[1]['id']}")["failure"]
    assert [server.get(f"/backups/{backup['id']}")["state"] for backup in (full, copy)] == ["complete", "complete"]
    # The next increment is built on what is whole.
    assert server.back_up(kind="incremental")["parent"] == full["id"]


def test_a_restore_that_meets_damage_marks_whose_it_is(server, workspace):
    path = images.make_image(workspace / "images/vm1.raw", "raw", "8M")
    server.register(path, "raw", "vm1")
    images.qemu_io(path, "raw", "write -P 1 0 4M", "write -P 3 3M 64k")
    full = server.back_up(compression="none")
    images.qemu_io(path, "raw", "write -P 2 1M 64k")
    increment = server.back_up(kind="incremental", compression="none")
    stored = images.stored_file(workspace / "backup", full)
    content = bytearray(stored.read_bytes())
    # Of what the increment doesn't hide.
    content[content.index(b"\3" * 65536) + 99] ^= 1
    stored.write_bytes(content)
    job = server.finished(server.expect(202, "POST", f"/backups/{increment['id']}/restore", {
        "target": {"kind": "file", "path": str(workspace / "images/back.raw"), "format": "raw"}}).json())
    assert (job["state"], job["error"]["code"]) == ("failed", "backup-corrupt")
    with requests.get(server.url + "/api/v1/events", headers={"Last-Event-ID": "0"}, stream=True, timeout=20) as stream:
        told = (line for line in stream.iter_lines(decode_unicode=True) if '"state":"corrupt"' in line)
        assert full["id"] in next(told) and increment["id"] in next(told)
    assert job["id"] in server.get(f"/backups/{full['id']}")["failure"]
