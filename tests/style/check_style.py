#!/usr/bin/env python3
"""Style as a test: include directions, formatting, file sizes, words that do not belong.

Prints one line per finding and exits 1 if there is any. The arrows come from cmake/rooms.txt, the
same rows the build links by.
"""
import pathlib
import re
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
SOURCE_MAX = 40_000
findings = []


def rooms():
    rows = {}
    for line in (TOP / "cmake/rooms.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            room, _, deps = line.partition(":")
            rows[room] = set(deps.split())
    return rows


def tracked():
    out = subprocess.run(["git", "-C", TOP, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True)
    if out.returncode == 0:
        return [TOP / f for f in out.stdout.split() if (TOP / f).is_file()]
    return [f for f in TOP.rglob("*") if f.is_file() and "build" not in f.relative_to(TOP).parts]


def check_includes(path, text, allowed):
    room = path.relative_to(TOP / "src").parts[0]
    if room not in allowed:
        if len(path.relative_to(TOP / "src").parts) > 1:
            findings.append(f"{path.relative_to(TOP)}: room '{room}' has no row in cmake/rooms.txt")
        return
    for number, line in enumerate(text.splitlines(), 1):
        m = re.match(r'\s*#\s*include\s+"([a-z0-9_]+)/', line)
        if m and m[1] in allowed and m[1] != room and m[1] not in allowed[room]:
            findings.append(f"{path.relative_to(TOP)}:{number}: {room} may not include {m[1]}")


def check_format(files):
    for i in range(0, len(files), 50):
        out = subprocess.run(["clang-format", "--dry-run", *files[i : i + 50]], capture_output=True, text=True)
        bad = sorted({m[1] for m in re.finditer(r"^(\S+?):\d+:\d+: warning", out.stderr, re.M)})
        findings.extend(f"{pathlib.Path(f).relative_to(TOP)}: not formatted; run clang-format -i" for f in bad)


def main():
    allowed = rooms()
    c_files = []
    for path in tracked():
        rel = path.relative_to(TOP)
        if path.suffix in {".c", ".h", ".def", ".S"}:
            text = path.read_text()
            if path.stat().st_size > SOURCE_MAX:
                findings.append(f"{rel}: {path.stat().st_size} bytes; above {SOURCE_MAX}, does it hold two rooms?")
            if path.suffix in {".c", ".h"}:
                c_files.append(str(path))
            if rel.parts[0] == "src":
                check_includes(path, text, allowed)
            for number, line in enumerate(text.splitlines(), 1):
                if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", line):
                    findings.append(f"{rel}:{number}: {line.strip()[:80]}")
    check_format(c_files)
    for f in findings:
        print(f)
    print(f"style: {len(c_files)} files, {len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
