"""The story of `make demo`, and what a reader copies from it."""
import json
import os
import subprocess

import pytest

from conftest import ROOT


@pytest.fixture(scope="module")
def demo():
    demo = subprocess.run([ROOT / "examples/demo"], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "COBWEB": os.path.abspath(os.environ["COBWEB"])})
    assert demo.returncode == 0, demo.stderr
    return demo


def test_each_point_of_the_story_is_restored_and_compared(demo):
    backups = [json.loads(line) for line in demo.stdout.splitlines() if '"dirtyBytes"' in line]
    assert [backup["kind"] for backup in backups] == ["full", "incremental", "incremental", "differential"]
    assert [backup["fallbackReason"] for backup in backups] == [None] * 4, "also after the crash"
    told = demo.stdout.index("the server is killed")
    assert demo.stdout.index(backups[1]["id"]) < told < demo.stdout.index(backups[2]["id"])
    for backup in backups:
        assert f"/backups/{backup['id']}/restore" in demo.stderr
    # By us and by qemu-img alone.
    assert demo.stdout.count("Images are identical.") == 2 * len(backups)


def test_every_printed_call_can_be_pasted(demo):
    calls = [line[2:] for line in demo.stderr.splitlines() if line.startswith("$ curl")]
    assert len(calls) >= 6
    for call in calls:
        # A shell with a curl of its own shows the words that the real one would get.
        words = subprocess.run(
            ["bash", "-c", f"A=http://host/api/v1; curl() {{ printf '%s\\0' \"$@\"; }}; {call}"],
            capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
        assert words[0] == "-X" and words[2].startswith("http://host/api/v1/"), call
        if "-d" in words:
            assert "Content-Type: application/json" in words, call
            json.loads(words[words.index("-d") + 1])
