"""The inputs: a 4 GiB ext4 disk with about 2 GiB of this system's own files, as raw and as qcow2."""
import os
import pathlib
import shutil
import subprocess

CONTENT_MIB = 2000


def size_mib(path):
    return int(subprocess.run(["du", "-sm", path], check=True, capture_output=True, text=True).stdout.split()[0])


def fill_tree(tree):
    for folder in ("bin", "libexec", "include", "share"):
        if os.path.isdir(f"/usr/{folder}"):
            subprocess.run(["cp", "-a", f"/usr/{folder}", tree], check=True)
    (tree / "lib").mkdir()
    left = CONTENT_MIB - size_mib(tree)
    for folder in sorted(pathlib.Path("/usr/lib").iterdir()):
        if folder.is_symlink() or left <= 0:
            continue
        needed = size_mib(folder)
        if needed <= left:
            subprocess.run(["cp", "-a", folder, tree / "lib"], check=True)
            left -= needed


def real_disk(folder):
    """Paths of the disk as (raw, qcow2); made once."""
    raw, qcow2 = folder / "real.raw", folder / "real.qcow2"
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    if not raw.exists():
        tree = folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir(parents=True)
        fill_tree(tree)
        part = folder / "real.part"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", tree, part, "4G"], check=True, env=environment)
        part.rename(raw)
        shutil.rmtree(tree)
    if not qcow2.exists():
        part = folder / "real.part"
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, part], check=True)
        part.rename(qcow2)
    return raw, qcow2
