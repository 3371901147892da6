#!/usr/bin/env python3
"""Every benchmark program once, with little work, natively and in a guest: the checksums are the same.

usage: test_programs.py TANDEM interp|jit|tcg[,PROPERTY=VALUE] [MORE OPTIONS]
"""
import os
import sys
import tempfile

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, f"{TOP}/bench")
from benchguest import Failed, Session, build, guests, initramfs, machine, table  # noqa: E402

BINARY, ACCEL = sys.argv[1:3]
MORE = sys.argv[3:]
SLOWER = float(os.environ.get("TANDEM_TEST_SLOWER", "1"))


def skip(why):
    print(f"skipped: {why}")
    sys.exit(77)


def run_all(session):
    try:
        session.start(60 * SLOWER)
        # Twice, as what ran before has left blocks, TLB entries and counters behind.
        results = {name: [session.run(name, scale, 20 * SLOWER) for scale in (1, 3)] for name, _, _, _ in table()}
        session.close()
    except BaseException:
        session.proc.kill()  # a guest that gave no answer would run on
        raise
    return results


def main():
    if not os.path.exists(f"{guests()}/cloud-vmlinuz"):
        skip(f"no kernel in {guests()}; run scripts/fetch-guests")
    with tempfile.TemporaryDirectory() as tmp:
        try:
            binary = build(tmp)
        except Failed as e:
            skip(str(e))
        initrd = f"{tmp}/programs.cpio"
        initramfs(binary, initrd)
        native = run_all(Session([binary], native=True))
        guest = run_all(Session(machine([BINARY, "-accel", ACCEL, "-nodefaults", *MORE], initrd)))
    wrong = 0
    for name, results in guest.items():
        for (seconds, sum_), (native_seconds, native_sum) in zip(results, native[name]):
            if seconds is None:
                # With KVM left out the guest has all that the host has; else it may have less.
                if native_seconds is not None and ACCEL.split(",")[0] in ("interp", "jit"):
                    print(f"{name}: the guest's CPU has no {sum_}")
                    wrong += 1
            elif native_seconds is not None and sum_ != native_sum:
                print(f"{name}: checksum {sum_} instead of {native_sum}")
                wrong += 1
    print(f"{len(guest)} programs, {wrong} wrong")
    return 1 if wrong else 0


sys.exit(main())
