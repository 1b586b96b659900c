"""What the tests share: a real imagehubd, a real mount, waiting for events with a deadline.

Nothing here sleeps for a guess. A file operation that may hang runs in a process of its own with a
limit, so that a mount that is stuck fails its test instead of the whole run.
"""
import contextlib
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("IMAGEHUBFS_BUILD", ROOT / "build"))
FS = str(BUILD / "imagehubfs")
HUB = str(BUILD / "imagehubd")
SANITIZED = BUILD.name.startswith(("address", "thread", "undefined"))
COUNTS = "coverage" in BUILD.name  # what is killed there counts nothing
LIMIT = 60  # seconds that anything may take; sanitizers are slow, and so are machines with other work
ENV = dict(os.environ, LSAN_OPTIONS=f"suppressions={ROOT}/tests/lsan.supp:print_suppressions=0",
           ASAN_OPTIONS="detect_leaks=1:exitcode=99", UBSAN_OPTIONS="print_stacktrace=1",
           TSAN_OPTIONS=f"suppressions={ROOT}/tests/tsan.supp:halt_on_error=1:exitcode=66")
for name in ("IMAGEHUB_API_KEY", "CREDENTIALS_DIRECTORY"):
    ENV.pop(name, None)

assert os.path.exists("/dev/fuse"), "there is no /dev/fuse: the mount tests cannot run here"


def may_trace():
    """Whether strace may attach to what is no child of its own."""
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    return os.geteuid() == 0 or not scope.exists() or scope.read_text() == "0\n"


def until(what, condition, limit=LIMIT):
    """Polls a condition that no event tells of; fails with its name after the limit."""
    end = time.monotonic() + limit
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"{what} did not happen within {limit} s"
        time.sleep(0.01)


def has_ended(pid):
    """With all of its threads; also when nobody has asked for its status yet."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state == "Z" and len(os.listdir(f"/proc/{pid}/task")) == 1
    except OSError:
        return True


def run(*argv, limit=LIMIT, check=True, **kwargs):
    """Runs a program with a limit; returns the finished process, its output as text."""
    kwargs.setdefault("stdout", subprocess.PIPE)
    kwargs.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run([str(a) for a in argv], timeout=limit, env=ENV, errors="replace",
                          **kwargs)
    if check:
        assert done.returncode == 0, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def sh(script, limit=LIMIT, check=True, cwd=None):
    return run("bash", "-c", script, limit=limit, check=check, cwd=cwd)


def query(database, sql):
    """What a database says that its owner may be using: its lines."""
    done = run("sqlite3", "-cmd", f".timeout {LIMIT * 1000}", f"file:{database}?mode=ro", sql)
    return done.stdout.split("\n")[:-1]


def save(path, text):
    """Writes a file by one open(2), write(2) and close(2), and raises what any of them said.

    Python's own files write once more when they are closed after a write that failed."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o666)
    try:
        data = memoryview(text.encode())
        while data:
            data = data[os.write(fd, data):]
    except OSError:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def watches(pid):
    """How many inotify watches a process has set; 0 while it is starting or gone."""
    count = 0
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fdinfo"):
            with contextlib.suppress(OSError):  # closed meanwhile
                count += open(f"/proc/{pid}/fdinfo/{fd}").read().count("inotify wd")
    return count


def not_at_midnight(seconds=120):
    """Waits for the next day where it would begin within so many seconds: what was spent today counts."""
    def far():
        now = time.localtime()
        return 86400 - (now.tm_hour * 3600 + now.tm_min * 60 + now.tm_sec) > seconds
    until("the next day", far, limit=seconds + LIMIT)


def first_line(stream, limit=LIMIT):
    """The first line that a program prints, waited for."""
    ready, _, _ = select.select([stream], [], [], limit)
    assert ready, "the program said nothing"
    return stream.readline()


