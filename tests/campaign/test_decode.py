#!/usr/bin/env python3
"""tandem diff decode: a short run explains every disagreement; bad options are refused by name.

Usage: test_decode.py TANDEM
"""
import re
import sys

from campaign_files import Check

c = Check(sys.argv[1])
LAST = re.compile(r"cases=(\d+) disagreements=(\d+) explained=(\d+) unexplained=(\d+)$")

r = c.run("short run", ["decode", "--cases", 400000, "--seed", 7], 0, "capstone 4", absent=("no verdict", "Tandem is wrong"))
m = LAST.search(r.stdout.strip())
c.that("last line", bool(m) and m[1] == "400000" and int(m[2]) > 5 and m[2] == m[3] and m[4] == "0", r.stdout[-300:])
again = c.run("again", ["decode", "--cases", "0x61a80", "--seed", 7], 0)
c.that("the same each time", again.stdout == r.stdout)
r = c.run("one mode", ["decode", "--cases", 20000, "--mode", "32", "--engines", "capstone"], 0, "cases=20000")
c.that("no other mode", "mode 64" not in r.stdout and "mode 16" not in r.stdout, r.stdout)

c.run("unknown engine", ["decode", "--engines", "capstone,udis"], 2, "'udis' is no decoder")
c.run("engine twice", ["decode", "--engines", "capstone,capstone"], 2, "stands there twice")
c.run("unknown mode", ["decode", "--mode", "48"], 2, "'48' is not 16, 32, 64 or all")
c.run("no number", ["decode", "--cases", "many"], 2, "--cases: 'many' is not a number")
c.run("negative", ["decode", "--seed", "-1"], 2, "--seed: '-1' is not a number")
c.run("too big", ["decode", "--seed", "0x10000000000000000"], 2, "is not a number")
c.run("unknown option", ["decode", "--fast"], 2, "--fast")
c.run("stray argument", ["decode", "x"], 2, "'x' is not an option")
sys.exit(1 if c.wrong else 0)
