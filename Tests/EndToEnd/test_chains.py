"""Backups that build on others: every point of a chain can be had again, by us and by qemu-img alone."""
import random
import shutil
import time

import pytest
import requests

import images
from images import MIB


class Chain:
    """A guest's image, and what it held at each backup."""

    def __init__(self, server, workspace, format, size="32M"):
        self.server, self.workspace, self.format = server, workspace, format
        self.path = images.make_image(workspace / f"images/vm1.{format}", format, size)
        self.points = []
        server.register(self.path, format)

    def write(self, *commands):
        images.qemu_io(self.path, self.format, *commands)

    def back_up(self, kind, **more):
        backup = self.server.back_up(kind=kind, **more)
        moment = self.workspace / f"moment-{len(self.points)}"
        images.run("qemu-img", "convert", "-f", self.format, "-O", "raw", self.path, moment)
        self.points.append((backup, moment))
        return backup

    def check_all(self):
        for backup, moment in self.points:
            target = self.workspace / "images/back.raw"
            self.server.restore_to(target, backup)
            assert images.same(moment, "raw", target, "raw"), backup
            target.unlink()
            stored = images.stored_file(self.workspace / "backup", backup)
            images.check(stored)
            assert images.same(moment, "raw", stored, "qcow2"), "by qemu-img alone"
            assert self.server.verify(backup)["state"] == "succeeded"


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_every_point_of_a_chain_comes_back(server, workspace, format, each_version):
    chain = Chain(server, workspace, format)
    chain.write("write -P 1 0 9M", "write -P 2 20M 1M")
    full = chain.back_up("auto")
    assert (full["kind"], full["requestedKind"], full["trackingFallback"]) == ("full", "auto", None)
    chain.write("write -P 3 1M 64k", "write -z 4M 2M", "write -P 4 31M 4k")
    first = chain.back_up("incremental", compression="none")
    assert first["parent"] == full["id"] and first["chain"] == full["chain"] and first["sequence"] == 1
    # Only in a qcow2 image QEMU records what it writes, in blocks of 4 KiB: four of them are marked, maybe where something
    # changed.
    assert (first["trackingFallback"], first["fallbackReason"]) == (
        ("hash", "tracking-lost") if format == "raw" else (None, None))
    changed = 2 * MIB + 65536 + (65536 if format == "raw" else 4096)
    assert changed <= first["dirtyBytes"] <= changed + (0 if format == "raw" else 4 * 4096)
    assert first["storedSize"] < full["dirtyBytes"] / 8
    empty = chain.back_up("incremental")
    assert empty["dirtyBytes"] == 0 and empty["merkleRoot"] == first["merkleRoot"]
    chain.write("write -P 5 0 1M")
    differential = chain.back_up("differential")
    assert differential["parent"] == full["id"] and differential["sequence"] == 3
    copy = chain.back_up("copy")
    assert copy["chain"] != full["chain"] and copy["parent"] is None
    images.run("qemu-img", "resize", "-f", format, chain.path, "40M")
    chain.write("write -P 6 39M 1M")
    grown = chain.back_up("auto")
    assert grown["kind"] == "incremental" and grown["parent"] == differential["id"]
    chain.check_all()

    # Where two points differ, in one chain or across two.
    for left, right, expected in [
            (first, full, [[MIB, 65536], [4 * MIB, 2 * MIB], [31 * MIB, 65536]]), (empty, first, []),
            (copy, differential, []), (grown, copy, [[39 * MIB, MIB]])]:
        found = server.get(f"/backups/{left['id']}/diff/{right['id']}")
        assert [[item["offset"], item["length"]] for item in found["items"]] == expected
        assert found["nextOffset"] is None
    extents = server.get(f"/backups/{grown['id']}/extents")["items"]
    assert sum(item["length"] for item in extents) == 40 * MIB

    # The chain tells its story, and all of it is verified at once.
    points = server.get(f"/chains/{full['chain']}")
    assert not points["pointsTruncated"]
    assert [point["backup"] for point in points["points"]] == points["backups"]
    for point in points["points"]:
        backup = server.get(f"/backups/{point.pop('backup')}")
        assert point == {name: backup[name] for name in point}
    verified = server.succeeded("POST", f"/chains/{full['chain']}/verify", {})["result"]["backups"]
    assert [(part["backup"], part["outcome"]) for part in verified] == [(id, "sound") for id in points["backups"]]

    # What others need stays.
    problem = server.problem(409, "backup-has-dependents", "DELETE", f"/backups/{full['id']}")
    assert first["id"] in problem["detail"] and differential["id"] in problem["detail"]
    chains = server.get("/chains?image=vm1")["items"]
    assert [full["id"], first["id"], empty["id"], differential["id"], grown["id"]] in [c["backups"] for c in chains]
    for backup in [grown, differential, empty, first, full]:
        assert server.get(f"/backups/{backup['id']}")["deletable"]
        server.succeeded("DELETE", f"/backups/{backup['id']}")


