#!/usr/bin/env python3
"""What a chain costs its readers, and what recording costs a guest's writes, in one run.

- The newest point of a full and 30 increments of 64 MiB, restored to raw: Cobweb's restore beside qemu-img's convert of the
  same chain. Every time includes making the target durable.
- 4k random reads over NBD of the newest of 200 increments, and of a full of the same contents: Cobweb's exports of the two
  beside qemu-nbd on their files.
- 4k random writes over NBD to an image that carries a tracker, and to one that doesn't.

Contenders alternate; each figure is the median. REPEATS (default 3) sets the rounds, SECONDS (default 2) the length of a
run over NBD.
"""
import collections
import json
import os
import pathlib
import random
import shutil
import subprocess
import time

import contenders
import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "local" / "bench" / "chains"
LOAD = pathlib.Path(os.environ.get("NBD_LOAD", ROOT / "local/bench/nbd-load"))
SECONDS = os.environ.get("SECONDS", "2")
REPEATS = int(os.environ.get("REPEATS", "3"))
KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
DISK = 2 * GIB
RESTORED_DEPTH, READ_DEPTH = 30, 200


def fill(path):
    noise = random.Random(1)
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        for _ in range(DISK // (16 * MIB)):
            file.write(noise.randbytes(16 * MIB))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", part, path], check=True)
    part.unlink()


def write(path, amount, piece, seed):
    """Random writes that the image's bitmaps record."""
    source = random.Random(seed)
    commands = [f"write -q -P {source.randrange(1, 255)} {source.randrange(0, DISK - piece, 4 * KIB)} {piece}"
                for _ in range(amount // piece)]
    subprocess.run(["qemu-io", "-f", "qcow2", path], input="\n".join([*commands, "quit"]), text=True, check=True,
                   stdout=subprocess.DEVNULL, timeout=600)


def back_up(server, image, kind):
    job, _ = server.job("POST", "/backups", {
        "images": [image], "repository": "bench", "kind": kind, "compression": "none"})
    backup = server.call("GET", f"/backups/{job['result']['backups'][0]['backup']}")
    if backup["kind"] != kind or backup.get("fallbackReason"):
        raise RuntimeError(f"{backup['kind']}: {backup['reason']}")
    file, = pathlib.Path(server.folder / "backup").rglob(f"*-{backup['id']}.qcow2")
    return backup["id"], file


def chain(server, disk, depth, amount, piece):
    """Id and file of the newest of so many increments."""
    back_up(server, "disk", "full")
    for number in range(depth):
        write(disk, amount, piece, number)
        newest = back_up(server, "disk", "incremental")
    return newest


class Table:
    def __init__(self):
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))

    def add(self, case, contender, value):
        self.samples[case][contender].append({"value": value})
        print(f"  {case:44} {contender:24} {value:10.2f}", flush=True)

    def show(self):
        print("| case | contender | median | to the first |")
        print("|---|---|---|---|")
        for case, contestants in self.samples.items():
            values = {name: measure.median(found, "value") for name, found in contestants.items()}
            first = next(iter(values.values()))
            for name, value in values.items():
                print(f"| {case} | {name} | {value:.2f} | {value / first:.2f} |")


def restore_rounds(table, server, disk):
    backup, file = chain(server, disk, RESTORED_DEPTH, 64 * MIB, 64 * KIB)
    target = server.images / "restored.raw"
    for repeat in range(REPEATS):
        for name, options in (("qemu-img convert", []), ("qemu-img convert -m 16 -W", ["-m", "16", "-W"])):
            target.unlink(missing_ok=True)
            table.add("restore of 1 + 30, s", name, contenders.qemu_img(*options)(file, "qcow2", target, "raw")["seconds"])
        target.unlink()
        table.add("restore of 1 + 30, s", "cobweb", server.restore(backup, target)["seconds"])
        if not repeat:
            subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", target, disk], check=True)
    target.unlink()


def load(socket, export, *options):
    answer = subprocess.run([LOAD, "--socket", socket, "--export", export, "--seconds", SECONDS, *options], check=True,
                            capture_output=True, timeout=600)
    figures = json.loads(answer.stdout)
    return figures["requests"] / figures["seconds"]


def export(server, name, source, read_only):
    socket = server.folder / "run" / f"{name}.sock"
    made = server.call("POST", "/exports", {
        "name": name, "source": source, "readOnly": read_only, "listen": {"unix": str(socket)}})
    return socket, made["id"]


def reading_rounds(table, server, disk):
    deep, deep_file = chain(server, disk, READ_DEPTH, MIB, 64 * KIB)
    flat, flat_file = back_up(server, "disk", "copy")
    sockets = {name: export(server, name, {"kind": "backup", "backup": id}, True)[0]
               for name, id in (("flat", flat), ("deep", deep))}
    files = {"flat": flat_file, "deep": deep_file}
    for _ in range(REPEATS):
        for depth in ("1", "16"):
            case = f"4k random reads, depth {depth}, IOPS"
            for name, socket in sockets.items():
                table.add(case, f"cobweb, {name}", load(socket, name, "--depth", depth))
            for name, file in files.items():
                path = WORK / "qemu-nbd.sock"
                with measure.daemon(["qemu-nbd", "-r", "-t", "-e", "4", "-f", "qcow2", "-k", path, "-x", name, file], path):
                    time.sleep(0.3)
                    table.add(case, f"qemu-nbd, {name}", load(path, name, "--depth", depth))


def writing_rounds(table, server, disk):
    """The same image by turns without a tracker and with one."""
    for _ in range(REPEATS):
        for recorded in (False, True):
            if recorded:
                back_up(server, "disk", "full")
            else:
                for bitmap in server.call("GET", "/images/disk/inspect")["bitmaps"]:
                    subprocess.run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", disk, bitmap["name"]], check=True)
            for cache in ("writeback", "direct"):
                server.job("POST", "/images/disk/attach", {"cache": cache})
                socket, id = export(server, "disk", {"kind": "image", "image": "disk"}, False)
                for depth in ("1", "16"):
                    table.add(f"4k random writes, {cache}, depth {depth}, IOPS", "tracked" if recorded else "untracked",
                              load(socket, "disk", "--write", "100", "--depth", depth))
                server.call("DELETE", f"/exports/{id}")
                server.job("POST", "/images/disk/detach")


def main():
    table = Table()
    for rounds in (restore_rounds, reading_rounds, writing_rounds):
        shutil.rmtree(WORK, ignore_errors=True)
        disk = WORK / "disks" / "disk.qcow2"
        disk.parent.mkdir(parents=True)
        fill(disk)
        with contenders.Cobweb(WORK / "server", disk.parent) as server:
            server.register("disk", disk, "qcow2")
            rounds(table, server, disk)
    shutil.rmtree(WORK)
    table.show()


if __name__ == "__main__":
    main()
