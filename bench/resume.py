#!/usr/bin/env python3
"""How fast does a guest run right behind a switch? Its speed in the first 10 ms against that of the engine once it is warm.

    bench/resume.py [--tandem build/release/tandem] [--switches 20] [--accel kvm] [--program]

The guest (32-bit code, no paging; with --program in long mode at privilege 3, where a KVM without hardware makes page tables of its own,
which a switch has it drop) calls some 400 small functions in a ring, which read and write memory, and notes its TSC
behind each four of them; the notes are read out of its RAM, while it runs, through /proc. The machine stands
still for the switch, so that it is known which note is the first behind it. What comes in 10 ms from there is held against
40 ms of later, medians over the switches.
"""
import argparse
import atexit
import os
import re
import statistics
import struct
import subprocess
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HEAD, RING, NOTES = 0x90000, 0x1000000, 1 << 23  # count of notes; where they are; how many are kept
FUNCTIONS, SIZE = 400, 96


def function(n):
    """Adds up sixteen words of the guest's memory and stores into them; 80 instructions with the loop's."""
    at = 0x100000 + n * 4096
    return (b"\xbe" + struct.pack("<I", at) + b"\xb9" + struct.pack("<I", 16) + bytes.fromhex("0306 31c2 8906 83c604 ffc9 75f3") +
            bytes.fromhex("0fafc2 c1c007 83c011 c3"))


# Page tables at 84 MiB that map 96 MiB to themselves, 4 KiB each; long mode; IRETQ to 0xf0120 at privilege 3.
TO_PROGRAM = bytes.fromhex("""
    66b810008ed88ec08ed0bc00000800c7050000400507104005c7050010400507204005bf00204005b807304005b930000000890783c70805001000004975f3bf00304005
    b807000000b900600000890783c70805001000004975f30f20e083c8200f22e0b8000040050f22d8b9800000c00f320d000100000f300f20c00d010000800f22c0ea8cc0
    0f0018006a2b68000008006a026a336820010f0048cf""")


def rom(path, program):
    """All instructions mean the same in 32-bit and in 64-bit code."""
    code = bytes.fromhex("fa 66 2e 0f 01 16 4000 0f20c0 0c01 0f22c0 66ea") + struct.pack("<IH", 0xFC000 if program else 0xF0120, 8)
    image = bytearray(65536)
    image[:len(code)] = code
    image[0x40:0x46] = bytes.fromhex("3700 50000f00")
    image[0x50:0x88] = bytes.fromhex("0000000000000000 ffff0000009bcf00 ffff00000093cf00 ffff0000009baf00 0000000000000000"
                                     "ffff000000f3cf00 ffff000000fbaf00")
    main = b"" if program else bytes.fromhex("66b81000 8ed8 8ed0 bc00800000")  # DS, SS, ESP
    main += bytes.fromhex("31ff")  # EDI: number of the note
    start = 0x120
    loop = start + len(main)
    for n in range(FUNCTIONS):
        main += b"\xe8" + struct.pack("<i", 0x2000 + n * SIZE - (start + len(main) + 5))
        if n % 4 == 3:
            # rdtsc; note it at RING + 8 * (EDI modulo NOTES); inc edi; and say how many there are
            main += (bytes.fromhex("50 52 0f31 89fb 81e3") + struct.pack("<I", NOTES - 1) + bytes.fromhex("8904dd") + struct.pack("<I", RING) +
                     bytes.fromhex("8914dd") + struct.pack("<I", RING + 4) + bytes.fromhex("ffc7 893c25") + struct.pack("<I", HEAD) + bytes.fromhex("5a 58"))
    main += b"\xe9" + struct.pack("<i", loop - (start + len(main) + 5))
    image[start:start + len(main)] = main
    assert start + len(main) < 0x2000
    for n in range(FUNCTIONS):
        f = function(n)
        assert len(f) <= SIZE
        image[0x2000 + n * SIZE:0x2000 + n * SIZE + len(f)] = f
    if program:
        image[0xC000:0xC000 + len(TO_PROGRAM)] = TO_PROGRAM
    image[0xFFF0:0xFFF5] = bytes.fromhex("ea 0000 00f0")
    with open(path, "wb") as out:
        out.write(image)


