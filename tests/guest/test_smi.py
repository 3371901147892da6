#!/usr/bin/env python3
"""A guest that sends its own vCPU SMIs goes on as if nothing had come, wherever its local APIC is.

usage: test_smi.py TANDEM CC
"""
import os
import subprocess
import sys
import tempfile

BINARY, CC = sys.argv[1], sys.argv[2]
HERE = os.path.dirname(os.path.abspath(__file__))
kinds = [("tcg", "off"), ("interp", "off")]
if os.access("/dev/kvm", os.R_OK | os.W_OK):
    kinds += [("kvm", kind) for kind in ("off", "split", "on")]
with tempfile.TemporaryDirectory() as tmp:
    subprocess.run([CC, "-nostdlib", "-static", "-Wl,--oformat=binary", "-Wl,-Ttext=0xf0000", "-Wl,--build-id=none", "-Wl,-e,0", "-o",
                    f"{tmp}/smi.bin", f"{HERE}/smi.S"], check=True)
    for accel, kind in kinds:
        run = subprocess.run([BINARY, "-accel", accel, "-machine", f"pc,kernel-irqchip={kind}", "-m", "16", "-display", "none", "-nodefaults",
                              "-no-reboot", "-bios", f"{tmp}/smi.bin", "-device", "isa-debug-exit,iobase=0xf4,iosize=4", "-debugcon", "stdio",
                              "-monitor", "none"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=250)
        assert run.returncode == 1 and run.stdout == "smi\n", f"{accel} {kind}: status {run.returncode}, {run.stdout} {run.stderr}"
        assert ("an SMI was ignored" in run.stderr) == (kind == "off"), run.stderr
        print(f"{accel}, kernel-irqchip={kind}: nothing came of them")
