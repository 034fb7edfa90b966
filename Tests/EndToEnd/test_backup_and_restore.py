"""The main job, on real images, judged by qemu-img."""
import shutil
import subprocess

import pytest

import images
from images import MIB


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_raw_image_comes_back_identical(any_backend_server, workspace, compression):
    source = images.make_image(workspace / "images/vm1.raw", "raw", "67107840")
    source.write_bytes(b"")
    with open(source, "r+b") as disk:
        disk.truncate(64 * MIB + 512)
        disk.seek(5 * MIB + 100)
        disk.write(bytes(range(256)) * 9000)
        disk.seek(64 * MIB)
        disk.write(b"the last sector".ljust(512, b"!"))
    server = any_backend_server
    server.register(source, "raw")
    backup = server.back_up(compression=compression)
    assert backup["state"] == "complete" and backup["virtualSize"] == 64 * MIB + 512

    assert server.verify(backup)["state"] == "succeeded"
    target = workspace / "images/back.raw"
    server.restore_to(target, backup)
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 8 * MIB, "sparse stays sparse"


@pytest.mark.parametrize("options", [
    ["compat=0.10"], ["cluster_size=512"], ["cluster_size=2M"], ["compression_type=zstd"], ["refcount_bits=1"],
    ["extended_l2=on,cluster_size=128k"], ["lazy_refcounts=on"]])
def test_qcow2_image_comes_back_identical(server, workspace, options):
    source = images.make_image(workspace / "images/vm1.qcow2", options=options)
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    backup = server.back_up()
    assert server.verify(backup)["state"] == "succeeded"

    target = workspace / "images/back.qcow2"
    server.restore_to(target, backup, "qcow2")
    images.check(target)
    assert images.same(source, "qcow2", target, "qcow2")


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_repository_is_readable_without_us(server, workspace, compression):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    backup = server.back_up(compression=compression)
    stored = images.stored_file(workspace / "backup", backup)
    images.check(stored)
    images.run("qemu-img", "convert", "-O", "raw", stored, workspace / "without.raw")
    assert images.same(source, "qcow2", workspace / "without.raw", "raw")


def test_backing_chain_is_flattened(server, workspace):
    folder = workspace / "images"
    images.make_image(folder / "base.raw", "raw")
    images.fill(folder / "base.raw", "raw", 10)
    images.make_image(folder / "middle.qcow2", backing="base.raw", backing_format="raw", size=None)
    images.qemu_io(folder / "middle.qcow2", "qcow2", "write -P 77 512k 1M", "write -z 20M 1M")
    images.make_image(folder / "vm1.qcow2", backing="middle.qcow2", backing_format="qcow2", size="80M")
    images.qemu_io(folder / "vm1.qcow2", "qcow2", "write -P 78 70M 3M")
    server.register(folder / "vm1.qcow2", "qcow2")
    assert [layer["format"] for layer in server.get("/images/vm1/inspect")["backingChain"]] == ["qcow2", "raw"]

    backup = server.back_up()
    server.restore_to(folder / "back.raw", backup)
    assert images.same(folder / "vm1.qcow2", "qcow2", folder / "back.raw", "raw")


