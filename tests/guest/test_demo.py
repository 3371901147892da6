#!/usr/bin/env python3
"""tandem --demo: status 0 with every check held, and a wrong checksum would be noticed. Its guest takes ticks of a periodic PIT,
which are counted, also with KVM's interrupt controllers (OPTIONs).

usage: test_demo.py TANDEM SWITCHES [OPTION...]
"""
import os
import re
import subprocess
import sys

if len(sys.argv) > 3 and not os.access("/dev/kvm", os.R_OK | os.W_OK):
    print("no usable /dev/kvm: not tested")
    sys.exit(77)
run = subprocess.run([sys.argv[1], "--demo", "--switches", *sys.argv[2:]], capture_output=True, text=True, timeout=280)
print(run.stdout[-1500:], run.stderr)
assert run.returncode == 0, f"status {run.returncode}"
m = re.search(r"demo: (\d+) switches \(real (\d+), protected (\d+), long (\d+)\)", run.stdout)
assert m and int(m[1]) >= int(sys.argv[2]) and min(int(m[i]) for i in (2, 3, 4)) > 0, "not all modes were switched"
assert re.search(r"whole switch +[\d.]+ +[\d.]+ +[\d.]+", run.stdout), "no latency table"
