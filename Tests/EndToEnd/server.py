"""One running Cobweb: started, called, killed."""
import os
import pathlib
import re
import signal
import subprocess
import time

import requests
import yaml

START_SECONDS = 30
JOB_SECONDS = 120


class Server:
    def __init__(self, folder, **settings):
        self.folder = pathlib.Path(folder)
        self.settings = {
            "listen": "127.0.0.1:0",
            "stateFolder": "state",
            "trackingFolder": "state",
            "imageFolders": ["images"],
            "repositoryFolders": ["backup"],
            "socketFolder": "run",
            **settings,
        }
        self.process = None
        self.url = None

    # Life

    def launch(self):
        """Starts the process without waiting for it to be ready."""
        config = self.folder / "cobweb.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        self.log_path = self.folder / "server.log"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [os.environ["COBWEB"], "serve", "--config", str(config)],
                stderr=log, stdout=log, stdin=subprocess.DEVNULL, start_new_session=True)
        return self

    def start(self):
        self.launch()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log()}")
            if found := re.search(r"https?://[0-9.:]+", self.log()):
                self.url = found.group(0)
                try:
                    if requests.get(self.url + "/readyz", timeout=5, verify=False).status_code == 200:
                        return self
                except requests.ConnectionError:
                    pass
            time.sleep(0.05)
        raise AssertionError(f"the server isn't ready after {START_SECONDS} s:\n{self.log()}")

    def log(self):
        return self.log_path.read_text(errors="replace")

    def kill(self):
        """As a power cut would: no signal handler runs. Only our own child's process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=30)

    def stop(self):
        """As an operator would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def end(self):
        if self.process is not None and self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    # Calls

    def call(self, method, path, json=None, **kwargs):
        """The bare answer; `path` is below /api/v1."""
        return requests.request(method, self.url + "/api/v1" + path, json=json, timeout=90, **kwargs)

    def expect(self, status, method, path, json=None, **kwargs):
        answer = self.call(method, path, json, **kwargs)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code}\n{answer.text}\n{self.log()}"
        return answer

    def get(self, path, **kwargs):
        return self.expect(200, "GET", path, **kwargs).json()

    def problem(self, status, code, method, path, json=None, **kwargs):
        """The problem document of a call that must be refused so."""
        answer = self.expect(status, method, path, json, **kwargs)
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        problem = answer.json()
        assert problem["code"] == code, problem
        assert problem["status"] == status and problem["type"].endswith("/" + code)
        return problem

    def finished(self, job):
        """The job when it has ended."""
        deadline = time.monotonic() + JOB_SECONDS
        while time.monotonic() < deadline:
            job = self.get(f"/jobs/{job['id']}?wait=10")
            if job["state"] in ("succeeded", "failed", "cancelled", "interrupted"):
                return job
        raise AssertionError(f"the job hasn't ended after {JOB_SECONDS} s: {job}\n{self.log()}")

    def succeeded(self, method, path, json=None):
        job = self.finished(self.expect(202, method, path, json).json())
        assert job["state"] == "succeeded", f"{job}\n{self.log()}"
        return job

    # Stories

    def make_repository(self, name="local"):
        return self.expect(201, "POST", "/repositories", {
            "name": name, "kind": "directory", "path": str(self.folder / "backup" / name)}).json()

    def register(self, path, format, name="vm1"):
        return self.expect(201, "POST", "/images", {
            "name": name, "source": {"kind": "file", "path": str(path)}, "format": format}).json()

    def back_up(self, image="vm1", repository="local", **more):
        """The finished backup's document."""
        job = self.succeeded("POST", "/backups", {
            "images": [image], "repository": repository, "kind": "full", **more})
        outcome, = job["result"]["backups"]
        assert outcome["outcome"] == "complete"
        return self.get(f"/backups/{outcome['backup']}")

    def verify(self, backup, level="checksum"):
        return self.finished(self.expect(
            202, "POST", f"/backups/{backup['id']}/verify", {"level": level}).json())

    def restore_to(self, path, backup, format="raw"):
        return self.succeeded("POST", f"/backups/{backup['id']}/restore", {
            "target": {"kind": "file", "path": str(path), "format": format}})
