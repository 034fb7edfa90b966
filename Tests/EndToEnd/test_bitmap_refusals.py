"""What can't be done with a dirty bitmap is refused in words that name bitmap, state, holder and remedy."""
import json
import shutil

import pytest

import images
import nbd_tools
from test_bitmaps import GRANULE, Guest, MIB


def refused(guest, status, code, method, path, body=None, *words):
    """The problem: it has these words, and a remedy."""
    problem = guest.server.problem(status, code, method, f"/images/{guest.name}/bitmaps{path}", body)
    assert problem["remedy"]
    for word in words:
        assert word in problem["detail"], problem
    return problem


@pytest.mark.parametrize("body, status, code, word", [
    ({"name": ""}, 400, "invalid-field", "name"),
    ({"name": "n" * 1024}, 400, "invalid-field", "1024"),
    ({"name": "caf%E9" + "n" * 1020, "nameEncoded": True}, 400, "invalid-field", "1024"),
    ({"name": "cobweb.x.y"}, 400, "invalid-field", "cobweb."),
    ({"name": "cobweb.witness"}, 400, "invalid-field", "cobweb."),
    ({"name": "b1", "granularity": 256}, 400, "invalid-field", "granularity"),
    ({"name": "b1", "granularity": 65537}, 400, "invalid-field", "granularity"),
    ({"name": "b1", "granularity": 1 << 32}, 400, "invalid-field", "granularity"),
    ({"name": "b0"}, 409, "bitmap-exists", "'b0'"),
])
def test_what_qemu_would_refuse_is_refused(server, workspace, body, status, code, word):
    guest = Guest(server, workspace)
    guest.add("b0")
    refused(guest, status, code, "POST", "", body, word)
    assert guest.bitmaps() == {"b0": "recording"}


def test_the_longest_name_and_the_coarsest_granularity_are_taken(server, workspace):
    guest = Guest(server, workspace)
    guest.add("n" * 1023, granularity=1 << 31)
    guest.add("fine", granularity=512)
    info = json.loads(images.run("qemu-img", "info", "--output=json", guest.path).stdout)
    stored = {item["name"]: item["granularity"] for item in info["format-specific"]["data"]["bitmaps"]}
    assert stored == {"n" * 1023: 1 << 31, "fine": 512}


def test_more_bits_than_the_format_has_are_refused(server, workspace):
    guest = Guest(server, workspace)
    images.run("qemu-img", "resize", "-q", guest.path, "4T")
    refused(guest, 400, "invalid-field", "POST", "", {"name": "b0", "granularity": 512}, "'b0'", "512", str(1 << 32))
    guest.add("b0", granularity=1024, disabled=True)


def test_merges_that_would_mark_too_much_or_too_little_name_both(server, workspace):
    guest, larger = Guest(server, workspace), Guest(server, workspace, "larger")
    images.run("qemu-img", "resize", "-q", larger.path, "65M")
    guest.add("coarse")
    guest.add("fine", granularity=4096)
    larger.add("b0")
    refused(guest, 422, "bitmap-mismatch", "POST", "/fine/merge", {"sources": ["coarse"]},
            "'coarse'", "'fine'", "65536", "4096")
    refused(guest, 422, "bitmap-mismatch", "POST", "/coarse/merge", {"sources": [{"image": "larger", "bitmap": "b0"}]},
            "'b0'", "'larger'", "'coarse'", str(64 * MIB), str(65 * MIB))
    refused(guest, 404, "not-found", "POST", "/coarse/merge", {"sources": ["gone"]}, "'gone'", "'vm1'")
    refused(guest, 404, "not-found", "POST", "/gone/merge", {"sources": ["fine"]}, "'gone'")
    assert guest.do("coarse", "merge", sources=["fine"])["dirtyBytes"] == 0


@pytest.mark.parametrize("verb", ["clear", "enable", "disable", "merge", "remove"])
def test_a_bitmap_in_use_names_its_holder(server, workspace, verb):
    guest = Guest(server, workspace)
    guest.add("b0")
    guest.add("b1")
    server.back_up(kind="full")
    own = next(name for name in guest.bitmaps() if name.startswith("cobweb."))
    export = guest.export({"bitmap": "b0"})

    def attempt(bitmap, *words):
        body = {"sources": ["b1"]} if verb == "merge" else {}
        method, path = ("DELETE", f"/{bitmap}") if verb == "remove" else ("POST", f"/{bitmap}/{verb}")
        refused(guest, 409, "bitmap-busy", method, path, body if method == "POST" else None, bitmap, *words)

    attempt("b0", "busy", "export 'vm1'")
    attempt(own, "tracker")
    nbd_tools.io(export["uri"], "write 0 64k")
    guest.end_export()
    assert guest.dirty("b0") == [(0, GRANULE)]


