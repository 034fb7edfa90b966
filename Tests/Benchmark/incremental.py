#!/usr/bin/env python3
"""Incremental backups by dirty amount beside qemu-storage-daemon's, in one run.

Each serves its own copy of one disk, 100 GiB of qcow2 with 3 GiB of data, over NBD, and gets the same writes. The daemon
has a dirty bitmap of its default granularity, and backs the disk up while it serves it; its time is the job's alone, with
the target's durability, and neither making the target nor opening it. Cobweb's is the whole call, with the disk at rest.
The disks are compared with the chains' ends. A ratio says how many times as fast the daemon's median is (above 1 is
faster). REPEATS (default 3) sets the rounds.
"""
import collections
import os
import pathlib
import random
import shutil
import subprocess
import time

import contenders
import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "local" / "bench" / "incremental"
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DATA = 3 * GIB
CASES = {
    "nothing": (0, 0),
    "16 MiB of 4k to 64k": (16 * MIB, 64 * KIB),
    "128 MiB of 4k to 64k": (128 * MIB, 64 * KIB),
    "1 GiB of 4k to 64k": (GIB, 64 * KIB),
    "1 % in 4k": (DATA // 100, 4 * KIB),
}


def random_writes(amount, longest, seed):
    """Commands of qemu-io."""
    source = random.Random(seed)
    while amount > 0:
        length = min(amount, source.randrange(4 * KIB, longest + 1, 4 * KIB)) // (4 * KIB) * 4 * KIB or 4 * KIB
        offset = source.randrange(0, DATA - longest, 4 * KIB)
        yield f"write -q -P {source.randrange(1, 255)} {offset} {length}"
        amount -= length


def write_all(uri, commands):
    subprocess.run(["qemu-io", "-f", "raw", uri], input="\n".join([*commands, "flush", "quit"]), text=True, check=True,
                   stdout=subprocess.DEVNULL, timeout=600)


def make_disk(path, size):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(size)], check=True)


def fill(path):
    noise = random.Random(1)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        for _ in range(DATA // (16 * MIB)):
            file.write(noise.randbytes(16 * MIB))
    subprocess.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "qcow2", part, path], check=True)
    part.unlink()


class StorageDaemon:
    def __init__(self, folder, disk):
        self.folder, self.disk, self.last = folder, disk, None
        folder.mkdir(parents=True)

    def __enter__(self):
        path, self.socket = self.folder / "monitor.sock", self.folder / "nbd.sock"
        self.daemon = measure.daemon([
            "qemu-storage-daemon",
            "--blockdev", f"driver=file,node-name=f0,filename={self.disk},aio=io_uring",
            "--blockdev", "driver=qcow2,node-name=disk,file=f0",
            "--nbd-server", f"addr.type=unix,addr.path={self.socket}",
            "--export", "type=nbd,id=export,node-name=disk,name=disk,writable=on",
            "--chardev", f"socket,id=m,path={path},server=on,wait=off", "--monitor", "chardev=m"], path)
        self.process = self.daemon.__enter__()
        self.monitor = contenders.Monitor(path)
        return self

    def __exit__(self, *error):
        self.daemon.__exit__(*error)

    def write(self, commands):
        write_all(f"nbd+unix:///disk?socket={self.socket}", commands)

    def back_up(self, number, compression):
        target = self.folder / f"{number}.qcow2"
        options = ["-b", self.last, "-F", "qcow2"] if self.last else []
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", "compression_type=zstd", *options, target,
                        str(contenders.virtual_size(self.disk, "qcow2"))], check=True)
        self.monitor.command("blockdev-add", **{
            "driver": "qcow2", "node-name": "target", "backing": None,
            "file": {"driver": "file", "filename": str(target), "discard": "unmap"}})
        cpu, start = measure.cpu_seconds(self.process.pid), time.monotonic()
        job = {"job-id": "copy", "device": "disk", "target": "target", "auto-dismiss": False,
               "compress": compression == "zstd", "x-perf": {"max-workers": 64, "use-copy-range": True}}
        if self.last:
            self.monitor.command("blockdev-backup", **job, sync="incremental", bitmap="changes")
        else:
            self.monitor.command("transaction", actions=[
                {"type": "block-dirty-bitmap-add", "data": {"node": "disk", "name": "changes"}},
                {"type": "blockdev-backup", "data": {**job, "sync": "full"}}])
        self.monitor.finish("copy")
        measure.make_durable(target)
        sample = measure.Sample(seconds=time.monotonic() - start, cpu=measure.cpu_seconds(self.process.pid) - cpu)
        self.monitor.command("blockdev-del", **{"node-name": "target"})
        self.last = target
        sample["stored"] = os.stat(target).st_blocks * 512
        return target, sample


