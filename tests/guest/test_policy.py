#!/usr/bin/env python3
"""Triggers: a small guest with names is moved at, in, every and when, and comes to the same result;
a Debian kernel boots while policies move it; wrong policies are refused by name.

usage: test_policy.py TANDEM GUESTS small|explain|record|stopped|kvm|kernel|bad
"""
import json
import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from hmp import Monitor
from tandem import Tandem

BINARY, GUESTS, CASE = sys.argv[1:4]
HERE = os.path.dirname(os.path.abspath(__file__))
ROUNDS = 100


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def build(tmp):
    cc = shutil.which("cc") or skip("no C compiler to build the guest with")
    subprocess.run([cc, "-nostdlib", "-static", "-no-pie", "-Wl,-Ttext=0x100000,--build-id=none,-z,noexecstack",
                    "-o", f"{tmp}/guest", f"{HERE}/policy_guest.S"], check=True)
    return f"{tmp}/guest"


def expected(user):
    """What the guest computes."""
    mask, total = 2**64 - 1, 0
    for n in range(ROUNDS, 0, -1):
        x = n
        for _ in range(20):
            x = ((x * 0x5851F42D + 1013) & mask) ^ 0x55
        total = (total + x) & mask
        total = (total << 7 | total >> 57) & mask
        if user:
            total = (total + 465) & mask  # 30 + 29 + ... + 1
    return f"{total:016x}"


def run(tmp, guest, accel, policies, user=False, commands=()):
    """The guest to its end; returns what `info switch` says then."""
    args = ["-accel", accel, "-kernel", guest, "-append", f"{'u' if user else ''}{ROUNDS}", "-display", "none",
            "-serial", "stdio", "-monitor", f"unix:{tmp}/mon,server,nowait", "-S"]
    for p in policies:
        args += ["-switch", p]
    with Tandem(BINARY, args, 60) as t:
        mon = Monitor(f"{tmp}/mon")
        for c, want in commands:
            mon(c, want)
        mon("cont")
        m = t.expect(r"[0-9a-f]{16}\n")
        assert m.group().strip() == expected(user), f"{accel} {policies}: {m.group()} is not {expected(user)}"
        out = mon("info switch")
        mon("quit", ends=True)
        assert t.wait() == 0, t.tail()
        return out


def fired(out, number):
    m = re.search(rf"policy {number} \(.*\): fired (\d+)", out)
    assert m, out
    return int(m.group(1))


def small(tmp):
    guest = build(tmp)
    for accel, other in (("interp", "jit"), ("jit", "interp")):
        out = run(tmp, guest, accel, [f"at=tick,to={other}", f"at=work,to={accel}"])
        assert fired(out, 1) == ROUNDS and fired(out, 2) == ROUNDS - 1, out
        assert re.search(rf"policy 1 .*ms in {other}", out), out
        assert re.search(r"time: .*\d s", out), out
        # work() calls leaf() twenty times: left and entered again behind each call.
        out = run(tmp, guest, accel, [f"region=work..work_end,to={other}"])
        assert fired(out, 1) == ROUNDS * 21, out
        out = run(tmp, guest, accel, ["every=1000insn"])
        assert fired(out, 1) >= ROUNDS * 100 // 1000, out
        out = run(tmp, guest, accel, [f"when=cpl3,to={other}"], user=True)
        assert fired(out, 1) == ROUNDS, out
        out = run(tmp, guest, accel, [f"at=leaf,to={other},for=9insn", "every=1000insn"])
        assert fired(out, 1) > 0, out
    out = run(tmp, guest, "interp", [], commands=(
        ("switch-policy list", "there are no policies"),
        ("switch-policy add at=tick,to=jit", r"\npolicy 1\n"),
        ("switch-policy add at=wrok,to=jit", "no symbol 'wrok'; did you mean 'work'"),
        ("switch-policy add at=finish,to=interp", r"\npolicy 2\n"),
        ("switch-policy add region=leaf..user,to=jit", r"\npolicy 3\n"),
        ("switch-policy list", r"3: region=leaf..user,to=jit  \[0x[0-9a-f]+ \(leaf\) to 0x[0-9a-f]+\]"),
        ("switch-policy delete 3", r"^[^\n]*\n$"),
        ("switch-policy delete 3", "there is no policy 3"),
        ("switch-policy remove 3", "not 'remove'"),
        ("switch-policy ad at=tick", "did you mean 'add'"),
        ("switch-policy add", "which policy"),
        ("switch-policy help", "region=FROM")))
    assert fired(out, 1) == 1 and fired(out, 2) == 1 and "policy 3" not in out, out
    # One that leaves no time to run is pointed out, with its cost.
    with Tandem(BINARY, ["-accel", "interp", "-kernel", guest, "-append", "90000", "-display", "none",
                         "-switch", "every=1insn"], 60) as t:
        t.expect(r"policy 1 \(every=1insn\): fired \d+ times in the last \d+ ms on cpu 0, [\d.]+ us each: \d+% of")


