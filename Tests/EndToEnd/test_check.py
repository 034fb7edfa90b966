"""The check of an image's own metadata, beside `qemu-img check`."""
import json
import subprocess

import images


def check(server, body=None):
    return server.finished(server.expect(202, "POST", "/images/vm1/check", body).json())


def counts(path):
    """Corruptions and leaks, the most that any version of QEMU finds."""
    found = []
    for judge in images.VERSIONS:
        answer = subprocess.run([images.program("qemu-img", judge), "check", "--output=json", "-f", "qcow2", str(path)],
                                capture_output=True, text=True, timeout=60)
        found.append(json.loads(answer.stdout))
    return tuple(max(each.get(kind, 0) for each in found) for kind in ("corruptions", "leaks"))


def refcount_block(file):
    """Where the first refcount block begins (qcow2.txt, "Host cluster management"): 2 bytes for each host cluster."""
    file.seek(48)
    table = int.from_bytes(file.read(8), "big")
    file.seek(table)
    return int.from_bytes(file.read(8), "big")


def leaky(workspace):
    """An image with four clusters at its end that are counted, and that nothing refers to."""
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    with open(path, "r+b") as file:
        block = refcount_block(file)
        end = file.seek(0, 2) // 65536
        file.truncate((end + 4) * 65536)
        for cluster in range(end, end + 4):
            file.seek(block + 2 * cluster)
            file.write(b"\0\1")
    return path


def test_a_sound_image(server, workspace):
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    job = check(server)
    assert job["state"] == "succeeded"
    assert job["result"]["sound"] is True and job["result"]["errors"] == job["result"]["leaks"] == 0
    assert job["result"]["imageName"] == "vm1"


def test_leaks_are_found_and_given_back(server, workspace):
    path = leaky(workspace)
    server.register(path, "qcow2")
    assert counts(path) == (0, 4)
    found = check(server)["result"]
    assert found["leaks"] == 4 and found["errors"] == 0 and len(found["findings"]) >= 1
    job = check(server, {"repairLeaks": True})
    assert job["state"] == "succeeded" and job["result"]["repairedLeaks"] == 4
    assert counts(path) == (0, 0)


def test_an_error_fails_the_check_and_names_the_place(server, workspace):
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    with open(path, "r+b") as file:
        file.seek(refcount_block(file) + 2 * 6)
        file.write(b"\0\0")
    corruptions, _ = counts(path)
    assert corruptions >= 1
    server.register(path, "qcow2")
    job = check(server)
    assert job["state"] == "failed" and job["error"]["code"] == "image-corrupt"
    assert job["result"]["errors"] == corruptions and "data at 393216" in job["result"]["findings"][0]
    job = check(server, {"repairLeaks": True})
    assert job["state"] == "failed", "leaks aren't touched where something worse is"


def test_encrypted_images_are_refused_by_name(server, workspace):
    path = images.make_image(workspace / "images/vm1.qcow2")
    with open(path, "r+b") as file:
        file.seek(32)
        file.write((2).to_bytes(4, "big"))
    problem = server.problem(422, "format-unsupported", "POST", "/images", {
        "name": "vm1", "source": {"kind": "file", "path": str(path)}, "format": "qcow2"})
    assert "LUKS" in problem["detail"]
