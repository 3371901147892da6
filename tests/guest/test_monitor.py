#!/usr/bin/env python3
"""A person at the monitor of a running Debian kernel; then tandem is killed, stopped and told to end.

usage: test_monitor.py TANDEM GUESTS
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time

from hmp import Monitor
from tandem import Tandem

BINARY, GUESTS = sys.argv[1:3]
TICKS = "(i=0; while :; do echo tick $((i=i+1)); usleep 50000; done) &\n"


def args(tmp, *more, accel="tcg"):
    return ["-accel", accel, "-m", "256", "-display", "none", "-serial", "stdio",
            "-monitor", f"unix:{tmp}/mon,server,nowait", "-pidfile", f"{tmp}/pid",
            "-kernel", f"{GUESTS}/cloud-vmlinuz", "-initrd", f"{GUESTS}/busybox.gz",
            "-append", "console=ttyS0 quiet", *more]


def drain(t, seconds):
    """What the guest says for that long."""
    end, at = time.monotonic() + seconds, len(t.text)
    while time.monotonic() < end:
        t._read(0.05)
    return t.text[at:]


def shell(t):
    t.expect(r"guest: up ")
    t.expect(r"# ")


def session(tmp):
    with Tandem(BINARY, args(tmp, "-smp", "2", "-name", "mon", "-no-shutdown"), 240) as t:
        shell(t)
        mon = Monitor(f"{tmp}/mon")
        mon("info status", r"VM status: running")
        mon("info name", r"^mon$|\nmon\n")
        mon("info cpus", r"\* CPU #0: pc=0x[0-9a-f]{16}.* engine=(?:jit|interp)(.|\n)*CPU #1: ")
        mon("info registers", r"RIP=[0-9a-f]{16}(.|\n)*CR3=")
        mon("info accel", r"started in (jit|interp)")
        mon("info switch", r"cpu 1: in (jit|interp)")
        mon("info pic", r"pic0: irr=[0-9a-f]{2} imr=(.|\n)*pic1: ")
        mon("info lapic", r"APIC state of cpu 0: x2?APIC(.|\n)*LVTT\t0x")
        mon("info lapic 1", r"APIC state of cpu 1: ")
        mon("info lapic 2", r"no cpu 2")
        mon("frobnicate", r"frobnicate")
        mon("info frobnicate", r"frobnicate")
        mon("switch bochs", r"bochs.*kvm, tcg, jit and interp")
        mon("switch tcg 2", r"no cpu 2; there are 0 to 1")
        mon("switch tcg 1", r"cpu 1: is in (jit|interp) already")

        t.send(TICKS)
        t.expect(r"tick 5\n")
        mon("stop")
        mon("info status", r"VM status: paused")
        drain(t, 0.3)
        said = drain(t, 1.5)
        assert not said, f"a stopped guest said {said!r}"
        mon("cont")
        mon("info status", r"VM status: running")
        t.expect(r"tick \d+\n")
        t.expect(r"tick \d+\n")

        # A stopped process is not a stopped machine: on it goes, without a complaint of the kernel's.
        t.proc.send_signal(signal.SIGSTOP)
        time.sleep(3)
        t.proc.send_signal(signal.SIGCONT)
        t.seen = len(t.text)
        t.expect(r"tick \d+\n")
        mon("info status", r"VM status: running")
        t.send("kill $!; dmesg | grep -ciE 'oops|unstable|stall|lockup'; echo counted\n")
        assert t.expect(r"(\d+)\ncounted")[1] == "0", t.tail()

        if switch_kvm(t, mon):
            # This kernel has no button driver (test_pm sees the event): it must not mind.
            mon("system_powerdown")
            t.send("echo awake $((6 * 7))\n")
            t.expect(r"awake 42")

        mon("stop")
        mon("system_reset")
        mon("cont")
        t.seen = len(t.text)
        shell(t)
        mon("quit", ends=True)
        assert t.wait() == 0, t.tail()
        assert not os.listdir(tmp), f"left behind: {os.listdir(tmp)}"


def switch_kvm(t, mon):
    """Runs there, or is refused, or stops at what this KVM cannot do: the guest can always go on. Its shell not always:
    a KVM without hardware behind it runs privilege 3 natively but for INT n and SYSCALL, and a program that was there may
    be killed by the guest's kernel for it. Returns whether the shell lives."""
    alone = mon("switch kvm 1", r"cpu 1: now in kvm|Error: ")
    if "Error: " not in alone:
        mon("switch tcg 1", r"cpu 1: now in (jit|interp)")
    elif not re.search(r"Error: .*(kvm|KVM)", alone):
        raise AssertionError(f"refused without a reason: {alone}")
    got = mon("switch kvm", r"cpu 0: now in kvm|Error: ")
    time.sleep(0.5)
    status = mon("info status", r"running|internal-error")
    mon("switch tcg", r"cpu 0: (now in (jit|interp)|is in (jit|interp) already)")
    if "internal-error" in status:
        t.expect(r"KVM .*RIP")
    mon("cont")
    mon("info status", r"running")
    t.send("echo alive $((6 * 7))\n")
    alive = t.expect(r"alive 42|Segmentation fault|[Ii]llegal instruction|powering off")[0] == "alive 42"
    # Rescued or stopped, what it does wrong at privilege 3 has been done; where it does nothing wrong the shell lives.
    wrong = re.search(r"does wrong: (SYSCALL|INT n)", mon("info kvm", r"speed at privilege 0(.|\n)*(does wrong|$)"))
    assert alive or "internal-error" in status or wrong, t.tail()
    print(f"shell {'alive' if alive else 'killed by what this KVM made of it'}; switch kvm: {got.strip().splitlines()[-1]}; then {status.strip().splitlines()[-1]}")
    return alive


