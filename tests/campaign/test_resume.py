#!/usr/bin/env python3
"""tandem diff insn --out: killed, out of disk, started twice; what is there in the end is what one run makes.

Usage: test_resume.py TANDEM
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from campaign_files import Check

c = Check(sys.argv[1])
CAMPAIGN = ["diff", "insn", "--cases", "20000", "--seed", "5", "--rows", "sse2,sse,avx", "--jobs", "1"]


def insn(out, **how):
    return subprocess.run([c.tandem, *CAMPAIGN, "--out", str(out)], capture_output=True, text=True, timeout=120, **how)


def chunks(path):
    """What each whole chunk counts."""
    result = {}
    for line in path.read_text().splitlines(keepends=True)[1:]:
        if line.endswith("\n"):
            k = json.loads(line)
            result[k["chunk"]] = [k["forms"], k["cases"], k["skipped"], k["differ"]]
    return result


def whole(name, path):
    """Goes on to the end: the file must then be what one run makes."""
    r = insn(path)
    c.that(f"{name}: goes on", r.returncode == status, f"{r.returncode}: {r.stderr}")
    c.that(f"{name}: the same", chunks(path) == want, str(sorted(chunks(path))))
    c.that(f"{name}: the same last line", r.stdout.splitlines()[-1] == last, r.stdout[-200:])
    m = subprocess.run([c.tandem, "diff", "merge", path], capture_output=True, text=True)
    c.that(f"{name}: complete", "the campaign is complete" in m.stdout and m.stdout.splitlines()[-1] == last, m.stdout[-300:])


with tempfile.TemporaryDirectory() as d:
    tmp = pathlib.Path(d)
    r = insn(tmp / "one.jsonl")
    status, last = r.returncode, r.stdout.splitlines()[-1]
    want = chunks(tmp / "one.jsonl")
    c.that("one run", status in (0, 1) and len(want) >= 2, f"{status}: {r.stdout[-300:]}{r.stderr}")

    # Killed after its first chunk, with a torn line at the end
    f = tmp / "killed.jsonl"
    p = subprocess.Popen([c.tandem, *CAMPAIGN, "--out", f], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while p.poll() is None and time.monotonic() < end and not (f.exists() and f.read_bytes().count(b"\n") > 1):
        time.sleep(0.002)
    if p.poll() is None:
        os.kill(p.pid, signal.SIGSTOP)
        r = insn(f)
        c.that("twice at once: refused", r.returncode == 2 and f"is being written by process {p.pid}" in r.stderr, r.stderr)
    p.kill()
    p.wait()
    with open(f, "a") as out:
        out.write('{"chunk":1,"seconds":0.1')
    whole("killed", f)

    # No room: on a file system of its own the header and one chunk fit, the second does not
    f = tmp / "full.jsonl"
    sizes = [len(line) for line in (tmp / "one.jsonl").read_bytes().splitlines(keepends=True)]
    room = -(-(sizes[0] + max(sizes[1:])) // 4096) * 4096
    c.that("full: sizes are fit for it", room < sizes[0] + 2 * min(sizes[1:]), str(sizes))
    (tmp / "small").mkdir()
    script = f'mount -t tmpfs -o size={room} tmpfs "$0" || exit 77; "$@" --out "$0/c.jsonl"; s=$?; cp "$0/c.jsonl" "{f}"; exit $s'
    namespace = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    r = subprocess.run([*namespace, "sh", "-c", script, tmp / "small", c.tandem, *CAMPAIGN], capture_output=True, text=True)
    if not f.exists():
        print("skipped: no small file system can be mounted here:", r.stderr.strip())
        sys.exit(1 if c.wrong else 0)
    c.that("full: said", r.returncode == 2 and "No space left on device; the 1 chunks in it stay good" in r.stderr,
           f"{r.returncode}: {r.stderr}")
    c.that("full: partial counts are shown", "cases=" in r.stdout, r.stdout)
    m = subprocess.run([c.tandem, "diff", "merge", f], capture_output=True, text=True)
    c.that("full: can be merged", m.returncode in (1, 2) and "not complete" in m.stdout, m.stdout[-300:] + m.stderr)
    whole("full", f)

sys.exit(1 if c.wrong else 0)
