"""Lines of backups that count from checkpoints of their own, in the image and over REST."""
import json
import subprocess

import images
import nbd_tools

import pytest


@pytest.fixture
def guest(server, workspace):
    path = images.make_image(workspace / "images/vm1.qcow2", "qcow2", "32M")
    images.qemu_io(path, "qcow2", "write -P 1 0 4M")
    server.register(path, "qcow2")
    return path


def bitmaps(path):
    text = images.run("qemu-img", "info", "--output=json", "-U", path).stdout
    data = json.loads(text).get("format-specific", {}).get("data", {})
    return [bitmap["name"] for bitmap in data.get("bitmaps", []) if bitmap["name"] != "cobweb.witness"]


def test_each_tracker_has_a_line_of_its_own(server, workspace, guest, each_version):
    repository = server.get("/repositories/local")["id"].lower()
    first = server.back_up(kind="full")
    other = server.back_up(kind="auto", tracker="second-tool")
    assert (first["tracker"], other["tracker"]) == (repository, "second-tool")
    assert other["kind"] == "full" and other["chain"] != first["chain"]
    images.qemu_io(guest, "qcow2", "write -P 7 8M 64k")
    second = server.back_up(kind="incremental")
    images.qemu_io(guest, "qcow2", "write -P 8 9M 64k")
    third = server.back_up(kind="incremental", tracker="second-tool")
    assert (second["parent"], second["fallbackReason"], second["dirtyBytes"]) == (first["id"], None, 65536)
    assert (third["parent"], third["fallbackReason"], third["dirtyBytes"]) == (other["id"], None, 2 * 65536)
    assert {name.rsplit(".", 1)[0] for name in bitmaps(guest)} == {f"cobweb.{repository}", "cobweb.second-tool"}
    assert {name.rsplit(".", 1)[1] for name in bitmaps(guest)} == {second["checkpoint"], third["checkpoint"]}

    checkpoints = server.get("/images/vm1/checkpoints")["items"]
    assert [(item["id"], item["tracker"], item["backup"]) for item in checkpoints] == [
        (backup["checkpoint"], backup["tracker"], backup["id"]) for backup in (first, other, second, third)]
    for backup in (second, third):
        target = workspace / "images/back.raw"
        server.restore_to(target, backup)
        moment = server.back_up(kind="copy")
        assert moment["tracker"] is None and moment["checkpoint"] is None
        target.unlink()

    names = {"": "invalid-field", "witness": "invalid-field", "a.b": "invalid-field", "x" * 33: "invalid-field"}
    for name, code in names.items():
        problem = server.problem(400, code, "POST", "/backups", {
            "images": ["vm1"], "repository": "local", "tracker": name})
        assert problem["errors"][0]["pointer"] == "/tracker"
    assert server.back_up(kind="incremental", tracker=repository)["parent"] == second["id"], "the name that is shown"


def test_trackers_are_listed_and_taken_out(server, workspace, guest, each_version):
    repository = server.get("/repositories/local")["id"]
    first = server.back_up(kind="full")
    second = server.back_up(kind="full", tracker="second-tool")
    images.run("qemu-img", "bitmap", "--add", guest, "theirs")
    trackers = server.get("/images/vm1/trackers")["items"]
    assert trackers == sorted(({
        "name": backup["tracker"], "checkpoint": backup["checkpoint"], "lastBackup": backup["id"],
        "bitmap": f"cobweb.{backup['tracker']}.{backup['checkpoint']}", "repository": repository,
        "state": "recording", "owner": "backup"} for backup in (first, second)), key=lambda tracker: tracker["name"])

    plan = server.expect(200, "DELETE", "/images/vm1/trackers/second-tool?dryRun=true").json()
    assert trackers[1]["bitmap"] in plan["steps"][0] and len(bitmaps(guest)) == 3
    server.problem(404, "not-found", "DELETE", "/images/vm1/trackers/third-tool")
    server.succeeded("POST", "/images/vm1/attach", {})
    assert {item["state"] for item in server.get("/images/vm1/trackers")["items"]} == {"recording"}
    server.problem(409, "image-in-use", "DELETE", "/images/vm1/trackers/second-tool")
    server.succeeded("POST", "/images/vm1/detach", {})
    server.expect(204, "DELETE", "/images/vm1/trackers/second-tool")
    assert sorted(bitmaps(guest)) == sorted([trackers[0]["bitmap"], "theirs"])
    images.check(guest)
    compared = server.back_up(kind="incremental", tracker="second-tool")
    assert (compared["parent"], compared["fallbackReason"]) == (second["id"], "bitmap-missing")
    assert server.back_up(kind="incremental")["fallbackReason"] is None, "the other line goes on"

    server.expect(204, "DELETE", "/images/vm1")
    assert bitmaps(guest) == ["theirs"], "what isn't ours stays"
    images.check(guest)


