"""Every way to ask wrongly gets a problem document with the right status, and changes nothing."""
import json
import socket
import subprocess
import time
import urllib.parse

import pytest
import requests

import images


@pytest.fixture
def image(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(source, "qcow2")
    return server.register(source, "qcow2")


def raw_request(server, text):
    """Sends bytes as they are and returns the status and the whole answer."""
    address = urllib.parse.urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(text.replace("{host}", address.netloc).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return int(answer.split(b" ", 2)[1]), answer.decode(errors="replace")


@pytest.mark.parametrize("body, pointer", [
    ({"name": "vm2", "source": {"kind": "file", "path": "/x"}, "format": "qcow2", "colour": "red"}, "/colour"),
    ({"name": 5, "source": {"kind": "file", "path": "/x"}, "format": "qcow2"}, "/name"),
    ({"name": "Capital", "source": {"kind": "file", "path": "/x"}, "format": "qcow2"}, "/name"),
    ({"name": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "source": {"kind": "file", "path": "/x"}, "format": "raw"}, "/name"),
    ({"name": "vm2", "source": {"kind": "tape", "path": "/x"}, "format": "qcow2"}, "/source/kind"),
    ({"name": "vm2", "source": {"kind": "file"}, "format": "qcow2"}, "/source/path"),
    ({"name": "vm2", "source": {"kind": "file", "path": "/x"}, "format": "vmdk"}, "/format"),
])
def test_fault_in_a_body_is_named_by_its_pointer(server, body, pointer):
    problem = server.problem(400, "invalid-field", "POST", "/images", body)
    assert pointer in [fault["pointer"] for fault in problem["errors"]]
    assert server.get("/images")["items"] == []


def test_format_is_never_guessed(server, workspace):
    source = images.make_image(workspace / "images/vm1.qcow2")
    problem = server.problem(422, "format-required", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(source)}})
    assert "qcow2" in problem["detail"] + problem.get("remedy", "")


def test_stated_format_must_fit(server, workspace):
    source = images.make_image(workspace / "images/vm1.raw", "raw")
    server.problem(422, "format-mismatch", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(source)}, "format": "qcow2"})


def test_paths_outside_the_folders_are_refused(server, workspace, tmp_path_factory):
    outside = images.make_image(tmp_path_factory.mktemp("outside") / "secret.raw", "raw")
    link = workspace / "images/link.raw"
    link.symlink_to(outside)
    for path in (outside, workspace / "images/../../etc/passwd", link):
        server.problem(422, "path-outside-folders", "POST", "/images", {
            "name": "vm1", "source": {"kind": "file", "path": str(path)}, "format": "raw"})


def test_backing_file_outside_is_refused(server, workspace, tmp_path_factory):
    outside = images.make_image(tmp_path_factory.mktemp("outside") / "secret.raw", "raw")
    source = images.make_image(workspace / "images/vm1.qcow2", backing=outside, backing_format="raw", size=None)
    server.problem(422, "path-outside-folders", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(source)}, "format": "qcow2"})


@pytest.mark.parametrize("name", ["json:{\"driver\":\"null-co\"}", "nbd://localhost/x", "http://localhost/disk"])
def test_protocol_names_in_headers_are_refused(server, workspace, name):
    source = images.make_image(workspace / "images/vm1.qcow2")
    images.run("qemu-img", "rebase", "-u", "-b", name, "-F", "raw", source)
    server.problem(422, "backing-refused", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(source)}, "format": "qcow2"})


def test_backing_without_a_format_is_refused(server, workspace):
    images.make_image(workspace / "images/base.raw", "raw")
    source = images.make_image(workspace / "images/vm1.qcow2", backing="base.raw", backing_format="raw", size=None)
    content = bytearray(source.read_bytes())
    place = content.index(bytes.fromhex("e2792aca"))
    content[place:place + 4] = bytes.fromhex("e2792acb")
    source.write_bytes(content)
    server.problem(422, "backing-refused", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(source)}, "format": "qcow2"})


@pytest.mark.usefixtures("each_version")
def test_image_that_qemu_writes_is_refused_with_the_reason(server, workspace, image):
    sock = workspace / "run/q.sock"
    guest = subprocess.Popen([images.program("qemu-nbd"), "-t", "-f", "qcow2", "-k", str(sock),
                              str(workspace / "images/vm1.qcow2")])
    try:
        for _ in range(200):
            if sock.exists():
                break
            time.sleep(0.02)
        answer = server.call("POST", "/backups", {"images": ["vm1"], "repository": "local", "kind": "full"})
        failure = answer.json()
        if answer.status_code == 202:
            failure = server.finished(failure)["error"]
        assert failure["code"] == "image-locked" and "write" in failure["detail"], failure
    finally:
        guest.terminate()
        guest.wait(timeout=30)


def test_wrong_method_tells_the_right_ones(server):
    answer = server.expect(405, "PUT", "/images")
    assert "POST" in answer.headers["Allow"] and answer.json()["code"] == "method-not-allowed"


