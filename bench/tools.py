"""What every part of the benchmark uses: timed commands, interleaved rounds, child processes.

A child is ended by its own pid, and each mount is unmounted by its own path.
"""
import contextlib
import os
import random
import select
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import harness  # noqa: E402  (the tests' Hub and Mount are what is measured)

harness.LIMIT = 300
TOOLS = harness.BUILD / "bench"
MIB = 1024 * 1024
HANGS = 900  # seconds; what takes longer does not work


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def timed(argv, cwd=None, stdin=None, stdout=subprocess.DEVNULL, env=None):
    """Seconds that a command takes; it must succeed."""
    argv = [str(a) for a in argv]
    begin = time.perf_counter()
    process = subprocess.Popen(argv, cwd=cwd, stdin=stdin, stdout=stdout, env=env)
    # wait(timeout) looks only every so often; a plain one returns at once.
    hangs = threading.Timer(HANGS, process.kill)
    hangs.start()
    try:
        status = process.wait()
        taken = time.perf_counter() - begin
    finally:
        hangs.cancel()
        process.kill()  # when this program is to end; otherwise it has
    assert status == 0, f"{' '.join(argv)[:200]}: exit status {status}"
    return taken


def output(argv, cwd=None, stdin=None, env=None):
    """What a command prints; it must succeed."""
    return subprocess.run([str(a) for a in argv], cwd=cwd, stdin=stdin, stdout=subprocess.PIPE,
                          check=True, text=True, env=env, timeout=HANGS).stdout


def rounds(count, actions):
    """Runs the actions (name: function that returns a number or None) in turn, `count` times, in
    an order of chance, as what runs after what matters. Numbers by name, those of one round at
    the same place: ratios are of pairs."""
    samples = {name: [] for name in actions}
    chance = random.Random(1)
    for _ in range(count):
        names = list(actions)
        chance.shuffle(names)
        for name in names:
            samples[name].append(actions[name]())
    return samples


def mounted(path):
    with open("/proc/self/mountinfo") as f:
        return any(line.split()[4] == str(path) for line in f)


class Ext4:
    """A folder on an ext4 of its own, in an image that is made anew, where nothing was ever removed; a
    plain folder where that is not possible (it needs root and loop devices)."""

    def __init__(self, path, size, inodes):
        self.path, self.image = Path(path), Path(f"{path}.img")
        self.path.mkdir()
        self.in_image = os.geteuid() == 0 and self._make(size, inodes)

    def _make(self, size, inodes):
        """Written out: a hole would be filled by somebody's fsync(2) while it is measured."""
        zeros = bytes(MIB)
        with open(self.image, "wb") as f:
            for _ in range(-(-size // MIB)):
                f.write(zeros)
            os.fsync(f.fileno())
        made = subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-N", str(inodes),
                               "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard",
                               str(self.image)], check=False)
        return made.returncode == 0 and self._mount(check=False)

    def _mount(self, check=True):
        return subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)],
                              check=check).returncode == 0

    def unmount(self):
        if self.in_image and mounted(self.path):
            subprocess.run(["umount", str(self.path)], check=True)

    def remount(self):
        if self.in_image:
            self.unmount()
            self._mount()

    def close(self):
        self.unmount()
        shutil.rmtree(self.path, ignore_errors=True)
        self.image.unlink(missing_ok=True)


class Child:
    """A program in the foreground, ended by SIGTERM to its pid."""

    def __init__(self, argv, log, **kwargs):
        self.log = Path(log)
        self.argv = [str(a) for a in argv]
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                        stderr=open(self.log, "ab"), **kwargs)

    def alive(self):
        assert self.process.poll() is None, f"{self.argv[0]} ended: {self.log.read_text()[-2000:]}"
        return True

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class FuseChild(Child):
    """A file system in the foreground."""

    def __init__(self, argv, mountpoint, log, **kwargs):
        self.path = Path(mountpoint)
        self.path.mkdir(exist_ok=True)
        super().__init__(argv, log, stdout=open(log, "ab"), **kwargs)
        try:
            harness.until(f"mounting {argv[0]}", lambda: self.alive() and mounted(self.path), 30)
        except BaseException:
            self.stop()
            raise

    def stop(self):
        if mounted(self.path):
            subprocess.run(["fusermount3", "-uz", str(self.path)], check=False)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            super().stop()


class Proxy(Child):
    """bench/delay.c in front of a port of 127.0.0.1, with its record of requests."""

    def __init__(self, directory, target, port=0, delay_ms=0, rate=0):
        self.requests = Path(directory) / f"requests-{time.monotonic_ns()}"
        super().__init__([TOOLS / "delay", port, target, delay_ms, rate, self.requests],
                         Path(directory) / "delay.log", stdout=subprocess.PIPE, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], 20)
        assert ready, "the proxy does not start"
        self.port = int(self.process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def seen(self, method, path):
        """When requests of a method whose path begins so arrived: CLOCK_MONOTONIC, ns."""
        with open(self.requests) as f:
            lines = [line.split() for line in f]
        return [int(at) for at, m, p in lines if m == method and p.startswith(path)]


@contextlib.contextmanager
def behind_proxy(hub, directory, **kwargs):
    """A hub that serves: moved to another port, with a proxy where it was, and back again."""
    port = hub.port
    hub.stop()
    hub.port = 0
    hub.start()
    proxy = Proxy(directory, hub.port, port, **kwargs)
    try:
        yield proxy
    finally:
        proxy.stop()
        hub.stop()
        hub.port = port
        hub.start()


def memory(pid):
    """Resident bytes of a process."""
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:"))


def cpu(pid):
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