def test_restore_over_a_registered_image_needs_confirmation(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    backup = server.back_up()
    kept = workspace / "kept.qcow2"
    kept.write_bytes(source.read_bytes())
    images.qemu_io(source, "qcow2", "write -P 99 0 64M")

    path = f"/backups/{backup['id']}/restore"
    server.problem(422, "confirmation-required", "POST", path, {"target": {"kind": "image", "image": "vm1"}})
    server.problem(422, "confirmation-required", "POST", path,
                   {"target": {"kind": "image", "image": "vm1"}, "confirm": "vm2"})
    server.succeeded("POST", path, {"target": {"kind": "image", "image": "vm1"}, "confirm": "vm1"})
    images.check(source)
    assert images.same(source, "qcow2", kept, "qcow2")


def test_restore_never_replaces_a_file(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    backup = server.back_up()
    target = workspace / "images/precious.raw"
    target.write_bytes(b"precious")
    server.problem(409, "target-exists", "POST", f"/backups/{backup['id']}/restore",
                   {"target": {"kind": "file", "path": str(target), "format": "raw"}})
    assert target.read_bytes() == b"precious"


def test_file_system_survives_the_round_trip(server, workspace):
    source = images.file_system(workspace / "images/vm1.raw")
    server.register(source, "raw")
    backup = server.back_up()
    target = workspace / "images/back.raw"
    server.restore_to(target, backup)
    assert images.same(source, "raw", target, "raw")
    subprocess.run(["e2fsck", "-fn", str(target)], check=True, capture_output=True,
                   env={"PATH": "/usr/sbin:/sbin"})


def test_several_images_in_one_backup(server, workspace):
    for name in ("vm1", "vm2"):
        images.fill(images.make_image(workspace / f"images/{name}.qcow2"), "qcow2", seed=len(name))
        server.register(workspace / f"images/{name}.qcow2", "qcow2", name)
    job = server.succeeded("POST", "/backups", {"images": ["vm1", "vm2"], "repository": "local", "kind": "full"})
    outcomes = job["result"]["backups"]
    assert [outcome["imageName"] for outcome in outcomes] == ["vm1", "vm2"]
    assert {outcome["outcome"] for outcome in outcomes} == {"complete"}
    groups = {server.get(f"/backups/{outcome['backup']}")["group"] for outcome in outcomes}
    assert len(groups) == 1


def test_a_group_tells_of_a_member_that_is_lost(server, workspace):
    for name in ("vm1", "vm2"):
        images.fill(images.make_image(workspace / f"images/{name}.qcow2"), "qcow2", seed=len(name))
        server.register(workspace / f"images/{name}.qcow2", "qcow2", name)
    job = server.succeeded("POST", "/backups", {"images": ["vm1", "vm2"], "repository": "local", "kind": "full"})
    kept, lost = (server.get(f"/backups/{outcome['backup']}") for outcome in job["result"]["backups"])
    members = [{"image": kept["image"], "imageName": "vm1"}, {"image": lost["image"], "imageName": "vm2"}]
    group = server.get(f"/groups/{kept['group']}")
    assert group == {"id": kept["group"], "pointInTime": kept["pointInTime"], "images": members,
                     "backups": sorted([kept["id"], lost["id"]]), "complete": True}
    assert kept["pointInTime"] == lost["pointInTime"]

    # A catalog that has lost everything, over a repository that has lost one.
    server.stop()
    shutil.rmtree(workspace / "state")
    (workspace / "state").mkdir()
    stored = images.stored_file(workspace / "backup", lost)
    stored.with_suffix(".json").unlink()
    server.start()
    server.make_repository()
    server.problem(404, "not-found", "GET", f"/groups/{kept['group']}")
    server.succeeded("POST", "/repositories/local/rescan", {})
    assert server.get(f"/groups/{kept['group']}") == {**group, "backups": [kept["id"]], "complete": False}


def test_damaged_backup_is_found_and_not_restored(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    backup = server.back_up(compression="none")
    stored = images.stored_file(workspace / "backup", backup)
    with open(stored, "r+b") as file:
        content = file.read()
        place = content.index(b"\x03" * 4096)
        file.seek(place)
        file.write(b"\x04")

    job = server.verify(backup)
    assert job["state"] == "failed" and job["error"]["code"] == "backup-corrupt"
    assert server.get(f"/backups/{backup['id']}")["state"] == "corrupt"
    target = workspace / "images/back.raw"
    answer = server.call("POST", f"/backups/{backup['id']}/restore", {
        "target": {"kind": "file", "path": str(target), "format": "raw"}})
    failure = answer.json()
    if answer.status_code == 202:
        failure = server.finished(failure)["error"]
    assert failure["code"] in ("backup-corrupt", "backup-not-complete"), failure
    assert not target.exists()


def test_delete_removes_the_files(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    server.register(source, "qcow2")
    first, second = server.back_up(), server.back_up()
    server.succeeded("DELETE", f"/backups/{first['id']}")
    server.problem(404, "not-found", "GET", f"/backups/{first['id']}")
    assert not list((workspace / "backup").rglob(f"*{first['id']}.qcow2"))
    assert server.verify(second)["state"] == "succeeded"


def test_external_data_file_belongs_to_the_image(server, workspace, tmp_path_factory):
    folder = workspace / "images"
    images.make_image(folder / "vm1.qcow2", options=[f"data_file={folder}/vm1.data"])
    images.fill(folder / "vm1.qcow2", "qcow2")
    server.register(folder / "vm1.qcow2", "qcow2")
    backup = server.back_up()
    server.restore_to(folder / "back.raw", backup)
    assert images.same(folder / "vm1.qcow2", "qcow2", folder / "back.raw", "raw")

    outside = tmp_path_factory.mktemp("outside") / "secret"
    images.make_image(folder / "vm2.qcow2", options=[f"data_file={outside}"])
    server.problem(422, "path-outside-folders", "POST", "/images", {
        "name": "vm2", "source": {"kind": "file", "path": str(folder / "vm2.qcow2")}, "format": "qcow2"})
