"""Who serves a disk over NBD: the peers, and Cobweb through its REST API. Each is told the disk, its format and whether
to go past the page cache, and gives a `Server` while its `with` lasts."""
import contextlib
import dataclasses
import functools
import shutil
import socket
import time
import urllib.parse

import contenders
import measure


@dataclasses.dataclass
class Server:
    pid: int
    uri: str

    @property
    def socket(self):
        return urllib.parse.parse_qs(urllib.parse.urlsplit(self.uri).query)["socket"][0]

    @property
    def export(self):
        return urllib.parse.urlsplit(self.uri).path.removeprefix("/")


@contextlib.contextmanager
def by_command(command, path):
    with measure.daemon(command, path) as process:
        wait_until_answered(path)
        yield Server(process.pid, f"nbd+unix:///?socket={path}")


def wait_until_answered(path):
    """A socket's file is there before somebody listens."""
    for _ in range(500):
        with contextlib.suppress(ConnectionRefusedError), socket.socket(socket.AF_UNIX) as probe:
            return probe.connect(str(path))
        time.sleep(0.02)
    raise RuntimeError(f"nobody listens at {path}")


def qemu_nbd(folder, disk, format, direct):
    path = folder / "qemu-nbd.sock"
    return by_command([
        "qemu-nbd", "-t", "-e", "16", "-x", "", "-f", format, "--aio=io_uring", "--discard=unmap",
        "--cache=" + ("none" if direct else "writeback"), "-k", path, disk], path)


def storage_daemon(folder, disk, format, direct, aio="io_uring"):
    path = folder / "storage-daemon.sock"
    cache = f"cache.direct={'on' if direct else 'off'}"
    return by_command([
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=file,filename={disk},aio={aio},discard=unmap,{cache}",
        "--blockdev", f"driver={format},node-name=disk,file=file,discard=unmap,{cache}",
        "--nbd-server", f"addr.type=unix,addr.path={path}",
        "--export", "type=nbd,id=export,node-name=disk,name=,writable=on"], path)


def nbdkit(folder, disk, format, direct):
    path = folder / "nbdkit.sock"
    return by_command(["nbdkit", "-f", "-U", path, "file", disk], path)


@contextlib.contextmanager
def cobweb(folder, disk, format, direct):
    shutil.rmtree(folder / "nbd-server", ignore_errors=True)
    with contenders.Cobweb(folder / "nbd-server", disk.parent) as server:
        server.register("disk", disk, format)
        server.job("POST", "/images/disk/attach", {"cache": "direct" if direct else "writeback"})
        export = server.call("POST", "/exports", {
            "name": "disk", "source": {"kind": "image", "image": "disk"}, "readOnly": False,
            "listen": {"unix": str(folder / "nbd-server/run/disk.sock")}})
        yield Server(server.process.pid, export["uri"])


OURS = "cobweb"
PEERS = {"qemu-nbd": qemu_nbd, "qemu-storage-daemon": storage_daemon, "nbdkit file": nbdkit}
# Linux AIO works past the page cache only.
DIRECT_PEERS = {"qemu-storage-daemon native": functools.partial(storage_daemon, aio="native")}


def all_for(format, direct):
    """Every contender that can serve the format so, ours last."""
    peers = PEERS | (DIRECT_PEERS if direct else {})
    if direct or format != "raw":
        # It knows raw disks only, and has no O_DIRECT: it would read the cache.
        del peers["nbdkit file"]
    return peers | {OURS: cobweb}
