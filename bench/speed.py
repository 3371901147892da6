#!/usr/bin/env python3
"""Software engines side by side on the same guest program: Tandem's interpreter, Bochs, QEMU TCG.

    bench/speed.py [--tandem build/release/tandem] [--rounds 3] [--accel interp] [--without bochs]

Runs them in turns, prints the median seconds of each workload and the ratio of Tandem to each peer (above 1: Tandem is
faster), and the geometric mean. Needs gcc; bochs and qemu-system-x86_64 are left out, and named, where missing.
"""
import argparse
import math
import os
import re
import select
import shutil
import statistics
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# letter: name, million instructions it executes (counted from speed.S; strings: elements moved)
WORK = {"a": ("alu", 360), "b": ("branch", 332), "m": ("memory", 320), "c": ("call", 275), "d": ("muldiv", 120),
        "s": ("string", 461), "f": ("sse", 105)}
BOCHSRC = """
cpu: model=corei7_haswell_4770, count=1, ips=100000000
memory: guest=64, host=64
romimage: file={image}, address=0xffff0000
vgaromimage: file={vga}
display_library: rfb, options="timeout=0"
port_e9_hack: enabled=1
plugin_ctrl: speaker=0
log: {tmp}/bochs.log
panic: action=fatal
"""


def image(tmp):
    obj, out = f"{tmp}/speed.o", f"{tmp}/speed.bin"
    subprocess.run(["gcc", "-c", f"{TOP}/bench/speed.S", "-o", obj], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", obj, out], check=True)
    # Debug console output and ROM at 0xf0000 need nothing but these bytes, at the end of 4 GiB and below 1 MiB.
    return out


def run(command):
    """Seconds per workload letter, timed from the marks on the program's standard output."""
    proc = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    times, letter, begun, deadline = {}, None, 0, time.monotonic() + 300
    try:
        while True:
            if not select.select([proc.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
                break
            data = os.read(proc.stdout.fileno(), 4096)
            now = time.monotonic()
            if not data:
                break
            # Bochs chats on the same stream before the guest runs; the marks come one by one, as the guest writes them.
            marks = re.match(r"([abmcdsfz.]{1,4})(?![^\n=])", data.decode("latin1"))
            for c in marks[1] if marks else "":
                if c == "." and letter:
                    times[letter] = now - begun
                    letter = None
                elif c in WORK:
                    letter, begun = c, now
                elif c == "z":
                    return times
    finally:
        proc.kill()
        proc.wait()
    return times


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--accel", default="interp")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--without", action="append", default=[])
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        rom = image(tmp)
        with open(f"{tmp}/bochsrc", "w") as f:
            f.write(BOCHSRC.format(image=rom, tmp=tmp, vga="/usr/share/seabios/vgabios-stdvga.bin"))
        with open(f"{tmp}/rc", "w") as f:
            f.write("c\n")  # Debian's Bochs starts in its debugger
        engines = {
            "tandem": [a.tandem, "-accel", a.accel, "-m", "64", "-display", "none", "-bios", rom,
                       "-debugcon", "stdio", "-device", "isa-debug-exit,iobase=0xf4"],
            "bochs": ["bochs", "-q", "-f", f"{tmp}/bochsrc", "-rc", f"{tmp}/rc"],
            "qemu": ["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "64", "-display", "none", "-bios", rom,
                     "-chardev", "stdio,id=c", "-device", "isa-debugcon,iobase=0xe9,chardev=c",
                     "-device", "isa-debug-exit,iobase=0xf4"],
        }
        for name in list(engines):
            if name in a.without or not shutil.which(engines[name][0]):
                print(f"left out: {name}")
                del engines[name]
        seen = {name: {} for name in engines}
        for _ in range(a.rounds):
            for name, command in engines.items():
                for letter, seconds in run(command).items():
                    seen[name].setdefault(letter, []).append(seconds)
        peers = [n for n in engines if n != "tandem"]
        print(f"{'workload':10}" + "".join(f"{n + ' s':>11}" for n in engines) + f"{'tandem MIPS':>13}"
              + "".join(f"{'vs ' + n:>11}" for n in peers))
        ratios = {n: [] for n in peers}
        for letter, (work, million) in WORK.items():
            med = {n: statistics.median(seen[n][letter]) if letter in seen[n] else math.nan for n in engines}
            row = f"{work:10}" + "".join(f"{med[n]:11.3f}" for n in engines) + f"{million / med['tandem']:13.0f}"
            for n in peers:
                ratio = med[n] / med["tandem"]
                if not math.isnan(ratio):
                    ratios[n].append(ratio)
                row += f"{ratio:10.2f}x"
            print(row)
        for n in peers:
            if ratios[n]:
                print(f"geometric mean: tandem is {statistics.geometric_mean(ratios[n]):.2f}x the speed of {n}")


main()
