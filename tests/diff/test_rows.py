#!/usr/bin/env python3
"""tandem bench rows: its table and CSV for a few rows. No time is judged.

usage: test_rows.py TANDEM
"""
import csv
import subprocess
import sys
import tempfile

BINARY = sys.argv[1]


def run(*args, status=0):
    p = subprocess.run([BINARY, "bench", *args], capture_output=True, text=True, timeout=100)
    assert p.returncode == status, f"{args}: status {p.returncode}\n{p.stdout}{p.stderr}"
    return p.stdout + p.stderr


def main():
    with tempfile.TemporaryDirectory() as tmp:
        path = f"{tmp}/rows.csv"
        text = run("rows", "--rows", "adc,cpuid,jo,fld1,ret,push,rdmsr", "--csv", path, "--top", "0")
        with open(path, newline="") as f:
            rows = list(csv.DictReader(f))
    lines = text.splitlines()
    assert lines[0].startswith("nanoseconds an execution"), text
    table = [line for line in lines if line.split()[-1:] and any(r["instruction"] in line for r in rows)]
    assert len(table) >= len(rows), text
    assert "not timed" in text and "C3 ret" in text, text
    for r in rows:
        for engine in "interp", "jit", "native":
            assert not r[f"{engine}_ns"] or float(r[f"{engine}_ns"]) >= 0, r
        assert r["interp_ns"], r
    memory = [r for r in rows if "adc" in r["row"] and "[" in r["instruction"]]
    register = [r for r in rows if "adc" in r["row"] and "[" not in r["instruction"]]
    assert memory and register
    translator = "without translated code" not in text
    for r in rows:
        name = r["instruction"].split()[0]
        if name in ("adc", "jo", "fld1") and translator:
            assert r["by"] == "itself", r
        if name in ("cpuid", "rdmsr"):
            assert not r["native_ns"] and r["by"] in ("handler", "") and r["emit"] == "-", r
        assert r["privilege"] == ("0" if name == "rdmsr" else "3"), r
    assert any(r["native_ns"] for r in register) or "not on this processor" in text
    assert "no row" in run("rows", "--rows", "frobnicate", status=2)
    assert "--top" in run("rows", "--top", "-1", status=2)
    assert "not understood" in run("rows", "adc", status=2)
    assert "usage" in run("columns", status=2)
    assert "--csv" in run("rows", "--help")
    print(f"{len(rows)} lines")


main()