def test_a_lost_catalog_is_read_anew(server, start, workspace):
    chain = Chain(server, workspace, "qcow2")
    for pattern in range(3):
        chain.write(f"write -P {pattern + 1} {pattern}M 1M")
        chain.back_up("incremental")
    before = {backup["id"]: server.get(f"/backups/{backup['id']}") for backup, _ in chain.points}
    groups = {backup["id"]: server.get(f"/groups/{backup['group']}") for backup, _ in chain.points}
    server.end()
    shutil.rmtree(workspace / "state")
    shutil.move(workspace / "backup/local", workspace / "backup/moved")
    again = start()
    repository = again.expect(201, "POST", "/repositories", {
        "name": "local", "kind": "directory", "path": str(workspace / "backup/moved")}).json()
    again.succeeded("POST", f"/repositories/{repository['id']}/rescan")
    for id, old in before.items():
        found = again.get(f"/backups/{id}")
        for field in ("chain", "sequence", "kind", "requestedKind", "reason", "parent", "dependents", "state", "group",
                      "trackingFallback", "fallbackReason", "pointInTime", "virtualSize", "dirtyBytes", "merkleRoot"):
            assert found[field] == old[field], field
        assert again.get(f"/groups/{old['group']}") == groups[id]
    chain.server = again
    chain.write("write -P 9 30M 1M")
    newest = chain.back_up("incremental")
    assert newest["parent"] == chain.points[2][0]["id"] and newest["sequence"] == 3
    chain.check_all()


def test_auto_begins_a_new_chain_after_so_many(start, workspace):
    server = start(chainLength=2)
    server.make_repository()
    chain = Chain(server, workspace, "raw")
    kinds = []
    for pattern in range(5):
        chain.write(f"write -P {pattern + 1} 1M 64k")
        kinds.append(chain.back_up("auto")["kind"])
    assert kinds == ["full", "incremental", "full", "incremental", "full"]
    assert "in a row" in chain.points[2][0]["reason"] and chain.points[2][0]["fallbackReason"] is None
    chain.check_all()


def test_killed_in_the_midst_the_next_one_is_right(server, workspace):
    chain = Chain(server, workspace, "raw", size="256M")
    noise = random.Random(5)
    with open(chain.path, "r+b") as disk:
        for _ in range(192):
            disk.write(noise.randbytes(MIB))
    full = chain.back_up("full", compression="none")
    for attempt in range(3):
        chain.write(f"write -P {attempt + 7} 3M 50M")
        server.expect(202, "POST", "/backups", {
            "images": ["vm1"], "repository": "local", "kind": "incremental", "speedLimit": 100 * MIB})
        time.sleep(0.3 + attempt * 0.2)
        server.kill()
        server.start()
        assert server.get(f"/backups?image=vm1&state=complete")["items"] == [server.get(f"/backups/{full['id']}")]
    increment = chain.back_up("incremental")
    assert increment["parent"] == full["id"] and increment["kind"] == "incremental"
    assert images.work_files(workspace / "backup") == []
    chain.check_all()


@pytest.mark.usefixtures("each_version")
def test_a_server_that_lost_its_record_compares_everything(server, workspace):
    chain = Chain(server, workspace, "qcow2")
    chain.write("write -P 1 0 4M")
    chain.back_up("full")
    socket = workspace / "run/vm1.sock"
    server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False, "listen": {"unix": str(socket)}})
    images.run("qemu-io", "-f", "raw", "-c", "write -P 9 1M 200k", "-c", "flush", f"nbd+unix:///vm1?socket={socket}")
    server.kill()
    shutil.rmtree(workspace / "state/tracking")
    # It is attached again, as its export is served again, and has no bitmap to record in by now.
    server.start()
    images.run("qemu-io", "-f", "raw", "-c", "write -P 8 3M 64k", f"nbd+unix:///vm1?socket={socket}")
    server.expect(204, "DELETE", "/exports/vm1")
    compared = chain.back_up("incremental")
    assert (compared["kind"], compared["trackingFallback"], compared["fallbackReason"]) == (
        "incremental", "hash", "unclean-stop")
    chain.write("write -P 7 2M 64k")
    assert chain.back_up("incremental")["fallbackReason"] is None
    chain.check_all()
    with requests.get(server.url + "/api/v1/events", headers={"Last-Event-ID": "0"}, stream=True, timeout=20) as stream:
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("data: ") and compared["id"] in line and '"fallbackReason":"unclean-stop"' in line:
                break


