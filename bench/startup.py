#!/usr/bin/env python3
"""From exec to the guest's first effect: the time until a guest whose second instruction is OUT has written its byte.

    bench/startup.py [--tandem build/release/tandem] [--rounds 20]

Tandem and QEMU, each with its software engines and with KVM, take turns; medians in milliseconds, to the byte, to the
end of the process, and of CPU time (which a busy host leaves as it is), and ratios (above 1: Tandem is faster). What cannot run here is left out by name.
Then memory: what the process holds beyond the guest's RAM when a Linux guest of 128 MiB has come up, and when it has
been idle for ten seconds.
"""
import argparse
import os
import re
import resource
import select
import shutil
import statistics
import subprocess
import tempfile
import time

from benchguest import Failed, Session, build, guests, initramfs, machine

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# At the reset vector: mov al, 'S'; out 0xe9, al; out 0xf4, al; hlt
CODE = bytes([0xB0, ord("S"), 0xE6, 0xE9, 0xE6, 0xF4, 0xF4])


def once(command):
    """Milliseconds to the byte, to the end, and of CPU; or None if the byte did not come."""
    begun = time.monotonic()
    proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if not select.select([proc.stdout], [], [], 20)[0] or os.read(proc.stdout.fileno(), 1) != b"S":
            return None
        byte = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        proc.wait(20)
        end = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return (byte - begun) * 1e3, (end - begun) * 1e3, cpu * 1e3
    except subprocess.TimeoutExpired:
        return None
    finally:
        if proc.poll() is None:
            proc.kill()
            proc.wait()
        proc.stdout.close()


def beyond_ram(pid, ram):
    """Megabytes that a process holds (its share where others have the page too), the mappings of guest RAM left out."""
    total = 0
    is_ram = False
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            m = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
            if m:
                # The translator's mirror and windows show pages of the memfd once more.
                is_ram = int(m[2], 16) - int(m[1], 16) == ram or "/memfd:tandem-ram" in line
            elif line.startswith("Pss:") and not is_ram:
                total += int(line.split()[1])
    return total / 1024


def memory(tandem, tmp):
    if not os.path.exists(f"{guests()}/cloud-vmlinuz"):
        print(f"left out: memory of an idle guest; no kernel in {guests()}, run scripts/fetch-guests")
        return
    try:
        initramfs(build(tmp), f"{tmp}/programs.cpio")
        print(f"{'MB beyond RAM':16}{'when up':>12}{'idle':>10}   a Linux guest of 128 MiB")
        for name, command in {"tandem interp": [tandem, "-accel", "interp", "-nodefaults"],
                              "tandem jit": [tandem, "-accel", "jit", "-nodefaults"],
                              "qemu tcg": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults"]}.items():
            if not shutil.which(command[0]):
                print(f"left out: memory of {name}")
                continue
            session = Session(machine(command, f"{tmp}/programs.cpio", 128))
            session.start(120)
            up = beyond_ram(session.proc.pid, 128 << 20)
            time.sleep(10)
            idle = beyond_ram(session.proc.pid, 128 << 20)
            print(f"{name:16}{up:12.1f}{idle:10.1f}")
            session.close()
    except Failed as e:
        print(f"left out: memory of an idle guest; {e}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--rounds", type=int, default=20)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        rom = f"{tmp}/rom"
        with open(rom, "wb") as f:
            f.write(bytes(0xFFF0) + CODE.ljust(16, b"\xf4"))
        tandem = ["-m", "64", "-display", "none", "-bios", rom, "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4"]
        qemu = ["qemu-system-x86_64", "-m", "64", "-display", "none", "-bios", rom, "-nodefaults",
                "-chardev", "stdio,id=c", "-device", "isa-debugcon,iobase=0xe9,chardev=c",
                "-device", "isa-debug-exit,iobase=0xf4"]
        commands = {
            "tandem interp": [a.tandem, "-accel", "interp", *tandem],
            "tandem jit": [a.tandem, "-accel", "jit", *tandem],
            "qemu tcg": [*qemu, "-accel", "tcg"],
            "tandem kvm": [a.tandem, "-accel", "kvm", *tandem],
            "qemu kvm": [*qemu, "-accel", "kvm"],
        }
        for name in list(commands):
            if not shutil.which(commands[name][0]) or once(commands[name]) is None:
                print(f"left out, it does not run here: {name}")
                del commands[name]
        times = {name: [] for name in commands}
        for _ in range(a.rounds):
            for name, command in commands.items():
                took = once(command)
                if took:
                    times[name].append(took)
        print(f"{'milliseconds':16}{'first byte':>12}{'end':>10}{'CPU':>10}{'runs':>6}")
        median = {}
        for name, all_times in times.items():
            median[name] = [statistics.median(t[i] for t in all_times) for i in range(3)]
            print(f"{name:16}{median[name][0]:12.1f}{median[name][1]:10.1f}{median[name][2]:10.1f}{len(all_times):6}")
        for ours, theirs in (("tandem interp", "qemu tcg"), ("tandem jit", "qemu tcg"), ("tandem kvm", "qemu kvm")):
            if ours in median and theirs in median:
                print(f"{ours} starts {median[theirs][0] / median[ours][0]:.2f} times as fast as {theirs}, "
                      f"start to end {median[theirs][1] / median[ours][1]:.2f} times")
        memory(a.tandem, tmp)


main()
