#!/usr/bin/env python3
"""stress-ng in a stock kernel on two translated vCPUs: one stressor after the other, each checking what it gets.

usage: test_stress.py TANDEM GUESTS [all|NAME,NAME... [SECONDS [ARGUMENT...]]]

Without names: those that ask for much of what an engine has to get right, a second each. all: every one that this
stress-ng has (a quarter of an hour). Arguments are tandem's: -accel interp, -smp 4.
"""
import sys
import tempfile

from tandem import Tandem

BINARY, GUESTS = sys.argv[1:3]
NAMES = sys.argv[3] if len(sys.argv) > 3 else ""
SECONDS = int(sys.argv[4]) if len(sys.argv) > 4 else 1
MORE = sys.argv[5:]

USUAL = """clone context cpu fork fp futex icache iomix itimer jpeg longjmp madvise matrix mmap mremap pthread qsort
 sem sigfpe signal sigsegv switch tlb-shootdown userfaultfd vecfp vecmath vm zlib""".split()
# They stop the machine, take all of its memory, or say themselves that what goes wrong is the machine's set-up: there is
# neither a disk nor a network.
NOT_HERE = """bigheap brk cpu-online efivar oom-pipe rawdev rawpkt rawsock rawudp reboot smi softlockup suspend sysinval
 watchdog io-uring loop sleep sock sockmany""".split()


def stressors(t):
    t.send("stress-ng --stressors; echo no''more\n")
    text = t.expect(r"(?s)no''more\s*\n(.*?)nomore").group(1)
    return [n for n in text.split() if n not in NOT_HERE]


def stress(t, name):
    """Returns what was wrong with it, as text."""
    t.send(f"stress-ng --{name} 2 --timeout {SECONDS} --verify --oomable --temp-path /tmp >/tmp/o 2>&1; echo sta''tus $?; "
           f"grep -E ' fail: |mismatch|incorrect' /tmp/o; rm -rf /tmp/*stress-ng*; echo do''ne {name}\n")
    m = t.expect(rf"(?s)status (\d+)(.*?)done {name}\s")
    # 3: no resources; 4: not implemented; 1 and 2: what the lines in between say
    lines = [line for line in m.group(2).splitlines() if "stress-ng: fail" in line or "mis" in line or "incorrect" in line]
    return "; ".join(lines[:3]) or ("" if int(m.group(1)) in (0, 1, 3, 4) else f"status {m.group(1)}")


def main():
    with tempfile.NamedTemporaryFile() as initrd:
        for part in ("busybox.gz", "stress.gz"):
            with open(f"{GUESTS}/{part}", "rb") as f:
                initrd.write(f.read())
        initrd.flush()
        args = ["-accel", "tcg", "-m", "1024", "-smp", "2", "-nographic", "-no-reboot", "-kernel", f"{GUESTS}/cloud-vmlinuz",
                "-initrd", initrd.name, "-append", "console=ttyS0 quiet", *MORE]
        with Tandem(BINARY, args, 120 + (3600 if NAMES == "all" else 60 * SECONDS)) as t:
            t.expect(r"# ")
            t.send("cd /tmp; mkdir -p /dev/shm; stty -echo\n")
            t.expect(r"# ")
            bad = 0
            names = stressors(t) if NAMES == "all" else NAMES.split(",") if NAMES else USUAL
            for name in names:
                wrong = stress(t, name)
                bad += bool(wrong)
                if wrong or NAMES:
                    print(f"{name}: {wrong or 'ok'}", flush=True)
            t.send("echo oddities: $(dmesg | grep -cE 'BUG:|Oops|lockup|stall|segfault|unstable|general protection')\n")
            odd = int(t.expect(r"oddities: (\d+)").group(1))
            t.send("poweroff -f\n")
            assert t.wait() == 0, t.tail()
        print(f"{len(names)} stressors, {bad} with something wrong, {odd} odd lines of the kernel's, {t.elapsed():.1f} s")
        assert not bad and not odd


main()
