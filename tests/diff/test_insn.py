#!/usr/bin/env python3
"""`tandem diff insn`: a short campaign, continued after an interruption, and what it refuses."""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

tandem = sys.argv[1]
LAST = re.compile(r"cases=(\d+) rows=(\d+)/(\d+) differences=(\d+)$")


def run(*args):
    return subprocess.run([tandem, "diff", "insn", *args], capture_output=True, text=True)


def last_line(r):
    m = LAST.match(r.stdout.splitlines()[-1])
    assert m, r.stdout
    return [int(x) for x in m.groups()]


def refused(words, *args):
    r = run(*args)
    assert r.returncode == 2, (args, r.returncode, r.stdout, r.stderr)
    for w in words:
        assert w in r.stderr, (args, w, r.stderr)


def campaign(folder):
    out = os.path.join(folder, "a.jsonl")
    args = ["--rows", "popcnt,add,daa", "--cases", "30000", "--seed", "4", "--out", out]
    r = run(*args)
    assert r.returncode == 0, r.stdout + r.stderr
    cases, rows, of, differences = last_line(r)
    assert rows == of > 5 and differences == 0 and cases > 25000, r.stdout
    again = run(*args)  # everything is there
    assert again.returncode == 0 and last_line(again) == last_line(r), again.stdout
    refused(["a.jsonl", "another campaign", "seed"], *args[:-3], "5", "--out", out)


def interrupted(folder):
    out = os.path.join(folder, "b.jsonl")
    args = ["--rows", "add", "--cases", "150000", "--out", out]
    p = subprocess.Popen([tandem, "diff", "insn", *args], stdout=subprocess.PIPE, text=True)
    while not os.path.exists(out) or open(out).read().count("\n") < 2:
        assert p.poll() is None, "ended early"
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    text = p.communicate()[0]
    part = LAST.match(text.splitlines()[-1])
    assert p.returncode == 0 and "interrupted" in text and 0 < int(part[1]) < 150000, text
    whole = run(*args)
    assert whole.returncode == 0 and last_line(whole)[0] > int(part[1]), whole.stdout


def everything():
    r = run("--cases", "60000", "--seed", "1")
    cases, rows, of, differences = last_line(r)
    assert r.returncode == 0 and differences == 0, r.stdout
    assert rows == of, r.stdout
    for line in r.stdout.splitlines()[:-1]:
        assert line.startswith(("rows not judged (", "skipped=")), line


def undefined():
    """Both engines run the host's own instruction: they agree in what the manual leaves undefined, too."""
    if run("--engines", "jit,interp", "--rows", "nop", "--cases", "10").returncode == 2:
        print("skipped: no translator here")
        return
    r = run("--engines", "jit,interp", "--undefined", "--modes", "user", "--rows",
            "tzcnt,lzcnt,andn,bextr,blsr,blsmsk,blsi,bzhi,bsf,bsr,imul,mul,div,idiv,shl,shld,bt,daa,aam", "--cases", "15000")
    assert r.returncode == 0 and last_line(r)[3] == 0, r.stdout
    r = run("--engines", "jit,interp", "--undefined", "--modes", "user", "--cases", "30000")
    assert r.returncode == 0 and last_line(r)[3] == 0, r.stdout


def saved(folder):
    """A KVM without hardware behind it executes LZCNT as BSR: what is saved says so again. Others agree."""
    r = run("--engines", "interp,kvm", "--modes", "long0", "--rows", "lzcnt", "--cases", "400", "--save", folder)
    if r.returncode == 2:
        print("skipped: --save:", r.stderr.strip())
        return
    files = [os.path.join(folder, f) for f in sorted(os.listdir(folder))]
    assert (r.returncode == 1) == bool(files), (r.returncode, files, r.stdout)
    for f in files:
        again = subprocess.run([tandem, "diff", "replay", "--engines", "interp,kvm", f], capture_output=True, text=True)
        assert again.returncode == 1 and "lzcnt" in again.stdout, again.stdout + again.stderr
    if files:
        r = run("--engines", "interp,kvm", "--modes", "long0", "--rows", "lzcnt", "--cases", "400", "--save", "/dev/null/no")
        assert r.returncode == 1 and "is not saved" in r.stderr, r.stderr


refused(["nosuch"], "--rows", "nosuch")
refused(["nosuch", "interp", "silicon"], "--engines", "interp,nosuch")
refused(["two"], "--engines", "interp")
refused(["twice"], "--engines", "interp,interp")
refused(["3/2"], "--shard", "3/2")
refused(["cases"], "--cases", "0")
refused(["system"], "--modes", "nosuch")
refused(["--nosuch"], "--nosuch")
refused(["cpuid", "not the guest's"], "--rows", "cpuid")
with tempfile.TemporaryDirectory() as d:
    campaign(d)
    interrupted(d)
with tempfile.TemporaryDirectory() as d:
    saved(d)
everything()
undefined()
print("ok")