class Cobweb:
    def __init__(self, folder, disk):
        self.folder, self.disk = folder, disk
        self.server = contenders.Cobweb(folder, disk.parent)

    def __enter__(self):
        self.server.__enter__()
        self.server.register("disk", self.disk, "qcow2")
        return self

    def __exit__(self, *error):
        self.server.__exit__(*error)

    def write(self, commands):
        self.server.job("POST", "/images/disk/attach", {})
        export = self.server.call("POST", "/exports", {
            "name": "disk", "source": {"kind": "image", "image": "disk"}, "readOnly": False,
            "listen": {"unix": str(self.folder / "run/disk.sock")}})
        write_all(export["uri"], commands)
        self.server.call("DELETE", f"/exports/{export['id']}")
        self.server.job("POST", "/images/disk/detach")

    def back_up(self, number, compression):
        kind = "incremental" if number else "full"
        job, sample = self.server.job("POST", "/backups", {
            "images": ["disk"], "repository": "bench", "kind": kind, "compression": compression})
        backup = self.server.call("GET", f"/backups/{job['result']['backups'][0]['backup']}")
        if backup["kind"] != kind or backup.get("fallbackReason"):
            raise RuntimeError(f"{backup['kind']}: {backup['reason']}")
        file, = pathlib.Path(self.folder / "backup").rglob(f"*-{backup['id']}.qcow2")
        sample["stored"] = backup["storedSize"]
        return file, sample


def compare(file, disk):
    subprocess.run(["qemu-img", "compare", "-q", "-U", "-f", "qcow2", "-F", "qcow2", file, disk], check=True)


def story(samples, size, cases, compression, repeats):
    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "disks").mkdir(parents=True)
    disks = [WORK / "disks" / name for name in ("daemon.qcow2", "cobweb.qcow2")]
    make_disk(disks[0], size)
    if any(amount for amount, _ in cases.values()):
        fill(disks[0])
    shutil.copy(disks[0], disks[1])
    with StorageDaemon(WORK / "daemon", disks[0]) as daemon, Cobweb(WORK / "server", disks[1]) as cobweb:
        both = {"qemu-storage-daemon": daemon, "cobweb": cobweb}
        for one in both.values():
            one.back_up(0, compression)
        number = 0
        for case, (amount, longest) in cases.items():
            for _ in range(repeats):
                number += 1
                commands = list(random_writes(amount, longest, number))
                for name, one in both.items():
                    if commands:
                        one.write(commands)
                    file, sample = one.back_up(number, compression)
                    sample["written"] = sum(int(command.split()[-1]) for command in commands)
                    samples[case][name].append(sample)
                    print(f"  {case:28} {name:20} {sample['seconds']:6.2f} s", flush=True)
            compare(file, disks[1])
    shutil.rmtree(WORK)


def show(samples):
    print("| written | contender | seconds | CPU s | stored MiB | stored / written | speed to the daemon |")
    print("|---|---|---|---|---|---|---|")
    for case, contestants in samples.items():
        daemon = measure.median(contestants["qemu-storage-daemon"], "seconds")
        for name, found in contestants.items():
            written, stored = measure.median(found, "written"), measure.median(found, "stored")
            seconds = measure.median(found, "seconds")
            print(f"| {case} | {name} | {seconds:.2f} | {measure.median(found, 'cpu'):.2f} | {stored / MIB:.1f} | "
                  f"{f'{stored / written:.1f}' if written else ''} | {daemon / seconds:.2f} |")


def main():
    samples = collections.defaultdict(lambda: collections.defaultdict(list))
    repeats = int(os.environ.get("REPEATS", "3"))
    story(samples, 100 * GIB, CASES, "none", repeats)
    story(samples, 100 * GIB, {"1 % in 4k, zstd": CASES["1 % in 4k"]}, "zstd", repeats)
    story(samples, 16 << 40, {"nothing, of 16 TiB": (0, 0)}, "none", repeats)
    show(samples)


if __name__ == "__main__":
    main()
