"""Guests' disks and looks inside backups, over NBD, by the clients that people use."""
import os
import socket
import stat
import subprocess
import time

import pytest
import requests

import images
import nbd_tools
from nbd_tools import free_port


@pytest.fixture
def disk(server, workspace):
    """A registered qcow2 image with a pattern."""
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    return path


def socket_of(workspace, name="vm1"):
    return workspace / f"run/{name}.sock"


def export_image(server, workspace, read_only=False, name="vm1", **more):
    return server.expect(201, "POST", "/exports", {
        "name": name, "source": {"kind": "image", "image": "vm1"}, "readOnly": read_only,
        "listen": {"unix": str(socket_of(workspace, name))}, **more}).json()


def export_backup(server, workspace, backup, name="look", **more):
    return server.expect(201, "POST", "/exports", {
        "name": name, "source": {"kind": "backup", "backup": backup["id"]},
        "listen": {"unix": str(socket_of(workspace, name))}, **more}).json()


@pytest.mark.usefixtures("each_version")
def test_a_guest_writes_to_its_disk(server, workspace, disk):
    export = export_image(server, workspace)
    assert server.get("/images/vm1")["state"] == "attached"
    assert nbd_tools.info(export["uri"])["export-size"] == 64 << 20
    assert nbd_tools.info(f"nbd+unix:///?socket={socket_of(workspace)}")["export-size"] == 64 << 20, "the only export"
    assert stat.S_IMODE(os.stat(socket_of(workspace)).st_mode) == 0o660
    nbd_tools.io(export["uri"], "write -P 77 30M 3M", "flush", "read -P 77 30M 3M", "read -P 1 0 1M")
    locked = subprocess.run([images.program("qemu-io"), "-f", "qcow2", "-c", "write 0 512", disk],
                            capture_output=True, timeout=60)
    assert locked.returncode != 0 and b"lock" in locked.stderr

    server.expect(204, "DELETE", "/exports/vm1")
    assert server.get("/images/vm1")["state"] == "detached"
    assert not socket_of(workspace).exists()
    images.qemu_io(disk, "qcow2", "read -P 77 30M 3M", "read -P 1 0 1M")
    images.check(disk)


@pytest.mark.usefixtures("each_version")
def test_qemu_img_copies_an_export_and_nbdcopy_fills_it(server, workspace, disk):
    export = export_image(server, workspace)
    copy = workspace / "copy.raw"
    images.run("qemu-img", "convert", "-f", "raw", "-O", "raw", export["uri"], copy)
    source = images.file_system(workspace / "fs.raw", "64M")
    images.run("nbdcopy", "--connections=4", "--flush", source, export["uri"])
    assert images.same(source, "raw", export["uri"], "raw")
    server.expect(204, "DELETE", "/exports/vm1")
    assert images.same(source, "raw", disk, "qcow2")
    images.check(disk)
    original = images.make_image(workspace / "again.qcow2")
    images.fill(original, "qcow2")
    assert images.same(copy, "raw", original, "qcow2")


def test_an_attached_image_stays_when_its_export_goes(server, workspace, disk):
    attached = server.succeeded("POST", "/images/vm1/attach", {"cache": "writeback"})
    assert attached["kind"] == "attach"
    assert server.get("/images/vm1")["attachment"]["cache"] == "writeback"
    export_image(server, workspace)
    server.problem(409, "image-in-use", "POST", "/images/vm1/detach")
    server.expect(204, "DELETE", "/exports/vm1")
    assert server.get("/images/vm1")["state"] == "attached"
    server.succeeded("POST", "/images/vm1/detach")
    assert server.get("/images/vm1")["state"] == "detached"
    images.check(disk)


def test_what_would_harm_an_attached_image_is_refused(server, workspace, disk):
    backup = server.back_up()
    export_image(server, workspace)
    problem = server.problem(409, "image-in-use", "POST", "/images/vm1/check")
    assert problem["remedy"] == "delete its exports first"
    server.problem(409, "image-in-use", "DELETE", "/images/vm1")
    server.problem(409, "image-in-use", "POST", f"/backups/{backup['id']}/restore", {
        "target": {"kind": "image", "image": "vm1"}, "confirm": "vm1"})


