"""Dirty bitmaps: made by QEMU or over REST, recorded by whoever writes, and seen alike by every client."""
import json
import subprocess

import images
import nbd_tools
from images import MIB
from nbd_tools import dirty_of, dirty_of_map, joined

GRANULE = 65536


class Guest:
    """An image with a guest, and its bitmaps as each party sees them."""

    def __init__(self, server, workspace, name="vm1"):
        self.server, self.workspace, self.name = server, workspace, name
        self.path = images.make_image(workspace / f"images/{name}.qcow2", size="64M")
        self.socket = workspace / f"run/{name}.sock"
        server.register(self.path, "qcow2", name)

    def add_by_qemu(self, bitmap, *options):
        images.run("qemu-img", "bitmap", "--add", "-g", GRANULE, *options, self.path, bitmap)

    def write_by_qemu(self, *commands):
        images.qemu_io(self.path, "qcow2", *commands)

    # Over REST

    def add(self, bitmap, **more):
        return self.server.expect(201, "POST", f"/images/{self.name}/bitmaps", {"name": bitmap, **more}).json()

    def bitmaps(self):
        """States by name."""
        return {item["name"]: item["state"] for item in self.server.get(f"/images/{self.name}/bitmaps")["items"]}

    def do(self, bitmap, verb, **body):
        return self.server.expect(200, "POST", f"/images/{self.name}/bitmaps/{bitmap}/{verb}", body).json()

    def dirty(self, bitmap, limit=3):
        """Dirty ranges, page by page."""
        ranges, offset, generation = [], 0, None
        while offset is not None:
            more = f"&generation={generation}" if generation else ""
            page = self.server.get(
                f"/images/{self.name}/extents?context=dirty&bitmap={bitmap}&offset={offset}&limit={limit}{more}")
            assert all(item["data"] is None and item["zero"] is None for item in page["items"])
            ranges += [(item["offset"], item["length"]) for item in page["items"] if item["dirty"]]
            offset, generation = page["nextOffset"], page["generation"]
        return joined(ranges)

    def export(self, *shown, read_only=False):
        return self.server.expect(201, "POST", "/exports", {
            "name": self.name, "source": {"kind": "image", "image": self.name}, "readOnly": read_only,
            "listen": {"unix": str(self.socket)}, "contexts": {"bitmaps": list(shown)}}).json()

    def end_export(self):
        self.server.expect(204, "DELETE", f"/exports/{self.name}?mode=hard")

    # As NBD clients see them

    def dirty_by_qemu(self, bitmap):
        """The file's bitmap, through QEMU's own server."""
        with nbd_tools.QemuNBD(self.path, "qcow2", self.workspace / "run/qemu.sock", "-r", "-B", bitmap) as served:
            return dirty_of(served.uri, bitmap)


def test_bitmaps_of_qemu_are_recorded_and_seen_alike_by_all(server, workspace, each_version):
    guest = Guest(server, workspace)
    guest.add_by_qemu("b0")
    guest.write_by_qemu("write 0 64k")
    assert guest.bitmaps() == {"b0": "recording"}
    assert guest.dirty("b0") == [(0, GRANULE)]
    export = guest.export({"bitmap": "b0"})
    assert export["contexts"]["bitmaps"] == [{"bitmap": "b0", "bitmapEncoded": False, "exportName": "b0"}]
    nbd_tools.io(export["uri"], "write 1M 100k", "write -z 8M 64k", "discard 32M 64k", "write 67108352 512")
    expected = [(0, GRANULE), (MIB, 2 * GRANULE), (8 * MIB, GRANULE), (32 * MIB, GRANULE), (64 * MIB - GRANULE, GRANULE)]
    assert guest.dirty("b0") == expected
    assert dirty_of(export["uri"], "b0") == expected
    assert dirty_of_map(guest.socket, "vm1", "b0") == expected
    # It is busy as long as it is shown, and can be read and merged from.
    assert guest.bitmaps() == {"b0": "busy"}
    shown = server.get("/images/vm1/bitmaps/b0")
    assert (shown["exports"], shown["recording"], shown["dirtyBytes"]) == (["vm1"], True, 6 * GRANULE)
    for verb in ("clear", "enable", "disable"):
        problem = server.problem(409, "bitmap-busy", "POST", f"/images/vm1/bitmaps/b0/{verb}", {})
        assert "vm1" in problem["detail"] and problem["remedy"]
    server.problem(409, "bitmap-busy", "DELETE", "/images/vm1/bitmaps/b0")
    guest.add("copy", disabled=True)
    assert guest.do("copy", "merge", sources=["b0"])["dirtyBytes"] == 6 * GRANULE
    guest.end_export()
    # And by QEMU, which records on.
    assert guest.dirty_by_qemu("b0") == expected == guest.dirty_by_qemu("copy")
    guest.write_by_qemu("write 16M 64k")
    more = joined(expected + [(16 * MIB, GRANULE)])
    assert guest.dirty("b0") == more and guest.dirty("copy") == expected
    images.check(guest.path)


