"""A program in a terminal of its own: what it shows is waited for, keys are typed."""
import errno
import os
import pty
import re
import select
import signal
import time

from harness import ENV, LIMIT


class Terminal:
    def __init__(self, *argv, cwd=None):
        self.shown = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            try:
                os.chdir(cwd or "/")
                os.execvpe(argv[0], [str(a) for a in argv], dict(ENV, TERM="vt100", LC_ALL="C.UTF-8"))
            finally:
                os._exit(127)

    def _read(self, end):
        """More of what it shows; False when it has closed its terminal."""
        ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
        assert ready, f"it waits for something else; it shows {self.shown[-2000:]!r}"
        try:
            data = os.read(self.fd, 65536)
        except OSError as e:
            if e.errno != errno.EIO:
                raise
            data = b""
        self.shown += data
        return bool(data)

    def expect(self, pattern, limit=LIMIT):
        """Waits until it has shown this (escape sequences left out), since the last expect()."""
        end = time.monotonic() + limit
        while True:
            text = re.sub(rb"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>78])|\x0f", b"", self.shown)
            if re.search(pattern.encode(), text):
                self.shown = b""
                return
            assert self._read(end), f"it ended, having shown {self.shown[-2000:]!r}"

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def end(self, limit=LIMIT):
        """Waits for its end; the exit status."""
        end = time.monotonic() + limit
        while self._read(end):
            pass
        _, status = os.waitpid(self.pid, 0)
        os.close(self.fd)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def kill(self, number=signal.SIGKILL):
        os.kill(self.pid, number)
        return self.end()
