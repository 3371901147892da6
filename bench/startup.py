#!/usr/bin/env python3
"""From exec to the guest's first effect: a ROM that writes one byte to port 0xe9 and ends through port 0xf4.

    bench/startup.py [--tandem build/release/tandem] [--rounds 15]

Runs each engine in turns and prints the median milliseconds of the whole process and the ratio to Tandem's interpreter.
An engine that does not start here is left out, and named.
"""
import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# mov al, '!'; out 0xe9, al; mov al, 0; out 0xf4, al; hlt
CODE = bytes([0xB0, 0x21, 0xE6, 0xE9, 0xB0, 0x00, 0xE6, 0xF4, 0xF4])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--rounds", type=int, default=15)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        rom = bytearray(b"\xf4" * 65536)
        rom[: len(CODE)] = CODE
        rom[0xFFF0:0xFFF5] = b"\xea\x00\x00\x00\xf0"
        path = f"{tmp}/rom"
        with open(path, "wb") as f:
            f.write(rom)
        tandem = ["-m", "128", "-display", "none", "-bios", path, "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4"]
        qemu = ["-m", "128", "-display", "none", "-bios", path, "-chardev", "stdio,id=c",
                "-device", "isa-debugcon,iobase=0xe9,chardev=c", "-device", "isa-debug-exit,iobase=0xf4"]
        engines = {
            "tandem interp": [a.tandem, "-accel", "interp", *tandem],
            "tandem kvm": [a.tandem, "-accel", "kvm", *tandem],
            "qemu tcg": ["qemu-system-x86_64", "-accel", "tcg", *qemu],
            "qemu kvm": ["qemu-system-x86_64", "-accel", "kvm", *qemu],
        }
        times = {}
        for turn in range(a.rounds + 1):
            for name, command in list(engines.items()):
                start = time.monotonic()
                run = None
                if shutil.which(command[0]):
                    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
                if run is None or run.returncode != 1 or b"!" not in run.stdout:
                    why = run.stderr.decode().strip()[:100] if run else "not installed"
                    print(f"left out: {name}: {why}")
                    del engines[name]
                elif turn:  # the first turn warms the page cache
                    times.setdefault(name, []).append((time.monotonic() - start) * 1000)
        base = statistics.median(times["tandem interp"])
        for name, t in times.items():
            med = statistics.median(t)
            print(f"{name:15} {med:8.2f} ms (min {min(t):.2f}, max {max(t):.2f})  {med / base:6.2f}x tandem interp")


main()
