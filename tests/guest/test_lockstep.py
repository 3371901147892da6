#!/usr/bin/env python3
"""tandem diff lockstep from outside: agreement over whole guests, a KVM's own defect found and found
again from the file, and what is refused.

usage: test_lockstep.py TANDEM GUESTS CASE
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

binary, guests, case = sys.argv[1:4]
slower = float(os.environ.get("TANDEM_TEST_SLOWER", "1"))


def run(*args, status=0, text=None, timeout=250):
    p = subprocess.run([binary, "diff", "lockstep", *args], capture_output=True, text=True, timeout=timeout * slower,
                       stdin=subprocess.DEVNULL)
    out = p.stdout + p.stderr
    print("$ lockstep", *args, "\n", out[-3000:])
    assert p.returncode == status, f"status {p.returncode} instead of {status}"
    assert text is None or re.search(text, out), f"no {text!r}"
    return p.stdout


def have_kvm():
    return os.access("/dev/kvm", os.R_OK | os.W_OK)


def kernel(*args):
    return ["--", "-m", "128", "-kernel", f"{guests}/cloud-vmlinuz", "-initrd", f"{guests}/busybox.gz",
            "-append", "console=ttyS0", "-serial", "null", *args]


def case_demo():
    for engines in "interp,interp", "jit,interp", "interp,jit":
        out = run("--engines", engines, "--", "-demo", text="every check held")
        assert "no divergence" in out and int(re.search(r"(\d+) interrupts", out)[1]) > 0


def case_kernel():
    for engines in "interp,interp", "jit,interp":
        run("--engines", engines, "--max", "3M", *kernel(), text=r"no divergence after 3000000 ")
    run("--engines", "jit,interp", "--every", "1000", "--max", "2M", *kernel(), text="no divergence after 2000000 ")
    run("--engines", "interp,jit", "--every", "insn", "--max", "300000", *kernel(), text="no divergence after 300000 ")
    run("--engines", "jit,interp", "--slow", "50", "--max", "3M", *kernel(), text=r"no divergence after 3000000 ")
    out = run("--engines", "jit,interp", "--chained", "--max", "30M", *kernel(), text="no divergence after 300")
    steps = int(re.search(r"instructions in (\d+) steps", out)[1])
    assert 1500 < steps < 4000, steps
    share, traces = re.search(r"in translated code: ([0-9.]+)%; made: \d+ codes, (\d+) of them traces", out).groups()
    assert float(share) > 80 and int(traces) > 20, (share, traces)


def case_smp():
    """Two vCPUs that take turns: they share counters, a spin lock, a ball and code that each writes for the other."""
    cc = shutil.which("cc")
    if not cc:
        print("skipped: no C compiler to build the guest with")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([cc, "-nostdlib", "-static", "-no-pie",
                        "-Wl,-Ttext=0x100000,--build-id=none,-z,noexecstack,--no-warn-rwx-segments", "-o", f"{d}/guest",
                        os.path.join(os.path.dirname(os.path.abspath(__file__)), "smp_guest.S")], check=True)
        machine = ["-smp", "2", "-m", "32", "-kernel", f"{d}/guest", "-device", "isa-debug-exit,iobase=0xf4",
                   "-display", "none", "-serial", "stdio"]
        for accel in "interp", "jit":
            p = subprocess.run([binary, "-accel", accel, *machine], capture_output=True, text=True, timeout=60 * slower,
                               stdin=subprocess.DEVNULL)
            assert p.stdout == "right\n" and p.returncode == 1, f"{accel}: {p.stdout}{p.stderr}"
        counts = set()
        for args in ["--engines", "jit,interp"], ["--engines", "jit,interp"], ["--engines", "interp,jit", "--turn", "5"], \
                    ["--engines", "jit,interp", "--every", "insn", "--max", "60000"], \
                    ["--engines", "jit,interp", "--chained", "--every", "100"], \
                    ["--engines", "jit,jit", "--chained", "--every", "1000", "--turn", "2"]:
            out = run(*args, "--", *machine, text="no divergence")
            assert "--max" in args or "right\n" in out
            assert all(int(n) > 10000 for n in re.findall(r"interp: (\d+) instructions|jit: (\d+) instructions", out)[0] if n)
            if len(args) == 2:
                counts.add(re.search(r"no divergence after (\d+)", out)[1])
        print("instructions in turns of one block:", *counts)


def case_switches():
    """The leader is switched at random instructions, the follower is not: the same guest comes out."""
    pairs = ["jit+interp,interp", "interp+jit,jit"] + (["kvm+interp,interp", "jit+kvm,interp"] if have_kvm() else [])
    for engines in pairs:
        for seed in "1", "2":
            out = run("--engines", engines, "--switch-every", "10", "--seed", seed, "--", "-demo", text="every check held")
            n = [int(x) for x in re.search(r"switched (\d+) times: (\d+) to \w+ (\d+) to \w+", out).groups()]
            assert "no divergence" in out and n[0] > 3000 and abs(n[1] - n[2]) < 2, n
    out = run("--engines", "jit+interp,interp", "--switch-every", "200", "--max", "2M", *kernel(), text="no divergence after 2000000 ")
    assert int(re.search(r"switched (\d+) times", out)[1]) > 8000


def case_kvm():
    if not have_kvm():
        print("skipped: no usable /dev/kvm")
        sys.exit(77)
    out = run("--", "-demo", text="every check held")
    assert "no divergence" in out
    run("--engines", "kvm,interp", "--max", "20000", "--", "-demo", text="no divergence")
    # A BIOS image of a few instructions. Some KVMs write two of the four bytes of a 32-bit PUSH of a segment register:
    # mov sp, 7000h; mov eax, -1; push eax; pop eax; push ds (32 bits); jmp $
    code = bytes.fromhex("bc0070" "66b8ffffffff" "6650" "6658" "661e" "ebfe")
    image = bytearray(b"\xf4" * 65536)
    image[0xe000:0xe000 + len(code)] = code
    image[0xfff0:0xfff3] = b"\xe9" + (0xe000 - 0xfff3 & 0xffff).to_bytes(2, "little")
    with tempfile.TemporaryDirectory() as d:
        bios, state = f"{d}/bios", f"{d}/state"
        with open(bios, "wb") as f:
            f.write(image)
        args = ["--save", state, "--max", "8", "--", "-bios", bios, "-m", "1"]
        p = subprocess.run([binary, "diff", "lockstep", *args], capture_output=True, text=True, timeout=60 * slower)
        print(p.stdout, p.stderr)
        if p.returncode == 0:
            print("this KVM writes all four bytes")
            return
        assert p.returncode == 1 and "divergence at instruction 6, in the step at RIP 0xe00d" in p.stdout, "not found at the PUSH"
        found = re.findall(r"^  \[0x6ff[ef]\] .*", p.stdout, re.M)
        assert found and re.search(r"66 1e +push ds\n", p.stdout), "the path does not end there"
        again = run("--load", state, status=1)
        assert re.findall(r"^  \[0x6ff[ef]\] .*", again, re.M) == found * 2, "another difference from the file"
        run("--load", state, "--engines", "interp,interp", text="no divergence")


def case_bad_input():
    run("--engines", "interp", "--", "-demo", status=2, text="two names are needed")
    run("--engines", "interp,qemu", "--", "-demo", status=2, text="no engine 'qemu'; there are")
    run("--engines", "interp,interp", "--every", "page", "--", "-demo", status=2, text="--every page: not a number")
    run("--every", "7", "--", "-demo", status=2, text="KVM steps by one instruction")
    run("--engines", "interp,interp", "--max", "0", "--", "-demo", status=2, text="--max 0: not a number")
    run("--engines", "jit+jit,interp", "--", "-demo", status=2, text="needs two engines")
    run("--engines", "jit+qemu,interp", "--", "-demo", status=2, text="no engine 'qemu'")
    run("--engines", "jit,interp", "--seed", "3", "--", "-demo", status=2, text="--seed: nothing is switched")
    run("--engines", "jit+interp,interp", "--seed", "x", "--", "-demo", status=2, text="--seed x: not a number")
    run("--engines", "jit+interp,interp", "--switch-every", "0", "--", "-demo", status=2, text="--switch-every 0: not a number")
    run("--engines", "interp+kvm,interp", "--", "-smp", "2", "-bios", "x", status=2, text="-smp 2: with KVM")
    run("--engines", "interp+kvm,kvm", "--", "-demo", status=2 if have_kvm() else 1)
    run("--engines", "kvm,kvm", "--", "-demo", status=2 if have_kvm() else 1)
    run("--engines", "interp,jit", "--chained", "--", "-demo", status=2, text="--chained: it is jit's code")
    run("--engines", "jit+interp,interp", "--chained", "--", "-demo", status=2, text="--chained: it is jit's code")
    run("--engines", "jit,interp", "--chained", "--every", "insn", "--", "-demo", status=2, text="--every insn: with --chained")
    run("--engines", "jit,interp", "--chained", "--load", "x", status=2, text="--chained: what was saved")
    run("--engines", "jit,interp", "--slow", "0", "--", "-demo", status=2, text="--slow 0: 1 to")
    run("--engines", "interp,kvm", "--slow", "2", "--", "-bios", "x", status=2, text="--slow: KVM's guest")
    run("--frobnicate", status=2, text="--frobnicate")
    run("-demo", status=2)
    run("demo", status=2, text="behind --")
    run("--engines", "interp,interp", status=2, text="no guest: its options come behind --")
    two = ["--engines", "interp,interp", "--"]
    run("--", "-smp", "2", "-bios", "/dev/null", status=2, text="-smp 2: with KVM lockstep compares one vCPU")
    run("--engines", "interp,interp", "--turn", "0", "--", "-demo", status=2, text="--turn 0: 1 or more")
    run(*two, "-accel", "jit", "-bios", "x", status=2, text="-accel jit: --engines says")
    for kind in "on", "split":
        run(*two, "-machine", f"pc,kernel-irqchip={kind}", "-demo", status=2, text=f"-machine kernel-irqchip={kind}: interrupts are")
    run(*two, "-machine", "pc,kernel-pit=on", "-bios", "x", status=2, text="-machine kernel-pit=on: the PIT")
    run("--", "-demo", "-machine", "pc,kernel-irqchip=off,kernel-pit=on", status=2, text="-machine kernel-pit=on: the PIT")
    run(*two, "-monitor", "stdio", "-bios", "x", status=2, text="-monitor: a monitor could")
    run(*two, "-kernel", "/nonexistent", status=2, text="nonexistent")
    run(*two, "-frobnicate", status=2, text="unknown option -frobnicate")
    run("--load", "/nonexistent", status=2, text="nonexistent")
    run("--explain", text="tsc .*RAX, RDX")
    with tempfile.TemporaryDirectory() as d:
        for name, content in ("empty", b""), ("noise", os.urandom(5000)), ("text", b"tandem lockstep state 1\nfoo\n"):
            with open(f"{d}/{name}", "wb") as f:
                f.write(content)
            run("--load", f"{d}/{name}", status=2, text="is damaged, or was not made by")


globals()[f"case_{case.replace('-', '_')}"]()
