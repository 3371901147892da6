"""The benchmark guest as Python sees it: build it, pack it, run its programs natively or in an emulator.

suite.py and tests/guest/test_programs.py use this; bench/guest/main.c describes the lines that go to and fro.
"""
import os
import re
import select
import shutil
import subprocess
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SOURCE = f"{TOP}/bench/guest"
# No vectorizer and no calls of memcpy() for loops: a program is what its source says.
FLAGS = ["-O2", "-std=gnu17", "-Wall", "-Wextra", "-static", "-pthread", "-fno-tree-vectorize",
         "-fno-tree-loop-distribute-patterns", "-ffp-contract=off"]
APPEND = "console=ttyS0 quiet panic=-1"


class Failed(Exception):
    """What went wrong with a run, in words."""


def guests():
    """The folder that scripts/fetch-guests fills."""
    home = os.environ.get("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    return os.environ.get("TANDEM_CACHE", f"{home}/tandem") + "/guests"


def build(folder):
    """Compiles the guest; returns the path, or raises Failed with what the compiler said."""
    out = f"{folder}/programs"
    sources = sorted(f"{SOURCE}/{f}" for f in os.listdir(SOURCE) if f.endswith((".c", ".S")))
    if not shutil.which("gcc"):
        raise Failed("gcc is not installed")
    done = subprocess.run(["gcc", *FLAGS, "-o", out, *sources, "-lm"], capture_output=True, text=True)
    if done.returncode:
        raise Failed(f"gcc -static failed: {done.stderr.strip().splitlines()[-1]}")
    return out


def initramfs(binary, path):
    """An initramfs in the newc format whose only file is /init."""
    with open(binary, "rb") as f:
        init = f.read()
    out = b""
    # name, mode, device number, contents; the device node is what the kernel opens before /init mounts anything
    files = [("dev", 0o40755, (0, 0), b""), ("dev/console", 0o20600, (5, 1), b""), ("proc", 0o40755, (0, 0), b""),
             ("init", 0o100755, (0, 0), init), ("TRAILER!!!", 0, (0, 0), b"")]
    for ino, (name, mode, device, data) in enumerate(files, 1):
        head = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % v for v in head) + name.encode() + b"\0"
        out += bytes(-len(out) % 4) + data
        out += bytes(-len(out) % 4)
    with open(path, "wb") as f:
        f.write(out)


def table():
    """Rows of programs.def: [(name, class, scale, what)]."""
    with open(f"{SOURCE}/programs.def") as f:
        rows = re.findall(r'^PROGRAM\((\w+), (\w+), \w+, (\d+),\s+"([^"]*)"\)', f.read(), re.M)
    return [(name, kind, int(scale), what) for kind, name, scale, what in rows]


def machine(command, initrd, memory=256):
    """The command line of an emulator with the guest in it."""
    return [*command, "-m", str(memory), "-display", "none", "-serial", "stdio", "-monitor", "none", "-no-reboot",
            "-kernel", f"{guests()}/cloud-vmlinuz", "-initrd", initrd, "-append", APPEND]


class Session:
    """One process with the guest in it: the program itself, or an emulator. CPU times are of that process."""

    def __init__(self, command, native=False):
        self.native = native
        cpu = min(os.sched_getaffinity(0))
        # A guest has one processor; so has the native run, or threads that wake each other would be another program.
        pin = (lambda: os.sched_setaffinity(0, {cpu})) if native else None
        self.proc = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                     preexec_fn=pin)
        # The kernel's number for the CPU clock of another process: all its threads, in nanoseconds (CPUCLOCK_SCHED).
        self.clock = ~self.proc.pid << 3 | 2
        self.text = ""
        self.read = 0  # how much of text line() has gone through
        self.where = "the start"
        self.elapsed = 0.0  # of the last program, by the wall clock

    def cpu(self):
        try:
            return time.clock_gettime(self.clock)
        except OSError:
            raise Failed(f"it ended, {self.status()}, during {self.where}: {self.tail()}") from None

    def status(self):
        code = self.proc.wait()
        return f"status {code}" if code >= 0 else f"killed by signal {-code}"

    def tail(self):
        lines = [line for line in self.text.splitlines() if line.strip() and not line.startswith("bench: ")]
        return " / ".join(lines[-6:]) or "it said nothing"

    def line(self, limit):
        """The guest's next line of the protocol as words. What else it prints is kept for messages."""
        deadline = time.monotonic() + limit
        while True:
            while "\n" in self.text[self.read:]:
                end = self.text.index("\n", self.read)
                line = self.text[self.read:end].strip("\r")
                self.read = end + 1
                if line.startswith("bench: "):
                    words = line.split()[1:]
                    if words[0] == "die":
                        raise Failed(f"the guest gave up in {self.where}: {' '.join(words[1:])}")
                    return words
                if "Kernel panic" in line or "Oops" in line:
                    raise Failed(f"kernel panic during {self.where}: {self.tail()}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise Failed(f"no answer within {limit:.0f} s during {self.where}: {self.tail()}")
            if select.select([self.proc.stdout], [], [], left)[0]:
                data = os.read(self.proc.stdout.fileno(), 4096)
                if not data:
                    raise Failed(f"it ended, {self.status()}, during {self.where}: {self.tail()}")
                self.text += data.decode("latin1")

    def send(self, text):
        try:
            self.proc.stdin.write(text.encode() + b"\n")
            self.proc.stdin.flush()
        except BrokenPipeError:
            raise Failed(f"it ended, {self.status()}, during {self.where}: {self.tail()}") from None

    def start(self, limit):
        """Waits until the guest is ready; CPU seconds since the process began."""
        if self.line(limit)[0] != "ready":
            raise Failed("the guest does not begin with 'ready'")
        return self.cpu()

    def run(self, name, scale, limit):
        """Runs one program: (CPU seconds, checksum), or None with the reason if the CPU lacks something."""
        self.where = name
        self.send(f"{name} {scale}")
        begun = None
        while True:
            words = self.line(limit)
            now = self.cpu()
            if words[0] == "begin":
                begun, clock = now, time.monotonic()
                self.send("")
            elif words[0] == "skip":
                self.line(limit)
                return None, words[2]
            elif words[0] == "done":
                self.elapsed = time.monotonic() - clock
                seconds = int(words[3]) / 1e9 if self.native else now - begun
                if self.line(limit)[0] != "ready":
                    raise Failed(f"nonsense after {name}")
                return seconds, words[2]

    def close(self):
        self.where = "power-off"
        if self.proc.poll() is None:
            try:
                self.send("end")
                self.proc.wait(10)
            except (Failed, subprocess.TimeoutExpired):
                pass
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.proc.stdin.close()
        self.proc.stdout.close()
