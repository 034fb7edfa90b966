#!/usr/bin/env python3
"""What a guest notices of a backup: its writes beside qemu-storage-daemon's, with and without a backup, in one run.

Each server serves a copy of one disk, 4 GiB of qcow2 full of data, over NBD, from the page cache. fio writes 4 KiB at random
500 times a second, or 32 KiB as fast as it can. Meanwhile there is no backup; a full one to a target of 20 MiB/s; beside the
unbounded writes one as fast as it goes; or, of ours, one that keeps the guest's latency within 50 % of what it was. The daemon's target is throttled, ours is a repository and the job has the
limit: both wait for it alike. The daemon backs up directly, or from a fleecing node with a qcow2 temp. A ratio is that of
the same server's idle figure. ROUNDS (default 3) and SECONDS_EACH (default 8) set the length.
"""
import collections
import contextlib
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import urllib.error

import contenders
import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "local" / "bench" / "latency"
MIB, GIB = 1 << 20, 1 << 30
SIZE = 4 * GIB
RATE = 20 * MIB
SECONDS = int(os.environ.get("SECONDS_EACH", 8))
LOADS = {
    "4k at 500/s, depth 1": ["--bs=4k", "--iodepth=1", "--rate_iops=500"],
    "4k at 500/s, depth 8": ["--bs=4k", "--iodepth=8", "--rate_iops=500"],
    "32k, depth 8, unbounded": ["--bs=32k", "--iodepth=8"],
}


