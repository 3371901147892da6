"""The monitor on a socket, as a person at it."""
import re
import select
import socket
import time

PROMPT = "(tandem) "


class Monitor:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + 20
        while True:
            try:
                self.sock.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                assert time.monotonic() < deadline, f"nobody listens on {path}"
                time.sleep(0.05)
        self.until_prompt()

    def until_prompt(self, ends=False):
        text, deadline = "", time.monotonic() + 20
        while not text.endswith(PROMPT):
            wait = max(0, deadline - time.monotonic())
            assert select.select([self.sock], [], [], wait)[0], f"the monitor does not answer: {text!r}"
            data = self.sock.recv(65536).decode().replace("\r", "")
            if not data:
                assert ends, f"the monitor hung up: {text!r}"
                return text
            text += data
        return text.removesuffix(PROMPT)

    def __call__(self, command, want="", ends=False):
        self.sock.sendall(command.encode() + b"\n")
        got = self.until_prompt(ends)
        assert re.search(want, got), f"{command}: wanted /{want}/, got:\n{got}"
        return got