@pytest.mark.usefixtures("each_version")
def test_a_look_inside_a_backup(server, workspace, disk):
    backup = server.back_up()
    before = workspace / "before.raw"
    images.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", disk, before)
    images.qemu_io(disk, "qcow2", "write -P 99 0 64M")
    export = export_backup(server, workspace, backup, contexts={"allocationDepth": True})
    assert export["readOnly"] is True
    seen = nbd_tools.info(export["uri"])
    assert seen["is_read_only"] and seen["export-size"] == 64 << 20
    assert {"base:allocation", "qemu:allocation-depth"} <= set(seen["contexts"])
    assert images.same(before, "raw", export["uri"], "raw")
    assert nbd_tools.refuses(export["uri"], "write 0 512")
    problem = server.problem(409, "export-in-use", "DELETE", f"/backups/{backup['id']}")
    assert "look" in problem["detail"]
    server.expect(204, "DELETE", "/exports/look")
    server.succeeded("DELETE", f"/backups/{backup['id']}")


def test_a_file_system_in_a_backup_is_whole(server, workspace):
    path = images.file_system(workspace / "images/vm1.raw")
    server.register(path, "raw")
    export = export_backup(server, workspace, server.back_up(compression="zstd"))
    copy = workspace / "copy.raw"
    images.run("nbdcopy", export["uri"], copy)
    images.run("e2fsck", "-f", "-n", copy, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    assert images.same(path, "raw", copy, "raw")


# Writes parts of the same blocks by two connections at a time; what isn't there afterwards was lost.
WRITE_PARTS_OF_BLOCKS = """
import nbd, sys
handles = []
for path in sys.argv[1:]:
    handle = nbd.NBD()
    handle.set_request_block_size(False)
    handle.set_strict_mode(0)
    handle.set_export_name(path.rsplit("/", 1)[1].removesuffix(".sock"))
    handle.connect_unix(path)
    handles.append(handle)
lost = 0
for turn in range(1, 41):
    blocks = [(turn * 32 + number) % 1000 * 4096 for number in range(32)]
    content = nbd.Buffer.from_bytearray(bytearray([turn]) * 128)
    pending = [(handle, handle.aio_pwrite(content, block + 256 * number))
               for block in blocks for number, handle in enumerate(handles)]
    for handle, cookie in pending:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    for block in blocks:
        for number in range(len(handles)):
            lost += handles[0].pread(128, block + 256 * number) != bytes([turn]) * 128
print(lost, "lost")
"""


def test_two_exports_of_one_image_lose_no_part_of_a_block(server, workspace):
    path = images.make_image(workspace / "images/vm1.raw", "raw")
    server.register(path, "raw")
    server.succeeded("POST", "/images/vm1/attach", {"cache": "direct"})
    sockets = [str(socket_of(workspace, name)) for name in ("one", "two")]
    for name in ("one", "two"):
        export_image(server, workspace, name=name)
    answer = subprocess.run(["/usr/bin/python3", "-c", WRITE_PARTS_OF_BLOCKS, *sockets],
                            capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "0 lost\n"


def test_two_exports_share_a_port(server, workspace, disk):
    port = free_port()
    backup = server.back_up()
    for name, source in (("vm1", {"kind": "image", "image": "vm1"}), ("look", {"kind": "backup", "backup": backup["id"]})):
        server.expect(201, "POST", "/exports", {"name": name, "source": source, "listen": {"tcp": f"127.0.0.1:{port}"}})
    listed = images.run("nbdinfo", "--list", "--json", f"nbd://127.0.0.1:{port}").stdout
    assert '"vm1"' in listed and '"look"' in listed
    assert images.same(f"nbd://127.0.0.1:{port}/vm1", "raw", f"nbd://127.0.0.1:{port}/look", "raw")


@pytest.mark.usefixtures("each_version")
def test_figures_are_live(server, workspace, disk):
    export = export_image(server, workspace)
    with nbd_tools.Guest(socket_of(workspace), "vm1") as guest:
        guest.send("write -P 5 0 64k", "read -P 5 0 64k", "flush")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            now = server.get("/exports/vm1")
            if all(now["activity"][sort]["count"] for sort in ("writes", "reads", "flushes")):
                break
            time.sleep(0.1)
        assert now["clients"] == 1
        assert now["activity"]["writes"]["bytes"] == now["activity"]["reads"]["bytes"] == 64 << 10
        latency = now["activity"]["writes"]["latencyMicroseconds"]
        assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"]
        server.problem(409, "export-in-use", "DELETE", "/exports/vm1")
        server.expect(204, "DELETE", "/exports/vm1?mode=hard")
    assert server.get("/images/vm1")["state"] == "detached"
    assert server.call("GET", f"/exports/{export['id']}").status_code == 404
    images.check(disk)


@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_a_guest_survives_a_restart_of_the_server(start, workspace, end):
    server = start()
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2")
    server.register(path, "qcow2")
    server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
        "listen": {"unix": str(socket_of(workspace))}})
    with nbd_tools.Guest(socket_of(workspace), "vm1") as guest:
        guest.send("write -P 11 0 4M", "flush")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and server.get("/exports/vm1")["activity"]["flushes"]["count"] == 0:
            time.sleep(0.05)
        server.kill() if end == "kill" else server.stop()
        guest.send("write -P 12 8M 4M", "read -P 11 0 4M", "flush")
        server.start()
        deadline = time.monotonic() + 40
        while time.monotonic() < deadline and server.get("/exports/vm1")["state"] != "active":
            time.sleep(0.1)
        guest.send("read -P 12 8M 4M")
        said = guest.quit()
    assert "failed" not in said, said
    assert server.get("/images/vm1")["state"] == "attached"
    server.expect(204, "DELETE", "/exports/vm1?mode=hard")
    images.qemu_io(path, "qcow2", "read -P 11 0 4M", "read -P 12 8M 4M")
    leaks_only = subprocess.run([images.program("qemu-img"), "check", "-q", "-f", "qcow2", str(path)],
                                timeout=60).returncode
    assert leaks_only in ((0, 3) if end == "kill" else (0,))


