#!/usr/bin/env python3
"""Two vCPUs against one: the same work by one thread and by two, in a guest with two vCPUs, in elapsed time.

    bench/scaling.py [--tandem build/release/tandem] [--accel jit] [--rounds 5] [--scale 100] [--without qemu]

Each round starts every engine once (QEMU with a thread for each vCPU, `-accel tcg,thread=multi`) and runs serial2 (both
halves of the work by one thread), parallel2 (a thread for each) and contended2 (two threads on one counter and one lock,
bench/guest/parallel.c). A figure is the least of the rounds, as a busy host only ever adds time. The gain needs a host
with two processors to spare; what the second thread costs in CPU time (1.00x: nothing) shows on a busy one too. Checksums are compared between engines, and serial2's with parallel2's.
"""
import argparse
import os
import shutil
import sys
import tempfile

from benchguest import TOP, Failed, Session, build, guests, initramfs, machine, table

PROGRAMS = ("serial2", "parallel2", "contended2")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--accel", default="jit")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--scale", type=float, default=100, help="percent of the work of a full run")
    p.add_argument("--limit", type=float, default=60, help="seconds a program may take")
    p.add_argument("--without", action="append", default=[], choices=["qemu", "tandem"])
    a = p.parse_args()
    if not os.path.exists(f"{guests()}/cloud-vmlinuz"):
        p.error(f"no kernel in {guests()}; run scripts/fetch-guests")
    scales = {row[0]: max(1, round(row[2] * a.scale / 100)) for row in table() if row[0] in PROGRAMS}
    commands = {"qemu": ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-nodefaults"],
                "tandem": [a.tandem, "-accel", a.accel, "-nodefaults"]}
    least, sums, bad = {}, {}, []
    with tempfile.TemporaryDirectory() as tmp:
        try:
            initrd = f"{tmp}/programs.cpio"
            initramfs(build(tmp), initrd)
        except Failed as e:
            p.error(str(e))
        for name in list(commands):
            if name in a.without or not shutil.which(commands[name][0]):
                print(f"left out: {name}")
                del commands[name]
        for _ in range(a.rounds):
            for engine, command in commands.items():
                session = Session(machine([*command, "-smp", "2"], initrd))
                try:
                    session.start(120)
                    for name in PROGRAMS:
                        cpu, checksum = session.run(name, scales[name], a.limit)
                        key = "halves" if name != "contended2" else name
                        if sums.setdefault(key, checksum) != checksum:
                            bad.append(f"WRONG CHECKSUM {engine} {name}: {checksum} instead of {sums[key]}")
                        before = least.get((engine, name), (float("inf"),) * 2)
                        least[engine, name] = (min(before[0], session.elapsed), min(before[1], cpu))
                except Failed as e:
                    bad.append(f"FAILED {engine}: {e}")
                session.close()
    print(f"{'engine':10}" + "".join(f"{name + ' s':>14}" for name in PROGRAMS) + f"{'2 vCPUs gain':>16}{'CPU time':>12}")
    for engine in commands:
        if all((engine, name) in least for name in PROGRAMS):
            t = [least[engine, name][0] for name in PROGRAMS]
            cpu = least[engine, "parallel2"][1] / least[engine, "serial2"][1]
            print(f"{engine:10}" + "".join(f"{v:14.4f}" for v in t) + f"{t[0] / t[1]:15.2f}x{cpu:11.2f}x")
    for text in bad:
        print(text)
    return 1 if bad else 0


sys.exit(main())
