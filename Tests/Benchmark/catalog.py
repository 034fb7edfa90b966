#!/usr/bin/env python3
"""The API over a large catalog: how soon it is ready, and how long lists and changes take.

The program makes its schema; the rows are generated straight into SQLite, and no backup has a file. BACKUPS (default
1,000,000), IMAGES (10,000) and JOBS (200,000) set the size, REPEATS (default 31) the requests behind each median.
"""
import http.client
import json
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

import measure

ROOT = pathlib.Path(__file__).resolve().parents[2]
BACKUPS = int(os.environ.get("BACKUPS", 1_000_000))
IMAGES = int(os.environ.get("IMAGES", 10_000))
JOBS = int(os.environ.get("JOBS", 200_000))
EVENTS = 10_000
REPEATS = int(os.environ.get("REPEATS", 31))
BACKUPS_PER_CHAIN = 10
LONGEST_START = 120


def ulid(kind, number):
    """SQL for the id with that number: ids sort as their numbers do."""
    return f"'01J{kind}' || substr('0000000000000000000000' || ({number}), -22)"


def numbers(count):
    return f"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {count})"


class Server:
    """The program on a state folder; ready once /readyz says so."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        start = time.monotonic()
        self.log = open(self.folder / "server.log", "w+")
        self.process = subprocess.Popen(
            [os.environ["COBWEB"], "serve", "--config", self.folder / "cobweb.yaml"], stdout=self.log, stderr=self.log)
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() - start > LONGEST_START:
                self.process.kill()
                raise RuntimeError((self.folder / "server.log").read_text()[-4000:])
            time.sleep(0.005)
        self.seconds_to_ready = time.monotonic() - start
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)
        self.log.close()

    def is_ready(self):
        found = [word for word in (self.folder / "server.log").read_text().split() if word.startswith("http://127")]
        if not found:
            return False
        self.address = found[0].removeprefix("http://").rstrip("/.,")
        self.connection = http.client.HTTPConnection(self.address, timeout=90)
        self.connection.request("GET", "/readyz")
        answer = self.connection.getresponse()
        answer.read()
        return answer.status == 200

    def call(self, method, path, body=None):
        text = json.dumps(body) if body is not None else None
        self.connection.request(method, "/api/v1" + path, text, {"Content-Type": "application/json"} if text else {})
        answer = self.connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[:500]}")
        return json.loads(content)


def rows(repository, images):
    chains = max(1, BACKUPS // BACKUPS_PER_CHAIN)
    chain = f"i / {BACKUPS_PER_CHAIN}"
    image = f"({chain}) % {IMAGES}"
    return [
        f"""{numbers(IMAGES)} INSERT INTO images SELECT {ulid("A", "i")}, 'vm' || i, 'file', '{images}/vm' || i, 'raw',
            1048576, 'detached', NULL, NULL, NULL, NULL, NULL, '{{"tier":"gold"}}', 'api', 1767225600000 + i, 1 FROM n""",
        f"""{numbers(chains)} INSERT INTO chains SELECT {ulid("C", "i")}, {ulid("A", f"i % {IMAGES}")},
            'vm' || (i % {IMAGES}), '{repository}', 1767225600000 + i FROM n""",
        f"""{numbers(BACKUPS)} INSERT INTO backups SELECT {ulid("B", "i")}, {ulid("A", image)}, '{repository}',
            {ulid("C", chain)}, i % {BACKUPS_PER_CHAIN}, {ulid("G", "i")}, 'full', 'full', 'a full backup was asked for',
            iif(i % {BACKUPS_PER_CHAIN}, {ulid("B", "i - 1")}, NULL), iif(i % 100, 'complete', 'failed'), 'zstd',
            'offline', 0, 1767225600000 + i, 1767225600000 + i, 1767225600000 + i, 1048576, 65536, 32768,
            iif(i % 100, '5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a', NULL), NULL, NULL,
            {ulid("J", f"i % {JOBS}")}, iif(i % 100, NULL, 'the disk was full'), NULL, NULL, 2, NULL, NULL, NULL FROM n""",
        f"""{numbers(JOBS)} INSERT INTO jobs SELECT {ulid("J", "i")}, 'verify',
            '{{"verify":{{"backup":"' || {ulid("B", "i")} || '","level":"checksum"}}}}',
            iif(i % 100, 'succeeded', 'failed'), 1048576, 1048576, 0, NULL, 1767225600000 + i, 1767225600000 + i,
            1767225600000 + i, NULL, NULL, NULL, '{{"sound":true}}', NULL, '{{}}', 3 FROM n""",
        f"""{numbers(EVENTS)} INSERT INTO events (at, kind, subject, job, payload) SELECT 1767225600000 + i,
            'job.changed', {ulid("J", "i")}, {ulid("J", "i")}, '{{"state":"succeeded"}}' FROM n""",
    ]


def fill(folder):
    images = folder / "images"
    for number in range(IMAGES):
        with open(images / f"vm{number}", "wb") as file:
            file.truncate(1 << 20)
    with Server(folder) as server:
        repository = server.call("POST", "/repositories", {
            "name": "local", "kind": "directory", "path": str(folder / "backup" / "local")})["id"]
    database = sqlite3.connect(folder / "state" / "catalog.sqlite")
    with database:
        for statement in rows(repository, images):
            database.execute(statement)
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()


def milliseconds(server, request):
    """Of one request: the median, the slowest, and the program's CPU."""
    request()
    cpu = measure.cpu_seconds(server.process.pid)
    samples = []
    for _ in range(REPEATS):
        start = time.monotonic()
        request()
        samples.append((time.monotonic() - start) * 1000)
    cpu = measure.cpu_seconds(server.process.pid) - cpu
    return statistics.median(samples), max(samples), cpu * 1000 / REPEATS


