#!/usr/bin/env python3
"""The benchmark programs natively, under QEMU TCG and under Tandem, in turns: CPU time, slowdowns, ratios, goals.

    bench/suite.py [--tandem build/release/tandem] [--accel jit] [--rounds 3] [--programs a,b] [--classes c,d]
                   [--scale 100] [--csv FILE] [--plot FILE.svg] [--without qemu] [--without native]

Each round runs every program once on each engine, engine after engine; a figure is the median over the rounds. A time
is CPU time (user and system, all threads) of the whole emulator process from the line that begins a program to the one
that ends it. Checksums are compared with the native run's: a wrong one is printed and makes the status 1, as do a guest
that crashes and one that is not done within the time limit; the suite goes on with the next program in a new guest.
"""
import argparse
import csv
import math
import os
import shutil
import statistics
import sys
import tempfile

from benchguest import TOP, Failed, Session, build, guests, initramfs, machine, table
from benchplot import plot

# How many times faster than QEMU TCG a class shall be, as a geometric mean.
GOALS = {"integer": 4, "call": 4, "memory": 4, "fp": 18, "x87": 18, "fp+x87": 18, "simd": 50, "string": 50, "system": 6,
         "code": 15, "boot": 4, "all": 8}
# Scalar floating point of both kinds, which have one goal: a row of its own where both were measured.
SCALAR = ("fp+x87", {"fp", "x87"})
# Locked operations: a machine with one thread may leave the lock away, so there is no goal and no place in the mean. The
# same for what scaling.py is for.
APART = {"atomic", "smp"}
BOOT = ("boot", "boot", 0, "from exec to the first line of the first process")


class Engine:
    """One way to run the guest: keeps a session open from program to program, and starts anew after a failure."""

    def __init__(self, name, command, native, limits):
        self.name, self.command, self.native = name, command, native
        self.start_limit, self.limit = limits
        self.session = None

    def start(self):
        self.session = Session(self.command, self.native)
        return self.session.start(self.start_limit)

    def run(self, name, scale):
        try:
            if not self.session:
                self.start()
            return self.session.run(name, scale, self.limit)
        except Failed:
            self.stop()
            raise

    def stop(self):
        if self.session:
            self.session.close()
        self.session = None


class Results:
    def __init__(self):
        self.times = {}  # (engine, program): [seconds]
        self.sums = {}  # program: checksum of the native run, or of the first engine where there is none
        self.skips = {}  # (engine, program): what the CPU lacks
        self.bad = []  # sentences

    def fail(self, text):
        if text not in self.bad:
            self.bad.append(text)
            print(f"\r\033[K{text}" if sys.stderr.isatty() else text, file=sys.stderr, flush=True)

    def add(self, engine, program, seconds, checksum):
        if seconds is None:
            self.skips[engine, program] = checksum
            return
        if self.sums.setdefault(program, checksum) != checksum:
            self.fail(f"WRONG CHECKSUM {engine} {program}: {checksum} instead of {self.sums[program]}")
            return
        self.times.setdefault((engine, program), []).append(seconds)

    def median(self, engine, program):
        times = self.times.get((engine, program))
        return statistics.median(times) if times else math.nan


def progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def one_round(engines, rows, scale, results, number):
    for engine in engines:
        try:
            seconds = engine.start()
            if not engine.native:
                results.times.setdefault((engine.name, "boot"), []).append(seconds)
        except Failed as e:
            results.fail(f"FAILED {engine.name} boot: {e}")
            engine.stop()
            continue
        for name, _, full, _ in rows:
            progress(f"round {number}, {engine.name}: {name}")
            work = max(1, round(full * scale / 100))
            # The native run is short: the least of three is what the processor can do.
            runs = 3 if engine.native else 1
            try:
                done = [engine.run(name, work) for _ in range(runs)]
                results.add(engine.name, name, min(done)[0] if done[0][0] is not None else None, done[0][1])
            except Failed as e:
                results.fail(f"FAILED {engine.name} {name}: {e}")
        engine.stop()
    progress("")


def geomean(values):
    values = [v for v in values if not math.isnan(v)]
    return statistics.geometric_mean(values) if values else math.nan


def number(value, form):
    width = int(form.split(".")[0])
    return f"{'-':>{width}}" if math.isnan(value) else f"{value:{form}}"


