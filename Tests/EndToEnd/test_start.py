"""What the program says and refuses when it starts."""
import concurrent.futures
import os
import pathlib
import resource
import signal
import socket
import sqlite3
import subprocess
import time

import requests

from conftest import ROOT
from server import Server


def refused(workspace, **settings):
    server = Server(workspace, **settings).launch()
    try:
        assert server.process.wait(timeout=20) != 0
    finally:
        server.end()
    return server.log()


def test_it_tells_the_url_and_stops_on_sigterm(start):
    server = start()
    assert server.url in server.log()
    assert server.stop() == 0
    assert server.log().splitlines()[-1] == "Stopped: images and the catalog are closed."


def test_sighup_changes_nothing(start):
    server = start()
    server.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 20
    while "SIGHUP is ignored" not in server.log() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "SIGHUP is ignored" in server.log()
    assert server.get("/images")["items"] == []
    assert server.stop() == 0


def test_two_declared_images_that_are_one_file_are_refused(start, workspace):
    """By a hard link, by a link in the path, and between the configuration and REST."""
    folder = workspace / "images"
    (folder / "pool").mkdir()
    (folder / "pool/a.raw").write_bytes(bytes(1 << 20))
    os.link(folder / "pool/a.raw", folder / "b.raw")
    (folder / "way").symlink_to("pool")

    def declared(name, path):
        return {"name": name, "source": {"kind": "file", "path": str(folder / path)}, "format": "raw"}

    for path in ("b.raw", "way/a.raw"):
        said = refused(workspace, images=[declared("one", "pool/a.raw"), declared("two", path)])
        assert f"'one' at {folder}/pool/a.raw" in said and f"'two' at {folder}/{path}" in said, said
    server = start()
    server.register(folder / "b.raw", "raw", "made")
    server.stop()
    said = refused(workspace, images=[declared("one", "way/a.raw")])
    assert "'one'" in said and "'made'" in said and "over REST" in said, said
    server.start()
    server.expect(204, "DELETE", "/images/made")
    server.stop()
    server = start(images=[declared("one", "way/a.raw")])
    image = server.get("/images/one")
    problem = server.problem(409, "source-taken", "POST", "/images", declared("two", "b.raw"))
    assert "'one'" in problem["detail"]
    # Renamed, and moved by another link: it is the same image.
    server.stop()
    server = start(images=[declared("two", "b.raw")])
    assert server.get("/images/two")["id"] == image["id"]


def hold_catalog(workspace):
    """Another program that holds the catalog locked until it is closed."""
    other = sqlite3.connect(workspace / "state/catalog.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_changes_wait_ten_seconds_for_a_locked_catalog(start, workspace):
    server = start()
    (workspace / "images/a.raw").write_bytes(bytes(1 << 20))
    server.register(workspace / "images/a.raw", "raw", "a")
    other = hold_catalog(workspace)
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(
            lambda n: server.call("PATCH", "/images/a", {"labels": {"n": str(n)}}), range(4)))
    assert time.monotonic() - begun < 18, "one after the other they would take 40 s"
    for answer in answers:
        assert answer.status_code == 503 and answer.json()["code"] == "not-ready", answer.text
        assert int(answer.headers["Retry-After"]) > 0
    other.close()
    server.expect(200, "PATCH", "/images/a", {"labels": {"n": "5"}})
    assert server.stop() == 0


def test_a_stop_while_the_catalog_is_locked_ends_in_time(start, workspace):
    server = start()
    (workspace / "images/a.raw").write_bytes(bytes(1 << 20))
    server.register(workspace / "images/a.raw", "raw", "a")
    server.make_repository()
    other = hold_catalog(workspace)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(server.call, "POST", "/backups", {
            "images": ["a"], "repository": "local", "kind": "full"}) for _ in range(3)]
        time.sleep(0.5)
        begun = time.monotonic()
        status = server.stop()
        assert time.monotonic() - begun < 25
        concurrent.futures.wait(calls)
    other.close()
    log = server.log()
    assert status in (0, 70), log
    assert (status == 70) == ("was still running" in log), log


def test_a_stop_ends_in_time_while_a_jobs_end_cant_be_stored(start, workspace):
    server = start()
    server.make_repository()
    (workspace / "images/a.raw").write_bytes(os.urandom(64 << 20))
    server.register(workspace / "images/a.raw", "raw", "a")
    job = server.expect(202, "POST", "/backups", {
        "images": ["a"], "repository": "local", "kind": "full", "speedLimit": 1 << 20}).json()
    while server.get(f"/jobs/{job['id']}")["state"] == "queued":
        time.sleep(0.05)
    other = hold_catalog(workspace)
    begun = time.monotonic()
    status = server.stop()
    assert time.monotonic() - begun < 25
    other.close()
    log = server.log()
    assert status in (0, 70), log
    assert (status == 70) == ("was still running" in log), log
    server.start()
    assert server.get(f"/jobs/{job['id']}")["state"] == "interrupted"


def test_an_export_cannot_take_the_apis_socket(start, workspace):
    api = workspace / "run/api.sock"
    server = start(listen=["127.0.0.1:0", f"unix:{api}"])
    (workspace / "images/a.raw").write_bytes(bytes(1 << 20))
    server.register(workspace / "images/a.raw", "raw", "a")
    server.problem(409, "address-unavailable", "POST", "/exports", {
        "name": "a", "source": {"kind": "image", "image": "a"}, "listen": {"unix": str(api)}})
    assert server.stop() == 0
    server.start()
    assert api.exists()


