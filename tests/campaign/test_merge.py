#!/usr/bin/env python3
"""tandem diff merge: shards and repeated runs together; what is missing, foreign or torn.

Usage: test_merge.py TANDEM
"""
import pathlib
import sys
import tempfile

from campaign_files import Check, chunk, failure, header

c = Check(sys.argv[1])
ADD = {"00 add Eb,Gb": {"long 8 reg": [90, 10, 0]}}
BAD = {"00 add Eb,Gb": {"long 8 reg": [90, 8, 2]}, "0F B8 F3 popcnt Gv,Ev": {"long 32 reg": [1, 0, 1]}}
FAIL = [failure("popcnt|RFLAGS.CF", "0F B8 F3 popcnt Gv,Ev", 1, 'insn f3 0f b8 c0\n"x"\n')]


def merge(tmp):
    one, two, out, again = tmp / "1.jsonl", tmp / "2.jsonl", tmp / "all.jsonl", tmp / "again.jsonl"
    one.write_text(header() + "".join(chunk(k, ADD) for k in range(0, 10, 2)))
    two.write_text(header(shard=2) + "".join(chunk(k, ADD) for k in range(1, 10, 2)))
    r = c.run("complete", ["merge", one, two], 0, "the campaign is complete", "chunks    10 of 10\n")
    c.that("last line", r.stdout.splitlines()[-1] == "cases=900 rows=1/3 differences=0", r.stdout)

    r = c.run("merged file", ["merge", one, two, "-o", out], 0)
    c.run("merged file is a campaign", ["merge", out], 0, "cases=900 rows=1/3 differences=0")
    c.run("merged with a shard again", ["merge", out, two, "-o", again], 0, "cases=900 ", "5 stood there again")
    c.that("same result", out.read_text() == again.read_text())
    c.run("output is an input", ["merge", out, "-o", out], 2, "give another file with -o")
    c.that("input unharmed", out.read_text() == again.read_text())
    c.run("no room for it", ["merge", one, "-o", "/nowhere/x"], 2, "/nowhere/x: No such file")

    # One shard twice, requeued: the same chunks, a torn line, a chunk with other counts
    requeued = tmp / "1b.jsonl"
    requeued.write_text(header() + chunk(0, ADD) + chunk(2, {"00 add Eb,Gb": {"long 8 reg": [91, 9, 0]}}) + chunk(4)[:40])
    c.run("requeued", ["merge", one, two, requeued], 0, "cases=900 ", "2 stood there again", "1 of them with other counts",
          "(chunk 2)", "1b.jsonl: the last line was torn")

    # Missing chunks
    part = tmp / "part.jsonl"
    part.write_text(header(shard=2) + chunk(3, ADD) + "garbage\n" + chunk(9, ADD))
    c.run("incomplete", ["merge", one, part], 2, "missing   shard 2/2: 3 of 5 chunks: 1, 5, 7\n", "not complete",
          "part.jsonl: line 3 is no result", "cases=630 ")
    c.run("a shard is not there", ["merge", part], 2, "shard 1/2: 5 of 5 chunks: 0, 2, 4, 6, 8\n")

    # Differences
    bad = tmp / "bad.jsonl"
    bad.write_text(header(shard=2) + "".join(chunk(k, BAD if k in (1, 5) else ADD, {"needs ring 0": 8},
                                                  FAIL if k in (1, 5) else []) for k in range(1, 10, 2)))
    c.run("differences", ["merge", bad, one], 1, "failure 1: popcnt|RFLAGS.CF, 2 cases", "insn f3 0f b8 c0", '    "x"\n',
          "cases=902 rows=2/3 differences=6", "40  needs ring 0", "the campaign is complete")
    c.run("differences, incomplete", ["merge", bad], 1, "not complete")

    # What does not belong together
    foreign = tmp / "foreign.jsonl"
    foreign.write_text(header(seed="0x8", engines="interp,kvm", features="fpu,avx"))
    c.run("foreign", ["merge", one, foreign], 2, "foreign.jsonl is of another campaign", "seed",
          "engines 'interp,kvm' against 'interp,silicon'", "guest features +avx -sse2")
    foreign.write_text(header(table=["00 add Eb,Gb"]))
    c.run("another table", ["merge", one, foreign], 2, "the instruction tables (1 and 3 rows)")
    notes = tmp / "notes.txt"
    notes.write_text("my notes\n")
    c.run("no campaign file", ["merge", one, notes], 2, "notes.txt is not a campaign file of tandem diff")
    empty = tmp / "empty"
    empty.write_text("")
    c.run("empty", ["merge", empty], 2, "no file holds a campaign")
    c.run("empty among others", ["merge", one, two, empty], 0, "empty is empty")
    c.run("missing file", ["merge", tmp / "gone"], 2, "gone: No such file")
    c.run("no files", ["merge"], 2, "give the files")
    c.run("unknown option", ["merge", "--fast", one], 2, "--fast")
    deep = tmp / "deep"
    deep.write_text(header() + '{"chunk":0,"seconds":1,"host":"h","cases":' + "[" * 100000 + "\n")
    c.run("deep nesting", ["merge", deep], 2, "line 2 is no result")
    huge = tmp / "huge"
    huge.write_text(header(cases=2**62, chunk=1, shards=7, shard=3) + chunk(2, {"00 add Eb,Gb": {"f": [1, 0, 0]}}))
    c.run("huge", ["merge", huge], 2, "shard 3/7: 658812288346769700 of 658812288346769701 chunks: 9,")
    for name, change in {"shard": {"shard": 3}, "shards": {"shard": 0, "shards": 0}, "chunk": {"chunk": 0}, "seed": {"seed": 7},
                         "engines": {"engines": None}, "row-count": {"row-count": -1}, "table": {"table": [1]},
                         "unjudged": {"unjudged": {"x": [3]}}}.items():
        odd = tmp / "odd"
        odd.write_text(header(**change))
        c.run(f"odd {name}", ["merge", odd], 2, f"'{name}' is missing or not what it should be")


with tempfile.TemporaryDirectory() as d:
    merge(pathlib.Path(d))
sys.exit(1 if c.wrong else 0)
