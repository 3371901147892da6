#!/usr/bin/env python3
"""A stock kernel whose tick is the PIT, which KVM has while the vCPU is in it (-machine kernel-pit=on): moved to and fro, its
ticks go on, and its clock is the host's.

usage: test_kernel_pit.py TANDEM GUESTS
"""
import os
import sys
import time

from tandem import Tandem

BINARY, GUESTS = sys.argv[1:]
if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("skipped: no /dev/kvm")
    sys.exit(77)
ARGS = ["-accel", "tcg", "-machine", "pc,kernel-irqchip=on,kernel-pit=on", "-m", "256", "-nographic", "-no-reboot", "-kernel",
        f"{GUESTS}/cloud-vmlinuz", "-initrd", f"{GUESTS}/busybox.gz", "-append",
        "console=ttyS0 quiet nolapic hpet=disable"]
TICKS = "awk '/timer$/ && $1 == \"0:\" { print \"tick\" \"s\", $2 }' /proc/interrupts\n"


def ticks(t):
    t.send(TICKS)
    n = int(t.expect(r"\nticks (\d+)\s").group(1))
    t.expect(r"/ # ")
    return n


with Tandem(BINARY, ARGS, 100) as t:
    t.expect(r"guest: up ")
    t.expect(r"/ # ")
    t.send("cat /sys/devices/system/clockevents/clockevent0/current_device\n")
    t.expect(r"\npit\s")
    t.send("echo 0 >/proc/sys/kernel/printk\n")
    before = ticks(t)
    t.send("\x01c")
    t.expect(r"\(tandem\) ")
    t.at_monitor("info accel", r"kernel-pit on")
    for i in range(30):
        t.at_monitor("switch kvm", r"cpu 0: (now|is) in kvm")
        time.sleep(0.01 * (i % 7))
        t.at_monitor("info pic", r"in KVM")
        if i % 5 == 0:
            t.at_monitor("savestate /dev/null", r"\n")
        t.at_monitor("switch tcg", r"cpu 0: (now|is) in jit")
        time.sleep(0.01 * (i % 5))
    t.send("\x01c\n")
    t.expect(r"/ # ")
    assert ticks(t) > before
    before = ticks(t)
    t.send("for i in 1 2 3 4 5; do usleep 20000; done; echo sle''pt\n")  # by its ticks
    t.expect(r"\nslept")
    t.expect(r"/ # ")
    assert ticks(t) > before
    t.send("dmesg | grep -ciE 'stall|lockup|unstable'; poweroff -f\n")
    t.expect(r"\n0\s")
    assert t.wait() == 0, t.tail()
