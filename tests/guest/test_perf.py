#!/usr/bin/env python3
"""perf itself names guest code, by the map and by the dump: a kernel without root file system, profiled while it boots.

usage: test_perf.py TANDEM GUESTS
"""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BINARY, GUESTS = os.path.abspath(sys.argv[1]), sys.argv[2]
GUEST_CODE = re.compile(r"guest-0xffffffff[0-9a-f]{8}")
COMMAND = [BINARY, "-accel", "jit", "-perfmap", "-jitdump", "-no-reboot", "-nodefaults", "-display", "none",
           "-kernel", f"{GUESTS}/cloud-vmlinuz", "-append", "panic=-1 nokaslr"]


def perf(*words, folder):
    return subprocess.run(["perf", *words], cwd=folder, capture_output=True, text=True, timeout=100)


def judge(tmp):
    recorded = perf("record", "-q", "-k", "mono", "-e", "cpu-clock", "-o", "by.map", *COMMAND, folder=tmp)
    if recorded.returncode:
        print(f"skipped: perf record does not work here: status {recorded.returncode} {recorded.stderr.strip()[-300:]}")
        return 77
    report = perf("report", "-i", "by.map", "--stdio", folder=tmp)
    by_map = GUEST_CODE.findall(report.stdout)
    print(f"perf report names {len(by_map)} places of guest code by the map")
    dump = perf("inject", "--jit", "-i", "by.map", "-o", "by.dump", folder=tmp)
    if dump.returncode:  # a perf that was built without libelf
        print(f"perf inject --jit does not work here: {dump.stderr.strip()[-300:]}")
    by_dump = GUEST_CODE.findall(perf("report", "-i", "by.dump", "--stdio", folder=tmp).stdout)
    print(f"and {len(by_dump)} by the dump")
    assert by_map, report.stdout[:3000]
    assert by_dump or dump.returncode
    return 0


def main():
    if not shutil.which("perf"):
        print("skipped: perf is not installed")
        return 77
    with tempfile.TemporaryDirectory() as tmp:
        try:
            return judge(tmp)
        finally:
            for dump in pathlib.Path(tmp).glob("jit-*.dump"):
                pathlib.Path(f"/tmp/perf-{dump.stem[4:]}.map").unlink(missing_ok=True)


sys.exit(main())