@pytest.mark.parametrize("verb", ["clear", "enable", "disable", "merge"])
def test_a_bitmap_that_missed_changes_says_so_and_is_only_removed(server, workspace, verb):
    guest = Guest(server, workspace)
    guest.add("b0")
    guest.add("b1", disabled=True)
    guest.export()
    # A copy of the file as a killed program leaves it.
    left = Guest(server, workspace, "left")
    shutil.copyfile(guest.path, left.path)
    guest.end_export()
    body = {"sources": ["b1"]} if verb == "merge" else {}
    refused(left, 409, "bitmap-inconsistent", "POST", f"/b0/{verb}", body, "'b0'", "'left'", "inconsistent")
    refused(left, 409, "bitmap-inconsistent", "GET", "/b0/bits", None, "'b0'", "inconsistent")
    server.problem(409, "bitmap-inconsistent", "GET", "/images/left/extents?context=dirty&bitmap=b0")
    server.expect(204, "DELETE", "/images/left/bitmaps/b0")
    left.add("b0")
    assert left.bitmaps()["b0"] == "recording"


def test_bitmaps_of_an_image_that_qemu_has_open_name_what_holds_it(server, workspace):
    guest = Guest(server, workspace)
    guest.add("b0")
    with nbd_tools.QemuNBD(guest.path, "qcow2", workspace / "run/qemu.sock"):
        problem = refused(guest, 409, "image-locked", "POST", "/b0/clear", {}, str(guest.path))
        assert problem["remedy"]
    guest.do("b0", "clear")


def test_no_more_bitmaps_record_than_may(server, workspace):
    guest = Guest(server, workspace)
    actions = [{"action": "add", "image": "vm1", "bitmap": f"b{index}"} for index in range(64)]
    server.expect(200, "POST", "/bitmap-transactions", {"actions": actions})
    refused(guest, 409, "bitmap-limit", "POST", "", {"name": "more"}, "'more'", "65", "64")
    guest.add("more", disabled=True)
    refused(guest, 409, "bitmap-limit", "POST", "/more/enable", {}, "'more'", "65", "64")
    guest.do("b0", "disable")
    guest.do("more", "enable")
    export = guest.export()
    nbd_tools.io(export["uri"], "write 0 64k")
    guest.end_export()
    assert guest.dirty("more") == [(0, GRANULE)] == guest.dirty("b63") and guest.dirty("b0") == []


def test_a_bitmap_made_disabled_records_nothing_until_it_is_enabled(server, workspace, each_version):
    guest = Guest(server, workspace)
    guest.add("rest", disabled=True)
    guest.add("b0")
    export = guest.export()
    nbd_tools.io(export["uri"], "write 0 64k")
    # Made while the guest writes, and stored by a close.
    guest.add("late", disabled=True)
    nbd_tools.io(export["uri"], "write 1M 64k")
    guest.end_export()
    with nbd_tools.QemuNBD(guest.path, "qcow2", workspace / "run/qemu.sock") as served:
        nbd_tools.io(served.uri, "write 2M 64k")
    server.stop()
    server.start()
    guest.write_by_qemu("write 3M 64k")
    for name in ("rest", "late"):
        assert guest.bitmaps()[name] == "disabled"
        assert guest.dirty(name) == [] == guest.dirty_by_qemu(name)
    guest.do("rest", "enable")
    export = guest.export()
    nbd_tools.io(export["uri"], "write 4M 64k")
    guest.do("late", "enable")
    nbd_tools.io(export["uri"], "write 5M 64k")
    guest.end_export()
    assert guest.dirty("late") == [(5 * MIB, GRANULE)] == guest.dirty_by_qemu("late")
    assert guest.dirty("rest") == [(4 * MIB, GRANULE), (5 * MIB, GRANULE)] == guest.dirty_by_qemu("rest")
    assert guest.dirty("b0") == [(place * MIB, GRANULE) for place in range(6)]
    images.check(guest.path)
