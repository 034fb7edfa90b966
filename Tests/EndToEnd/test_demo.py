"""The story of `make demo`, and what a reader copies from it."""
import json
import os
import subprocess

from conftest import ROOT


def test_every_printed_call_can_be_pasted():
    demo = subprocess.run([ROOT / "examples/demo"], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "COBWEB": os.path.abspath(os.environ["COBWEB"])})
    assert demo.returncode == 0, demo.stderr
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
