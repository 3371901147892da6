#!/usr/bin/env python3
"""Bad input gets one clear line on stderr and exit status 1, and leaves nothing behind.

usage: test_bad_input.py TANDEM GUESTS
"""
import os
import re
import socket
import struct
import subprocess
import sys
import tempfile

BINARY, GUESTS = sys.argv[1:3]
tmp = tempfile.TemporaryDirectory()
KERNEL = f"{GUESTS}/cloud-vmlinuz"


def file(name, data):
    path = os.path.join(tmp.name, name)
    with open(path, "wb") as f:
        f.write(data)
    return path


def sparse(name, size):
    path = file(name, b"")
    os.truncate(path, size)
    return path


def elf64(*segments):
    """An ELF64 executable with these (paddr, filesz, memsz) PT_LOAD segments."""
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, len(segments), 64, 0, 0)
    body = b""
    for paddr, filesz, memsz in segments:
        body += struct.pack("<IIQQQQQQ", 1, 5, 0x1000, paddr, paddr, filesz, memsz, 0x1000)
    return (head + body).ljust(0x3000, b"\xf4")


kernel = open(KERNEL, "rb").read()
far_setup = bytearray(kernel[:4096])
far_setup[0x1F1] = 200
taken = os.path.join(tmp.name, "taken.sock")
holder = socket.socket(socket.AF_UNIX)
holder.bind(taken)
holder.listen()

K = ["-kernel", KERNEL]
CASES = [
    (["-frobnicate"], r"-frobnicate"),
    ([*K, "-device", "no-such-device"], r"no-such-device"),
    (["-kernel", "/nonexistent/bzImage"], r"/nonexistent/bzImage.*No such file"),
    (["-kernel", file("empty", b"")], r"empty"),
    (["-kernel", file("text", b"hello, world\n" * 100)], r"text"),
    (["-kernel", file("cut", kernel[:700])], r"cut"),
    (["-kernel", file("far-setup", bytes(far_setup))], r"setup"),
    (["-kernel", tmp.name], r"directory"),
    (["-kernel", file("overlap", elf64((0x100000, 0x1000, 0x2000), (0x101000, 0x1000, 0x1000)))], r"overlap"),
    (["-kernel", file("far", elf64((0x4000000000, 0x1000, 0x1000)))], r"RAM"),
    ([*K, "-m", "64", "-initrd", sparse("initrd", 80 << 20)], r"initrd"),
    ([*K, "-initrd", "/nonexistent/initrd"], r"/nonexistent/initrd"),
    ([*K, "-m", "0"], r"-m"),
    ([*K, "-m", "1T"], r"-m"),
    ([*K, "-m", "lots"], r"lots"),
    ([*K, "-smp", "0"], r"-smp"),
    ([*K, "-smp", "9999"], r"-smp.*9999"),
    ([*K, "-machine", "q35"], r"q35"),
    ([*K, "-accel", "hax"], r"hax"),
    ([*K, "-cpu", "i486"], r"i486"),
    ([*K, "-serial", "carrier-pigeon"], r"carrier-pigeon"),
    ([*K, "-monitor", f"unix:{taken},server,nowait"], r"taken\.sock"),
    ([*K, "-monitor", "unix:/nonexistent/dir/m.sock,server,nowait"], r"/nonexistent/dir/m\.sock"),
    ([*K, "-D", "/nonexistent/dir/log"], r"/nonexistent/dir/log"),
    ([*K, "-d", "everything"], r"everything"),
    (["-hda", "disk.img"], r"-hda"),
    (["-bios", file("bios", b"x" * 1000)], r"bios"),
    (["-bios", tmp.name], r"is a directory"),
    (["-bios", "/dev/null"], r"not a regular file"),
    ([*K, "-symbols", "/dev/zero"], r"/dev/zero.*not a regular file"),
    ([*K, "-symbols", sparse("symbols", 8 << 40)], r"line 1"),
    ([*K, "-device", ","], r"-device"),
    ([], r"-kernel"),
]

failures = 0
for args, want in CASES:
    base = ["-display", "none"] if args else []
    before = set(os.listdir(tmp.name))
    pid = os.path.join(tmp.name, "pid")
    try:
        run = subprocess.run([BINARY, *base, *args, *(["-pidfile", pid] if args else [])], stdin=subprocess.DEVNULL,
                             capture_output=True, text=True, timeout=20)
        lines = run.stderr.strip().splitlines()
        ok = run.returncode == 1 and len(lines) == 1 and re.search(want, lines[0]) and set(os.listdir(tmp.name)) == before
        got = f"status {run.returncode}, stderr {run.stderr.strip()!r}, left {set(os.listdir(tmp.name)) - before or 'nothing'}"
    except subprocess.TimeoutExpired:
        ok, got = False, "still running after 20 s"
    if not ok:
        failures += 1
        print(f"FAILED {' '.join(args)}: wanted one line with /{want}/ and status 1\n   got {got}")


def says(args, want, status, stdout=subprocess.DEVNULL):
    """What is lost on a full disk is said; /dev/full is one."""
    global failures
    run = subprocess.run(["timeout", "-s", "INT", "10", BINARY, *args], stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, text=True)
    if not re.search(want, run.stderr) or run.returncode not in status:
        failures += 1
        print(f"FAILED {' '.join(args)}: wanted /{want}/, got status {run.returncode} {run.stderr!r}")


BUSY = ["-accel", "interp", "-display", "none", "-kernel", KERNEL, "-append", "console=ttyS0 earlyprintk=ttyS0"]
full = open("/dev/full", "w")
says(["-help"], "", [1], full)
says(["rip", "--help"], "", [1], full)
says(["rip", "--help"], r"^$", [0])
says([*BUSY, "-d", "int,pio,exec", "-D", "/dev/full"], r"^tandem: -D: No space left.*lost\n(tandem: ended.*\n)?$", [0, 124])
says([*BUSY, "-serial", "file:/dev/full"], r"^tandem: file:/dev/full: No space left.*lost\n(tandem: ended.*\n)?$", [0, 124])
print(f"bad input: {len(CASES)} cases, {failures} failed")
sys.exit(1 if failures else 0)
