"""Clients that generators make of openapi.yaml: they say what a request can say, and read what later versions answer."""
import importlib
import json
import os
import pathlib
import subprocess
import sys
import warnings

import pytest

import images
from conftest import ROOT
from contract import Grown
from nbd_tools import QemuNBD

PROGRAMS = pathlib.Path(sys.executable).parent


def generated(folder, *command):
    """What the program says."""
    story = subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"})
    assert story.returncode == 0, story.stdout + story.stderr
    return story.stdout + story.stderr


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """The package that openapi-python-client makes."""
    folder = tmp_path_factory.mktemp("client")
    # The contract itself is YAML, which the generator has no type for: it is to be read as bytes.
    (folder / "options.yaml").write_text("content_type_overrides: {application/yaml: application/octet-stream}\n")
    said = generated(
        folder, PROGRAMS / "openapi-python-client", "generate", "--path", ROOT / "openapi.yaml", "--meta", "none",
        "--output-path", "cobweb_client", "--config", "options.yaml", "--fail-on-warning")
    assert said.strip() == "Generating cobweb_client"
    return imported(folder, "cobweb_client")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The module that datamodel-code-generator makes."""
    folder = tmp_path_factory.mktemp("models")
    said = generated(
        folder, sys.executable, "-W", "error", "-m", "datamodel_code_generator", "--input", ROOT / "openapi.yaml",
        "--input-file-type", "openapi", "--output-model-type", "pydantic_v2.BaseModel", "--use-annotated",
        "--formatters", "builtin", "--output", folder / "cobweb_models.py")
    assert said == ""
    return imported(folder, "cobweb_models")


def imported(folder, name):
    sys.path.insert(0, str(folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def part(client, name):
    return importlib.import_module(f"{client.__name__}.{name}")


def answers(server, workspace):
    """An answer of each kind, by the name of its schema."""
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    image = server.register(path, "qcow2")
    backup = server.back_up()
    jobs = [
        server.verify(backup), server.restore_to(workspace / "images/back.raw", backup),
        server.succeeded("POST", f"/backups/{backup['id']}/restore", {
            "target": {"kind": "image", "image": "vm1"}, "confirm": "vm1"}),
        server.succeeded("POST", "/images/vm1/check", {}), server.succeeded("POST", "/repositories/local/rescan", {}),
        server.succeeded("POST", f"/groups/{backup['group']}/restore", {
            "targets": [{"image": "vm1", "target": {"kind": "image", "image": "vm1"}}], "confirm": backup["group"]}),
        server.succeeded("POST", f"/chains/{backup['chain']}/verify", {"level": "metadata"}),
        server.succeeded("POST", "/images/vm1/reconcile", {"confirm": "vm1"}),
        server.succeeded("POST", "/images/vm1/attach", {}), server.succeeded("POST", "/images/vm1/detach", {}),
    ]
    export = server.expect(201, "POST", "/exports", {
        "name": "vm1", "source": {"kind": "image", "image": "vm1"},
        "listen": {"unix": str(workspace / "run/vm1.sock")}}).json()
    plan = server.expect(200, "POST", "/images/vm1/check?dryRun=true", {}).json()
    problem = server.problem(404, "not-found", "GET", "/images/ghost")
    return [
        ("Server", server.get("/server")), ("Image", image), ("ImagePage", server.get("/images")),
        ("Inspection", server.get("/images/vm1/inspect")), ("ExtentPage", server.get("/images/vm1/extents")),
        ("Repository", server.get("/repositories/local")), ("RepositoryPage", server.get("/repositories")),
        ("Backup", backup), ("BackupPage", server.get("/backups")), ("ChainPage", server.get("/chains")),
        ("ChainDetail", server.get(f"/chains/{backup['chain']}")),
        ("Group", server.get(f"/groups/{backup['group']}")),
        *(("Job", job) for job in jobs), ("JobPage", server.get("/jobs")),
        ("JobLogPage", server.get(f"/jobs/{jobs[0]['id']}/log")), ("Export", export),
        ("ExportPage", server.get("/exports")), ("Plan", plan), ("ImageOrPlan", image), ("ImageOrPlan", plan),
        ("Problem", problem),
    ]


def test_generated_models_read_answers_of_today_and_of_later(server, workspace, client, models):
    grown = Grown()
    for name, answer in answers(server, workspace):
        schema = grown.components[name]
        later = grown.value(answer, schema)
        assert later != answer
        for version in (answer, later):
            getattr(models, name).model_validate_json(json.dumps(version))
            if name != "ImageOrPlan":
                read = getattr(part(client, "models"), name).from_dict(version)
                assert read.to_dict().keys() == version.keys(), "it keeps what it doesn't know"


def test_a_job_tells_generated_clients_what_came_of_it(server, workspace, client, models):
    kinds = {
        "backup": "BackupResult", "verify": "VerifyResult", "restore": "RestoreResult", "rescan": "RescanResult",
        "check": "CheckResult", "attach": "AttachResult", "detach": "DetachResult",
        "verify-chain": "ChainVerifyResult", "restore-group": "GroupRestoreResult",
        "reconcile": "ReconcileResult",
    }
    answers(server, workspace)
    jobs = server.get("/jobs")["items"]
    assert {job["kind"] for job in jobs} == set(kinds)
    for job in jobs:
        result = part(client, "models").Job.from_dict(job).result
        assert type(result).__name__ == kinds[job["kind"]]
        assert type(models.Job.model_validate(job).result.root).__name__ == kinds[job["kind"]]
    later = {**jobs[0], "kind": "fleece", "result": {"fleecing": jobs[0]["id"]}}
    assert part(client, "models").Job.from_dict(later).to_dict()["result"] == later["result"]
    assert models.Job.model_validate(later).result.model_dump() == later["result"]


def test_generated_requests_restore_to_each_kind_of_target(start, workspace, client):
    peer = workspace / "peer.sock"
    server = start(nbdPeers=[f"unix:{peer}"])
    server.make_repository()
    path = images.make_image(workspace / "images/vm1.qcow2")
    images.fill(path, "qcow2")
    server.register(path, "qcow2")
    backup = server.back_up()
    model = part(client, "models")
    restore = part(client, "api.backups.restore_backup")

    def restored(body):
        job = restore.sync(client=client.Client(base_url=server.url, timeout=60), backup=backup["id"], body=body)
        assert isinstance(job, model.Job), job
        ended = server.finished({"id": job.id})
        assert ended["state"] == "succeeded", ended
        return ended["result"]["target"]["kind"]

    target = workspace / "images/back.qcow2"
    assert restored(model.RestoreRequest(
        target=model.FileTarget(kind="file", path=str(target), format_=model.Format.QCOW2))) == "file"
    assert images.same(path, "qcow2", target, "qcow2")
    assert restored(model.RestoreRequest(
        target=model.ImageTarget(kind="image", image="vm1"), confirm="vm1")) == "image"
    far = images.make_image(workspace / "far.raw", "raw")
    with QemuNBD(far, "raw", peer) as served:
        assert restored(model.RestoreRequest(
            target=model.NBDTarget(kind="nbd", uri=served.uri, target_is_zero=True))) == "nbd"
    assert images.same(path, "qcow2", far, "raw")


@pytest.mark.parametrize("target", [
    {"kind": "file", "path": "/images/back.raw", "format": "raw"}, {"kind": "image", "image": "vm1"},
    {"kind": "nbd", "uri": "nbd://127.0.0.1/x", "targetIsZero": True},
], ids=lambda target: target["kind"])
def test_pydantic_models_tell_the_targets_apart_and_refuse_unknown_fields(models, target):
    request = models.RestoreRequest.model_validate({"target": target})
    assert type(request.target.root).__name__.lower() == f"{target['kind']}target"
    assert request.model_dump(mode="json", exclude_unset=True) == {"target": target}
    with pytest.raises(ValueError, match="colour"):
        models.RestoreRequest.model_validate({"target": {**target, "colour": 1}})