def test_bitmaps_of_ours_are_kept_by_every_program_in_turn(server, workspace, each_version):
    guest = Guest(server, workspace)
    guest.add("rest", disabled=True)
    guest.add("b0")
    expected = []
    for turn in range(2):
        place = (4 + turn * 8) * MIB
        guest.write_by_qemu(f"write {place} 64k")
        export = guest.export()
        nbd_tools.io(export["uri"], f"write {place + MIB} 64k")
        guest.end_export()
        with nbd_tools.QemuNBD(guest.path, "qcow2", workspace / "run/qemu.sock") as served:
            nbd_tools.io(served.uri, f"write {place + 2 * MIB} 64k")
        expected += [(place + step * MIB, GRANULE) for step in range(3)]
        assert guest.dirty("b0") == expected == guest.dirty_by_qemu("b0")
        assert guest.dirty("rest") == [] == guest.dirty_by_qemu("rest")
        assert guest.bitmaps() == {"b0": "recording", "rest": "disabled"}
        images.check(guest.path)


def test_a_transaction_with_one_bad_action_changes_nothing(server, workspace):
    first, second = Guest(server, workspace, "first"), Guest(server, workspace, "second")
    first.add("b0")
    second.add("b0")
    first.write_by_qemu("write 0 64k")
    export = second.export()
    nbd_tools.io(export["uri"], "write 0 64k")
    actions = [
        {"action": "add", "image": "first", "bitmap": "kept", "disabled": True},
        {"action": "merge", "image": "first", "bitmap": "kept", "sources": ["b0", {"image": "second", "bitmap": "b0"}]},
        {"action": "clear", "image": "first", "bitmap": "b0"},
        {"action": "clear", "image": "second", "bitmap": "b0"},
    ]
    bad = actions + [{"action": "remove", "image": "second", "bitmap": "gone"}]
    problem = server.problem(404, "not-found", "POST", "/bitmap-transactions", {"actions": bad})
    assert problem["errors"][0]["pointer"] == "/actions/4"
    assert first.bitmaps() == {"b0": "recording"}
    assert first.dirty("b0") == [(0, GRANULE)] == second.dirty("b0")
    plan = server.expect(200, "POST", "/bitmap-transactions?dryRun=true", {"actions": actions}).json()
    assert len(plan["steps"]) == 4 and first.bitmaps() == {"b0": "recording"}
    done = server.expect(200, "POST", "/bitmap-transactions", {"actions": actions}).json()
    assert [result["after"]["dirtyBytes"] for result in done["results"]] == [GRANULE, GRANULE, 0, 0]
    assert first.dirty("b0") == [] == second.dirty("b0")
    nbd_tools.io(export["uri"], "write 1M 64k")
    assert second.dirty("b0") == [(MIB, GRANULE)]
    second.end_export()
    assert second.dirty_by_qemu("b0") == [(MIB, GRANULE)] and first.dirty_by_qemu("kept") == [(0, GRANULE)]


def test_a_standing_export_shows_other_bitmaps_to_new_clients(server, workspace, each_version):
    guest = Guest(server, workspace)
    guest.add("b0")
    guest.add("b1", disabled=True)
    export = guest.export()
    nbd_tools.io(export["uri"], "write 0 64k")

    def offered():
        return sorted(name for name in nbd_tools.info(export["uri"])["contexts"] if "dirty" in name)

    assert offered() == []
    contexts = {"bitmaps": [{"bitmap": "b0", "exportName": "since-monday"}, {"bitmap": "b1"}]}
    answer = server.expect(200, "PATCH", "/exports/vm1", {"contexts": contexts}).json()
    assert [item["exportName"] for item in answer["contexts"]["bitmaps"]] == ["since-monday", "b1"]
    assert offered() == ["qemu:dirty-bitmap:b1", "qemu:dirty-bitmap:since-monday"]
    assert dirty_of(export["uri"], "since-monday") == [(0, GRANULE)] and dirty_of(export["uri"], "b1") == []
    assert guest.bitmaps() == {"b0": "busy", "b1": "busy"}
    server.problem(404, "not-found", "PATCH", "/exports/vm1", {"contexts": {"bitmaps": [{"bitmap": "gone"}]}})
    assert len(offered()) == 2
    # It comes back with the server.
    server.stop()
    server.start()
    assert offered() == ["qemu:dirty-bitmap:b1", "qemu:dirty-bitmap:since-monday"]
    server.expect(200, "PATCH", "/exports/vm1", {"contexts": {"bitmaps": None}})
    assert offered() == [] and guest.bitmaps() == {"b0": "recording", "b1": "disabled"}
    guest.end_export()


