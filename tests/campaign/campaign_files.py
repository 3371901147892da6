"""Campaign files as `tandem diff insn` writes them, made by hand for tests."""
import json
import subprocess


TABLE = ["00 add Eb,Gb", "01 add Ev,Gv", "0F B8 F3 popcnt Gv,Ev"]


def header(**change):
    h = {"tandem-diff": 1, "version": "0.1.0", "seed": "0xfffffffffffffff9", "cases": 1000, "chunk": 100, "shard": 1,
         "shards": 2, "engines": "interp,silicon", "rows": "", "row-count": 3, "features": "fpu,sse2",
         "host": "Some CPU @ 1 GHz", "table": TABLE}
    h.update(change)
    return json.dumps(h) + "\n"


def chunk(number, cells=None, skips=None, failures=(), host="Some CPU @ 1 GHz", table=TABLE):
    """cells: {row: {form: [cases, skipped, differences]}}, by name."""
    cells = cells or {"00 add Eb,Gb": {"long 8 reg": [60, 0, 0], "long 8 mem": [30, 5, 0]}}
    forms = sorted({f for row in cells.values() for f in row})
    count = [[], [], []]
    for row, of_row in cells.items():
        for k in range(3):
            got = [(forms.index(f), n[k]) for f, n in of_row.items() if n[k]]
            if got:
                count[k].append([table.index(row)] + [x for pair in got for x in pair])
    return json.dumps({"chunk": number, "seconds": 0.5, "host": host, "forms": forms, "cases": count[0], "skipped": count[1],
                       "differ": count[2], "skips": skips or {}, "failures": list(failures)}) + "\n"


def failure(signature, row, count=1, case="insn 00 c0\n", form="long 8 reg", index=17):
    return {"signature": signature, "row": row, "form": form, "seed": "0xfffffffffffffff9", "index": index,
            "count": count, "case": case}


class Check:
    """Runs tandem and judges what it says; counts what is wrong."""

    def __init__(self, tandem):
        self.tandem, self.wrong = tandem, 0

    def that(self, name, ok, detail=""):
        if not ok:
            self.wrong += 1
        print(f"{'ok' if ok else 'FAILED'}: {name}{'' if ok else ': ' + detail}")

    def run(self, name, args, status, *texts, absent=()):
        r = subprocess.run([self.tandem, "diff", *map(str, args)], capture_output=True, text=True, timeout=60)
        said = r.stdout + r.stderr
        self.that(f"{name}: exit status", r.returncode == status, f"{r.returncode}, not {status}: {said}")
        for t in texts:
            self.that(f"{name}: says {t!r}", t in said, said)
        for t in absent:
            self.that(f"{name}: does not say {t!r}", t not in said, said)
        return r