@pytest.mark.parametrize("path", ["/images/vm9", "/images/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/nothing", "/images//inspect",
                                  "/images/a%2Fb", "/backups/01ARZ3NDEKTSV4RRFFQ69G5FAV"])
def test_what_is_not_there_is_404(server, path):
    server.problem(404, "not-found", "GET", path)


def test_nul_in_a_path_is_refused(server):
    status, answer = raw_request(
        server, "GET /api/v1/images/a%00b HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    assert status == 400 and "application/problem+json" in answer


@pytest.mark.parametrize("query", ["limt=5", "limit=5&limit=6", "limit=0", "limit=1001", "limit=x", "cursor=nonsense!"])
def test_bad_query_parameters_are_400(server, query):
    answer = server.expect(400, "GET", "/images?" + query)
    assert answer.json()["code"] == "invalid-parameter"


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff\xfe", b'{"name":"a","name":"b"}', b"null", b""])
def test_bad_json_is_400(server, body):
    answer = server.expect(400, "POST", "/images", data=body, headers={"Content-Type": "application/json"})
    assert answer.headers["Content-Type"].startswith("application/problem+json")


def test_huge_body_is_413(server):
    server.problem(413, "body-too-large", "POST", "/images", data=b'"' + b"x" * (8 << 20) + b'"',
                   headers={"Content-Type": "application/json"})


def test_text_plain_is_415(server):
    server.problem(415, "unsupported-media-type", "POST", "/images", data=b"{}",
                   headers={"Content-Type": "text/plain"})


def test_foreign_host_is_421(server):
    server.problem(421, "misdirected-request", "GET", "/images", headers={"Host": "evil.example"})


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Sec-Fetch-Site": "cross-site"},
                                     {"Sec-Fetch-Site": "same-site"}])
def test_foreign_page_is_403(server, headers):
    server.problem(403, "foreign-origin", "GET", "/images", headers=headers)


def test_stale_change_is_412(server, image):
    first = server.call("GET", "/images/vm1")
    server.expect(200, "PATCH", "/images/vm1", {"labels": {"tier": "gold"}},
                  headers={"If-Match": first.headers["ETag"]})
    server.problem(412, "precondition-failed", "PATCH", "/images/vm1", {"labels": {"tier": None}},
                   headers={"If-Match": first.headers["ETag"]})
    assert server.get("/images/vm1")["labels"] == {"tier": "gold"}


def test_same_key_gives_the_same_answer(server, image):
    body = {"images": ["vm1"], "repository": "local", "kind": "full"}
    headers = {"Idempotency-Key": "monday"}
    first = server.expect(202, "POST", "/backups", body, headers=headers).json()
    again = server.expect(202, "POST", "/backups", body, headers=headers).json()
    assert first["id"] == again["id"]
    server.problem(422, "idempotency-key-reused", "POST", "/backups", {**body, "compression": "none"},
                   headers=headers)
    assert len(server.get("/jobs")["items"]) == 1
    server.finished(first)


def test_dry_run_writes_nothing(server, image, workspace):
    server.expect(200, "POST", "/backups?dryRun=true", {"images": ["vm1"], "repository": "local", "kind": "full"})
    server.expect(200, "DELETE", "/images/vm1?dryRun=true")
    assert server.get("/jobs")["items"] == [] and server.get("/images/vm1")["id"] == image["id"]
    assert not list((workspace / "backup").rglob("*.qcow2"))


def test_events_tell_each_change_once_and_in_order(server, image):
    job = server.finished(server.expect(202, "POST", "/backups", {
        "images": ["vm1"], "repository": "local", "kind": "full"}).json())
    ids, kinds = [], []
    with requests.get(server.url + "/api/v1/events", headers={"Last-Event-ID": "0"}, stream=True, timeout=20) as stream:
        for line in stream.iter_lines(decode_unicode=True):
            if line.startswith("id:"):
                ids.append(int(line[3:]))
            if line.startswith("event:"):
                kinds.append(line[6:].strip())
            if line.startswith("data:") and job["id"] in line and "succeeded" in line:
                break
    assert ids == sorted(set(ids)) and "image.created" in kinds and "job.changed" in kinds


def test_extents_agree_with_qemu(server, image, workspace):
    path = workspace / "images/vm1.qcow2"
    told = json.loads(images.run("qemu-img", "map", "--output=json", "-f", "qcow2", path).stdout)
    items, offset = [], 0
    while offset is not None:
        page = server.get(f"/images/vm1/extents?context=allocation&offset={offset}&limit=3")
        items += page["items"]
        offset = page["nextOffset"]
    covered = 0
    for item in items:
        assert item["offset"] == covered
        covered += item["length"]
    assert covered == 64 * images.MIB

    def zeroes(extents, start, length, zero):
        return {place for extent in extents if extent[zero]
                for place in range(extent[start] // 512, (extent[start] + extent[length]) // 512)}
    assert zeroes(items, "offset", "length", "zero") == zeroes(told, "start", "length", "zero")
