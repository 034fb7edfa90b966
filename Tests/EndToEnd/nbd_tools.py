"""NBD clients and servers that nobody here wrote."""
import json
import socket
import subprocess
import time

from images import program, run

START_SECONDS = 20


def info(uri, *options):
    """What nbdinfo says of the one export."""
    return json.loads(run("nbdinfo", "--json", *options, uri).stdout)["exports"][0]


def io(uri, *commands, read_only=False):
    """Runs qemu-io commands on an export; fails if any of them does."""
    arguments = ["-r"] * read_only + [part for command in commands for part in ("-c", command)]
    answer = run("qemu-io", "-f", "raw", *arguments, uri)
    assert "failed" not in answer.stdout + answer.stderr, answer.stdout + answer.stderr


def refuses(uri, *commands):
    """True if qemu-io can't do it."""
    arguments = [part for command in commands for part in ("-c", command)]
    answer = subprocess.run([program("qemu-io"), "-f", "raw", uri, *arguments],
                            capture_output=True, text=True, timeout=60)
    return answer.returncode != 0


def joined(ranges):
    """In order, neighbours as one."""
    result = []
    for offset, length in sorted(ranges):
        if result and result[-1][0] + result[-1][1] == offset:
            result[-1] = (result[-1][0], result[-1][1] + length)
        else:
            result.append((offset, length))
    return result


def dirty_of(uri, context):
    answer = run("nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{context}", uri)
    return joined((item["offset"], item["length"]) for item in json.loads(answer.stdout) if item["type"] & 1)


def dirty_of_map(socket, export, context):
    """`qemu-img map` shows what is dirty as what holds no data."""
    options = (f"driver=nbd,server.type=unix,server.path={socket},export={export},"
               f"x-dirty-bitmap=qemu:dirty-bitmap:{context}")
    answer = run("qemu-img", "map", "--output=json", "--image-opts", options)
    return joined((item["start"], item["length"]) for item in json.loads(answer.stdout) if not item["data"])


def wait_for_socket(path, process):
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the server ended with {process.returncode}"
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens at {path} after {START_SECONDS} s")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class QemuNBD:
    """qemu-nbd serving one image on a unix socket, ended by its own process id."""

    def __init__(self, image, format, path, *options):
        self.path = path
        self.uri = f"nbd+unix:///?socket={path}"
        self.process = subprocess.Popen(
            [program("qemu-nbd"), "-f", format, "-k", str(path), "--persistent", "--shared=8", *options, str(image)],
            stdin=subprocess.DEVNULL)
        wait_for_socket(path, self.process)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=30)


class Guest:
    """A client that keeps its connection, as a virtual machine does: qemu-io, a command at a time."""

    def __init__(self, socket_path, export, reconnect_delay=60):
        options = (f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={socket_path},"
                   f"file.export={export},file.reconnect-delay={reconnect_delay}")
        # It waits for input on the descriptor: a line that is buffered already would lie there unseen.
        self.process = subprocess.Popen(
            ["stdbuf", "-i0", "-oL", program("qemu-io"), "--image-opts", options], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)

    def send(self, *commands):
        """Gives it commands without waiting for what comes of them."""
        for command in commands:
            self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def quit(self):
        """All that it said, once it has done everything."""
        said, _ = self.process.communicate("quit\n", timeout=90)
        assert self.process.returncode == 0, said
        return said