def run(folder):
    with Server(folder) as server:
        cpu = measure.cpu_seconds(server.process.pid)
        print("| what | median ms | slowest ms | CPU ms | wanted |")
        print("|---|---|---|---|---|")
        print(f"| start until /readyz | {server.seconds_to_ready * 1000:.0f} | | {cpu * 1000:.0f} | < 1000 |")
        # The first look at each image goes on beside the first requests.
        while server.call("GET", "/server")["probing"]:
            time.sleep(0.2)
        names = iter(range(1, IMAGES))
        middle = server.call("GET", "/backups?limit=1000")["nextCursor"]
        revisions = iter(range(10 ** 6))
        cases = [
            ("GET /backups?image=…&state=complete", "< 10",
             lambda: server.call("GET", f"/backups?image=vm{next(names)}&state=complete")),
            ("GET /backups?image=…&state=failed", "< 10",
             lambda: server.call("GET", f"/backups?image=vm{next(names)}&state=failed")),
            ("GET /backups?repository=…&state=failed", "",
             lambda: server.call("GET", "/backups?repository=local&state=failed")),
            ("GET /backups?limit=1000", "< 30", lambda: server.call("GET", "/backups?limit=1000")),
            ("GET /backups?limit=1000&cursor=…", "< 30", lambda: server.call("GET", f"/backups?limit=1000&cursor={middle}")),
            ("GET /jobs?state=failed&kind=verify", "", lambda: server.call("GET", "/jobs?state=failed&kind=verify")),
            ("GET /chains?image=…", "", lambda: server.call("GET", f"/chains?image=vm{next(names)}")),
            ("PATCH /images/{id}", "as before",
             lambda: server.call("PATCH", f"/images/vm{next(names)}", {"labels": {"n": str(next(revisions))}})),
            ("POST /backups?dryRun=true", "as before",
             lambda: server.call("POST", "/backups?dryRun=true", {"images": ["vm1"], "repository": "local"})),
        ]
        for name, wanted, request in cases:
            median, slowest, cpu = milliseconds(server, request)
            print(f"| {name} | {median:.1f} | {slowest:.1f} | {cpu:.1f} | {wanted} |", flush=True)


def main():
    work = ROOT / "local" / "bench"
    work.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="catalog-", dir=work))
    try:
        for name in ("state", "run", "backup", "images"):
            (folder / name).mkdir()
        (folder / "cobweb.yaml").write_text(
            "listen: 127.0.0.1:0\nstateFolder: state\nsocketFolder: run\nrepositoryFolders: [backup]\n"
            "imageFolders: [images]\n")
        print(f"{BACKUPS} backups, {IMAGES} images, {JOBS} jobs", file=sys.stderr)
        fill(folder)
        run(folder)
    finally:
        shutil.rmtree(folder)


main()
