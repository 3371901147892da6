#!/usr/bin/env python3
"""tandem diff report: the text, and the page: whole, alone, and with everything from the file escaped.

Usage: test_report.py TANDEM
"""
import html.parser
import json
import pathlib
import re
import sys
import tempfile

from campaign_files import Check, chunk, failure, header

c = Check(sys.argv[1])
EVIL = "</script></pre><script>alert(1)</script>\"'><img src=x onerror=alert(2)>&lt;"
VOID = {"meta", "input", "br", "img", "link"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text; counts what is opened and not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attrs, self.data, self.wrong = [], [], [], {}, 0
        self.feed(text)
        self.wrong += len(self.open)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attrs += attrs
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("id")))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.wrong += 1

    def handle_data(self, data):
        if self.open:
            key = self.open[-1][1] or self.open[-1][0]
            self.data[key] = self.data.get(key, "") + data


def page_of(name, args, path):
    c.run(name, args, 0)
    text = path.read_text(encoding="utf-8")
    p = Page(text)
    c.that(f"{name}: well-formed", p.wrong == 0, str(p.open))
    c.that(f"{name}: nothing left open to fill in", "{{" not in text)
    c.that(f"{name}: needs nothing else", not re.search(r"https?:|//|@import|url\(", re.sub(r"(?m)(^|\s)// .*$", "", text)),
           str(re.findall(r".{20}(?:https?:|//|@import|url\().{20}", text)[:3]))
    c.that(f"{name}: no sources", not any(k in ("src", "href", "style") or k.startswith("on") for k, _ in p.attrs))
    return text, p


def report(tmp):
    f, out = tmp / "c.jsonl", tmp / "c.html"
    # The names of this build's rows: none is covered by an empty campaign.
    f.write_text(header())
    r = c.run("empty campaign", ["report", f], 0, "cases=0 rows=0/3 differences=0", "not complete")
    table = [line[:48].rstrip() for line in r.stdout.splitlines() if line.endswith("not covered")]
    c.that("every row is named", len(table) > 1000 and "00 add Eb,Gb" in table, str(len(table)))
    popcnt = next(t for t in table if " popcnt Gv,Ev" in t)

    cells = {"00 add Eb,Gb": {"long 8": [40, 2, 0], "long 8 mem": [1, 0, 0]}, popcnt: {"long 32": [7, 0, 3]},
             "row of another build": {"long 8": [5, 0, 0]}}
    known = ["00 add Eb,Gb", popcnt, "row of another build"]
    fails = [failure(f"popcnt|{EVIL}", popcnt, 3, f"insn f3 0f b8 c0\n# {EVIL}\n", form=EVIL)]
    f.write_text(header(table=known, engines=EVIL, features=EVIL, host=EVIL, version=EVIL, shards=1) +
                 chunk(0, cells, {EVIL: 2}, fails, host=EVIL, table=known))
    r = c.run("text", ["report", f], 0, "cases=53 rows=3/3 differences=3", "failure 1: popcnt|", "         3 differ", "    long 8 mem",
              "9 of 10 chunks", f"         2  {EVIL}", "rate      106 cases/s")
    c.that("text: last line", r.stdout.splitlines()[-1] == "cases=53 rows=3/3 differences=3", r.stdout[-200:])

    never = next(t for t in table if " rdtsc" in t)
    f.write_text(header(table=known + [never], shards=1, unjudged={EVIL: [3]}) + chunk(0, cells, {EVIL: 2}, fails, table=known))
    c.run("text: never judged", ["report", f], 0, f"  not judged: {EVIL}")
    text, p = page_of("page: never judged", ["report", f, "--html", out], out)
    c.that("page: said why", [r for r in json.loads(p.data["data"])["rows"] if r[0] == never] == [[never, 0, 0, 0, [], EVIL]])
    c.that("page: its colour", re.search(r'class="skip" data-c="1.49"', text))
    f.write_text(header(table=known, engines=EVIL, features=EVIL, host=EVIL, version=EVIL, shards=1) +
                 chunk(0, cells, {EVIL: 2}, fails, host=EVIL, table=known))

    text, p = page_of("page", ["report", f, "--html", out], out)
    c.that("page: two scripts, its own", p.tags.count("script") == 2, str(p.tags.count("script")))
    c.that("page: no image", "img" not in p.tags)
    c.that("page: the text is there", EVIL in p.data["pre"] and EVIL in p.data["dd"], p.data["pre"][:300])
    data = json.loads(p.data["data"])
    rows = {r[0]: r[1:] for r in data["rows"]}
    c.that("page: counts", rows["00 add Eb,Gb"] == [41, 2, 0, [["long 8", 40, 2, 0], ["long 8 mem", 1, 0, 0]]], str(rows["00 add Eb,Gb"]))
    c.that("page: rows of other builds", rows["row of another build"][:3] == [5, 0, 0])
    c.that("page: rows that are not covered", len(rows) == len(table) + 1, str(len(rows)))
    names = [r[0] for r in data["rows"]]
    c.that("page: squares", names[data["cells"]["0.0"][0]] == "00 add Eb,Gb" and
           any(names[k] == popcnt for k in data["cells"]["1.184"]), str(data["cells"]["1.184"]))
    square = dict(re.findall(r'<button class="([^"]*)" data-c="([^"]*)"', text))
    by_place = {v: k for k, v in re.findall(r'<button class="([^"]*)" data-c="([^"]*)"', text)}
    c.that("page: colours", by_place["1.184"] == "bad" and by_place["0.0"].startswith("c") and by_place["0.1"] == "gap", str(square)[:200])
    c.that("page: ten maps of squares", p.tags.count("button") == 10 * 256 + 1, str(p.tags.count("button")))

    f.write_text(header(shards=1) + "".join(chunk(k) for k in range(10)))
    text, p = page_of("page without differences", ["report", f, "--html", out], out)
    c.that("said", "No case differs" in text and "Differences</h2>" not in text)

    # Bad input
    c.run("no file", ["report"], 2, "give a file")
    c.run("two files", ["report", f, f], 2, "one file; put several together with 'tandem diff merge -o'")
    c.run("missing file", ["report", tmp / "gone"], 2, "gone: No such file")
    c.run("directory", ["report", tmp], 2, "Is a directory")
    c.run("no room for the page", ["report", f, "--html", "/dev/full"], 2, "/dev/full: No space left on device")
    c.run("nowhere", ["report", f, "--html", "/nowhere/x.html"], 2, "/nowhere/x.html: No such file")
    c.run("unknown option", ["report", "--pdf", f], 2, "--pdf")
    (tmp / "notes").write_text("my notes\n")
    c.run("no campaign file", ["report", tmp / "notes"], 2, "notes is not a campaign file of tandem diff")
    (tmp / "empty").write_text("")
    c.run("empty file", ["report", tmp / "empty"], 2, "empty holds no campaign")
    f.write_text(header(rows="no such mnemonic", shards=1) + chunk(0))
    page_of("rows this build cannot select", ["report", f, "--html", out], out)
    f.write_text(header(shards=1) + chunk(0) + chunk(1)[:50])
    c.run("torn", ["report", f], 0, "the last line was torn and is not counted", "1 of 10\n")


with tempfile.TemporaryDirectory() as d:
    report(pathlib.Path(d))
sys.exit(1 if c.wrong else 0)