def test_after_a_kill_a_bitmap_in_use_is_inconsistent_and_a_disabled_one_is_not(server, workspace):
    guest = Guest(server, workspace)
    export = guest.export()
    guest.add("b0")
    guest.add("b1")
    nbd_tools.io(export["uri"], "write 0 64k")
    guest.do("b1", "disable")
    server.kill()
    flags = {bitmap["name"]: set(bitmap["flags"]) for bitmap in json.loads(
        images.run("qemu-img", "info", "--output=json", guest.path).stdout)["format-specific"]["data"]["bitmaps"]}
    assert flags == {"b0": {"in-use", "auto"}, "b1": set()}


def bits_of(guest, bitmap="b0"):
    """The export, and its ETag."""
    answer = guest.server.expect(200, "GET", f"/images/{guest.name}/bitmaps/{bitmap}/bits")
    assert answer.headers["Content-Type"] == "application/octet-stream"
    return answer.content, answer.headers["ETag"]


def put(bits, match="*"):
    """What a call sends them with."""
    headers = {"Content-Type": "application/octet-stream", **({"If-Match": match} if match else {})}
    return {"data": bits, "headers": headers}


def test_bits_go_from_a_bitmap_of_qemu_to_another_image_and_back(server, workspace, each_version):
    source, target = Guest(server, workspace, "source"), Guest(server, workspace, "target")
    source.add_by_qemu("b0")
    source.write_by_qemu("write 0 64k", "write 8M 200k", "write 67108352 512")
    expected = source.dirty_by_qemu("b0")
    bits, tag = bits_of(source)
    target.add_by_qemu("b1", "--disable")
    changed = server.expect(200, "PUT", "/images/target/bitmaps/b1/bits", **put(bits)).json()
    assert (changed["state"], changed["dirtyBytes"]) == ("disabled", 6 * GRANULE)
    assert target.dirty("b1") == expected == target.dirty_by_qemu("b1")
    # They are added to what is there, of an attached image too, whose guest goes on.
    export = target.export()
    target.do("b1", "enable")
    nbd_tools.io(export["uri"], "write 32M 64k")
    source.write_by_qemu("write 16M 64k")
    newer, _ = bits_of(source)
    server.expect(200, "PUT", "/images/target/bitmaps/b1/bits", **put(newer))
    nbd_tools.io(export["uri"], "write 33M 64k")
    target.end_export()
    union = joined(expected + [(16 * MIB, GRANULE), (32 * MIB, GRANULE), (33 * MIB, GRANULE)])
    assert target.dirty("b1") == union == target.dirty_by_qemu("b1")
    images.check(target.path)
    # And back: what was cleared meanwhile is dirty again.
    source.do("b0", "clear")
    server.expect(200, "PUT", "/images/source/bitmaps/b0/bits", **put(bits_of(target, "b1")[0]))
    assert source.dirty_by_qemu("b0") == union


def test_bits_are_imported_only_into_what_they_are_meant_for(server, workspace):
    guest, larger = Guest(server, workspace), Guest(server, workspace, "larger")
    images.run("qemu-img", "resize", "-q", larger.path, "65M")
    guest.add("b0")
    larger.add("b0")
    guest.write_by_qemu("write 0 64k")
    bits, tag = bits_of(guest)
    target = "/images/vm1/bitmaps/b0/bits"
    server.expect(304, "GET", target, headers={"If-None-Match": tag})
    server.problem(428, "precondition-required", "PUT", target, **put(bits, None))
    server.problem(412, "precondition-failed", "PUT", target, **put(bits, '"0123"'))
    server.problem(422, "bitmap-mismatch", "PUT", target + "?generation=0123", **put(bits))
    problem = server.problem(422, "bitmap-mismatch", "PUT", "/images/larger/bitmaps/b0/bits", **put(bits))
    assert "67108864" in problem["detail"] and "68157440" in problem["detail"]
    guest.add("fine", granularity=4096)
    server.problem(422, "bitmap-mismatch", "PUT", "/images/vm1/bitmaps/fine/bits", **put(bits))
    plan = server.expect(200, "PUT", target + "?dryRun=true", **put(bits)).json()
    assert plan["steps"] == ["add the bits that were sent to bitmap 'b0' of image 'vm1'"]
    # The bitmap has changed since, as the file has.
    server.problem(412, "precondition-failed", "PUT", target, **put(bits, tag))
    server.expect(200, "PUT", target + "?generation=" + tag.strip('"'), **put(bits, bits_of(guest)[1]))
    # One that is shown, and one of a tracker, are read and not changed.
    export = guest.export({"bitmap": "b0"})
    problem = server.problem(409, "bitmap-busy", "PUT", target, **put(bits_of(guest)[0]))
    assert "vm1" in problem["detail"] and problem["remedy"]
    guest.end_export()
    backup = server.back_up(kind="full")
    own = next(name for name in guest.bitmaps() if name.startswith("cobweb."))
    problem = server.problem(409, "bitmap-busy", "PUT", f"/images/vm1/bitmaps/{own}/bits", **put(bits_of(guest, own)[0]))
    assert backup["repository"].lower() in problem["detail"]


