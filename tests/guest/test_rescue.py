#!/usr/bin/env python3
"""A guest that uses what a KVM without hardware does not have runs to its end under tandem, whatever KVM there is; beside
it QEMU's -accel kvm, if there is one to show it.

usage: test_rescue.py TANDEM CC
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

BINARY, CC = sys.argv[1:3]
PARTS = ["real-x87", "protected-x87", "protected-sse", "protected-int-iret", "protected-popcnt", "paging32", "long-int-iret",
         "long-x87", "long-cmpxchg16b", "long-popcnt", "long-rdtscp", "long-sse", "long-x87-loop"]
HERE = os.path.dirname(os.path.abspath(__file__))


def build(tmp):
    image = f"{tmp}/rescue.bin"
    subprocess.run([CC, "-nostdlib", "-static", "-Wl,--oformat=binary", "-Wl,-Ttext=0xf0000", "-Wl,--build-id=none",
                    "-Wl,-e,0", "-o", image, f"{HERE}/rescue.S"], check=True)
    assert os.path.getsize(image) == 65536
    return ["-m", "16", "-display", "none", "-nodefaults", "-no-reboot", "-bios", image, "-debugcon", "stdio",
            "-device", "isa-debug-exit,iobase=0xf4,iosize=4"]


def run(command, timeout=120):
    """Status (None: did not end), the parts that were right, and what was said besides."""
    try:
        r = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout)
        status, out, err = r.returncode, r.stdout, r.stderr
    except subprocess.TimeoutExpired as e:
        status, out, err = None, (e.stdout or b"").decode(), (e.stderr or b"").decode()
    return status, [line for line in out.splitlines() if line in PARTS], err


def whole(accel, args):
    status, parts, err = run([BINARY, "-accel", accel, "-cpu", "max,+popcnt,+rdtscp", *args])
    assert status == 1 and parts == PARTS, f"-accel {accel}: status {status}, {parts}, {err}"
    assert err.count("tried again now and then") <= 1, f"said more than once: {err}"
    print(f"tandem -accel {accel}: all {len(PARTS)} parts")
    return err


def test_kvm(args):
    err = whole("kvm", args)
    with open("/proc/cpuinfo") as f:
        hardware = re.search(r"^flags.*\b(vmx|svm)\b", f.read(), re.M)
    assert bool(hardware) != ("neither VMX nor SVM" in err), f"what KVM is made of: {err}"
    whole("kvm", [*args, "-machine", "kernel-irqchip=on"])  # where vCPUs move for an instruction, or all together
    status, parts, err = run([BINARY, "-accel", "kvm,rescue=off", "-cpu", "max", *args])
    if parts == PARTS:
        print("this KVM needs no rescue")
        return
    assert re.search(r"KVM (cannot emulate|refused|does not have)|-cpu: feature", err) or status == 0, f"{status} {err}"
    print(f"tandem -accel kvm,rescue=off: {len(parts)} parts, then: {err.strip().splitlines()[-1] if err else 'reset'}")
    qemu = shutil.which("qemu-system-x86_64")
    if qemu:
        status, parts, err = run([qemu, "-accel", "kvm", "-cpu", "qemu64", *args], 5)
        said = re.search(r"KVM internal error.*|shutdown", err)
        print(f"qemu -accel kvm: {len(parts)} parts, {said[0] if said else 'no more'}")
        assert parts != PARTS


def test_adaptive(tmp):
    """A loop that a KVM which emulates takes three minutes for ends soon, because the vCPU is moved; one with hardware keeps it."""
    code = bytes.fromhex("66b9 00006602 6649 75fc b000 e6f4 f4")  # mov ecx, 0x2660000; dec ecx; jnz; out 0xf4
    rom = bytearray(65536)
    rom[:len(code)] = code
    rom[0xFFF0:0xFFF5] = bytes.fromhex("ea 0000 00f0")
    open(f"{tmp}/spin.bin", "wb").write(rom)
    status, _, err = run([BINARY, "-accel", "kvm,adaptive=on", "-m", "16", "-display", "none", "-nodefaults", "-d", "switch",
                          "-bios", f"{tmp}/spin.bin", "-device", "isa-debug-exit,iobase=0xf4,iosize=4"], 100)
    assert status == 1, f"adaptive: status {status}: {err[-2000:]}"
    moved = re.search(r"stays in \w+ for \d+ ms: (.*)", err)
    print(f"adaptive: {'stayed in KVM' if not moved else moved[1]}")


with tempfile.TemporaryDirectory() as tmp:
    arguments = build(tmp)
    have_kvm = os.access("/dev/kvm", os.R_OK | os.W_OK)
    for name in ["tcg", "auto", "interp"]:
        whole(name, arguments)
    if not have_kvm:
        print("no usable /dev/kvm: the half that rescues was not tested")
        sys.exit(77)
    test_kvm(arguments)
    test_adaptive(tmp)