def test_an_export_of_a_backup_comes_back_after_a_restart(start, workspace):
    server = start()
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    export = export_backup(server, workspace, server.back_up())
    server.kill()
    server.start()
    back = server.get("/exports/look")
    assert back["id"] == export["id"] and back["state"] == "active" and back["uri"] == export["uri"]
    assert images.same(path, "qcow2", export["uri"], "raw")


def test_an_export_whose_image_is_gone_says_so_and_the_server_starts(start, workspace):
    server = start()
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.raw", "raw")
    server.register(path, "raw")
    export_image(server, workspace)
    server.stop()
    path.rename(workspace / "images/elsewhere.raw")
    server.start()
    gone = server.get("/exports/vm1")
    assert gone["state"] == "unavailable" and "vm1.raw" in gone["failure"]
    (workspace / "images/elsewhere.raw").rename(path)
    server.succeeded("POST", "/images/vm1/attach")
    assert server.get("/exports/vm1")["state"] == "active"
    nbd_tools.io(gone["uri"], "write -P 3 0 64k")


def test_a_start_that_fails_leaves_the_images_closed(start, workspace):
    port = free_port()
    server = start(listen=f"127.0.0.1:{port}")
    path = images.make_image(workspace / "images/vm1.qcow2")
    server.register(path, "qcow2")
    export_image(server, workspace)
    server.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        server.launch()
        assert server.process.wait(timeout=60) == 1
    assert "exported" in server.log() and "in use" in server.log()
    assert not socket_of(workspace).exists()
    images.check(path)
    images.qemu_io(path, "qcow2", "write 0 64k")
    server.start()
    assert server.get("/exports/vm1")["state"] == "active"