def load_trace(path, live=False):
    """The events. A file that is being written is read again if an event overtook the reading; of one whose
    writer was killed the last bracket may be missing, as the format allows."""
    for _ in range(50):
        with open(path) as f:
            text = f.read()
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            if not live and not text.rstrip().endswith("]"):
                return json.loads(text + "]")
            assert live, text[-500:]
            time.sleep(0.05)
    raise AssertionError(f"{path} is never whole")


def explain(tmp):
    """info switch -v, dry runs, state differences; and the trace, whole while it runs and after a kill."""
    guest = build(tmp)
    args = ["-accel", "interp", "-kernel", guest, "-append", "99999999", "-display", "none", "-serial", "stdio",
            "-smp", "2", "-monitor", f"unix:{tmp}/mon,server,nowait", "-trace-engines", f"{tmp}/t.json",
            "-switch", "at=tick,to=jit,for=200insn,cpu=0"]
    with Tandem(BINARY, args, 60) as t:
        mon = Monitor(f"{tmp}/mon")
        while fired(mon("info switch"), 1) < 100:
            time.sleep(0.05)
        mon("info switch -v", r"the last 16, the latest first:\n(.* ms ago  (jit -> interp|interp -> jit)  .*\n){16}")
        load_trace(f"{tmp}/t.json", live=True)
        mon("switch --dry-run jit 1", "cpu 1: interp -> jit")
        mon("switch --dry-run", "is missing")
        mon("info cpus", "CPU #1.*engine=interp")
        mon(f"savestate {tmp}/s")
        while "fields differ: " not in mon(f"statediff {tmp}/s cpu0"):
            time.sleep(0.05)  # questions come before the guest
        mon("stop")
        mon(f"savestate {tmp}/s 0")
        mon(f"statediff {tmp}/s cpu0", "no field differs")
        out = mon(f"statediff --json {tmp}/s cpu1", "differences")
        diff = json.loads(out[out.index("\n"):])
        assert diff["b"] == "cpu1" and any(d["field"] == "RIP" and d["group"] == "regs" for d in diff["differences"])
        mon(f"statediff {tmp}/t.json cpu0", "is not a state that savestate has written")
        mon("cont")
        t.proc.kill()
        t.proc.wait()
    events = load_trace(f"{tmp}/t.json")
    assert {e["name"] for e in events if e["ph"] == "B"} == {"interp", "jit"}
    switches = [e for e in events if e["ph"] == "X"]
    assert len(switches) > 16 and all(e["tid"] == 0 for e in switches), len(switches)
    assert any(e["args"]["symbol"] == "tick" and e["args"]["why"].startswith("at=tick") for e in switches)
    last = {}
    for e in events:  # in order on each track
        if "ts" in e:
            assert e["ts"] >= last.get(e["tid"], 0)
            last[e["tid"]] = e["ts"]


