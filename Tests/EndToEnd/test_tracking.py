"""What a killed server had recorded: the next increment reads what changed, and no more."""
import random

import pytest

import images
import nbd_tools

pytestmark = pytest.mark.usefixtures("each_version")
GRAIN = 65536
SIZE = 256 << 20


@pytest.fixture
def guest(start, workspace):
    """A server that exports an image to a guest and has a full backup of it; and where the guest's disk is."""
    server = start()
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2", size="256M")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    server.back_up()
    export(server, workspace)
    return server, path


def export(server, workspace):
    server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
        "listen": {"unix": str(workspace / "run/vm1.sock")}})


def write(workspace, model, *changes):
    """Writes to the guest's disk and to the model of it, and flushes."""
    commands = [f"write -P {pattern} {offset} {length}" for pattern, offset, length in changes] + ["flush"]
    nbd_tools.io(f"nbd+unix:///vm1?socket={workspace / 'run/vm1.sock'}", *commands)
    images.qemu_io(model, "raw", *commands)


def model_of(path, workspace):
    model = workspace / "images/model.raw"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, model)
    return model


def increment(server):
    """An increment of the image, which is detached for it."""
    server.expect(204, "DELETE", "/exports/vm1")
    return server.back_up(kind="incremental")


def test_after_a_kill_the_next_increment_reads_only_what_changed(guest, workspace):
    server, path = guest
    model = workspace / "images/model.raw"
    server.expect(204, "DELETE", "/exports/vm1")
    model_of(path, workspace)
    export(server, workspace)
    generator = random.Random(3)
    points = []
    for round in range(3):
        changes = [(generator.randrange(1, 250), generator.randrange(SIZE // 4096) * 4096, 4096) for _ in range(20)]
        write(workspace, model, *changes)
        server.kill()
        server.start()
        # The guest comes back to its disk, and goes on.
        write(workspace, model, (7, round << 20, 4096))
        backup = increment(server)
        assert backup.get("fallbackReason") is None and backup["kind"] == "incremental", backup
        assert backup["dirtyBytes"] <= (len(changes) + 1 + 4) * GRAIN, backup
        points.append((backup, workspace / f"images/point-{round}.raw"))
        images.run("cp", "--sparse=always", model, points[-1][1])
        export(server, workspace)
    server.expect(204, "DELETE", "/exports/vm1")
    for backup, point in points:
        back = workspace / "images/back.raw"
        server.restore_to(back, backup)
        assert images.same(back, "raw", point, "raw")
        back.unlink()
    images.check(path)
    assert not list((workspace / "state/tracking").iterdir()), "a closed image has no record"
    assert not list((workspace / "state").glob("cobweb-*"))


def commit(path, workspace):
    images.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", path, "-F", "qcow2", workspace / "images/top")
    images.qemu_io(workspace / "images/top", "qcow2", "write -P 9 30M 64k")
    images.run("qemu-img", "commit", "-q", workspace / "images/top")


def reopen(path, workspace):
    images.run("qemu-io", "-f", "qcow2", "-r", "-c", "reopen -w", "-c", "write -P 9 30M 64k", path)


def clear(path, workspace):
    images.run("qemu-img", "bitmap", "--clear", path, "cobweb.witness")


def write_beside(path, workspace):
    images.qemu_io(path, "qcow2", "write -P 9 30M 64k")


@pytest.mark.parametrize("meddle", [commit, reopen, clear, write_beside])
def test_what_somebody_else_may_have_changed_is_compared(guest, workspace, meddle):
    server, path = guest
    nbd_tools.io(f"nbd+unix:///vm1?socket={workspace / 'run/vm1.sock'}", "write -P 8 40M 64k", "flush")
    server.kill()
    meddle(path, workspace)
    server.start()
    backup = increment(server)
    assert backup["fallbackReason"] == "tracking-lost" and backup["trackingFallback"] == "hash", backup
    back = workspace / "images/back.raw"
    server.restore_to(back, backup)
    assert images.same(back, "raw", path, "qcow2")
    backup = server.back_up(kind="incremental")
    assert backup.get("fallbackReason") is None, backup
