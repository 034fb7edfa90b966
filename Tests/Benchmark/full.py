#!/usr/bin/env python3
"""Full backup and restore of a 4 GiB disk, beside the peers, in one run.

Contenders alternate; each figure is the median. Every time includes making the target and its folder durable.
A ratio says how many times as fast as the fastest peer (above 1 is faster). REPEATS (default 3) sets the rounds.
"""
import collections
import json
import os
import pathlib
import shutil
import subprocess
import sys

import contenders
import disks
import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "local" / "bench"
OURS = "cobweb"

PLAIN_PEERS = {
    "qemu-img convert": contenders.qemu_img(),
    "qemu-img convert -m 16 -W": contenders.qemu_img("-m", "16", "-W"),
    "nbdcopy + qemu-nbd": contenders.nbdcopy,
    "qemu-storage-daemon backup": contenders.storage_daemon,
}
ZSTD_PEERS = {
    "qemu-img convert -c zstd -m 16 -W":
        contenders.qemu_img("-c", "-o", "compression_type=zstd", "-m", "16", "-W"),
}
RESTORE_PEERS = {
    "qemu-img convert": contenders.qemu_img(),
    "qemu-img convert -m 16 -W": contenders.qemu_img("-m", "16", "-W"),
}


def stored_mib(path):
    return os.stat(path).st_blocks * 512 / (1 << 20)


def must_equal(first, first_format, second, second_format):
    subprocess.run(["qemu-img", "compare", "-q", "-f", first_format, "-F", second_format, first, second], check=True)


class Table:
    def __init__(self):
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))

    def add(self, case, contender, sample):
        self.samples[case][contender].append(sample)
        with open(WORK / "samples.jsonl", "a") as log:
            log.write(json.dumps({"case": case, "contender": contender, **sample}) + "\n")
        print(f"  {case:24} {contender:36} {sample['seconds']:7.2f} s", file=sys.stderr, flush=True)

    def show(self):
        print("| case | contender | seconds | CPU s | peak MiB | stored MiB | speed to the best peer |")
        print("|---|---|---|---|---|---|---|")
        for case, contestants in self.samples.items():
            best = min(measure.median(samples, "seconds") for name, samples in contestants.items() if name != OURS)
            for name, samples in contestants.items():
                seconds = measure.median(samples, "seconds")
                peak = f"{measure.median(samples, 'peak'):.0f}"
                above = measure.median(samples, "above_idle")
                if above is not None:
                    peak += f" ({above:.0f} above idle)"
                stored = measure.median(samples, "stored")
                print(f"| {case} | {name} | {seconds:.2f} | {measure.median(samples, 'cpu'):.2f} | {peak} | "
                      f"{'' if stored is None else f'{stored:.0f}'} | {best / seconds:.2f} |")


def copy_by_peer(table, case, name, copy, source, source_format, target, target_format, check):
    target.unlink(missing_ok=True)
    measure.warm(source)
    sample = copy(source, source_format, target, target_format)
    sample["stored"] = stored_mib(target)
    if check:
        must_equal(source, source_format, target, target_format)
    target.unlink()
    table.add(case, name, sample)


def backup_round(table, server, source, format, compression, peers, first):
    case = f"{format}→qcow2" + (" zstd" if compression == "zstd" else "")
    for name, copy in peers.items():
        copy_by_peer(table, case, name, copy, source, format, WORK / "target.qcow2", "qcow2", first)
    measure.warm(source)
    backup, file, sample = server.back_up(format, compression)
    sample["stored"] = stored_mib(file)
    if first:
        must_equal(source, format, file, "qcow2")
    table.add(case, OURS, sample)
    restore_round(table, server, backup, file, compression, first) if format == "raw" else None
    server.delete(backup)


def restore_round(table, server, backup, file, compression, first):
    case = "qcow2→raw restore" + (" zstd" if compression == "zstd" else "")
    target = server.images / "restored.raw"
    for name, copy in RESTORE_PEERS.items():
        copy_by_peer(table, case, name, copy, file, "qcow2", target, "raw", first)
    measure.warm(file)
    target.unlink(missing_ok=True)
    sample = server.restore(backup, target)
    sample["stored"] = stored_mib(target)
    if first:
        must_equal(file, "qcow2", target, "raw")
    target.unlink()
    table.add(case, OURS, sample)


def main():
    WORK.mkdir(parents=True, exist_ok=True)
    images = WORK / "images"
    images.mkdir(exist_ok=True)
    raw, qcow2 = disks.real_disk(images)
    table = Table()
    shutil.rmtree(WORK / "server", ignore_errors=True)
    with contenders.Cobweb(WORK / "server", images) as server:
        server.register("raw", raw, "raw")
        server.register("qcow2", qcow2, "qcow2")
        for repeat in range(int(os.environ.get("REPEATS", "3"))):
            for source, format in ((raw, "raw"), (qcow2, "qcow2")):
                backup_round(table, server, source, format, "none", PLAIN_PEERS, repeat == 0)
                backup_round(table, server, source, format, "zstd", ZSTD_PEERS, repeat == 0)
    table.show()


if __name__ == "__main__":
    main()
