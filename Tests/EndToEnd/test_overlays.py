"""Writing to an image that others stand on."""
import os

import images


def test_writing_to_what_a_registered_overlay_stands_on_is_confirmed(server, workspace):
    """The base is registered through a link, its overlay names it by another path."""
    folder = workspace / "images"
    (folder / "pool").mkdir()
    base = images.make_image(folder / "pool/base.qcow2")
    images.fill(base, "qcow2")
    (folder / "link.qcow2").symlink_to("pool/base.qcow2")
    server.register(folder / "link.qcow2", "qcow2")
    backup = server.back_up()
    overlay = images.make_image(folder / "top.qcow2", backing="pool/base.qcow2", backing_format="qcow2", size=None)
    server.register(overlay, "qcow2", name="top")
    export = {"name": "vm1", "source": {"kind": "image", "image": "vm1"}, "readOnly": False,
              "listen": {"unix": str(workspace / "run/vm1.sock")}}
    over = {"target": {"kind": "image", "image": "vm1"}}
    for path, body in [("/images/vm1/attach", {}), ("/exports", export), (f"/backups/{backup['id']}/restore", over)]:
        plan = server.expect(200, "POST", f"{path}?dryRun=true", body).json()
        assert any("'top'" in warning for warning in plan["warnings"]), plan
        for wrong in ({}, {"confirm": "top"}):
            server.problem(422, "confirmation-required", "POST", path, {**body, **wrong})
    assert server.get("/images/vm1")["state"] == "detached"
    # The overlay itself, and reading the base, ask for nothing.
    server.succeeded("POST", "/images/top/attach")
    server.succeeded("POST", "/images/top/detach")
    server.expect(201, "POST", "/exports", {**export, "readOnly": True})
    server.expect(204, "DELETE", "/exports/vm1")

    server.expect(201, "POST", "/exports", {**export, "confirm": "vm1"})
    server.stop()
    server.start()
    assert server.get("/exports/vm1")["state"] == "active", "a start doesn't ask again"
    server.succeeded("POST", "/images/vm1/attach")
    server.expect(204, "DELETE", "/exports/vm1")
    server.succeeded("POST", "/images/vm1/detach")
    server.succeeded("POST", "/images/vm1/attach", {"confirm": "vm1"})


def test_an_external_data_file_is_part_of_what_an_overlay_stands_on(server, workspace):
    folder = workspace / "images"
    base = images.make_image(folder / "base.qcow2", options=[f"data_file={folder}/data.raw", "data_file_raw=on"])
    overlay = images.make_image(folder / "top.qcow2", backing="base.qcow2", backing_format="qcow2", size=None)
    os.link(folder / "data.raw", folder / "data-too.raw")
    server.register(overlay, "qcow2", name="top")
    server.register(folder / "data-too.raw", "raw")
    problem = server.problem(422, "confirmation-required", "POST", "/images/vm1/attach")
    assert "'top'" in problem["detail"]
    server.succeeded("POST", "/images/vm1/attach", {"confirm": "vm1"})
    # The other way round: what reads the data file reads what the image writes.
    server.register(base, "qcow2", name="base")
    problem = server.problem(422, "confirmation-required", "POST", "/images/base/attach")
    assert "'top'" in problem["detail"] and "'vm1'" in problem["detail"]
