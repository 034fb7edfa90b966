#!/usr/bin/env python3
"""Compares what each target imports with what it declares.

The compiler's own check accepts transitive imports; the arrows between the rooms are stricter than that.
Also holds a few rules that no compiler knows: who closes descriptors, and how long a file may grow.
"""
import json
import pathlib
import re
import subprocess
import sys

import precedence

ROOT = pathlib.Path(__file__).resolve().parents[2]
# What the toolchain brings; everything else must be declared.
SYSTEM = {"Swift", "Foundation", "FoundationEssentials", "Glibc", "Synchronization", "Dispatch", "Testing",
          "PackagePlugin", "PackageDescription", "RegexBuilder"}
WITHOUT_FOUNDATION = {"Locks", "Bytes", "Descriptors", "Buffers", "BlockCore", "BlockFilters", "EventLoops", "RawFile", "Qcow2",
                      "Schedules"}
MAXIMUM_LINES = 400
IMPORT = re.compile(r"^\s*(?:@[\w()]+\s+)*(?:package\s+|public\s+|internal\s+|private\s+|fileprivate\s+)?import\s+"
                    r"(?:(?:struct|class|enum|protocol|func|var|let|typealias)\s+)?(\w+)", re.M)

# Only the owner of a descriptor closes it; tests have their own.
CLOSING_ROOM = "Descriptors"
CLOSE = re.compile(r"\bGlibc\.close\(|(?<![.\w])close\(\w*(?:descriptor|file|folder|socket|fd|number|probe)\w*\)", re.I)
TEXT = re.compile(r'""".*?"""', re.S)


def declared(dependency):
    for kind in ("byName", "target", "product"):
        if kind in dependency:
            return dependency[kind][0]
    raise ValueError(f"unknown kind of dependency: {dependency}")


def folder(target):
    if target.get("path"):
        return ROOT / target["path"]
    return ROOT / ("Tests" if target["type"] == "test" else "Sources") / target["name"]


def faults_of(target):
    allowed = {declared(d) for d in target["dependencies"]} | SYSTEM | {target["name"]}
    imported = set()
    for file in sorted(folder(target).rglob("*.swift")):
        text = file.read_text()
        place = file.relative_to(ROOT)
        lines = text.count("\n")
        if lines > MAXIMUM_LINES:
            yield f"{place}: {lines} lines, at most {MAXIMUM_LINES}"
        if place.parts[0] == "Sources" and target["name"] != CLOSING_ROOM and CLOSE.search(text):
            yield f"{place}: closes a descriptor that isn't held by a FileDescriptor"
        for number in precedence.faults_of(text):
            yield f"{place}:{number}: a shift and arithmetic in one expression, without brackets"
        for name in IMPORT.findall(TEXT.sub("", text)):
            imported.add(name)
            if name not in allowed:
                yield f"{place}: imports {name}, which {target['name']} doesn't declare"
            if target["name"] in WITHOUT_FOUNDATION and name.startswith("Foundation"):
                yield f"{place}: {target['name']} uses {name}"
    if target["type"] != "test":
        for name in sorted(allowed - imported - SYSTEM - {target["name"]}):
            yield f"{target['name']} declares {name} but doesn't import it"


def main():
    dump = subprocess.run(["swift", "package", "dump-package"], cwd=ROOT, check=True, capture_output=True)
    faults = []
    for target in json.loads(dump.stdout)["targets"]:
        if target["type"] in ("regular", "executable", "test"):
            faults += faults_of(target)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"imports: {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