def test_images_of_one_moment_go_on_in_their_own_chains(server, workspace):
    for name in ("vm1", "vm2"):
        images.make_image(workspace / f"images/{name}.raw", "raw", "8M")
        server.register(workspace / f"images/{name}.raw", "raw", name)
    images.qemu_io(workspace / "images/vm1.raw", "raw", "write -P 1 0 1M")
    server.back_up("vm1")
    job = server.succeeded("POST", "/backups", {"images": ["vm1", "vm2"], "repository": "local", "kind": "incremental"})
    backups = [server.get(f"/backups/{part['backup']}") for part in job["result"]["backups"]]
    assert [backup["kind"] for backup in backups] == ["incremental", "full"]
    assert [backup["fallbackReason"] for backup in backups] == [None, "no-parent"]
    group = server.get(f"/groups/{backups[0]['group']}")
    assert group["complete"] and set(group["backups"]) == {backup["id"] for backup in backups}
    assert len({backup["pointInTime"] for backup in backups}) == 1


def test_plan_of_a_restore_checks_its_path(server, workspace):
    chain = Chain(server, workspace, "qcow2")
    for pattern in range(3):
        chain.write(f"write -P {pattern + 1} {pattern}M 1M")
        chain.back_up("incremental")
    full, first, second = (backup for backup, _ in chain.points)
    request = {"target": {"kind": "file", "path": str(workspace / "images/back.raw"), "format": "raw"}}
    plan = server.expect(200, "POST", f"/backups/{second['id']}/restore?dryRun=true", request).json()
    assert len(plan["steps"]) == 4
    for step, backup in zip(plan["steps"], (full, first, second)):
        assert backup["id"] in step and backup["kind"] in step
    stored = images.stored_file(workspace / "backup", first)
    stored.rename(workspace / "aside")
    hashes = images.stored_file(workspace / "backup", full).with_suffix(".hashes")
    hashes.write_bytes(hashes.read_bytes()[:-4096])
    problem = server.problem(409, "backup-corrupt", "POST", f"/backups/{second['id']}/restore?dryRun=true", request)
    assert str(stored) in problem["detail"] and str(hashes) in problem["detail"], "each that is damaged is named"
    problem = server.problem(409, "backup-corrupt", "POST", f"/backups/{full['id']}/restore?dryRun=true", request)
    assert str(hashes) in problem["detail"] and str(stored) not in problem["detail"]
    assert not (workspace / "images/back.raw").exists()


def test_damage_of_one_is_damage_of_what_builds_on_it(server, workspace):
    chain = Chain(server, workspace, "raw")
    for pattern in range(3):
        chain.write(f"write -P {pattern + 1} {pattern}M 1M")
        chain.back_up("incremental", compression="none")
    full, first, second = (backup for backup, _ in chain.points)
    copy = server.back_up(kind="copy")
    stored = images.stored_file(workspace / "backup", first)
    kept = stored.read_bytes()
    images.qemu_io(stored, "qcow2", "write -P 9 1M 64k")
    job = server.finished(server.expect(202, "POST", f"/chains/{full['chain']}/verify", {"level": "checksum"}).json())
    assert (job["state"], job["error"]["code"]) == ("failed", "backup-corrupt")
    assert [part["outcome"] for part in job["result"]["backups"]] == ["sound", "damaged", "damaged"]
    points = server.get(f"/chains/{full['chain']}")["points"]
    assert [point["state"] for point in points] == ["complete", "corrupt", "corrupt"]
    assert first["id"] in points[2]["failure"]
    server.problem(409, "backup-corrupt", "POST", f"/backups/{second['id']}/restore", {
        "target": {"kind": "file", "path": str(workspace / "images/back.raw"), "format": "raw"}})
    assert server.get(f"/backups/{copy['id']}")["state"] == "complete"

    # An increment goes on from what is whole.
    further = chain.back_up("incremental")
    assert (further["parent"], further["fallbackReason"]) == (full["id"], "parent-missing")
    stored.write_bytes(kept)
    server.succeeded("POST", f"/chains/{full['chain']}/verify", {"level": "checksum"})
    chain.check_all()


