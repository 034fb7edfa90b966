"""Disk images made, changed and judged by QEMU's tools.

Two versions of them judge: the installed one, and the newest that Debian has, which `make newest-tools` brings. The
fixture `each_version` chooses the one that a test makes and changes images with.
"""
import os
import pathlib
import subprocess

MIB = 1 << 20
TOOLS = ("qemu-img", "qemu-io", "qemu-nbd", "nbdinfo", "nbdcopy")
NEWEST = pathlib.Path(os.environ.get("NEWEST_TOOLS") or pathlib.Path(__file__).parents[2] / ".build-newest/bin")
HAS_NEWEST = "NEWEST_TOOLS" in os.environ or (NEWEST.parent / "ready").exists()
VERSIONS = ["installed", "newest"] if HAS_NEWEST else ["installed"]
version = "installed"


def program(name, of=None):
    """The path of a tool in a version, by default the test's."""
    return str(NEWEST / name) if (of or version) == "newest" and name in TOOLS else name


def run(name, *arguments, of=None, **kwargs):
    return subprocess.run([program(name, of), *map(str, arguments)], check=True, capture_output=True, text=True,
                          timeout=120, **kwargs)


def qemu_io(path, format, *commands):
    run("qemu-io", "-f", format, path, *[part for command in commands for part in ("-c", command)])


def make_image(path, format="qcow2", size="64M", options=(), backing=None, backing_format=None):
    arguments = ["qemu-img", "create", "-q", "-f", format]
    for option in options:
        arguments += ["-o", option]
    if backing:
        arguments += ["-b", str(backing), "-F", backing_format]
    run(*arguments, path, *([] if size is None else [size]))
    return pathlib.Path(path)


def fill(path, format, seed=1):
    """A pattern with data, zeroes, holes, and edges that no cluster size fits."""
    qemu_io(path, format,
            f"write -P {seed} 0 1M", f"write -P {seed + 1} 3145216 70144", f"write -z 8M 2M",
            f"write -P {seed + 2} 20M 5M", f"write -P {seed + 3} 67107840 1024")


def file_system(path, size="192M"):
    """A raw ext4 file system with some of this machine's documents on it."""
    run("mke2fs", "-q", "-t", "ext4", "-d", "/usr/share/perl", path, size, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
    return pathlib.Path(path)


def same(first, first_format, second, second_format):
    """True if a guest sees the same bytes in both, in every version of QEMU."""
    codes = set()
    for judge in VERSIONS:
        answer = subprocess.run([program("qemu-img", judge), "compare", "-q", "-f", first_format, "-F", second_format,
                                 str(first), str(second)], capture_output=True, text=True, timeout=120)
        assert answer.returncode in (0, 1), answer.stderr
        codes.add(answer.returncode)
    assert len(codes) == 1, f"the versions of QEMU see {first} and {second} differently"
    return codes == {0}


def check(path):
    """`qemu-img check` of every version finds neither an error nor a leak."""
    for judge in VERSIONS:
        run("qemu-img", "check", "-q", "-f", "qcow2", path, of=judge)


def stored_file(folder, backup):
    found, = pathlib.Path(folder).rglob(f"*-{backup['id']}.qcow2")
    return found


def work_files(folder):
    return [path for path in pathlib.Path(folder).rglob("*.part")]
