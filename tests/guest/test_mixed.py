#!/usr/bin/env python3
"""Two vCPUs, one in KVM and one in the software engine, that share memory, interrupts, code and page tables; then moved to
and fro, each by itself, while they do.

usage: test_mixed.py TANDEM CC SECONDS
"""
import os
import random
import re
import subprocess
import sys
import tempfile
import time

BINARY, CC, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
HERE = os.path.dirname(os.path.abspath(__file__))
PARTS = {"": ["both", "locked", "interrupts", "code", "dirty", "remapped", "flushed", "beside", "polled"],
         "-DPRIVILEGE3": ["both", "locked", "code", "flushed", "beside", "polled"]}


def build(tmp, *defines):
    image = f"{tmp}/mixed.bin"
    subprocess.run([CC, *[d for d in defines if d], "-nostdlib", "-static", "-Wl,--oformat=binary", "-Wl,-Ttext=0xf0000",
                    "-Wl,--build-id=none", "-Wl,-e,0", "-o", image, f"{HERE}/mixed.S"], check=True)
    return image


class Guest:
    def __init__(self, image, accel, limit=250):
        self.out = f"{os.path.dirname(image)}/out"
        self.deadline = time.monotonic() + limit
        self.proc = subprocess.Popen(
            [BINARY, "-accel", accel, "-m", "16", "-smp", "2", "-S", "-display", "none", "-nodefaults", "-no-reboot", "-bios", image,
             "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", f"file:{self.out}", "-monitor", "stdio"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def tell(self, line):
        try:
            self.proc.stdin.write(line + "\n")
            self.proc.stdin.flush()
        except BrokenPipeError:
            pass  # the guest has ended it

    def end(self):
        try:
            said, _ = self.proc.communicate(timeout=max(1, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.proc.kill()
            said = "(no end) " + self.proc.communicate()[0]
        with open(self.out) as f:
            return self.proc.returncode, f.read().split(), said


def apart(tmp, define, cpu):
    """The vCPU of that number is in the software engine, the other in KVM."""
    guest = Guest(build(tmp, define), "kvm")
    guest.tell(f"switch tcg {cpu}")
    guest.tell("info cpus")
    guest.tell("cont")
    status, parts, said = guest.end()
    assert re.search(rf"cpu {cpu}: now in", said), said
    assert re.search(r"engine=kvm", said) and re.search(r"engine=(jit|interp)", said), said
    assert status == 1 and parts == PARTS[define], f"cpu {cpu} in software {define}: status {status}, {parts}\n{said[-2000:]}"
    print(f"cpu {cpu} in software, the other in kvm{', privilege 3' if define else ''}: {' '.join(parts)}")


def together(tmp, define):
    """Both are in KVM, but for what it leaves to the software engine."""
    guest = Guest(build(tmp, define), "kvm")
    guest.tell("cont")
    status, parts, said = guest.end()
    assert status == 1 and parts == PARTS[define], f"both in kvm {define}: status {status}, {parts}\n{said[-2000:]}"
    print(f"both in kvm{', privilege 3' if define else ''}: {' '.join(parts)}")


def storm(tmp, define, rounds, seed):
    """Each vCPU to and fro at random; what this KVM refuses is refused by name, and the guest goes on."""
    rng = random.Random(seed)
    guest = Guest(build(tmp, define, f"-DROUNDS={rounds}"), "kvm")
    guest.tell("cont")
    n, until = 0, time.monotonic() + SECONDS
    while guest.proc.poll() is None and time.monotonic() < until:
        where = rng.choice(["", " 0", " 1"])
        guest.tell(f"switch {rng.choice(['kvm', 'tcg', 'interp'])}{where}")
        n += 1
        time.sleep(rng.random() * 0.02)
    guest.tell("switch tcg")  # the rest of it, soon
    status, parts, said = guest.end()
    moved = len(re.findall(r"now in", said))
    assert status == 1 and parts == PARTS[define], f"storm {seed}: status {status}, {parts}\n{said[-3000:]}"
    print(f"storm{' at privilege 3' if define else ''}: {moved} moves of single vCPUs")


if not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("no usable /dev/kvm: not tested")
    sys.exit(77)
with tempfile.TemporaryDirectory() as folder:
    for what in PARTS:
        together(folder, what)
        for one in (0, 1):
            apart(folder, what, one)
    storm(folder, "", 1500, 1)
    storm(folder, "-DPRIVILEGE3", 6000, 2)