def test_what_cannot_be_taken_out_is_named(server, workspace, guest):
    server.back_up(kind="full")
    name, = bitmaps(guest)
    with nbd_tools.QemuNBD(guest, "qcow2", workspace / "reader.sock", "--read-only"):
        problem = server.problem(409, "image-locked", "DELETE", f"/images/vm1/trackers/{name.split('.')[1]}")
        line = f"qemu-img bitmap -f qcow2 --remove '{guest}' '{name}'"
        assert name in problem["detail"] and line in problem["remedy"]
        answer = server.expect(200, "DELETE", "/images/vm1").json()
        assert (answer["imageName"], answer["bitmapsRemoved"], answer["bitmapsLeft"]) == ("vm1", [], [name])
        assert answer["commands"] == [line] and answer["why"]
    server.expect(404, "GET", "/images/vm1")
    subprocess.run(answer["commands"][0], shell=True, check=True, timeout=60)
    assert bitmaps(guest) == []


def test_an_image_takes_a_bounded_number_of_trackers(server, guest):
    for number in range(16):
        server.back_up(kind="full", tracker=f"tool-{number}", compression="none")
    request = {"images": ["vm1"], "repository": "local", "kind": "full", "tracker": "tool-16"}
    job = server.finished(server.expect(202, "POST", "/backups", request).json())
    assert (job["state"], job["error"]["code"]) == ("failed", "bitmap-limit")
    assert server.back_up(kind="incremental", tracker="tool-3")["fallbackReason"] is None
    server.back_up(kind="copy", tracker="tool-16")
    server.expect(204, "DELETE", "/images/vm1/trackers/tool-3")
    server.back_up(kind="full", tracker="tool-16")


def test_the_newest_backup_is_deleted_and_its_line_goes_on(server, guest, each_version):
    first = server.back_up(kind="full")
    images.qemu_io(guest, "qcow2", "write -P 7 8M 64k")
    second = server.back_up(kind="incremental")
    images.qemu_io(guest, "qcow2", "write -P 8 9M 64k")
    plan = server.expect(200, "DELETE", f"/backups/{second['id']}?dryRun=true").json()
    assert first["id"] in plan["steps"][0] and plan["warnings"] == []
    server.succeeded("DELETE", f"/backups/{second['id']}")
    assert bitmaps(guest)[0].endswith(first["checkpoint"])
    third = server.back_up(kind="incremental")
    assert (third["parent"], third["fallbackReason"], third["dirtyBytes"]) == (first["id"], None, 2 * 65536)
    copy = server.back_up(kind="copy")
    assert copy["merkleRoot"] == third["merkleRoot"], "nothing was missed"

    server.succeeded("POST", "/images/vm1/attach", {})
    plan = server.expect(200, "DELETE", f"/backups/{third['id']}?dryRun=true").json()
    assert "compares by hash" in plan["warnings"][0]
    server.succeeded("POST", "/images/vm1/detach", {})
    server.expect(204, "DELETE", f"/images/vm1/trackers/{first['tracker']}")
    server.succeeded("DELETE", f"/backups/{third['id']}")
    compared = server.back_up(kind="incremental")
    assert (compared["parent"], compared["fallbackReason"]) == (first["id"], "bitmap-missing")
    assert compared["merkleRoot"] == copy["merkleRoot"]
