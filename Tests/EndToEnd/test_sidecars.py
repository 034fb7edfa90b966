"""What changed in images that have no place for a bitmap: recorded beside the server's state, or compared."""
import os
import random
import subprocess

import pytest

import images
import nbd_tools

pytestmark = pytest.mark.usefixtures("each_version")
MIB = images.MIB


def make(kind, workspace):
    """An image of that kind with some data, its path and its format."""
    raw = images.make_image(workspace / "images/vm1.raw", "raw", "64M")
    images.fill(raw, "raw")
    path = workspace / "images/vm1.qcow2"
    if kind == "raw":
        return raw, "raw"
    if kind == "overlay":
        images.make_image(path, "qcow2", None, backing=raw, backing_format="raw")
    else:
        option = "compat=0.10" if kind == "version 2" else f"data_file={workspace / 'images/vm1.data'}"
        images.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-o", option, raw, path)
    return path, "qcow2"


class Guest:
    """An image that a guest uses through an export, and a copy of what it has written."""

    def __init__(self, server, workspace, kind):
        self.server, self.workspace, self.folder = server, workspace, workspace / "images"
        self.path, self.format = make(kind, workspace)
        self.model = self.folder / "model.raw"
        images.run("qemu-img", "convert", "-f", self.format, "-O", "raw", self.path, self.model)
        server.register(self.path, self.format)

    def export(self):
        self.server.expect(201, "POST", "/exports", {
            "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
            "listen": {"unix": str(self.workspace / "run/vm1.sock")}})

    def write(self, *commands):
        nbd_tools.io(f"nbd+unix:///vm1?socket={self.workspace / 'run/vm1.sock'}", *commands, "flush")
        images.qemu_io(self.model, "raw", *commands)

    def withdraw(self):
        self.server.expect(204, "DELETE", "/exports/vm1")

    def check(self, backup, reason=None):
        """The backup is an increment that fell back for that reason, and holds what the model does."""
        assert (backup["kind"], backup["fallbackReason"]) == ("incremental", reason), backup
        assert backup["trackingFallback"] == (reason and "hash")
        back = self.folder / "back.raw"
        self.server.restore_to(back, backup)
        assert images.same(back, "raw", self.model, "raw")
        back.unlink()


@pytest.mark.parametrize("kind", ["raw", "version 2", "data file", "overlay"])
def test_increments_read_what_a_guest_wrote(server, workspace, kind):
    guest = Guest(server, workspace, kind)
    full = server.back_up()
    assert full["checkpoint"] and full["granularity"] == 4096
    empty = server.back_up(kind="incremental")
    guest.check(empty)
    assert (empty["parent"], empty["dirtyBytes"]) == (full["id"], 0)
    guest.export()
    guest.write("write -P 9 20M 64k", "write -z 40M 128k", "write -P 7 1000 3000")
    guest.withdraw()
    changed = server.back_up(kind="incremental")
    guest.check(changed)
    assert changed["dirtyBytes"] <= 3 * 65536 + 5 * 4096
    # It outlives the server, and what is recorded before and after is told as one.
    guest.export()
    guest.write("write -P 5 30M 4k")
    guest.withdraw()
    assert server.stop() == 0
    server.start()
    guest.export()
    guest.write("write -P 6 31M 4k")
    guest.withdraw()
    last = server.back_up(kind="incremental")
    guest.check(last)
    assert last["dirtyBytes"] <= 6 * 4096
    trackers = server.get("/images/vm1/checkpoints")["items"]
    assert trackers[-1]["id"] == last["checkpoint"]


def write_beside(guest):
    images.qemu_io(guest.path, guest.format, "write -P 3 33M 64k")


def put_the_time_back(guest):
    status = os.stat(guest.path)
    with open(guest.path, "r+b") as file:
        file.seek(33 * MIB)
        file.write(b"x")
    os.utime(guest.path, ns=(status.st_atime_ns, status.st_mtime_ns))


def grow(guest):
    images.run("qemu-img", "resize", "-f", guest.format, guest.path, "65M")


def replace(guest):
    images.run("cp", "--preserve=all", guest.path, guest.folder / "copy")
    os.rename(guest.folder / "copy", guest.path)


def copy_state(guest):
    for command in (["cp", "--archive", "state", "aside"], ["rm", "-r", "state"], ["mv", "aside", "state"]):
        subprocess.run(command, cwd=guest.workspace, check=True)