def record(tmp):
    """record-rip: the same bytes from each engine; the monitor's way; wrong arguments; a full disk."""
    guest = build(tmp)
    files = {}
    for accel in ("interp", "jit", "kvm"):
        p = subprocess.run([BINARY, "-accel", accel, "-kernel", guest, "-append", "20", "-display", "none", "-serial",
                            "stdio", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-monitor", "none",
                            "-record-rip", f"{tmp}/{accel},region=work..work_end"],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if accel == "kvm" and p.returncode == 1 and "-accel kvm" in p.stderr:
            print(f"without KVM: {p.stderr.strip()}")
            continue
        assert p.returncode == 1 and not p.stderr, p  # what isa-debug-exit makes of 0
        files[accel] = open(f"{tmp}/{accel}", "rb").read()
    assert len(set(files.values())) == 1, {a: len(f) for a, f in files.items()}
    out = subprocess.run([BINARY, "rip", f"{tmp}/interp", guest], capture_output=True, text=True, check=True).stdout
    lines = out.splitlines()
    assert len(lines) == 20 * (2 + 20 * 5 + 1), len(lines)
    assert re.fullmatch(r"0 [0-9a-f]{16} work", lines[0]) and lines[1].endswith(" work+0x5"), lines[:2]
    assert all(" work" in line for line in lines)
    assert len(files["interp"]) < len(lines) * 1.1, "a byte an instruction"
    # Everything, begun at the monitor, and ended there.
    args = ["-accel", "interp", "-kernel", guest, "-append", "99999999", "-display", "none", "-serial", "null",
            "-monitor", f"unix:{tmp}/mon,server,nowait"]
    with Tandem(BINARY, args, 60) as t:
        mon = Monitor(f"{tmp}/mon")
        mon("record-rip", "nothing is being recorded")
        mon("record-rip stop", "nothing is being recorded")
        mon(f"record-rip {tmp}/all,region=nowhere", "no symbol 'nowhere'")
        mon(f"record-rip {tmp}/all,cpu=3", "there are 0 to 0")
        mon(f"record-rip {tmp}/no/file", "No such file")
        mon(f"record-rip {tmp}/all")
        mon(f"record-rip {tmp}/more", "is being written")
        while not re.search(r"all: \d{4,} instructions", mon("record-rip")):
            time.sleep(0.05)
        n = int(re.search(r"(\d+) instructions", mon("record-rip stop")).group(1))
        mon("quit", ends=True)
        assert t.wait() == 0
    out = subprocess.run([BINARY, "rip", f"{tmp}/all", guest], capture_output=True, text=True, check=True).stdout
    assert len(out.splitlines()) == n and " leaf\n" in out, n
    for bad_args, says in (([], "usage: tandem rip"), ([guest], "not a file of record-rip"), ([f"{tmp}/none"], "none"),
                           ([f"{tmp}/all", f"{tmp}/none"], "no such file")):
        p = subprocess.run([BINARY, "rip", *bad_args], capture_output=True, text=True)
        assert p.returncode == 1 and says in p.stderr, (bad_args, p)


def no_kvm(tmp):
    """Why there is none; or None."""
    p = subprocess.run([BINARY, "-accel", "kvm", "-kernel", f"{tmp}/none", "-display", "none"], capture_output=True, text=True)
    return None if "No such file" in p.stderr else p.stderr.strip()


@contextlib.contextmanager
def thread_stopped(tid):
    """This thread alone, as a debugger stops it; nothing where that is not allowed."""
    seize, interrupt, detach, wall = 0x4206, 0x4207, 17, 0x40000000
    libc = ctypes.CDLL(None)
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    if libc.ptrace(seize, tid, None, None):
        print("a thread cannot be stopped by itself here")
        yield
        return
    libc.ptrace(interrupt, tid, None, None)
    os.waitpid(tid, wall)
    yield
    libc.ptrace(detach, tid, None, None)


@contextlib.contextmanager
def process_stopped(tid):
    """kill -STOP: it stops a whole process, whichever of its threads it is sent to."""
    os.kill(tid, signal.SIGSTOP)
    yield
    os.kill(tid, signal.SIGCONT)


def stopped_between(tmp, guest, accel, one, other):
    args = ["-accel", accel, "-kernel", guest, "-append", "99999999", "-display", "none", "-serial", "null",
            "-smp", "2", "-monitor", f"unix:{tmp}/{one}1,server,nowait", "-monitor", f"unix:{tmp}/{one}2,server,nowait"]
    with Tandem(BINARY, args, 90) as t:
        a, b = Monitor(f"{tmp}/{one}1"), Monitor(f"{tmp}/{one}2")
        tid = int(re.search(r"CPU #0.*thread_id=(\d+)", a("info cpus")).group(1))
        for stopped_now in (process_stopped, thread_stopped, process_stopped, thread_stopped):
            a.sock.sendall(f"switch {one} 0\n".encode())
            with stopped_now(tid):
                b.sock.sendall(f"switch {other} 0\n".encode())
                time.sleep(1)
            assert re.search(rf"cpu 0: (now in|is in) {one}", a.until_prompt())
            assert re.search(rf"cpu 0: (now in|is in) {other}", b.until_prompt())
            a("info switch", f"cpu 0: in ({one}|{other})")
        before = int(re.search(r"CPU #0.*insns=(\d+)", a("info cpus")).group(1))
        for i in range(100):
            wants = (one, other) if i % 2 else (other, one)
            a.sock.sendall(f"switch {wants[0]} 0\n".encode())
            b.sock.sendall(f"switch {wants[1]} 0\n".encode())
            assert f"in {wants[0]}" in a.until_prompt() and f"in {wants[1]}" in b.until_prompt()
        out = a("info switch")
        assert "refused" not in out, out
        a(f"switch {other} 0")
        while int(re.search(r"CPU #0.*insns=(\d+)", a("info cpus")).group(1)) <= before:
            time.sleep(0.05)
        a("quit", ends=True)
        assert t.wait() == 0, t.tail()


def stopped(tmp):
    """A vCPU's thread that stands still while it is to be switched; and two monitors that want the
    same vCPU in two engines at once. Every request is answered, one after the other; the guest goes on."""
    guest = build(tmp)
    stopped_between(tmp, guest, "interp", "jit", "interp")
    if not no_kvm(tmp):
        stopped_between(tmp, guest, "kvm", "kvm", "jit")


def kvm(tmp):
    guest = build(tmp)
    why = no_kvm(tmp)
    if why:
        skip(why)
    out = run(tmp, guest, "kvm", ["at=tick,to=tcg", "at=work,to=kvm"])
    assert fired(out, 1) == ROUNDS and fired(out, 2) == ROUNDS - 1, out
    assert re.search(r"policy 1 .*ms in (jit|interp)", out) and re.search(r"policy 2 .*ms in kvm", out), out
    out = run(tmp, guest, "kvm", ["region=work..work_end,to=tcg"])
    assert fired(out, 1) == ROUNDS * 21, out
    out = run(tmp, guest, "kvm", ["at=leaf,to=interp,for=30insn"])
    assert fired(out, 1) > ROUNDS, out
    out = run(tmp, guest, "kvm", ["every=1ms"])
    assert "failed" not in out, out
    out = run(tmp, guest, "kvm", ["on=exit:io,to=tcg"])
    assert fired(out, 1) == 1, out
    # KVM's view, whether KVM has run since somebody looked or not. A processor may say of x87 registers that are as at reset that
    # they are in use (rule xsave-format).
    same = r"no field differs|\nfpu +XSTATE_BV +0 +\|  0x1\n1 fields differ"
    with Tandem(BINARY, ["-accel", "kvm", "-kernel", guest, "-append", "99999999", "-display", "none", "-serial", "null",
                         "-monitor", f"unix:{tmp}/mon,server,nowait"], 90) as t:
        mon = Monitor(f"{tmp}/mon")
        for command in ("statediff cpu0 engine0", "statediff engine0 cpu0", "stop", "statediff cpu0 engine0", "info registers",
                        "statediff engine0 cpu0", "cont"):
            mon(command, same if "statediff" in command else "")
        mon("quit", ends=True)
        assert t.wait() == 0, t.tail()


def kernel(tmp):
    # jit leaves KVM out: "other" is the interpreter then. A KVM without hardware would have programs killed.
    args = ["-accel", "jit", "-m", "256", "-nographic", "-no-reboot", "-kernel", f"{GUESTS}/cloud-vmlinuz", "-initrd",
            f"{GUESTS}/busybox.gz", "-append", "console=ttyS0 quiet tandem.run=work:5",
            "-switch", "every=10ms..30ms,to=interp,for=20000insn", "-switch", "every=2s,to=other,for=1ms"]
    with Tandem(BINARY, args, 150) as t:
        t.expect(r"guest: up ")
        t.send("\x01c")
        t.expect(r"\(tandem\) ")
        while True:
            t.send("info switch\n")
            if int(t.expect(r"policy 1 \(.*\): fired (\d+)").group(1)) > 10:
                break
            time.sleep(0.1)
        t.send("\x01c")
        t.expect(r"guest: done \d+ rounds")
        assert "BAD" not in t.text, [x for x in t.text.splitlines() if "BAD" in x][:5]
        assert t.wait() == 0, t.tail()


def bad(tmp):
    guest = build(tmp)
    for policy, says in (
            ("at=wrok", "no symbol 'wrok'; did you mean 'work'?"),
            ("region=work..work_edn", "no symbol 'work_edn'; did you mean 'work_end'?"),
            ("region=work_end..work", "ends before it begins"),
            ("at=work,to=intrep", "no such engine; did you mean 'interp'?"),
            ("at=work,to=kvm", "leaves KVM out"),
            ("at=work,cpu=7", "there are 0 to 0"),
            ("when=cpl2", "there are when=cpl0 and when=cpl3"),
            ("evry=1ms", "did you mean 'every'?"),
            ("on=exit:io", "this machine has no KVM")):
        p = subprocess.run([BINARY, "-accel", "interp", "-kernel", guest, "-display", "none", "-switch", policy],
                           stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        assert p.returncode == 1 and f"policy '{policy}': " in p.stderr and says in p.stderr, (policy, p)
    for args, says in ((["-switch"], "argument is missing"), (["-switch", "help"], "region=FROM"),
                       (["-demo", "-switch", "every=1ms"], "-switch is not for -demo"),
                       (["-kernel", guest, "-trace-engines", "/nowhere/t"], "-trace-engines /nowhere/t: No such"),
                       (["-kernel", guest, "-symbols", f"{tmp}/nothing"], "there is no such file")):
        p = subprocess.run([BINARY, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        assert says in p.stderr + p.stdout, (args, p)


with tempfile.TemporaryDirectory() as TMP:
    {"small": small, "explain": explain, "record": record, "stopped": stopped, "kvm": kvm, "kernel": kernel, "bad": bad}[CASE](TMP)