def report(rows, results, names):
    """Prints the tables; returns the lines for the CSV."""
    lines = []
    print(f"{'program':12}{'class':9}" + "".join(f"{n + ' s':>10}" for n in names)
          + "".join(f"{n + '/nat':>12}" for n in names if n != "native") + f"{'qemu/tandem':>13}")
    for name, kind, _, _ in rows:
        t = {n: results.median(n, name) for n in ("native", "qemu", "tandem")}
        slow = {n: t[n] / t["native"] for n in ("qemu", "tandem")}
        ratio = t["qemu"] / t["tandem"]
        skipped = "".join(f"  ({n} has no {results.skips[n, name]})" for n in names if (n, name) in results.skips)
        print(f"{name:12}{kind:9}" + "".join(number(t[n], "10.4f") for n in names)
              + "".join(number(slow[n], "11.1f") + "x" for n in names if n != "native")
              + number(ratio, "12.2f") + "x" + ("  slower than qemu" if ratio < 1 and kind not in APART else "") + skipped)
        lines.append({"program": name, "class": kind, "native_s": t["native"], "qemu_s": t["qemu"],
                      "tandem_s": t["tandem"], "qemu_slowdown": slow["qemu"], "tandem_slowdown": slow["tandem"],
                      "ratio": ratio})
    print()
    print(f"{'class':12}{'programs':>9}" + "".join(f"{n + '/nat':>12}" for n in names if n != "native")
          + f"{'qemu/tandem':>13}{'goal':>7}")
    kinds = list(dict.fromkeys(line["class"] for line in lines))
    groups = [(kind, {kind}) for kind in kinds]
    if SCALAR[1] <= set(kinds):
        groups.insert(1 + max(kinds.index(kind) for kind in SCALAR[1]), SCALAR)
    for kind, classes in [*groups, ("all", set(kinds) - APART)]:
        of = [line for line in lines if line["class"] in classes]
        mean = {key: geomean([line[key] for line in of]) for key in ("qemu_slowdown", "tandem_slowdown", "ratio")}
        goal = GOALS.get(kind)
        verdict = "" if goal is None or math.isnan(mean["ratio"]) else " reached" if mean["ratio"] >= goal else " not reached"
        print(f"{kind:12}{sum(not math.isnan(line['ratio']) for line in of):9}"
              + "".join(number(mean[f"{n}_slowdown"], "11.1f") + "x" for n in names if n != "native")
              + number(mean["ratio"], "12.2f") + "x" + (f"{goal:6}x{verdict}" if goal else ""))
    slower = [line["program"] for line in lines if line["ratio"] < 1 and line["class"] not in APART]
    if slower:
        print(f"slower than QEMU: {', '.join(slower)}")
    return lines


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--tandem", default=f"{TOP}/build/release/tandem")
    p.add_argument("--accel", default="jit")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--programs", help="only these, separated by commas")
    p.add_argument("--classes", help="only these, separated by commas")
    p.add_argument("--scale", type=float, default=100, help="percent of the work of a full run")
    p.add_argument("--limit", type=float, default=60, help="seconds a program may take")
    p.add_argument("--csv", metavar="FILE")
    p.add_argument("--plot", metavar="FILE.svg")
    p.add_argument("--keep", metavar="FOLDER", help="leave the program and the initramfs there, and say how to run them by hand")
    p.add_argument("--without", action="append", default=[], choices=["native", "qemu", "tandem"])
    a = p.parse_args()
    rows = table()
    for names, column in ((a.programs, 0), (a.classes, 1)):
        if names:
            unknown = set(names.split(",")) - {row[column] for row in rows}
            if unknown:
                p.error(f"there is no {', '.join(sorted(unknown))} in bench/guest/programs.def")
            rows = [row for row in rows if row[column] in names.split(",")]
    if not os.path.exists(f"{guests()}/cloud-vmlinuz"):
        p.error(f"no kernel in {guests()}; run scripts/fetch-guests")
    results = Results()
    with tempfile.TemporaryDirectory() as tmp:
        folder = a.keep or tmp
        os.makedirs(folder, exist_ok=True)
        try:
            binary = build(folder)
        except Failed as e:
            p.error(str(e))
        initrd = f"{folder}/programs.cpio"
        initramfs(binary, initrd)
        commands = {"native": [binary],
                    "qemu": machine(["qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-nodefaults"], initrd),
                    "tandem": machine([a.tandem, "-accel", a.accel, "-nodefaults"], initrd)}
        engines = []
        for name, command in commands.items():
            if name in a.without or not shutil.which(command[0]):
                print(f"left out: {name}")
            else:
                engines.append(Engine(name, command, name == "native", (120, a.limit)))
        if a.keep:
            print("run by hand, then type NAME SCALE and an empty line: " + " ".join(
                f"'{w}'" if " " in w else w for w in commands["tandem"]))
        try:
            for n in range(a.rounds):
                one_round(engines, rows, a.scale, results, n + 1)
        except KeyboardInterrupt:
            print("\ninterrupted; what was measured so far:")
        finally:
            for engine in engines:
                engine.stop()
    lines = report([BOOT, *rows] if not (a.programs or a.classes) else rows, results, [e.name for e in engines])
    for text in results.bad:
        print(text)
    if a.csv:
        with open(a.csv, "w", newline="") as f:
            w = csv.DictWriter(f, lines[0].keys())
            w.writeheader()
            w.writerows({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in line.items()} for line in lines)
    if a.plot:
        with open(a.plot, "w") as f:
            f.write(plot(lines, GOALS))
    return 1 if results.bad else 0


sys.exit(main())
