#!/usr/bin/env python3
"""A stock kernel on two vCPUs that idles in MWAIT (-overcommit cpu-pm=on), moved between the software engines at random
moments while it works and while it sleeps.

usage: test_mwait.py TANDEM GUESTS
"""
import sys
import time

from tandem import Tandem

BINARY, GUESTS = sys.argv[1:]
ARGS = ["-accel", "tcg", "-overcommit", "cpu-pm=on", "-smp", "2", "-m", "256", "-nographic", "-no-reboot", "-kernel",
        f"{GUESTS}/cloud-vmlinuz", "-initrd", f"{GUESTS}/busybox.gz", "-append", "console=ttyS0 quiet"]


with Tandem(BINARY, ARGS, 150) as t:
    t.expect(r"guest: up ")
    t.expect(r"/ # ")
    t.send("dmesg | grep -c 'using mwait'; grep -cw monitor /proc/cpuinfo; echo fla''gs\n")
    t.expect(r"\n1\s+2\s+flags")
    t.send("\x01c")
    t.expect(r"\(tandem\) ")
    for engine in ("jit", "interp"):
        t.at_monitor(f"switch {engine}", rf"cpu 1: (now|is) in {engine}")
        while "(mwait)" not in t.at_monitor("info cpus", r"CPU #0.*\n.*CPU #1.*\n").group():
            time.sleep(0.01)
    t.at_monitor("switch jit", r"cpu 1: ")
    t.at_monitor("info accel", r"cpu-pm on: MONITOR and MWAIT are offered")
    t.at_monitor("switch-policy add every=2ms..9ms,to=interp,for=1ms", "switch-policy add")
    t.send("\x01c")
    # Sleeps of a tenth of a second, pipes between the two processors, and a clock that must have gone on meanwhile.
    t.send("a=$(cut -d. -f1 /proc/uptime); for i in 1 2 3 4 5 6 7 8 9 10; do sleep 0.1; seq 1 3000 | sort -n | md5sum; done"
           " | sort | uniq -c; b=$(cut -d. -f1 /proc/uptime); [ $b -gt $a ] && echo wor''ked\n")
    t.expect(r"\s10 [0-9a-f]{32}")
    t.expect(r"worked")
    t.send("\x01c")
    assert int(t.at_monitor("info switch", r"policy 1 \(.*\): fired (\d+)").group(1)) > 10
    t.send("\x01c")
    t.send("dmesg | grep -ciE 'stall|lockup|unstable'; poweroff -f\n")
    t.expect(r"\n0\s")
    assert t.wait() == 0, t.tail()
