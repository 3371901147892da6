#!/usr/bin/env python3
"""Stock Debian guests in the software engine, from their first instruction to a clean power-off.

usage: test_boot.py TANDEM GUESTS CASE [ACCEL]
"""
import hashlib
import sys

from tandem import Tandem

BINARY, GUESTS, CASE = sys.argv[1:4]
ACCEL = sys.argv[4] if len(sys.argv) > 4 else "tcg"
INSTALLER = "/usr/lib/debian-installer/images/12/{arch}/text/debian-installer/{arch}/{file}"


def cloud(smp, extra="", accel=ACCEL):
    return ["-accel", accel, "-m", "256", "-smp", str(smp), "-nographic", "-no-reboot",
            "-kernel", f"{GUESTS}/cloud-vmlinuz", "-initrd", f"{GUESTS}/busybox.gz",
            "-append", f"console=ttyS0 quiet {extra}"]


def boot_to_shell():
    with Tandem(BINARY, cloud(1), 90) as t:
        t.expect(r"guest: up .* cpus 1 ")
        t.expect(r"# ")
        shell = t.elapsed()
        t.send("echo $((6 * 7)) $(uname -m)\n")
        t.expect(r"42 x86_64")
        t.send("echo bugs: $(dmesg | grep -c 'Firmware Bug')\n")
        t.expect(r"bugs: 0\s")
        t.send("poweroff -f\n")
        assert t.wait() == 0, t.tail()
        print(f"shell after {shell:.1f} s, power-off status 0")


def boot_smp2():
    with Tandem(BINARY, cloud(2, "tandem.run=poweroff"), 120) as t:
        t.expect(r"guest: up .* cpus 2 ")
        assert t.wait() == 0, t.tail()
        print(f"two vCPUs, powered off after {t.elapsed():.1f} s")


def work():
    with Tandem(BINARY, cloud(1, "tandem.run=work:5"), 120) as t:
        t.expect(r"guest: done \d+ rounds")
        assert "BAD" not in t.text, t.tail()
        assert t.wait() == 0, t.tail()


def pit():
    """The 8254 as the only source of ticks, as one-shots by the I/O APIC, in both software engines."""
    # With KVM's clock and TSC-deadline mode Linux believes that it needs no PIT, whatever nolapic_timer says.
    args = cloud(1, "nolapic_timer hpet=disable")
    with Tandem(BINARY, [*args, "-cpu", "max,kvm=off,-tsc-deadline"], 120) as t:
        t.expect(r"guest: up ")
        t.expect(r"# ")
        t.send("cd /sys/devices/system/clockevents; echo ticks: $(cat clockevent0/current_device)\n")
        t.expect(r"ticks: pit\s")
        for engine in "jit", "interp":
            t.send("\x01c")
            t.expect(r"\(tandem\) ")
            t.send(f"switch {engine}\n\x01c\n")
            t.expect(r"# ")
            t.send("a=$(date +%s); sleep 1; usleep 200000; b=$(date +%s); [ $b -gt $a ] && echo sle''pt\n")
            t.expect(r"slept\s")
            t.send("seq 9999 | sha256sum\n")
            t.expect(hashlib.sha256("".join(f"{i}\n" for i in range(1, 10000)).encode()).hexdigest())
        t.send("grep '^ *0:' /proc/interrupts; echo LOC $(grep LOC: /proc/interrupts)\n")
        irq = t.expect(r"\s0: +(\d+) +IO-APIC +2-edge +timer")
        assert int(irq[1]) > 100, t.tail()
        t.expect(r"LOC LOC: 0 ")
        t.send("poweroff -f\n")
        assert t.wait() == 0, t.tail()


def reset():
    """system_reset starts the same kernel again; Ctrl-A x ends tandem."""
    args = cloud(1)
    args.remove("-no-reboot")
    with Tandem(BINARY, args, 150) as t:
        t.expect(r"guest: up ")
        t.send("\x01c")
        t.expect(r"\(tandem\) ")
        t.send("system_reset\n")
        t.send("\x01c")
        t.expect(r"guest: up ")
        t.send("\x01x")
        assert t.wait() == 0, t.tail()


def installer(arch):
    files = ["-kernel", INSTALLER.format(arch=arch, file="linux"), "-initrd", INSTALLER.format(arch=arch, file="initrd.gz")]
    # With 512 MiB the installer says "Low memory mode" first and asks for no language.
    with Tandem(BINARY, ["-accel", ACCEL, "-m", "1024", "-nographic", "-no-reboot", *files,
                         "-append", "console=ttyS0 quiet TERM=vt102"], 300) as t:
        t.expect(r"Select a language|Choose language|Language:")
        print(f"{arch} installer's first screen after {t.elapsed():.1f} s")
        t.send("\x01x")
        assert t.wait() == 0, t.tail()
    with Tandem(BINARY, ["-accel", ACCEL, "-m", "512", "-nographic", "-no-reboot", *files,
                         "-append", "console=ttyS0 quiet rdinit=/bin/sh"], 200) as t:
        t.expect(r"# ")
        t.send("mount -t proc proc /proc; poweroff -f\n")
        assert t.wait() == 0, t.tail()
        print(f"{arch} netboot kernel powered off cleanly")


def debian():
    """Debian's own user space: systemd and its services, on two vCPUs."""
    want = open(f"{GUESTS}/debian.sum").read().strip()
    with Tandem(BINARY, ["-accel", ACCEL, "-m", "1024", "-smp", "2", "-nographic", "-no-reboot",
                         "-kernel", f"{GUESTS}/cloud-vmlinuz", "-initrd", f"{GUESTS}/debian.gz",
                         "-append", "console=ttyS0 quiet systemd.getty_auto=no"], 300) as t:
        t.expect(r"debian: up, units failed: 0\s")
        up = t.elapsed()
        t.expect(rf"debian: sum {want}\s")
        assert t.wait() == 0, t.tail()
        print(f"user space after {up:.1f} s, sum right, power-off status 0 after {t.elapsed():.1f} s")


CASES = {
    "debian": debian,
    "shell": boot_to_shell,
    "smp2": boot_smp2,
    "work": work,
    "pit": pit,
    "reset": reset,
    "installer-amd64": lambda: installer("amd64"),
    "installer-i386": lambda: installer("i386"),
}
CASES[CASE]()