def test_images_of_one_moment_come_back_together(server, workspace):
    moments = {}
    for pattern, name in enumerate(("vm1", "vm2"), start=1):
        path = images.make_image(workspace / f"images/{name}.raw", "raw", "8M")
        server.register(path, "raw", name)
        images.qemu_io(path, "raw", f"write -P {pattern} {pattern}M 1M")
        moments[name] = workspace / f"moment-{name}"
        shutil.copy(path, moments[name])
    job = server.succeeded("POST", "/backups", {"images": ["vm1", "vm2"], "repository": "local", "kind": "auto"})
    group = server.get(f"/backups/{job['result']['backups'][0]['backup']}")["group"]
    for name in moments:
        images.qemu_io(workspace / f"images/{name}.raw", "raw", "write -P 9 0 8M")
    targets = [{"image": name, "target": {"kind": "image", "image": name}} for name in moments]
    problem = server.problem(422, "confirmation-required", "POST", f"/groups/{group}/restore", {"targets": targets})
    assert group in problem["remedy"]
    plan = server.expect(200, "POST", f"/groups/{group}/restore?dryRun=true", {"targets": targets}).json()
    assert plan["action"] == "restore-group" and len(plan["steps"]) == 4
    restored = server.succeeded("POST", f"/groups/{group}/restore", {"targets": targets, "confirm": group})
    assert [part["outcome"] for part in restored["result"]["restores"]] == ["complete", "complete"]
    for name, moment in moments.items():
        assert images.same(moment, "raw", workspace / f"images/{name}.raw", "raw")
    problem = server.problem(400, "invalid-field", "POST", f"/groups/{group}/restore", {
        "targets": [{"image": "vm1", "target": {"kind": "file", "path": "back.raw", "format": "raw", "colour": 1}}]})
    assert {error["pointer"] for error in problem["errors"]} == {"/targets/0/target/path", "/targets/0/target/colour"}


def test_damage_that_an_increment_meets_marks_what_it_builds_on(server, workspace):
    chain = Chain(server, workspace, "raw")
    chain.write("write -P 1 0 1M", "write -P 5 8M 1M")
    full = chain.back_up("full")
    chain.write("write -P 2 1M 1M")
    first = chain.back_up("incremental")
    hashes = images.stored_file(workspace / "backup", full).with_suffix(".hashes")
    content = bytearray(hashes.read_bytes())
    # The page of the second 8 MiB, which the increment left to its parent.
    content[2 * 4096 + 20] ^= 0x5A
    hashes.write_bytes(content)
    request = {"images": ["vm1"], "repository": "local", "kind": "incremental"}
    chain.write("write -P 3 2M 1M")
    job = server.finished(server.expect(202, "POST", "/backups", request).json())
    assert (job["state"], job["error"]["code"]) == ("failed", "backup-corrupt")
    states = [server.get(f"/backups/{backup['id']}")["state"] for backup in (full, first)]
    assert states == ["corrupt", "corrupt"], "the damaged one, and what builds on it"
    assert str(hashes) in server.get(f"/backups/{full['id']}")["failure"]
    following = chain.back_up("incremental")
    assert (following["kind"], following["fallbackReason"]) == ("full", "parent-missing")
    assert server.verify(following)["state"] == "succeeded"


@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_only_what_differs_is_restored_over_an_image(server, workspace, format, each_version):
    chain = Chain(server, workspace, format)
    chain.write("write -P 1 0 16M")
    full = chain.back_up("full")
    chain.write("write -P 2 3M 128k", "write -P 3 20M 64k", "write -z 8M 64k")
    increment = chain.back_up("incremental")
    request = {"target": {"kind": "image", "image": "vm1"}, "confirm": "vm1"}
    plan = server.expect(200, "POST", f"/backups/{full['id']}/restore?dryRun=true", request).json()
    assert "only what differs" in plan["steps"][-1] and "of the grains" not in plan["steps"][-1]
    restored = server.succeeded("POST", f"/backups/{full['id']}/restore", request)["result"]
    assert restored["mode"] == "changed" and restored["writtenBytes"] <= 5 * 65536
    assert images.same(chain.points[0][1], "raw", chain.path, format)
    again = server.succeeded("POST", f"/backups/{full['id']}/restore", {**request, "mode": "changed"})["result"]
    assert again["writtenBytes"] == 0
    everything = server.succeeded("POST", f"/backups/{increment['id']}/restore", {
        "target": {"kind": "image", "image": "vm1", "mode": "all"}, "confirm": "vm1"})["result"]
    assert everything["mode"] == "all" and everything["writtenBytes"] >= 15 * MIB
    assert images.same(chain.points[1][1], "raw", chain.path, format)
    following = chain.back_up("incremental")
    assert server.verify(following)["state"] == "succeeded"
    problem = server.problem(400, "invalid-field", "POST", f"/backups/{full['id']}/restore", {
        **request, "mode": "some"})
    assert problem["errors"][0]["pointer"] == "/mode"
