#!/usr/bin/env python3
"""NBD serving, beside the peers, in one run.

Contenders alternate; each figure is the median. The flush at the end belongs to the time of every write. CPU is the
server's, per request (for MB/s rows per MiB). Ratios are to the fastest peer of the row: of speed (above 1 is
faster), and of CPU (below 1 is cheaper).

A run during which others use the machine is taken again, at most twice, and counts only where there are too few quiet
ones.

REPEATS (default 3) sets the rounds, SECONDS (default 2) the length of a run, and CASES, a regular expression, the rows:
the names are those of the table.
"""
import collections
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import measure
import nbd_servers

ROOT = pathlib.Path(__file__).resolve().parents[2]
WORK = ROOT / "local" / "bench"
LOAD = pathlib.Path(os.environ.get("NBD_LOAD", ROOT / "local/bench/nbd-load"))
SECONDS = int(os.environ.get("SECONDS", "2"))
REPEATS = int(os.environ.get("REPEATS", "3"))
DISK_BYTES = 4 << 30
WRITTEN_BYTES = 1 << 30
MIB = 1 << 20
# Of all cores, used by others: above this a run was disturbed.
QUIET_SHARE = 0.15


def fio(mode, block, depth, jobs=1):
    """fio's NBD engine; it takes whole seconds only."""
    writes = "write" in mode

    def run(server):
        answer = subprocess.run([
            "fio", "--name=job", "--ioengine=nbd", f"--uri={server.uri}", f"--rw={mode}", f"--bs={block}",
            f"--iodepth={depth}", f"--numjobs={jobs}", "--group_reporting", "--time_based", f"--runtime={SECONDS}",
            f"--size={WRITTEN_BYTES if writes else DISK_BYTES}", "--norandommap", "--randrepeat=0", "--end_fsync=1",
            "--output-format=json"], check=True, capture_output=True, text=True, timeout=600).stdout
        # What comes before the JSON are notes.
        figures = json.loads(answer[answer.index("{"):])["jobs"][0]["write" if writes else "read"]
        return figures["total_ios"], figures["runtime"] / 1000
    return run, block


def load(depth):
    def run(server):
        answer = subprocess.run([
            LOAD, "--socket", server.socket, "--export", server.export, "--depth", str(depth), "--seconds",
            str(SECONDS), "--seed", str(time.monotonic_ns())], check=True, capture_output=True, timeout=600)
        figures = json.loads(answer.stdout)
        return figures["requests"], figures["seconds"]
    return run, 4096


def nbdcopy(outward):
    """The whole disk out to nowhere, or `WRITTEN_BYTES` in, made durable."""
    def run(server):
        start = time.monotonic()
        if outward:
            subprocess.run(["nbdcopy", server.uri, "null:"], check=True, timeout=600)
        else:
            subprocess.run(["nbdcopy", "--flush", WORK / "nbd-source.raw", server.uri], check=True, timeout=600)
        return (DISK_BYTES if outward else WRITTEN_BYTES) // MIB, time.monotonic() - start
    return run, MIB


def cases():
    """Name → (what to run, bytes of a request, whether the page cache is passed by), for one format."""
    result = {}
    for depth in (1, 16, 32):
        for jobs in (1, 4):
            for mode in ("randread", "randwrite"):
                result[f"4k {mode} depth {depth} jobs {jobs}"] = (*fio(mode, 4096, depth, jobs), False)
    for depth in (16, 64):
        result[f"4k load generator depth {depth}"] = (*load(depth), False)
    for mode in ("read", "write"):
        result[f"1M {mode} depth 8"] = (*fio(mode, MIB, 8), False)
    result["nbdcopy out"] = (*nbdcopy(True), False)
    result["nbdcopy in"] = (*nbdcopy(False), False)
    for depth in (1, 4, 32, 128):
        for mode in ("randread", "randwrite"):
            result[f"4k {mode} depth {depth} direct"] = (*fio(mode, 4096, depth), True)
    return result