class Hub:
    """A real imagehubd with an account `test` and its key."""

    def __init__(self, *options, credits=100000):
        self.dir = Path(tempfile.mkdtemp(prefix="hub-"))
        self.data = self.dir / "data"
        self.options = list(options)
        self.port = 0
        self.process = None
        self.cli("account", "add", "test", "--credits", str(credits))
        self.key = self.cli("key", "create", "test").strip()

    def cli(self, *words, check=True):
        done = run(HUB, "--data", self.data, *words, check=check)
        return done.stdout if check else done

    def start(self, *options):
        argv = [HUB, "--data", str(self.data), "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen(argv + self.options + list(options) + ["serve"],
                                        stdout=subprocess.PIPE, stderr=open(self.dir / "log", "ab"),
                                        text=True, env=ENV)
        line = first_line(self.process.stdout)
        self.url = re.match(r"listening on (http://\S+)", line).group(1)
        self.port = int(self.url.rsplit(":", 1)[1])
        return self

    def stop(self):
        if self.process:
            self.process.terminate()
            status = self.process.wait(60)
            self.process = None
            assert status == 0, (self.dir / "log").read_text()

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait(LIMIT)
            self.process = None

    def let_go(self):
        """A hub that was started with --hold does its work from now on."""
        self.stop()
        self.options.remove("--hold")
        self.start()

    def curl(self, path, *argv, key=True, check=True, body=None):
        """The real curl: (status, headers by lower-case name, body bytes)."""
        argv = list(argv)
        if key is True:
            key = self.key
        if key:
            argv += ["-H", f"Authorization: Bearer {key}"]
        url = path if path.startswith("http") else self.url + path
        done = subprocess.run(["curl", "-sS", "-i", "-m", str(LIMIT), *argv, url],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT + 5, input=body)
        if check:
            assert done.returncode == 0, done.stderr
        head, _, body = done.stdout.partition(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head, _, body = body.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        status = int(lines[0].split()[1]) if lines[0].startswith("HTTP/") else 0
        headers = {k.lower(): v for k, v in (l.split(": ", 1) for l in lines[1:] if ": " in l)}
        return status, headers, body

    def post(self, body, *argv, **kwargs):
        status, headers, text = self.curl(
            "/api/v1/images/generations", "-H", "Content-Type: application/json",
            "--data-binary", "@-", *argv,
            body=(body if isinstance(body, str) else json.dumps(body)).encode(), **kwargs)
        return status, headers, json.loads(text)

    def get(self, path, **kwargs):
        status, _, text = self.curl(path, **kwargs)
        return status, json.loads(text)

    def credits(self):
        return self.get("/api/v1/credits")[1]["credits"]

    def ledger(self, account="test"):
        rows = [line.split("\t") for line in self.cli("ledger", account).splitlines()[1:]]
        return [(kind, int(credits), generation) for _, kind, credits, generation in rows]

    def charges(self):
        """Generations that were charged for, each once for each charge."""
        return [g for kind, _, g in self.ledger() if kind == "charge"]

    def generations(self):
        """How many orders it has taken."""
        return int(query(self.data / "hub.db", "SELECT count(*) FROM generation")[0])

    def close(self):
        if COUNTS and self.process:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(LIMIT)
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


class Mount:
    """A real mount in a directory of its own."""

    def __init__(self, hub=None, *options, url=None, key=None, local=False):
        self.dir = Path(tempfile.mkdtemp(prefix="fs-"))
        self.path = self.dir / "mnt"
        self.path.mkdir()
        self.state, self.cache = self.dir / "state", self.dir / "cache"
        self.options = list(options)
        self.local = local
        self.url = url or (hub.url if hub else None)
        self.log = self.dir / "log"
        self.process = None
        if not local:
            keyfile = self.dir / "key"
            keyfile.write_text((key or (hub.key if hub else "gih_live_test")) + "\n")
            keyfile.chmod(0o600)

    def argv(self, *options):
        own = ["--local"] if self.local else ["--hub", self.url, "--key-file", self.dir / "key"]
        return [FS, *own, "--state", self.state, "--cache", self.cache, "--settle", "100",
                *self.options, *options, "-f", self.path]

    def start(self, *options):
        self.process = subprocess.Popen([str(a) for a in self.argv(*options)], env=ENV,
                                        stdout=subprocess.DEVNULL, stderr=open(self.log, "ab"))
        until("mounting", self.mounted)
        return self

    def mounted(self):
        if self.process.poll() is not None:
            raise AssertionError(f"imagehubfs ended: {self.log.read_text()}")
        return "imagehubfs: mounted on" in self.log.read_text().rpartition("<<<")[2]

    def helper(self):
        """The pid of the process that announces names."""
        named = lambda: run("pgrep", "-P", self.process.pid, "-x", "imagehubfs-note", check=False).stdout
        return int(until("the helper", named))

    def unmount(self):
        """It is busy for a moment while the helper announces a name."""
        until("unmounting", lambda: run("fusermount3", "-u", self.path, check=False).returncode == 0
              or self.process.poll() is not None)

    def stop(self, check=True):
        if not self.process:
            return
        self.unmount()
        try:
            status = self.process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        self.process = None
        with open(self.log, "a") as log:
            log.write("<<<\n")
        if check:
            assert status == 0, self.log.read_text()[-4000:]

    def kill(self):
        """kill -9, and the stale mount taken away."""
        if self.process:
            self.process.kill()
            self.process.wait(LIMIT)
            self.process = None
            with open(self.log, "a") as log:
                log.write("<<<\n")
        run("fusermount3", "-uzq", self.path, check=False)

    def __truediv__(self, name):
        return self.path / name

    def write(self, name, text):
        """Writes a prompt as a shell would; the path below requests/."""
        path = self.path / "requests" / name
        save(path, text)
        return path

    def control(self, text):
        """Writes to control, as one echo does."""
        fd = os.open(self.path / "control", os.O_WRONLY | os.O_TRUNC)
        try:
            assert os.write(fd, text.encode()) == len(text.encode())
        except OSError:
            with contextlib.suppress(OSError):
                os.close(fd)
            raise
        os.close(fd)

    def wait(self, name, check=True, limit=2 * LIMIT):
        """Follows NAME.wait to its end; its lines."""
        stem = str(self.path / "requests" / name)
        done = run("cat", re.sub(r"\.prompt$", "", stem) + ".wait", limit=limit, check=check)
        return done.stdout.splitlines() if check else done

    def text(self, name):
        """A text of ours below requests/, once it is seen: a new name is announced before."""
        def read():
            with contextlib.suppress(FileNotFoundError):
                return (self.path / "requests" / name).read_text()
        return until(name, read)

    def status(self, name):
        return self.text(f"{name}.status")

    def sql(self, sql):
        return query(self.state / "catalogue.db", sql)

    def check_state(self):
        """After an unmount: the database is whole, and nothing is left of what was removed."""
        assert self.sql("PRAGMA integrity_check") == ["ok"]
        assert self.sql("SELECT count(*) FROM node WHERE parent IS NULL") == ["1"]  # the root
        left = set(os.listdir(self.state / "spool"))
        assert left <= set(self.sql("SELECT id FROM node")), left

    def close(self):
        if self.process:
            with contextlib.suppress(Exception):
                self.unmount()
                self.process.wait(10)
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
