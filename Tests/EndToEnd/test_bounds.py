"""Images made to take memory, or to fill answers: what they get is bounded, and says so."""
import struct
import time

import pytest

MIB = 1 << 20
CLUSTER = 65536


def header_extension(kind, contents):
    return struct.pack(">II", kind, len(contents)) + contents + bytes(-len(contents) % 8)


def empty_image(path, size=64 * MIB, cluster=CLUSTER, l1_entries=1, extensions=b"", autoclear=0, backing=None,
                byte_count=0):
    """A sound image without data (qcow2.txt, "Header"): refcount table, refcount block and L1 table from cluster 1 on."""
    header = bytearray(struct.pack(
        ">4sIQIIQIIQQIIQQQQII8x", b"QFI\xfb", 3, 0, 0, cluster.bit_length() - 1, size, 0, l1_entries, 3 * cluster,
        cluster, 1, 0, 0, 0, 0, autoclear, 4, 112))
    if backing:
        extensions += header_extension(0xe2792aca, b"qcow2")
    header += extensions + bytes(8)
    if backing:
        struct.pack_into(">QI", header, 8, len(header), len(backing))
        header += backing
    used = 3 + -(-l1_entries * 8 // cluster)
    with open(path, "wb") as file:
        file.write(header)
        file.seek(cluster)
        file.write(struct.pack(">Q", 2 * cluster))
        file.seek(2 * cluster)
        file.write(b"\0\1" * used)
        file.truncate(max(used * cluster, byte_count))
    return path


def peak_memory(server):
    """The most that the server's process had in memory since `forget_peak`, in MiB."""
    with open(f"/proc/{server.process.pid}/status") as status:
        line, = [line for line in status if line.startswith("VmHWM")]
    return int(line.split()[1]) // 1024


def forget_peak(server):
    with open(f"/proc/{server.process.pid}/clear_refs", "w") as file:
        file.write("5")
    return peak_memory(server)


def check(server):
    return server.finished(server.expect(202, "POST", "/images/vm1/check").json())


def test_an_image_with_many_long_bitmap_names_is_inspected(server, workspace):
    count = 65535
    entry = struct.pack(">QIIBBHI", 0, 0, 0, 1, 16, 1000, 0) + b"\1" * 1000
    place = struct.pack(">IIQQ", count, 0, count * len(entry), 8 * CLUSTER)
    path = empty_image(workspace / "images/vm1.qcow2", extensions=header_extension(0x23852875, place), autoclear=1)
    with open(path, "r+b") as file:
        file.seek(8 * CLUSTER)
        for _ in range(count // 257):
            file.write(entry * 257)
        file.truncate(8 * CLUSTER + -(-count * len(entry) // CLUSTER) * CLUSTER)
    before = forget_peak(server)
    server.register(path, "qcow2")
    answer = server.expect(200, "GET", "/images/vm1/inspect")
    assert answer.json()["truncated"] is True
    assert 0 < len(answer.json()["bitmaps"]) <= 1000 and len(answer.content) < 2 * MIB
    job = check(server)
    assert job["result"]["truncated"] is True and len(job["result"]["findings"]) == 100
    assert job["result"]["errors"] >= count
    assert len(str(job)) < 256 << 10
    assert peak_memory(server) < before + 64


def chain(folder, count, l1_entries):
    """The uppermost of `count` images, each of which stands on the one before."""
    for number in range(count):
        top = empty_image(folder / f"{number}.qcow2", l1_entries=l1_entries,
                          backing=f"{number - 1}.qcow2".encode() if number else None)
    return top


def export(server, workspace):
    return {"name": "vm1", "source": {"kind": "image", "image": "vm1"},
            "listen": {"unix": str(workspace / "run/vm1.sock")}}


def test_the_tables_of_a_long_chain_take_bounded_memory(server, workspace):
    server.register(chain(workspace / "images", 40, l1_entries=4 << 20), "qcow2")
    before = forget_peak(server)
    assert len(server.get("/images/vm1/inspect")["backingChain"]) == 39
    for method, path, body in [("POST", "/exports", export(server, workspace)), ("GET", "/images/vm1/extents", None)]:
        problem = server.problem(422, "backing-refused", method, path, body)
        assert "256 MiB" in problem["detail"] and "qemu-img commit" in problem["remedy"], problem
    for path, body in [("/images/vm1/check", None),
                       ("/backups", {"images": ["vm1"], "repository": "local", "kind": "full"})]:
        answer = server.call("POST", path, body)
        failure = server.finished(answer.json())["error"] if answer.status_code == 202 else answer.json()
        assert failure["code"] == "backing-refused", failure
    assert peak_memory(server) < before + 400


def test_a_long_chain_of_ordinary_images_opens(server, workspace):
    server.register(chain(workspace / "images", 40, l1_entries=2048), "qcow2")
    assert server.get("/images/vm1/extents")["items"][0]["zero"] is True
    server.expect(201, "POST", "/exports", export(server, workspace))
    server.back_up()


@pytest.mark.parametrize("size, cluster", [(8 << 40, 512), (15 << 40, 4096), (8 << 40, 65536)])
def test_the_check_of_a_huge_sparse_file_takes_what_is_stored_in_it(server, workspace, size, cluster):
    path = workspace / "images/vm1.qcow2"
    try:
        empty_image(path, cluster=cluster, l1_entries=64 * MIB * 8 // cluster ** 2 or 1, byte_count=size)
    except OSError as error:
        pytest.skip(f"this file system has no files of {size} bytes: {error}")
    server.register(path, "qcow2")
    before = forget_peak(server)
    started = time.monotonic()
    job = check(server)
    assert job["state"] == "succeeded" and job["result"]["sound"] is True, job
    assert job["progress"]["done"] == job["progress"]["total"]
    assert time.monotonic() - started < 10
    assert peak_memory(server) < before + 128


def test_the_check_of_a_file_counted_from_end_to_end_can_be_cancelled(server, workspace):
    """Every entry of the longest refcount table names one block, so that 128 GiB of file have refcounts."""
    path = empty_image(workspace / "images/vm1.qcow2", cluster=512, l1_entries=2048, byte_count=128 << 30)
    table = 16384 * 512
    with open(path, "r+b") as file:
        file.seek(48)
        file.write(struct.pack(">QI", table, (8 * MIB) // 512))
        file.seek(table)
        for _ in range(8):
            file.write(struct.pack(">Q", 2 * 512) * (MIB // 8))
    server.register(path, "qcow2")
    before = forget_peak(server)
    job = server.expect(202, "POST", "/images/vm1/check").json()
    deadline = time.monotonic() + 60
    while (job := server.get(f"/jobs/{job['id']}"))["progress"]["done"] == 0:
        assert job["state"] in ("queued", "running") and time.monotonic() < deadline, job
        time.sleep(0.02)
    server.expect(202, "POST", f"/jobs/{job['id']}/cancel")
    assert server.finished(job)["state"] == "cancelled"
    assert peak_memory(server) < before + 200