class GuestRam:
    """The one mapping of the process that has the size of its guest's RAM."""

    def __init__(self, pid, base):
        self.base = base
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)

    @classmethod
    def of(cls, pid, size):
        for line in open(f"/proc/{pid}/maps"):
            begin, end = (int(x, 16) for x in line.split()[0].split("-"))
            if end - begin == size and " rw-" in line:
                return cls(pid, begin)
        return None

    def words(self, form, at):
        return struct.unpack(form, os.pread(self.fd, struct.calcsize(form), self.base + at))


def notes(ram, first):
    """TSCs from that note on."""
    last = ram.words("<I", HEAD)[0]
    first = max(first, last - NOTES + 1000)
    out = []
    while first < last:
        n = min(last - first, NOTES - first % NOTES)
        out += ram.words(f"<{n}Q", RING + first % NOTES * 8)
        first += n
    return out


def speed(stamps, khz, until):
    """Notes a millisecond, and how many there are, until so many milliseconds have gone by. A pause of more than a
    millisecond is the host's scheduler, who has others to run, and counts as one."""
    gone = n = 0
    for n in range(1, len(stamps)):
        gone += min(stamps[n] - stamps[n - 1], khz)
        if gone >= until * khz:
            break
    return n * khz / gone if gone >= until * khz else None, n


def around(stamps, khz):
    """Notes a millisecond in the first 10 ms behind the switch, and in the 40 ms behind those; None: too little."""
    first, n = speed(stamps, khz, 10)
    later, _ = speed(stamps[n:], khz, 40)
    return (first, later) if first and later else None


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--switches", type=int, default=20)
    p.add_argument("--accel", default="kvm", help="what the guest is started in")
    p.add_argument("--program", action="store_true", help="the guest is a program at privilege 3 in 4 KiB pages")
    a = p.parse_args()
    shares = {"kvm": [], "tcg": []}
    with tempfile.TemporaryDirectory() as tmp:
        rom(f"{tmp}/rom", a.program)
        begun = time.monotonic()
        proc = subprocess.Popen([a.tandem, "-accel", a.accel, "-m", "128", "-bios", f"{tmp}/rom", "-display", "none", "-nodefaults", "-monitor",
                                 "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        atexit.register(proc.kill)  # whatever goes wrong
        tell = lambda line: (proc.stdin.write(line + "\n"), proc.stdin.flush())
        ram = None
        while not ram or not ram.words("<I", HEAD)[0]:  # not up yet
            if time.monotonic() > begun + 60:
                raise SystemExit("resume: the guest does not begin")
            time.sleep(0.1)
            ram = ram or GuestRam.of(proc.pid, 128 << 20)
        engines = ["tcg", "kvm"] * a.switches
        for to in ["kvm", "tcg", *engines]:  # the first of each are cold
            tell("stop")
            tell(f"switch {to}")
            tell("info status")
            said = ""
            while "VM status" not in said:
                said += proc.stdout.readline()
            if "Error" in said:
                print("refused:", re.search(r"Error: .*", said)[0])
            at = ram.words("<I", HEAD)[0]
            tell("cont")
            time.sleep(0.2 if a.program else 0.8)  # less than fills the ring
            shares[to].append(notes(ram, at))
        out, _ = proc.communicate("info accel\nquit\n", timeout=60)
    khz = int(re.search(r"tsc (\d+) kHz", out)[1])
    for to, runs in shares.items():
        pairs = [pair for stamps in runs[1:] if len(stamps) > 2 and (pair := around(stamps, khz))]
        if not pairs:
            print(f"into {to}: too little to say (a KVM that emulates is too slow for this)")
            continue
        ratio = statistics.median(first / later for first, later in pairs)
        print(f"into {to}: the first 10 ms at {ratio * 100:.0f} % of the engine's speed ({statistics.median(later for _, later in pairs):.1f} notes a millisecond, "
              f"{len(pairs)} switches)")


main()
