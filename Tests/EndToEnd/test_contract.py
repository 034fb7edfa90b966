"""openapi.yaml and the server say the same; schemathesis tries to find where they don't."""
import json
import os
import pathlib
import subprocess
import sys

import requests

from conftest import ROOT
from contract import closed, load

EFFORT = int(os.environ.get("TEST_EFFORT", "1"))


def test_served_contract_is_the_one_in_the_tree(server):
    answer = requests.get(server.url + "/openapi.yaml", timeout=10)
    assert answer.text == (ROOT / "openapi.yaml").read_text()


def test_every_problem_has_a_page(server):
    for code in load()["components"]["schemas"]["ProblemCode"]["enum"]:
        assert requests.get(f"{server.url}/docs/problems/{code}", timeout=10).status_code == 200, code


def test_schemathesis_finds_no_disagreement(server, workspace):
    contract = workspace / "openapi.json"
    contract.write_text(json.dumps(closed(load())))
    command = [pathlib.Path(sys.executable).parent / "schemathesis", "run", contract,
               "--url", server.url, "--max-examples", str(15 * EFFORT), "--seed", "1", "--no-color",
               "--exclude-path-regex", "events$|^/openapi.yaml$", "--request-timeout", "20",
               "--checks", "not_a_server_error,status_code_conformance,content_type_conformance,"
                           "response_headers_conformance,response_schema_conformance"]
    # Left out are the endless streams, and the contract itself: schemathesis reads YAML as a document, not as text.
    story = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600,
                           cwd=workspace)
    assert story.returncode == 0, story.stdout[-8000:] + story.stderr[-2000:]
    assert server.process.poll() is None
