"""Lines of backups that count from checkpoints of their own, in the image and over REST."""
import json

import images

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
    return [bitmap["name"] for bitmap in data.get("bitmaps", [])]


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