def test_the_limit_of_open_files_is_raised(start, workspace):
    """1,024 clients on the usual limit leave jobs and guests their files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        server = start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)[0] == min(hard, 65536)
    server.make_repository()
    (workspace / "images/a.raw").write_bytes(os.urandom(1 << 20))
    server.register(workspace / "images/a.raw", "raw", "a")
    port = int(server.url.rsplit(":", 1)[1])
    first = requests.Session()
    assert first.get(server.url + "/readyz", timeout=10).status_code == 200
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
    try:
        time.sleep(1)
        files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        assert files < 256 + 200, "one address has at most a quarter of the connections"
        job = first.post(server.url + "/api/v1/backups", json={
            "images": ["a"], "repository": "local", "kind": "full"}, timeout=30).json()
        job = first.get(server.url + f"/api/v1/jobs/{job['id']}?wait=30", timeout=60).json()
        assert job["state"] == "succeeded", job
    finally:
        for client in clients:
            client.close()


def test_loopback_without_tokens_is_told(start):
    assert "every local user is administrator" in start().log()


def test_listening_beyond_loopback_is_refused(workspace):
    assert "token" in refused(workspace, listen="0.0.0.0:0")


def test_folders_that_overlap_are_refused(workspace):
    assert "overlap" in refused(workspace, repositoryFolders=["images/backup"])


def test_misspelt_key_is_named(workspace):
    assert "repositoryFolder" in refused(workspace, repositoryFolder=["backup"])


def test_second_server_on_the_same_state_is_refused(start, workspace):
    start()
    second = Server(workspace)
    second.launch()
    try:
        assert second.process.wait(timeout=20) != 0
        assert "another" in second.log().lower()
    finally:
        second.end()


def test_config_declares_repositories_and_images(start, workspace):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(workspace / "images/sample.qcow2"), "16M"],
                   check=True)
    declared = dict(
        repositories=[{"name": "local", "kind": "directory", "path": "backup/local"}],
        images=[{"name": "sample", "source": {"kind": "file", "path": "images/sample.qcow2"}, "format": "qcow2"}])
    server = start(**declared)
    assert server.get("/images/sample")["managedBy"] == "config"
    assert "curl" in server.log()
    server.problem(409, "managed-by-config", "DELETE", "/images/sample")
    server.back_up("sample")
    assert server.stop() == 0

    server.settings.pop("images")
    server.start()
    assert server.get("/images")["items"] == []
    assert [backup["imageName"] for backup in server.get("/backups")["items"]] == ["sample"]
    assert (workspace / "images/sample.qcow2").exists()


def test_unix_socket_serves_and_is_private(workspace):
    socket = workspace / "run/api.sock"
    server = Server(workspace, listen=f"unix:{socket}").launch()
    try:
        for _ in range(200):
            if socket.exists() and b"200" in subprocess.run(
                    ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", str(socket),
                     "http://localhost/readyz"], capture_output=True).stdout:
                break
            assert server.process.poll() is None, server.log()
            subprocess.run(["sleep", "0.05"])
        assert socket.stat().st_mode & 0o777 == 0o600
        assert server.stop() == 0
        assert not socket.exists()
    finally:
        server.end()


def test_tls_by_config(workspace):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
                    "-keyout", str(workspace / "key.pem"), "-out", str(workspace / "cert.pem"), "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
                   check=True, capture_output=True)
    server = Server(workspace, tls={"certificate": "cert.pem", "key": "key.pem"})
    try:
        server.start()
        assert server.url.startswith("https://")
        answer = requests.get(server.url + "/api/v1/server", verify=str(workspace / "cert.pem"), timeout=10)
        assert answer.status_code == 200
    finally:
        server.end()


def test_demo_runs_through(tmp_path):
    story = subprocess.run([ROOT / "examples/demo"], capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert story.returncode == 0, story.stdout + story.stderr
    assert "Images are identical" in story.stdout


def test_silent_peers_delay_neither_the_start_nor_a_guest(start, workspace):
    """Peers that take connections and say nothing, behind images that the config declares."""
    path = workspace / "images/vm1.raw"
    path.write_bytes(bytes(1 << 20))
    with socket.create_server(("127.0.0.1", 0)) as peer:
        host = "127.0.0.1:%d" % peer.getsockname()[1]
        server = start(
            nbdPeers=[host],
            images=[{"name": f"far{number}", "source": {"kind": "nbd", "uri": f"nbd://{host}/{number}"},
                     "format": "raw"} for number in range(20)])
        server.register(path, "raw")
        server.expect(201, "POST", "/exports", {
            "name": "disk", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
            "listen": {"unix": str(workspace / "run/disk.sock")}})
        assert server.stop() == 0

        began = time.monotonic()
        server.start()
        assert time.monotonic() - began < 8
        assert server.get("/server")["probing"] is True
        assert server.get("/exports/disk")["state"] == "active"
        assert server.get("/images/vm1")["state"] == "attached"
        job = server.expect(202, "POST", "/images/far7/check", {}).json()
        for _ in range(100):
            if job["waitingFor"]:
                break
            time.sleep(0.05)
            job = server.get(f"/jobs/{job['id']}")
        assert job["waitingFor"] == "the first look at image 'far7' since the start"
        server.expect(202, "POST", f"/jobs/{job['id']}/cancel")
        assert server.stop() == 0
