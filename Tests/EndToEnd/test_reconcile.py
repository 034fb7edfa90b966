"""What an image and the catalog don't agree on about bitmaps: told by a dry run, put right by a job."""
import json
import shutil

import images
from test_bitmaps import Guest

NEWEST = "7ZZZZZZZZZZZZZZZZZZZZZZZZZ"


def plan(server):
    """Each disagreement by its code, and whether something would be done about it."""
    answer = server.expect(200, "POST", "/images/vm1/reconcile?dryRun=true").json()
    found = answer["resource"]["disagreements"]
    assert all(item["detail"] for item in found) and len(answer["steps"]) + len(answer["warnings"]) == len(found)
    return {item["code"]: "repair" in item for item in found}


def reconcile(server):
    """What came of each, by its code."""
    result = server.succeeded("POST", "/images/vm1/reconcile", {"confirm": "vm1"})["result"]
    assert result["imageName"] == "vm1" and result["disagreementCount"] == len(result["disagreements"])
    return {item["code"]: item for item in result["disagreements"]}


def qemu_bitmaps(path):
    info = json.loads(images.run("qemu-img", "info", "--output=json", path).stdout)
    return {item["name"] for item in info["format-specific"]["data"].get("bitmaps", [])}


def stray(backup, checkpoint=NEWEST):
    """The name of a bitmap as a backup would have set it that the catalog doesn't have."""
    return f"cobweb.{backup['repository'].lower()}.{checkpoint}"


def test_a_backup_that_ended_early_costs_the_chain_nothing(server, workspace, each_version):
    guest = Guest(server, workspace)
    images.fill(guest.path, "qcow2")
    backup = server.back_up()
    assert plan(server) == {} == reconcile(server)
    own, = (name for name in guest.bitmaps() if name.startswith("cobweb."))
    guest.write_by_qemu("write -P 1 1M 64k")
    # As a backup leaves it that froze the one and began the other.
    images.run("qemu-img", "bitmap", "--disable", guest.path, own)
    images.run("qemu-img", "bitmap", "--add", "-g", 4096, guest.path, stray(backup))
    guest.write_by_qemu("write -P 2 8M 64k")
    before = guest.path.read_bytes()
    assert plan(server) == {"tracker-doubled": True}
    assert guest.path.read_bytes() == before
    assert reconcile(server)["tracker-doubled"]["outcome"] == "repaired"
    assert own in qemu_bitmaps(guest.path) and stray(backup) not in qemu_bitmaps(guest.path)
    assert plan(server) == {}
    increment = server.back_up(kind="incremental")
    assert (increment["kind"], increment["trackingFallback"]) == ("incremental", None)
    back = workspace / "images/back.qcow2"
    server.restore_to(back, increment, "qcow2")
    assert images.same(guest.path, "qcow2", back, "qcow2")
    images.check(guest.path)


def test_a_bitmap_is_removed_only_if_its_repository_has_no_such_backup(server, workspace):
    guest = Guest(server, workspace)
    images.fill(guest.path, "qcow2")
    backup = server.back_up()
    own, = (name for name in guest.bitmaps() if name.startswith("cobweb."))
    # A tracker of a name of its own may be another server's.
    images.run("qemu-img", "bitmap", "--add", guest.path, f"cobweb.second-tool.{NEWEST}")
    assert plan(server) == {"checkpoint-unknown": False}
    server.expect(204, "DELETE", "/images/vm1/trackers/second-tool")
    # The catalog is lost, and the repository isn't: nothing is taken out.
    server.stop()
    shutil.rmtree(workspace / "state")
    server.start()
    server.make_repository()
    server.register(guest.path, "qcow2", "vm1")
    assert plan(server) == {"checkpoint-unknown": True}
    kept = reconcile(server)["checkpoint-unknown"]
    assert kept["outcome"] == "left" and backup["id"] in kept["why"] and own in qemu_bitmaps(guest.path)
    # Nor is there such a backup anywhere: it goes, with the marks.
    images.run("qemu-img", "bitmap", "--remove", guest.path, own)
    images.run("qemu-img", "bitmap", "--add", guest.path, stray(backup))
    assert reconcile(server)["checkpoint-unknown"]["outcome"] == "repaired"
    assert qemu_bitmaps(guest.path) == set() and plan(server) == {}


def test_an_export_lets_go_of_a_bitmap_that_is_gone(server, workspace):
    guest = Guest(server, workspace)
    for name in ("b0", "b1"):
        guest.add_by_qemu(name)
    guest.export({"bitmap": "b0"}, {"bitmap": "b1"}, read_only=True)
    server.problem(409, "image-in-use", "POST", "/images/vm1/reconcile?dryRun=true")
    server.stop()
    images.run("qemu-img", "bitmap", "--remove", guest.path, "b1")
    server.start()
    # Its disk is served all the same, and all of that may have changed.
    export = server.get("/exports/vm1")
    assert export["state"] == "active" and "b1" in server.log()
    for name, dirty in (("b0", 0), ("b1", 1)):
        mapped = images.run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{name}", export["uri"]).stdout
        assert {item["type"] for item in json.loads(mapped)} == {dirty}, mapped
    server.expect(200, "PATCH", "/exports/vm1", {"contexts": {"bitmaps": [{"bitmap": "b0"}]}})
    server.stop()
    # An export whose image is away for a while still names one that is gone.
    images.run("qemu-img", "bitmap", "--remove", guest.path, "b0")
    aside = guest.path.with_suffix(".aside")
    guest.path.rename(aside)
    server.start()
    assert server.get("/exports/vm1")["state"] == "unavailable"
    aside.rename(guest.path)
    assert plan(server) == {"exported-bitmap-missing": True}
    gone = reconcile(server)["exported-bitmap-missing"]
    assert (gone["outcome"], gone["bitmap"]) == ("repaired", "b0")
    assert server.get("/exports/vm1")["contexts"]["bitmaps"] == []
    guest.end_export()


def test_marks_that_vouch_for_nothing_are_taken_out(server, workspace):
    guest = Guest(server, workspace)
    guest.add("b0")
    guest.write_by_qemu("write 0 64k")
    guest.export()
    server.expect(204, "DELETE", "/images/vm1/bitmaps/b0")
    guest.end_export()
    assert qemu_bitmaps(guest.path) == {"cobweb.witness"}
    assert plan(server) == {"marks-left": True}
    server.problem(422, "confirmation-required", "POST", "/images/vm1/reconcile", {})
    assert reconcile(server)["marks-left"]["outcome"] == "repaired"
    assert qemu_bitmaps(guest.path) == set() and plan(server) == {}
    images.run("qemu-img", "snapshot", "-c", "now", guest.path)
    images.check(guest.path)