def keys(tmp):
    """Ctrl-A h, c, a and x on -nographic's terminal."""
    plain = ["-accel", "interp", "-m", "256", "-nographic", "-kernel", f"{GUESTS}/cloud-vmlinuz",
             "-initrd", f"{GUESTS}/busybox.gz", "-append", "console=ttyS0 quiet"]
    with Tandem(BINARY, plain, 120) as t:
        shell(t)
        t.send("\x01h")
        t.expect(r"(?i)ctrl-a x|C-a x")
        t.send("\x01c")
        t.expect(re.escape("(tandem) "))
        t.send("info status\n")
        t.expect(r"VM status: running")
        t.send("\x01c")
        t.send("\x01a\x0becho back $((6 * 7))\n")  # the shell's line editor: to the line's start, erase it
        t.expect(r"back 42")
        t.send("\x01x")
        assert t.wait() == 0, t.tail()


def ends(tmp):
    with Tandem(BINARY, args(tmp), 60) as t:
        Monitor(f"{tmp}/mon")("info status", r"running")
        pid = int(open(f"{tmp}/pid").read())
        assert pid == t.proc.pid
        again = subprocess.run([BINARY, *args(tmp)], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
        assert again.returncode == 1 and "pid" in again.stderr, again
        t.proc.kill()
        t.proc.wait()
    # What a kill leaves is a socket nobody listens on: said so, and a stale pidfile is no obstacle.
    again = subprocess.run([BINARY, *args(tmp)], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    assert again.returncode == 1 and re.search(r"/mon: .*nobody listens.*can be removed", again.stderr), again
    os.unlink(f"{tmp}/mon")
    with Tandem(BINARY, args(tmp), 60) as t:
        Monitor(f"{tmp}/mon")("info status", r"running")
        t.proc.send_signal(signal.SIGTERM)
        assert t.wait() == 0, t.tail()
    assert not os.listdir(tmp), f"left behind: {os.listdir(tmp)}"


def memory(tmp):
    """A machine that starts in software has RAM that the translator can map twice, whoever chose the engine."""
    possible = None
    for accel in "jit", "tcg", "auto":  # jit: without KVM, so what this host can do
        with Tandem(BINARY, args(tmp, "-S", accel=accel), 60) as t:
            started = Monitor(f"{tmp}/mon")("info accel", r"started in (kvm|jit|interp)")
            shared = "memfd:tandem-ram" in open(f"/proc/{t.proc.pid}/maps").read()
            possible = shared if possible is None else possible
            assert shared == (possible and "started in kvm" not in started), f"{accel}: memfd {shared}, {started}"


for case in session, keys, memory, ends:
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        case(folder)
        print(f"{case.__name__}: {time.monotonic() - begun:.1f} s")
