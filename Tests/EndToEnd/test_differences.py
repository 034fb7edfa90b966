"""What changed between two backups, as NBD clients see it, and as all that a copy of the older one needs."""
import random
import shutil
import subprocess

import pytest

import images
from images import MIB
from nbd_tools import dirty_of, dirty_of_map

# Copies what a context of an export calls changed onto a file, and nothing else. Prints how many bytes that was.
COPY_CHANGES = """
import nbd, sys
uri, context, target = sys.argv[1:]
handle = nbd.NBD()
handle.add_meta_context("qemu:dirty-bitmap:" + context)
handle.connect_uri(uri)
copied, offset, size = 0, 0, handle.get_size()
with open(target, "r+b") as file:
    file.truncate(size)
    while offset < size:
        found = []
        handle.block_status(min(size - offset, 1 << 30), offset, lambda name, start, entries, error: found.extend(entries))
        for length, flags in zip(found[::2], found[1::2]):
            length = min(length, size - offset)
            if flags & 1:
                for start in range(offset, offset + length, 1 << 20):
                    data = handle.pread(min(1 << 20, offset + length - start), start)
                    file.seek(start)
                    file.write(data)
                copied += length
            offset += length
print(copied)
"""


class Points:
    """A guest's disk, and what it held at each backup."""

    def __init__(self, server, workspace, seed):
        self.server, self.workspace, self.noise = server, workspace, random.Random(seed)
        self.path = images.make_image(workspace / "images/vm1.qcow2", size="24M")
        self.socket = workspace / "run/point.sock"
        self.all = []
        server.register(self.path, "qcow2")

    def change(self):
        size = self.size
        for _ in range(self.noise.randrange(1, 9)):
            length = 512 * self.noise.randrange(1, 400)
            start = 512 * self.noise.randrange(0, (size - length) // 512)
            kind = self.noise.choice(["write -P %d" % self.noise.randrange(1, 255)] * 3 + ["write -z", "discard"])
            images.qemu_io(self.path, "qcow2", f"{kind} {start} {length}")

    @property
    def size(self):
        return self.server.get("/images/vm1/inspect")["virtualSize"]

    def back_up(self, kind):
        backup = self.server.back_up(kind=kind, compression=self.noise.choice(["zstd", "none"]))
        moment = self.workspace / f"moment-{len(self.all)}"
        images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.path, moment)
        self.all.append((backup, moment))
        return backup

    def export(self, backup, *since):
        return self.server.expect(201, "POST", "/exports", {
            "name": "point", "source": {"kind": "backup", "backup": backup["id"]}, "listen": {"unix": str(self.socket)},
            "contexts": {"changedSince": list(since)}}).json()

    def end_export(self):
        self.server.expect(204, "DELETE", "/exports/point")

    def difference(self, backup, other):
        """As REST tells it, up to the backup's end."""
        items = self.server.get(f"/backups/{backup['id']}/diff/{other['id']}?length={backup['virtualSize']}")["items"]
        return [(item["offset"], item["length"]) for item in items]


def copy_changes(export, context, target):
    answer = subprocess.run(["/usr/bin/python3", "-c", COPY_CHANGES, export["uri"], context, str(target)],
                            capture_output=True, text=True, timeout=120)
    assert answer.returncode == 0, answer.stderr
    return int(answer.stdout)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_newer_backup_is_the_older_one_with_what_changed_since(server, workspace, seed):
    points = Points(server, workspace, seed)
    images.qemu_io(points.path, "qcow2", "write -P 1 0 8M", "write -P 2 20M 2M")
    for kind in ("full", "incremental", "incremental", "full", "incremental"):
        points.back_up(kind)
        points.change()
    images.run("qemu-img", "resize", "-f", "qcow2", points.path, "27M")
    images.qemu_io(points.path, "qcow2", "write -P 9 26M 100k")
    points.back_up("incremental")
    assert len({backup["chain"] for backup, _ in points.all}) == 2

    for newer, moment in points.all[1:]:
        older = [(other, held) for other, held in points.all if other["createdAt"] < newer["createdAt"]]
        export = points.export(newer, *({"backup": other["id"]} for other, _ in older))
        for other, held in older:
            copy = workspace / "copy"
            shutil.copy(held, copy)
            copied = copy_changes(export, other["id"], copy)
            assert copy.read_bytes() == moment.read_bytes(), (newer["sequence"], other["sequence"])
            assert copied == sum(length for _, length in points.difference(newer, other))
            assert copied < 16 * MIB, "what is the same isn't copied"
        points.end_export()


def test_a_difference_is_seen_alike_by_all(server, workspace, each_version):
    points = Points(server, workspace, 1)
    full = points.back_up("full")
    images.qemu_io(points.path, "qcow2", "write -P 1 1M 100k", "write -P 2 25165312 512")
    newer = points.back_up("incremental")
    export = points.export(newer, {"backup": full["id"], "exportName": "since-monday"})
    assert export["contexts"]["changedSince"] == [{"backup": full["id"], "exportName": "since-monday"}]
    expected = [(MIB, 2 * 65536), (24 * MIB - 65536, 65536)]
    assert points.difference(newer, full) == expected
    assert dirty_of(export["uri"], "since-monday") == expected
    assert dirty_of_map(points.socket, "point", "since-monday") == expected

    # It is needed as long as it is shown.
    problem = server.problem(409, "export-in-use", "DELETE", f"/backups/{full['id']}")
    assert "point" in problem["detail"]
    # It comes back with the server; new clients see what the export shows by then.
    server.kill()
    server.start()
    assert dirty_of(export["uri"], "since-monday") == expected
    server.expect(200, "PATCH", "/exports/point", {"contexts": {"changedSince": [
        {"backup": newer["id"], "exportName": "itself"}]}})
    assert dirty_of(export["uri"], "itself") == []
    shown = images.run("nbdinfo", export["uri"]).stdout
    assert "qemu:dirty-bitmap:itself" in shown and "since-monday" not in shown

    other = images.make_image(workspace / "images/vm2.raw", "raw", "1M")
    server.register(other, "raw", "vm2")
    stranger = server.back_up("vm2")
    problem = server.problem(400, "invalid-field", "PATCH", "/exports/point", {
        "contexts": {"changedSince": [{"backup": newer["id"]}, {"backup": stranger["id"]}]}})
    assert problem["errors"][0]["pointer"] == "/contexts/changedSince/1/backup"
    server.problem(404, "not-found", "PATCH", "/exports/point", {
        "contexts": {"changedSince": [{"backup": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}]}})