def make_disk(path):
    noise, part = random.Random(1), path.with_suffix(".part")
    with open(part, "wb") as file:
        for _ in range(SIZE // (16 * MIB)):
            file.write(noise.randbytes(16 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", part, path], check=True)
    part.unlink()


class StorageDaemon:
    """Its export is of a node that can slide over a copy-before-write filter."""

    def __init__(self, folder, disk):
        self.folder, self.disk = folder, disk

    def __enter__(self):
        path, self.socket = self.folder / "monitor.sock", self.folder / "nbd.sock"
        self.daemon = measure.daemon([
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=f0,filename={self.disk},aio=io_uring",
            "--blockdev", "driver=qcow2,node-name=disk,file=f0", "--blockdev", "driver=raw,node-name=top,file=disk",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
            "--export", "type=nbd,id=export,node-name=top,name=disk,writable=on",
            "--chardev", f"socket,id=m,path={path},server=on,wait=off", "--monitor", "chardev=m"], path)
        self.process = self.daemon.__enter__()
        self.pid, self.uri = self.process.pid, f"nbd+unix:///disk?socket={self.socket}"
        self.monitor = contenders.Monitor(path)
        return self

    def __exit__(self, *words):
        self.daemon.__exit__(*words)

    def add(self, **node):
        self.monitor.command("blockdev-add", **node)

    def make(self, name):
        path = self.folder / f"{name}.qcow2"
        path.unlink(missing_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
        return {"driver": "qcow2", "discard": "unmap",
                "file": {"driver": "file", "filename": str(path), "discard": "unmap"}}

    @contextlib.contextmanager
    def backup(self, rate, fleecing):
        command = self.monitor.command
        self.add(**{"node-name": "target"}, **self.make("target"))
        target, source = "target", "top"
        if rate:
            command("object-add", **{"qom-type": "throttle-group", "id": "limit", "limits": {"bps-write": rate}})
            self.add(**{"node-name": "slow", "driver": "throttle", "throttle-group": "limit", "file": "target"})
            target = "slow"
        if fleecing:
            self.add(**{"node-name": "temp"}, **self.make("temp"))
            self.add(**{"node-name": "cbw", "driver": "copy-before-write", "file": "disk", "target": "temp",
                        "on-cbw-error": "break-snapshot"})
            command("blockdev-reopen", options=[{"driver": "raw", "node-name": "top", "file": "cbw"}])
            self.add(**{"node-name": "view", "driver": "snapshot-access", "file": "cbw"})
            source = "view"
        command("blockdev-backup", **{
            "job-id": "backup", "device": source, "target": target, "sync": "full", "auto-dismiss": False,
            "x-perf": {"max-workers": 64}})
        yield
        # What is left of it ends with the daemon.


class Cobweb:
    def __init__(self, folder, disk):
        self.server, self.folder = contenders.Cobweb(folder, disk.parent), folder
        self.disk = disk

    def __enter__(self):
        self.server.__enter__()
        self.pid = self.server.process.pid
        self.server.register("disk", self.disk, "qcow2")
        self.server.job("POST", "/images/disk/attach", {"cache": "writeback"})
        self.uri = self.server.call("POST", "/exports", {
            "name": "disk", "source": {"kind": "image", "image": "disk"}, "readOnly": False,
            "listen": {"unix": str(self.folder / "run/disk.sock")}})["uri"]
        return self

    def __exit__(self, *words):
        self.server.__exit__(*words)

    @contextlib.contextmanager
    def backup(self, rate, fleecing=False, budget=None):
        fields = {"guestLatencyBudget": {"percent": budget}} if budget else {"speedLimit": rate}
        job = self.server.call("POST", "/backups", {
            "images": ["disk"], "repository": "bench", "kind": "copy", "compression": "none", **fields})
        yield
        # An unbounded one may have ended by then.
        with contextlib.suppress(urllib.error.HTTPError):
            self.server.call("POST", f"/jobs/{job['id']}/cancel")
        while self.server.call("GET", f"/jobs/{job['id']}?wait=10")["state"] in ("queued", "running", "paused"):
            pass


CONTENDERS = {"qemu-storage-daemon": StorageDaemon, "cobweb": Cobweb}
BUDGET = "backup, within 50 %"
MODES = {"idle": ("qemu-storage-daemon", "cobweb"), "backup": ("qemu-storage-daemon", "cobweb"),
         "from a fleecing": ("qemu-storage-daemon",), BUDGET: ("cobweb",)}


def run_guest(uri, options, seconds):
    return subprocess.run(
        ["fio", "--name=guest", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite", f"--size={SIZE}", "--time_based",
         f"--runtime={seconds}", "--norandommap", "--randrepeat=0", "--output-format=json", *options],
        check=True, capture_output=True, text=True, timeout=20 * seconds)


def make_idle(uri, options):
    """What a budget in percent counts from."""
    run_guest(uri, options, 2)


def sample(who, mode, options, disk, folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    copy = folder / "disk/disk.qcow2"
    copy.parent.mkdir()
    subprocess.run(["cp", "--reflink=auto", disk, copy], check=True)
    measure.warm(copy)
    # What the copy has left for the disk to do is no contender's.
    os.sync()
    bounded = any("rate" in option for option in options)
    with CONTENDERS[who](folder, copy) as server, contextlib.ExitStack() as stack:
        if mode != "idle":
            rate = RATE if bounded else 0
            if mode == BUDGET:
                make_idle(server.uri, options)
                stack.enter_context(server.backup(0, budget=50))
            else:
                stack.enter_context(server.backup(rate, fleecing=mode == "from a fleecing"))
        cpu = measure.cpu_seconds(server.pid)
        answer = run_guest(server.uri, options, SECONDS)
        write = json.loads(answer.stdout[answer.stdout.index("{"):])["jobs"][0]["write"]
        points = write["clat_ns"]["percentile"]
        return {"iops": write["iops"], "p50": points["50.000000"] / 1000, "p99": points["99.000000"] / 1000,
                "p999": points["99.900000"] / 1000, "max": write["clat_ns"]["max"] / 1000,
                "cpu": measure.cpu_seconds(server.pid) - cpu}


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    disk = WORK / "disk.qcow2"
    if not disk.exists():
        make_disk(disk)
    samples = collections.defaultdict(list)
    for _ in range(int(os.environ.get("ROUNDS", 3))):
        for load, options in LOADS.items():
            for mode, names in MODES.items():
                for who in names:
                    samples[load, who, mode].append(sample(who, mode, options, disk, WORK / "run"))
    shutil.rmtree(WORK / "run", ignore_errors=True)
    keys = ("iops", "p50", "p99", "p999", "max", "cpu")
    print(f"{'':26}{'':38}" + "".join(f"{key:>16}" for key in ("IOPS", "p50 µs", "p99 µs", "p99.9 µs", "max µs", "CPU s")))
    for load in LOADS:
        for who in CONTENDERS:
            idle = {key: statistics.median(item[key] for item in samples[load, who, "idle"]) for key in keys}
            for mode in MODES:
                if who not in MODES[mode]:
                    continue
                row = {key: statistics.median(item[key] for item in samples[load, who, mode]) for key in keys}
                print(f"{load:26}{who + ', ' + mode:38}" + "".join(
                    f"{row[key]:9.0f} ({row[key] / idle[key]:4.2f})" if key != "cpu"
                    else f"{row[key]:9.2f} ({row[key] / idle[key]:4.2f})" for key in keys))


if __name__ == "__main__":
    main()
