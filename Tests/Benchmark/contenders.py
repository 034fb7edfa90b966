"""Who copies a disk: the peers, each by its own tools, and Cobweb through its REST API."""
import json
import os
import pathlib
import socket
import subprocess
import time
import urllib.request

import measure


def virtual_size(path, format):
    answer = subprocess.run(["qemu-img", "info", "--output=json", "-U", "-f", format, path], check=True,
                            capture_output=True)
    return json.loads(answer.stdout)["virtual-size"]


def qemu_img(*options):
    """`qemu-img convert` with these options."""
    def copy(source, source_format, target, target_format):
        return measure.run(["qemu-img", "convert", *options, "-f", source_format, "-O", target_format, source, target],
                           target)
    return copy


def nbdcopy(source, source_format, target, target_format):
    """nbdcopy between two qemu-nbd servers."""
    start = time.monotonic()
    size = virtual_size(source, source_format)
    subprocess.run(["qemu-img", "create", "-q", "-f", target_format, target, str(size)], check=True)
    folder = target.parent
    first, second = folder / "source.sock", folder / "target.sock"
    with measure.daemon(["qemu-nbd", "-r", "-t", "-e", "16", "-f", source_format, "-k", first, source], first) as left, \
            measure.daemon(["qemu-nbd", "-t", "-e", "16", "-f", target_format, "--discard=unmap", "-k", second, target],
                           second) as right:
        sample = measure.run(["nbdcopy", "--destination-is-zero", "--flush", f"nbd+unix:///?socket={first}",
                              f"nbd+unix:///?socket={second}"], target)
        sample["cpu"] += measure.cpu_seconds(left.pid) + measure.cpu_seconds(right.pid)
        sample["peak"] += measure.memory_mib(left.pid, "VmHWM") + measure.memory_mib(right.pid, "VmHWM")
    measure.make_durable(target)
    sample["seconds"] = time.monotonic() - start
    return sample


class Monitor:
    """A QMP connection: commands in, answers out, events passed over."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(600)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.command("qmp_capabilities")

    def command(self, name, **arguments):
        self.file.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def finish(self, job):
        while True:
            state, = [item for item in self.command("query-jobs") if item["id"] == job]
            if state["status"] == "concluded":
                if state.get("error"):
                    raise RuntimeError(state["error"])
                return self.command("job-dismiss", id=job)
            time.sleep(0.01)


def storage_daemon(source, source_format, target, target_format):
    """The backup job of qemu-storage-daemon, 64 workers and copy_file_range."""
    start = time.monotonic()
    subprocess.run(["qemu-img", "create", "-q", "-f", target_format, target,
                    str(virtual_size(source, source_format))], check=True)
    path = target.parent / "monitor.sock"
    writing = "discard=unmap,cache.no-flush=on"
    with measure.daemon([
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=f0,filename={source},read-only=on",
            "--blockdev", f"driver={source_format},node-name=src,file=f0,read-only=on",
            "--blockdev", f"driver=file,node-name=f1,filename={target},{writing}",
            "--blockdev", f"driver={target_format},node-name=dst,file=f1,{writing}",
            "--chardev", f"socket,id=m,path={path},server=on,wait=off", "--monitor", "chardev=m"], path) as process:
        monitor = Monitor(path)
        monitor.command("blockdev-backup", **{
            "job-id": "copy", "device": "src", "target": "dst", "sync": "full", "auto-dismiss": False,
            "x-perf": {"max-workers": 64, "use-copy-range": True}})
        monitor.finish("copy")
        sample = measure.Sample(cpu=measure.cpu_seconds(process.pid), peak=measure.memory_mib(process.pid, "VmHWM"))
    measure.make_durable(target)
    sample["seconds"] = time.monotonic() - start
    return sample


class Cobweb:
    """A server on a folder of its own; what it is asked for goes through its API."""

    def __init__(self, folder, images):
        self.folder = folder
        for name in ("state", "run", "backup"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self.config = folder / "cobweb.yaml"
        self.config.write_text(
            "listen: 127.0.0.1:0\nstateFolder: state\nsocketFolder: run\nrepositoryFolders: [backup]\n"
            f"imageFolders: ['{images}']\n")
        self.images = images

    def __enter__(self):
        log = open(self.folder / "server.log", "w+")
        self.process = subprocess.Popen([os.environ["COBWEB"], "serve", "--config", self.config], stderr=log,
                                        stdout=log)
        for _ in range(200):
            words = (self.folder / "server.log").read_text().split()
            found = [word for word in words if word.startswith("http://127")]
            if found:
                self.url = found[0].rstrip("/.,") + "/api/v1"
                break
            if self.process.poll() is not None:
                raise RuntimeError((self.folder / "server.log").read_text())
            time.sleep(0.05)
        time.sleep(0.3)
        self.idle = measure.memory_mib(self.process.pid, "VmRSS")
        self.call("POST", "/repositories",
                  {"name": "bench", "kind": "directory", "path": str(self.folder / "backup/bench")})
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method, headers={"Content-Type": "application/json"},
                                         data=json.dumps(body).encode() if body is not None else None)
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.loads(answer.read() or "null")

    def register(self, name, path, format):
        self.call("POST", "/images", {"name": name, "source": {"kind": "file", "path": str(path)}, "format": format})

    def job(self, method, path, body=None):
        """Runs a job and measures it: the server makes its target durable by itself."""
        measure.reset_peak(self.process.pid)
        cpu, start = measure.cpu_seconds(self.process.pid), time.monotonic()
        job = self.call(method, path, body)
        while job["state"] not in ("succeeded", "failed", "cancelled", "interrupted"):
            job = self.call("GET", f"/jobs/{job['id']}?wait=60")
        if job["state"] != "succeeded":
            raise RuntimeError(json.dumps(job))
        return job, measure.Sample(
            seconds=time.monotonic() - start, cpu=measure.cpu_seconds(self.process.pid) - cpu,
            peak=measure.memory_mib(self.process.pid, "VmHWM"), above_idle=measure.memory_mib(
                self.process.pid, "VmHWM") - self.idle)

    def back_up(self, image, compression):
        """A full backup; returns its id, its file and the sample."""
        job, sample = self.job("POST", "/backups", {
            "images": [image], "repository": "bench", "kind": "full", "compression": compression})
        backup = job["result"]["backups"][0]["backup"]
        file, = pathlib.Path(self.folder / "backup").rglob(f"*-{backup}.qcow2")
        return backup, file, sample

    def restore(self, backup, target):
        return self.job("POST", f"/backups/{backup}/restore", {
            "target": {"kind": "file", "path": str(target), "format": "raw"}})[1]

    def delete(self, backup):
        self.job("DELETE", f"/backups/{backup}")
