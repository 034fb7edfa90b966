"""Who serves a disk over NBD: the peers, and Cobweb through its REST API. Each is told the disk, its format and whether
to go past the page cache, and gives a `Server` while its `with` lasts."""
import contextlib
import dataclasses
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
def by_command(command, socket):
    with measure.daemon(command, socket) as process:
        yield Server(process.pid, f"nbd+unix:///?socket={socket}")


def qemu_nbd(folder, disk, format, direct):
    socket = folder / "qemu-nbd.sock"
    return by_command([
        "qemu-nbd", "-t", "-e", "16", "-x", "", "-f", format, "--aio=io_uring", "--discard=unmap",
        "--cache=" + ("none" if direct else "writeback"), "-k", socket, disk], socket)


def storage_daemon(folder, disk, format, direct):
    socket = folder / "storage-daemon.sock"
    cache = f"cache.direct={'on' if direct else 'off'}"
    return by_command([
        "qemu-storage-daemon",
        "--blockdev", f"driver=file,node-name=file,filename={disk},aio=io_uring,discard=unmap,{cache}",
        "--blockdev", f"driver={format},node-name=disk,file=file,discard=unmap,{cache}",
        "--nbd-server", f"addr.type=unix,addr.path={socket}",
        "--export", "type=nbd,id=export,node-name=disk,name=,writable=on"], socket)


def nbdkit(folder, disk, format, direct):
    """Raw only. It has no O_DIRECT: the nearest is to drop from the cache what was used."""
    socket = folder / "nbdkit.sock"
    return by_command(["nbdkit", "-f", "-U", socket, "file", disk, "cache=" + ("none" if direct else "default")], socket)


@contextlib.contextmanager
def cobweb(folder, disk, format, direct):
    with contenders.Cobweb(folder / "server", disk.parent) as server:
        server.register("disk", disk, format)
        server.job("POST", "/images/disk/attach", {"cache": "direct" if direct else "writeback"})
        export = server.call("POST", "/exports", {
            "name": "disk", "source": {"kind": "image", "image": "disk"}, "readOnly": False,
            "listen": {"unix": str(folder / "server/run/disk.sock")}})
        yield Server(server.process.pid, export["uri"])


OURS = "cobweb"
PEERS = {"qemu-nbd": qemu_nbd, "qemu-storage-daemon": storage_daemon, "nbdkit file": nbdkit}


def all_for(format):
    """Every contender that can serve the format, ours last."""
    return {name: start for name, start in PEERS.items() if format == "raw" or name != "nbdkit file"} | {OURS: cobweb}