def test_bits_that_are_torn_or_altered_change_nothing(server, workspace):
    guest = Guest(server, workspace)
    guest.add("b0", disabled=True)
    guest.add("all")
    guest.write_by_qemu("write 0 64k", "write 8M 1M")
    bits, _ = bits_of(guest, "all")
    target = "/images/vm1/bitmaps/b0/bits"
    flipped = [bits[:at] + bytes([bits[at] ^ 16]) + bits[at + 1:] for at in range(0, len(bits), 7)]
    for bad in [b"", b"{}", bits[:-1], bits[:48], bits + b"\0", bits + bits, *flipped]:
        problem = server.problem(400, "malformed-bits", "PUT", target, **put(bad))
        assert problem["detail"] and problem["remedy"]
    server.problem(415, "unsupported-media-type", "PUT", target, {}, headers={"If-Match": "*"})
    assert guest.dirty("b0") == [] and guest.bitmaps() == {"all": "recording", "b0": "disabled"}
    server.expect(200, "PUT", target, **put(bits))
    assert guest.dirty("b0") == guest.dirty("all")


def test_names_of_any_bytes_are_percent_coded(server, workspace):
    guest = Guest(server, workspace)
    subprocess.run([b"qemu-img", b"bitmap", b"--add", str(guest.path).encode(), b"caf\xe9/%"], check=True)
    item, = server.get("/images/vm1/bitmaps")["items"]
    assert (item["name"], item["nameEncoded"]) == ("caf%E9%2F%25", True)
    assert server.get("/images/vm1/bitmaps/caf%E9%2F%25") == item
    assert server.get("/images/vm1/extents?context=dirty&bitmap=caf%E9%2F%25")["items"][0]["dirty"] is False
    server.expect(204, "DELETE", "/images/vm1/bitmaps/caf%E9%2F%25")
    assert server.get("/images/vm1/bitmaps")["items"] == []


def test_a_trackers_bitmap_is_left_to_its_tracker(server, workspace):
    guest = Guest(server, workspace)
    backup = server.back_up(kind="full")
    item, = server.get("/images/vm1/bitmaps")["items"]
    assert item["state"] == "recording" and item["owner"]["kind"] == "tracker"
    assert item["owner"]["tracker"] == backup["repository"].lower()
    problem = server.problem(409, "bitmap-busy", "POST", f"/images/vm1/bitmaps/{item['name']}/clear", {})
    assert item["owner"]["tracker"] in problem["detail"]
    guest.add("b0", disabled=True)
    guest.do("b0", "merge", sources=[item["name"]])
    assert server.back_up(kind="incremental")["trackingFallback"] is None


def test_a_bitmap_that_takes_more_memory_than_there_is_is_refused_with_both_numbers(start, workspace):
    server = start(trackingMemory=MIB)
    guest = Guest(server, workspace)
    images.run("qemu-img", "resize", "-q", guest.path, "16T")
    guest.add("coarse")
    problem = server.problem(409, "bitmap-limit", "POST", "/images/vm1/bitmaps", {"name": "fine", "granularity": 4096})
    assert str(MIB) in problem["detail"] and "trackingMemory" in problem["remedy"]
    assert guest.bitmaps() == {"coarse": "recording"}
    # One that another program made is refused when it would be recorded.
    guest.add_by_qemu("theirs")
    images.run("qemu-img", "bitmap", "--add", "-g", 4096, guest.path, "finer")
    problem = server.problem(409, "bitmap-limit", "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
        "listen": {"unix": str(guest.socket)}})
    assert str(MIB) in problem["detail"]
    server.expect(204, "DELETE", "/images/vm1/bitmaps/finer")
    export = guest.export()
    nbd_tools.io(export["uri"], "write 0 64k")
    guest.end_export()
    assert guest.dirty("coarse") == [(0, GRANULE)] == guest.dirty("theirs")