@pytest.mark.parametrize("meddle, reason", [
    (write_beside, "tracking-lost"), (put_the_time_back, "tracking-lost"), (grow, "identity-changed"),
    (replace, "identity-changed"), (copy_state, "tracking-lost")])
def test_what_something_else_may_have_changed_is_compared(server, workspace, meddle, reason):
    guest = Guest(server, workspace, "raw")
    server.back_up()
    guest.export()
    guest.write("write -P 9 20M 64k")
    guest.withdraw()
    assert server.stop() == 0
    meddle(guest)
    images.run("cp", guest.path, guest.model)
    server.start()
    guest.check(server.back_up(kind="incremental"), reason)
    guest.export()
    guest.write("write -P 8 10M 64k")
    guest.withdraw()
    guest.check(server.back_up(kind="incremental"))


def test_what_was_open_when_the_server_was_killed_is_compared(server, workspace):
    guest = Guest(server, workspace, "raw")
    server.back_up()
    generator = random.Random(5)
    for number in range(2):
        guest.export()
        guest.write(f"write -P {number + 7} {generator.randrange(60) << 20} 64k")
        server.kill()
        server.start()
        guest.withdraw()
        guest.check(server.back_up(kind="incremental"), "unclean-stop")
    guest.check(server.back_up(kind="incremental"))


def test_what_an_overlay_stands_on_counts(server, workspace):
    guest = Guest(server, workspace, "overlay")
    server.back_up()
    images.qemu_io(workspace / "images/vm1.raw", "raw", "write -P 3 33M 64k")
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", guest.path, guest.model)
    guest.check(server.back_up(kind="incremental"), "tracking-lost")
    guest.check(server.back_up(kind="incremental"))


def test_their_trackers_are_listed_taken_out_and_go_on(server, workspace):
    guest = Guest(server, workspace, "raw")
    full = server.back_up()
    tracker, = server.get("/images/vm1/trackers")["items"]
    assert tracker == {
        "name": full["tracker"], "checkpoint": full["checkpoint"], "lastBackup": full["id"],
        "bitmap": f"cobweb.{full['tracker']}.{full['checkpoint']}", "repository": full["repository"],
        "state": "recording", "owner": "backup"}
    write_beside(guest)
    images.run("cp", guest.path, guest.model)
    tracker, = server.get("/images/vm1/trackers")["items"]
    assert tracker["state"] == "inconsistent"
    guest.check(server.back_up(kind="incremental"), "tracking-lost")
    guest.export()
    tracker, = server.get("/images/vm1/trackers")["items"]
    assert tracker["state"] == "recording"
    guest.write("write -P 9 20M 64k")
    guest.withdraw()
    newest = server.back_up(kind="incremental")
    guest.check(newest)
    # The newest backup is deleted, and its line goes on from the one before.
    guest.export()
    guest.write("write -P 9 40M 64k")
    guest.withdraw()
    plan = server.expect(200, "DELETE", f"/backups/{newest['id']}?dryRun=true").json()
    assert newest["parent"] in plan["steps"][0] and plan["warnings"] == []
    server.succeeded("DELETE", f"/backups/{newest['id']}")
    again = server.back_up(kind="incremental")
    guest.check(again)
    assert (again["parent"], again["dirtyBytes"]) == (newest["parent"], 2 * 65536)
    server.expect(204, "DELETE", f"/images/vm1/trackers/{full['tracker']}")
    assert server.get("/images/vm1/trackers")["items"] == []
    guest.check(server.back_up(kind="incremental"), "bitmap-missing")
    server.call("DELETE", "/images/vm1").raise_for_status()
    assert not [path for path in (workspace / "state/tracking").rglob("*") if path.is_file()]


def test_exclusive_is_a_field_of_the_image(server, workspace):
    guest = Guest(server, workspace, "raw")
    assert server.get("/images/vm1")["exclusive"] is False
    assert server.expect(200, "PATCH", "/images/vm1", {"exclusive": True}).json()["exclusive"] is True
    guest.export()
    server.problem(409, "image-in-use", "PATCH", "/images/vm1", {"exclusive": False})
    guest.withdraw()
    server.back_up()
    assert server.expect(200, "PATCH", "/images/vm1", {"exclusive": False}).json()["exclusive"] is False
    assert server.get("/images/vm1/trackers")["items"] == [], "what was recorded under the promise is forgotten"
