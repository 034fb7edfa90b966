"""Time, CPU and peak memory of commands and of processes that go on living."""
import contextlib
import os
import pathlib
import resource
import signal
import statistics
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")


class Sample(dict):
    """Seconds, CPU seconds, peak MiB, stored MiB of one run."""


def cpu_seconds(pid):
    """User and system time of a living process, all its threads."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Bystanders:
    """What everybody but us, our children and `pid` uses of the machine, from now on."""

    def __init__(self, pid):
        self.pid = pid
        self.start = self.read()

    def read(self):
        ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
        ours = cpu_seconds(self.pid)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
            usage = resource.getrusage(who)
            ours += usage.ru_utime + usage.ru_stime
        # All but idle and waiting for the disk; then all.
        return (sum(ticks) - ticks[3] - ticks[4]) / TICKS - ours, sum(ticks) / TICKS

    def share(self):
        """From 0 to 1, of all cores; what the kernel writes back for us counts as theirs."""
        busy, total = (now - then for now, then in zip(self.read(), self.start))
        return max(0, busy / total)


def memory_mib(pid, field):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(field)


def reset_peak(pid):
    """From now on VmHWM counts anew (proc(5), clear_refs)."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")


def make_durable(path):
    """Every contender's time ends when its target and the target's folder are on the disk."""
    for name in (path, os.path.dirname(path)):
        descriptor = os.open(name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def run(command, target):
    """One run of a command that writes `target`."""
    start = time.monotonic()
    with tempfile.NamedTemporaryFile("r") as report:
        subprocess.run(["/usr/bin/time", "-q", "-o", report.name, "-f", "%U %S %M", *map(str, command)], check=True,
                       stdout=subprocess.DEVNULL, timeout=600)
        user, system, kilobytes = report.read().split()
    make_durable(target)
    return Sample(seconds=time.monotonic() - start, cpu=float(user) + float(system), peak=int(kilobytes) / 1024)


@contextlib.contextmanager
def daemon(command, socket):
    """A server process that listens on `socket`, ended by its own id."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(socket)
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(500):
            if os.path.exists(socket):
                break
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}")
            time.sleep(0.02)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)


def warm(path):
    """Brings the file into the page cache, so that every contender reads from there."""
    with open(path, "rb") as file:
        while file.read(1 << 22):
            pass


def median(samples, key):
    values = [sample[key] for sample in samples if key in sample]
    return statistics.median(values) if values else None