class Table:
    def __init__(self):
        self.samples = collections.defaultdict(lambda: collections.defaultdict(list))

    def add(self, case, contender, sample):
        self.samples[case][contender].append(sample)
        with open(WORK / "nbd-samples.jsonl", "a") as log:
            log.write(json.dumps({"case": case, "contender": contender, **sample}) + "\n")
        print(f"  {case:36} {contender:20} {sample['rate']:10.0f} {sample['cpu']:8.2f} µs", file=sys.stderr, flush=True)

    def quiet(self, case, contender):
        samples = sorted(self.samples[case][contender], key=lambda sample: sample["others"])
        undisturbed = [sample for sample in samples if sample["others"] <= QUIET_SHARE]
        return undisturbed or samples[:REPEATS]

    def show(self):
        names = [*nbd_servers.PEERS, *nbd_servers.DIRECT_PEERS, nbd_servers.OURS]
        print(f"| case | unit | {' | '.join(names)} | speed to the best peer | CPU µs, best peer | CPU µs, cobweb | "
              "CPU ratio |")
        print("|---" * (len(names) + 6) + "|")
        for case, contestants in self.samples.items():
            rate = {name: measure.median(self.quiet(case, name), "rate") for name in contestants}
            cpu = {name: measure.median(self.quiet(case, name), "cpu") for name in contestants}
            best = max((name for name in rate if name != nbd_servers.OURS), key=rate.get)
            shown = " | ".join(f"{rate[name]:.0f}" if name in rate else "" for name in names)
            ours = nbd_servers.OURS
            print(f"| {case} | {contestants[ours][0]['unit']} | {shown} | {rate[ours] / rate[best]:.2f} | "
                  f"{cpu[best]:.2f} | {cpu[ours]:.2f} | {cpu[ours] / cpu[best]:.2f} |")


def run_case(server, run, block):
    before, others = measure.cpu_seconds(server.pid), measure.Bystanders(server.pid)
    requests, seconds = run(server)
    share = others.share()
    cpu = (measure.cpu_seconds(server.pid) - before) * 1e6 / requests
    if block == 4096:
        return measure.Sample(rate=requests / seconds, unit="IOPS", cpu=cpu, others=share)
    return measure.Sample(rate=requests * block / seconds / 1e6, unit="MB/s", cpu=cpu, others=share)


def disks(folder):
    """A disk of 4 GiB without a hole and without two equal blocks, as raw and as qcow2, and what is copied in."""
    raw, qcow2, source = folder / "nbd.raw", folder / "nbd.qcow2", WORK / "nbd-source.raw"
    for path, size in ((raw, DISK_BYTES), (source, WRITTEN_BYTES)):
        if not path.exists() or path.stat().st_size != size:
            with open(path, "wb") as file:
                for _ in range(size // (64 * MIB)):
                    file.write(os.urandom(64 * MIB))
    if not qcow2.exists():
        part = folder / "nbd.part"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, part], check=True)
        part.rename(qcow2)
    for path in (raw, qcow2, source):
        measure.make_durable(path)
    measure.warm(source)
    return {"raw": raw, "qcow2": qcow2}


def main():
    images = WORK / "images"
    images.mkdir(parents=True, exist_ok=True)
    every, wanted = cases(), re.compile(os.environ.get("CASES", ""))
    table = Table()
    for repeat in range(REPEATS):
        for format, disk in disks(images).items():
            for direct in (False, True):
                chosen = {f"{format} {name}": (run, block) for name, (run, block, passes) in every.items()
                          if passes == direct and wanted.search(f"{format} {name}")}
                if not chosen:
                    continue
                for name, start in nbd_servers.all_for(format, direct).items():
                    measure.warm(disk)
                    with start(WORK, disk, format, direct) as server:
                        for case, (run, block) in chosen.items():
                            for _ in range(3):
                                sample = run_case(server, run, block)
                                table.add(case, name, sample)
                                if sample["others"] <= QUIET_SHARE:
                                    break
    table.show()


if __name__ == "__main__":
    main()
