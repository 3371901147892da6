#!/usr/bin/env python3
"""What a switch between KVM and the software engine costs, against the least that the host's KVM allows.

    bench/switch.py [--tandem build/release/tandem] [--switches 6000] [--rounds 3]

Each round runs the demo guest with that many switches, and then floor.c: bare ioctls that read or write a vCPU's
whole state. Prints the median of the rounds for each step, and the ratio of a whole switch to the mean of
reading and writing (a switch out of KVM reads, one into it writes). Needs gcc.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def demo(tandem, switches):
    run = subprocess.run([tandem, "--demo", "--switches", str(switches)], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"the demo failed:\n{run.stdout}{run.stderr}")
    if "no KVM here" in run.stdout:
        print(re.search(r"demo: no KVM here.*", run.stdout)[0], "- so these are switches to itself, without a floor")
    table = run.stdout[run.stdout.index("switch latency"):]
    return {m[1]: (float(m[2]), float(m[3])) for m in re.finditer(r"^  (\w[\w ]*?) +([\d.]+) +([\d.]+) +[\d.]+$", table, re.M)}


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--switches", type=int, default=6000)
    p.add_argument("--rounds", type=int, default=3)
    a = p.parse_args()
    seen = {}
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run(["gcc", "-O2", "-std=gnu17", f"-I{TOP}/src", f"{TOP}/bench/floor.c", "-o", f"{tmp}/floor"], check=True)
        for _ in range(a.rounds):
            for name, values in demo(a.tandem, a.switches).items():
                seen.setdefault(name, []).append(values)
            floor = subprocess.run([f"{tmp}/floor"], capture_output=True, text=True)
            if floor.returncode not in (0, 77):
                sys.exit(f"the floor could not be measured: {floor.stderr}")
            for line in floor.stdout.splitlines():
                name, p50, p99 = line.split()
                seen.setdefault(f"floor: {name} all", []).append((float(p50), float(p99)))
    median = {name: tuple(statistics.median(v[i] for v in values) for i in range(2)) for name, values in seen.items()}
    print(f"{'microseconds':20}{'p50':>10}{'p99':>10}")
    for name, (p50, p99) in median.items():
        print(f"{name:20}{p50:10.2f}{p99:10.2f}")
    if "floor: get all" in median:
        for i, p in enumerate(("p50", "p99")):
            least = (median["floor: get all"][i] + median["floor: set all"][i]) / 2
            print(f"{p}: a whole switch takes {median['whole switch'][i] / least:.2f} times the floor of {least:.1f} us")


main()