def test_a_guest_that_never_ends_is_cut_off_at_a_stop(start, workspace):
    server = start()
    path = images.make_image(workspace / "images/vm1.raw", "raw")
    server.register(path, "raw")
    export_image(server, workspace)
    with nbd_tools.Guest(socket_of(workspace), "vm1", reconnect_delay=0) as guest:
        guest.send("write -P 9 0 1M", "flush")
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and server.get("/exports/vm1")["clients"] == 0:
            time.sleep(0.05)
        assert server.stop() == 0


def test_addresses_and_names_that_are_refused(server, workspace, disk):
    source = {"kind": "image", "image": "vm1"}

    def refused(status, code, **fields):
        body = {"name": "vm1", "source": source, "listen": {"unix": str(socket_of(workspace))}, **fields}
        return server.problem(status, code, "POST", "/exports", body)

    refused(422, "path-outside-folders", listen={"unix": str(workspace / "elsewhere.sock")})
    refused(422, "tls-required", listen={"tcp": "0.0.0.0:10809"})
    refused(422, "tls-unavailable", tls="x509")
    refused(400, "invalid-field", listen={"unix": str(socket_of(workspace)), "tcp": "127.0.0.1:10809"})
    refused(404, "not-found", contexts={"bitmaps": [{"bitmap": "b0"}]})
    refused(400, "invalid-field", port=1)
    refused(404, "not-found", source={"kind": "image", "image": "other"})
    export_image(server, workspace, read_only=True)
    refused(409, "name-taken")
    assert server.get("/exports")["items"][0]["name"] == "vm1"


def test_a_dry_run_and_a_repeated_request_make_one_export(server, workspace, disk):
    body = {"name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
            "listen": {"unix": str(socket_of(workspace))}}
    server.expect(200, "POST", "/exports?dryRun=true", body)
    assert server.get("/exports")["items"] == [] and server.get("/images/vm1")["state"] == "detached"
    key = {"Idempotency-Key": "once"}
    first = server.expect(201, "POST", "/exports", body, headers=key).json()
    again = server.expect(201, "POST", "/exports", body, headers=key).json()
    assert first["id"] == again["id"] and len(server.get("/exports")["items"]) == 1


@pytest.mark.usefixtures("each_version")
def test_an_export_with_pre_shared_keys(start, workspace):
    key = "0123456789abcdef0123456789abcdef"
    keys = workspace / "keys.psk"
    keys.write_text(f"alice:{key}\n")
    os.chmod(keys, 0o600)
    server = start(exportTLS={"preSharedKeys": str(keys)})
    path = images.make_image(workspace / "images/vm1.raw", "raw")
    images.fill(path, "raw")
    server.register(path, "raw")
    port = free_port()
    export = server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "tls": "psk",
        "listen": {"tcp": f"127.0.0.1:{port}"}}).json()
    assert export["uri"].startswith("nbds://")
    uri = f"nbds://alice@127.0.0.1:{port}/vm1?tls-psk-file={keys}"
    copy = workspace / "copy.raw"
    images.run("nbdcopy", uri, copy)
    assert images.same(path, "raw", copy, "raw")
    plain = subprocess.run([images.program("nbdinfo"), f"nbd://127.0.0.1:{port}/vm1"], capture_output=True, timeout=60)
    assert plain.returncode != 0
    wrong = workspace / "wrong.psk"
    wrong.write_text(f"alice:{key[::-1]}\n")
    stranger = subprocess.run([images.program("nbdinfo"), f"nbds://alice@127.0.0.1:{port}/vm1?tls-psk-file={wrong}"],
                              capture_output=True, timeout=60)
    assert stranger.returncode != 0


def test_events_tell_of_exports(server, workspace, disk):
    export_image(server, workspace)
    server.expect(204, "DELETE", "/exports/vm1")
    with requests.get(server.url + "/api/v1/events", stream=True, timeout=20,
                      headers={"Last-Event-ID": "0"}) as stream:
        seen = []
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("event: "):
                seen.append(line.removeprefix("event: "))
            if "export.deleted" in seen:
                break
    assert seen.index("export.created") < seen.index("export.deleted")
