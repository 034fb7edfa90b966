"""Images that other NBD servers hold: backed up, and restored to."""
import pytest

import images
from nbd_tools import QemuNBD


@pytest.fixture
def peer(workspace):
    """The path of a socket that the configuration allows."""
    return workspace / "peer.sock"


@pytest.mark.usefixtures("each_version")
def test_an_export_of_qemu_nbd_is_backed_up(start, workspace, peer):
    server = start(nbdPeers=[f"unix:{peer}"])
    server.make_repository()
    path = images.make_image(workspace / "theirs.qcow2")
    images.fill(path, "qcow2")
    with QemuNBD(path, "qcow2", peer, "--read-only") as served:
        image = server.expect(201, "POST", "/images", {
            "name": "vm1", "source": {"kind": "nbd", "uri": served.uri}, "format": "raw"}).json()
        assert image["virtualSize"] == 64 << 20 and image["source"]["uri"] == served.uri
        backup = server.back_up()
    assert images.same(path, "qcow2", images.stored_file(workspace / "backup", backup), "qcow2")
    assert server.verify(backup)["state"] == "succeeded"
    job = server.finished(server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full"}).json())
    assert job["state"] == "failed", "the peer is gone"


@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("is_zero", [False, True])
def test_a_backup_is_restored_to_qemu_nbd(start, workspace, peer, is_zero):
    server = start(nbdPeers=[f"unix:{peer}"])
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    backup = server.back_up()
    target = images.make_image(workspace / "target.raw", "raw")
    if not is_zero:
        images.qemu_io(target, "raw", "write -P 222 0 64M")
    with QemuNBD(target, "raw", peer) as served:
        server.succeeded("POST", f"/backups/{backup['id']}/restore", {
            "target": {"kind": "nbd", "uri": served.uri, "targetIsZero": is_zero}})
    assert images.same(path, "qcow2", target, "raw")


def test_targets_and_sources_that_are_refused(start, workspace, peer):
    server = start(nbdPeers=[f"unix:{peer}"])
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2")
    server.register(path, "qcow2")
    backup = server.back_up()
    stranger = {"kind": "nbd", "uri": f"nbd+unix:///?socket={workspace}/stranger.sock"}
    server.problem(422, "peer-not-allowed", "POST", "/images", {"name": "vm2", "source": stranger, "format": "raw"})
    server.problem(422, "peer-not-allowed", "POST", f"/backups/{backup['id']}/restore", {"target": stranger})
    bad = {"kind": "nbd", "uri": "http://example.org/"}
    server.problem(400, "invalid-field", "POST", "/images", {"name": "vm2", "source": bad, "format": "raw"})
    silent = {"kind": "nbd", "uri": f"nbd+unix:///?socket={peer}"}
    server.problem(409, "peer-unreachable", "POST", "/images", {"name": "vm2", "source": silent, "format": "raw"})
    target = images.make_image(workspace / "small.raw", "raw", "32M")
    with QemuNBD(target, "raw", peer) as served:
        server.problem(422, "target-mismatch", "POST", f"/backups/{backup['id']}/restore", {
            "target": {"kind": "nbd", "uri": served.uri}})
