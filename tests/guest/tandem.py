"""Runs tandem as a user would: a terminal, what it prints, what is typed, how it ends."""
import os
import pty
import re
import select
import signal
import subprocess
import time


class Tandem:
    def __init__(self, binary, args, timeout=120):
        self.master, slave = pty.openpty()
        self.proc = subprocess.Popen([binary, *args], stdin=slave, stdout=slave, stderr=slave, close_fds=True)
        os.close(slave)
        self.text = ""
        self.seen = 0  # how much of text earlier expect() calls have consumed
        self.start = time.monotonic()
        self.deadline = self.start + timeout * float(os.environ.get("TANDEM_TEST_SLOWER", "1"))

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.send_signal(signal.SIGTERM)
            try:
                self.proc.wait(10)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        os.close(self.master)

    def elapsed(self):
        return time.monotonic() - self.start

    def _read(self, wait):
        ready, _, _ = select.select([self.master], [], [], wait)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the other side is closed
            return False
        self.text += data.decode("utf-8", "replace").replace("\r", "")
        return bool(data)

    def expect(self, pattern):
        """Waits until the pattern appears after what was matched before; returns the match."""
        rx = re.compile(pattern)
        open_ = True
        while True:
            m = rx.search(self.text, self.seen)
            if m:
                self.seen = m.end()
                return m
            if not open_:
                raise AssertionError(f"tandem ended (status {self.proc.wait()}) before {pattern!r}:\n{self.tail()}")
            if time.monotonic() > self.deadline:
                raise AssertionError(f"no {pattern!r} within the time limit:\n{self.tail()}")
            open_ = self._read(0.2)

    def send(self, text):
        os.write(self.master, text.encode())

    def at_monitor(self, line, pattern):
        """A monitor command, at its prompt; the match of what it answers."""
        self.send(f"{line}\n")
        found = self.expect(pattern)
        self.expect(r"\(tandem\) ")
        return found

    def wait(self):
        """Waits for the end; returns the exit status."""
        while self._read(0.2):
            if time.monotonic() > self.deadline:
                raise AssertionError(f"did not end within the time limit:\n{self.tail()}")
            if self.proc.poll() is not None:
                while self._read(0):
                    if not select.select([self.master], [], [], 0)[0]:
                        break
                break
        return self.proc.wait(10)

    def tail(self):
        return "\n".join(self.text.splitlines()[-30:])
