#!/usr/bin/env python3
"""What a switch between KVM and the software engine costs, against the least that the host's KVM allows.

    bench/switch.py [--tandem build/release/tandem] [--switches 6000] [--rounds 3] [--ram 64,16384]

Each round runs the demo guest with that many switches, and then floor.c: bare ioctls that read or write a vCPU's
whole state. Prints the median of the rounds for each step, and holds a switch out of KVM against reading a state, one into it
against writing one. Where KVM has page tables of its own, which only moving a memory slot makes it drop, a second ratio is to the two
together, which is what a switch would cost that did it on the spot; ours has a thread do it while the vCPU is elsewhere. Then a
policy switches a guest each millisecond, so that it has run in between (in the demo's switches, made as fast as they go, it often has
not, and then little has to move), and as often as it goes. What has run in between has put its own into the processor's caches. So those
are held against two floors: the ioctls made one round after the other, as above, and the same ioctls behind a millisecond of that guest,
or into KVM of stores to the same memory. Then machines with as many MiB of RAM as --ram says
take turns at being switched to and fro from the monitor, while their guest writes to one page after the other. Needs gcc.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def demo(tandem, switches):
    run = subprocess.run([tandem, "--demo", "--switches", str(switches)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"the demo failed:\n{run.stdout}{run.stderr}")
    if "no KVM here" in run.stdout:
        print(re.search(r"demo: no KVM here.*", run.stdout)[0], "- so these are switches to itself, without a floor")
    table = run.stdout[run.stdout.index("switch latency"):]
    return {m[1]: (float(m[2]), float(m[3])) for m in re.finditer(r"^  (\w[\w ]*?) +([\d.]+) +([\d.]+) +[\d.]+$", table, re.M)}


# At the reset vector, to 32-bit code that writes to each page of what RAM there is below 3 GiB, over and over.
def writer(path, mib):
    top = min(mib, 3072) << 20
    code = bytes.fromhex("fa 66 2e 0f 01 16 4000 0f20c0 0c01 0f22c0 66ea 20000f00 0800")
    flat = bytes.fromhex("66b81000 8ed8 bf00001000 8807 81c700100000 81ff") + top.to_bytes(4, "little") + bytes.fromhex("72f0 ebe9")
    rom = bytearray(65536)
    rom[:len(code)] = code
    rom[0x20:0x20 + len(flat)] = flat
    rom[0x40:0x46] = bytes.fromhex("1700 50000f00")
    rom[0x50:0x68] = bytes.fromhex("0000000000000000 ffff0000009bcf00 ffff00000093cf00")
    rom[0xFFF0:0xFFF5] = bytes.fromhex("ea 0000 00f0")
    with open(path, "wb") as f:
        f.write(rom)


def monitored(tandem, args, script, timeout):
    """What the monitor says to lines, each followed by so many seconds."""
    p = subprocess.Popen([tandem, "-accel", "kvm,adaptive=off", "-display", "none", "-nodefaults", "-monitor", "stdio", *args], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line, pause in script:
        p.stdin.write(line + "\n")
        p.stdin.flush()
        time.sleep(pause)
    try:
        return p.communicate("quit\n", timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        p.kill()
        return ""


def own_tables(tandem):
    with tempfile.TemporaryDirectory() as tmp:
        writer(f"{tmp}/writer.bin", 16)
        return re.search(r"page tables: KVM.s own", monitored(tandem, ["-m", "16", "-bios", f"{tmp}/writer.bin"], [("info kvm", 0.3)], 20))


def by_policy(tandem, every, seconds=3):
    """Switches a second that a policy makes, out of KVM and back; p50 and p99 of those out of KVM and into it."""
    with tempfile.TemporaryDirectory() as tmp:
        writer(f"{tmp}/writer.bin", 16)
        out = monitored(tandem, ["-m", "16", "-bios", f"{tmp}/writer.bin"],
                        [(f"switch-policy add every={every}", seconds), ("info switch", 0.2)], 20)
    m = re.search(rf"every={every}[^\n]*fired (\d+)", out)
    rows = [re.search(rf"{name} +([\d.]+) +([\d.]+)", out) for name in ("out of kvm", "into kvm")]
    return int(int(m[1]) / seconds) if m else 0, [tuple(map(float, r.groups())) if r else (0, 0) for r in rows]


def with_ram(tandem, tmp, mib, switches):
    """Microseconds of whole switches: p50, p99."""
    writer(f"{tmp}/writer.bin", mib)
    p = subprocess.Popen([tandem, "-accel", "kvm", "-m", str(mib), "-bios", f"{tmp}/writer.bin", "-display", "none", "-nodefaults",
                          "-monitor", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        time.sleep(0.3)
        for n in range(switches):
            p.stdin.write(f"switch {'tcg' if n % 2 == 0 else 'kvm'}\n")
            p.stdin.flush()
            time.sleep(0.005)
        out, _ = p.communicate("info switch\ninfo cpus\nquit\n", timeout=60)
    except (subprocess.TimeoutExpired, BrokenPipeError):
        p.kill()
        return None
    m = re.search(r"total +[\d.]+ +([\d.]+) +([\d.]+)", out)
    return (float(m[1]), float(m[2])) if m else None


def compare_ram(tandem, sizes, rounds):
    seen = {mib: [] for mib in sizes}
    with tempfile.TemporaryDirectory() as tmp:
        for _ in range(rounds):
            for mib in sizes:
                seen[mib].append(with_ram(tandem, tmp, mib, 200))
    for mib, values in seen.items():
        good = [v for v in values if v]
        if good:
            p50, p99 = (statistics.median(v[i] for v in good) for i in range(2))
            print(f"{mib} MiB of RAM: p50 {p50:.1f} us, p99 {p99:.1f} us")
        else:
            print(f"{mib} MiB of RAM: could not be measured here")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--switches", type=int, default=6000)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--ram", default="64,16384", help="MiB, of machines whose switches are compared; empty: none")
    a = p.parse_args()
    seen = {}
    with tempfile.TemporaryDirectory() as tmp:
        writer(f"{tmp}/writer.bin", 16)
        subprocess.run(["gcc", "-O2", "-std=gnu17", f"-I{TOP}/src", f"{TOP}/bench/floor.c", "-o", f"{tmp}/floor"], check=True)
        for _ in range(a.rounds):
            for name, values in demo(a.tandem, a.switches).items():
                seen.setdefault(name, []).append(values)
            floor = subprocess.run([f"{tmp}/floor", f"{tmp}/writer.bin"], capture_output=True, text=True)
            if floor.returncode not in (0, 77):
                sys.exit(f"the floor could not be measured: {floor.stderr}")
            for line in floor.stdout.splitlines():
                name, p50, p99 = line.split()
                seen.setdefault(f"floor: {name}", []).append((float(p50), float(p99)))
    median = {name: tuple(statistics.median(v[i] for v in values) for i in range(2)) for name, values in seen.items()}
    print(f"{'microseconds':20}{'p50':>10}{'p99':>10}")
    for name, (p50, p99) in median.items():
        print(f"{name:20}{p50:10.2f}{p99:10.2f}")
    if "floor: get" in median and "into KVM" in median:
        own = own_tables(a.tandem)
        for i, (p, goal) in enumerate((("p50", 1.3), ("p99", 2))):
            get, put, slot = (median[f"floor: {name}"][i] for name in ("get", "set", "slot"))
            out, into = median["out of KVM"][i], median["into KVM"][i]
            print(f"{p} (goal: {goal}): out of KVM {out / get:.2f} times the floor of {get:.1f} us; into KVM {into / put:.2f} times the {put:.1f} us" +
                  (f", {into / (put + slot):.2f} times the {put + slot:.1f} us with a slot moved" if own else "") +
                  f"; both {(out + into) / (get + put):.2f} times the {get + put:.1f} us")
        behind = [by_policy(a.tandem, "1ms")[1] for _ in range(a.rounds)]
        for i, p in enumerate(("p50", "p99")):
            get, put, slot = (median[f"floor: {name}"][i] for name in ("get", "set", "slot"))
            get_then, put_then = (median[f"floor: {name}-behind"][i] for name in ("get", "set"))
            out, into = (statistics.median(r[k][i] for r in behind) for k in range(2))
            print(f"{p} where the guest has run for 1 ms before: out of KVM {out:.1f} us, {out / get:.2f} times the floor; into KVM {into:.1f} us, "
                  f"{into / put:.2f} times" + (f", {into / (put + slot):.2f} times with a slot moved" if own else ""))
            print(f"    against the floor behind 1 ms: out of KVM {out / get_then:.2f} times {get_then:.1f} us; into KVM {into / put_then:.2f} times "
                  f"{put_then:.1f} us")
        one = median["floor: ioctl"][0]
        often = by_policy(a.tandem, "50us")[0]
        print(f"sustained: {often} switches a second (goal: 10000 where an ioctl takes less than 2 us; here one takes {one:.1f} us, so it "
              f"{'applies' if one < 2 else 'does not apply'})")
        compare_ram(a.tandem, [int(mib) for mib in a.ram.split(",") if mib], a.rounds)


main()
