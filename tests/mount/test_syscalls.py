"""Every system call that matters failed once, or the mount killed at it, by strace's injection.

One prompt is written, sent to a real imagehubd and followed to its picture, while strace lets the
N-th such call of each thread fail, or kills the mount in it; N rises until nothing is met any more.
`make check` takes a few N of each (make torture-syscalls all of them). Then without strace and behind
a remount: what close() took is not lost, what it refused is not sent, nothing is ordered or charged
twice, and all is well again.
"""
import concurrent.futures
import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from faulthub import BareHub, FaultHub
from harness import ENV, LIMIT, first_line, may_trace, run, until
from soundness import is_sound, orders

GENERATIONS = r"/api/v1/images/generations"
SMALL = "---\nsize: 1024x640\n---\n"
WHOLE = os.environ.get("SYSCALLS") == "all"
pytestmark = pytest.mark.skipif(not may_trace(), reason="kernel.yama.ptrace_scope lets only root trace the mount")
QUIET = 3  # so many N in a row that meet nothing end a sweep

# By system call: how it fails, and the N of `make check`.
CALLS = {
    "fdatasync": (("EIO", "ENOSPC", "SIGKILL"), (1, 2, 3)),
    "fsync": (("EIO", "SIGKILL"), (1,)),
    "pwrite64": (("EIO", "ENOSPC", "SIGKILL"), (1, 4, 20, 50)),
    "sendto": (("EIO", "SIGKILL"), (1, 4)),
    "recvfrom": (("EIO", "SIGKILL"), (3, 5)),
    "openat": (("EIO", "ENOSPC", "SIGKILL"), (2, 3)),
    "renameat": (("EIO", "SIGKILL"), (1,)),
    "ftruncate": (("EIO", "SIGKILL"), (1,)),
}


class Witness(BareHub):
    """Passes on to a real hub, with or without its extension, and looks at each POST whether its
    intent is in the mount's database."""

    def __init__(self, hub, bare):
        self.mount, self.unintended = None, []
        super().__init__(hub, bare=bare)

    def _answer(self, request):
        if request[0] == "POST":
            prompt = json.loads(request[3])["prompt"].replace("'", "''")
            states = self.mount.sql(f"SELECT state FROM request WHERE json_extract(wanted, '$.prompt') = '{prompt}'")
            if states != ["sending"]:
                self.unintended.append((prompt, states))
        return super()._answer(request)


def is_dying(pid):
    """Whether SIGKILL is on its way to a process, or has got there: by its main thread's flags."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        exiting, signaled = 0x4, 0x400
        state, *rest = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
        pending = re.findall(r"(?:Sig|Shd)Pnd:\s*(\w+)", open(f"/proc/{pid}/status").read())
        return state in "ZX" or bool(int(rest[5]) & (exiting | signaled)) or any(
            int(p, 16) >> (signal.SIGKILL - 1) & 1 for p in pending)
    return True


@contextlib.contextmanager
def injection(mount, call, fault, n, thread=None):
    """strace on the mount, or on one thread of it, meanwhile; appends how often it injected."""
    log, fired = mount.dir / "strace", []
    whom = ["-p", str(thread)] if thread else ["-f", "-p", str(mount.process.pid)]
    how = f"signal={fault}" if fault.startswith("SIG") else f"error={fault}"
    tracer = subprocess.Popen(["strace", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:{how}:when={n}",
                               *whom], stderr=subprocess.PIPE, text=True)
    try:
        assert "attached" in first_line(tracer.stderr)
        yield fired
    finally:
        tracer.terminate()
        try:
            tracer.wait(5)
        except subprocess.TimeoutExpired:
            tracer.kill()  # strace waits for ever when it is asked to end while its process is dying
            tracer.wait(LIMIT)
        tracer.stderr.close()
    said = log.read_text(errors="replace")
    fired += re.findall(r"\(INJECTED\)", said) or re.findall(r"\+\+\+ killed by SIGKILL", said)[:1]
    if fault == "SIGKILL" and (fired or is_dying(mount.process.pid)):
        mount.process.wait(LIMIT)
        fired[:] = fired[:1] or ["killed"]  # strace was ended before it could say so


def write(path, text):
    """What the writer is told: 0, or the errno of the first call that failed."""
    fd, told = -1, 0
    try:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.write(fd, text.encode())
    except OSError as error:
        told = error.errno
    try:
        if fd >= 0:
            os.close(fd)
    except OSError as error:
        told = told or error.errno
    return told


class Sweep:
    """One system call failing in one way, at its N-th time for each N."""

    def __init__(self, make_hub, make_mount, call, fault, tmp_path):
        self.call, self.fault, self.copy = call, fault, tmp_path / f"{call}-{fault}"
        self.hub = make_hub()
        # A kill is held against a hub that knows no keys: nothing may be sent twice.
        self.bare = fault == "SIGKILL"
        self.witness = Witness(self.hub, bare=self.bare)
        self.mount = self.witness.mount = make_mount(None, "--settle", "20", url=self.witness.url,
                                                     key=self.hub.key)
        self.mount.write("first.prompt", f"{SMALL}first")
        self.mount.wait("first")
        self.fired = self.runs = 0
        self.told = {}

    def go(self):
        quiet = 0
        for n in range(1, 1000) if WHOLE else CALLS[self.call][1]:
            met = self.once(n)
            quiet = 0 if met else quiet + 1
            self.fired += met
            self.runs += 1
            if WHOLE and quiet == QUIET:
                break
        self.witness.close()
        return (f"{self.call} {self.fault}: {self.runs} runs, {self.fired} injected, writers were told "
                f"{dict(sorted(self.told.items()))}, {len(orders(self.hub))} orders, {len(self.hub.charges())} charges")

    def once(self, n):
        name = f"{self.call}{n}"
        text = f"{SMALL}{self.call} {self.fault} {n}"
        if self.call == "fsync":  # a small prompt's close needs none
            text += " and so on" * 2000
        path = self.mount / f"requests/{name}.prompt"
        if self.call == "ftruncate":  # what is there is written anew
            path.write_text(f"{SMALL}older than {n}")
            self.mount.wait(name)
        with injection(self.mount, self.call, self.fault, n) as fired:
            told = write(path, text)
            if told == 0:
                self.follow(name)
        self.told[errno.errorcode.get(told, "0")] = self.told.get(errno.errorcode.get(told, "0"), 0) + 1
        dead = self.mount.process.poll() is not None
        assert dead == bool(self.fault == "SIGKILL" and fired), "it ended by itself"
        if told and not dead:
            assert errno.errorcode[told] == self.fault, f"{name}: {os.strerror(told)}"
        self.restart(dead)
        self.check(name, text, told)
        return len(fired)

    def follow(self, name):
        """To its end, which comes by itself, whatever fails meanwhile."""
        stem = self.mount / f"requests/{name}"
        done = run("cat", f"{stem}.wait", check=False, limit=2 * LIMIT)
        if done.returncode == 0:
            run("cat", f"{stem}.png", check=False, stdout=subprocess.DEVNULL)
            until("the end of the download", lambda: not os.listdir(self.mount.cache / "tmp")
                  or self.mount.process.poll() is not None)

    def restart(self, dead):
        if dead:
            self.mount.kill()
        else:
            self.mount.stop()
        assert is_sound(self.mount.state / "catalogue.db", self.copy)
        self.mount.start()
        until("rest", lambda: self.mount.sql(
            "SELECT (SELECT count(*) FROM node WHERE pending <> 0), (SELECT count(*) FROM request"
            " WHERE state IN ('queued', 'sending', 'running'))") == ["0|0"], limit=2 * LIMIT)

    def check(self, name, text, told):
        prompt = text[len(SMALL):]
        arrived = orders(self.hub).count(prompt)
        charges = self.hub.charges()
        state = self.mount.sql(f"SELECT state FROM request WHERE json_extract(wanted, '$.prompt') = '{prompt}'")
        where = (name, self.fault, os.strerror(told), arrived, state)
        assert arrived <= 1 and len(charges) == len(set(charges)), where
        assert not self.witness.unintended, self.witness.unintended
        if told:
            assert arrived == 0 and state == [], where
            return
        assert (self.mount / f"requests/{name}.prompt").read_text() == text
        if state == []:
            assert self.mount.status(name).startswith("draft: ") and self.fault == "SIGKILL", where
        elif state == ["succeeded"]:
            assert arrived == 1, where
            self.mount.wait(name)  # until its picture is announced
            assert (self.mount / f"requests/{name}.png").read_bytes()[:4] == b"\x89PNG"
        else:
            assert state == ["unknown"] and self.bare, where


@pytest.mark.parametrize("call", CALLS)
def test_a_call_that_fails(make_hub, make_mount, tmp_path, call):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sweeps = [Sweep(make_hub, make_mount, call, fault, tmp_path) for fault in CALLS[call][0]]
        for sweep, said in zip(sweeps, pool.map(Sweep.go, sweeps)):
            print(f"\n{said}", end="")
            assert sweep.fired > 0, f"{call} was never met"


def engine_thread(mount):
    [found] = [t.name for t in Path(f"/proc/{mount.process.pid}/task").iterdir()
               if (t / "comm").read_text() == "engine\n"]
    return int(found)


@pytest.mark.parametrize("knows_keys", (True, False))
def test_nothing_is_sent_before_its_intent_is_on_the_disk(make_hub, make_mount, knows_keys):
    """The engine's first sync is for the accepted request, its second for the intent."""
    hub = make_hub()
    witness = Witness(hub, bare=not knows_keys)
    mount = witness.mount = make_mount(None, "--settle", "20", url=witness.url, key=hub.key)
    mount.write("first.prompt", f"{SMALL}first")
    mount.wait("first")
    with injection(mount, "fdatasync", "EIO", 2, engine_thread(mount)) as fired:
        mount.write("a.prompt", f"{SMALL}a")
        assert mount.wait("a")[-1].startswith("succeeded")
    assert len(fired) == 1
    log = mount.sql("SELECT log.text FROM log JOIN request r ON r.id = log.request"
                    " WHERE path = 'requests/a.prompt' ORDER BY log.id")
    [taken_back] = [i for i, line in enumerate(log) if "not sent, as the disk did not keep" in line]
    assert [line[:7] for line in log[:2]] == ["queued:", "sending"] and taken_back == 2, log
    assert log[3].startswith("sending") and log[4].startswith("accepted"), log
    assert mount.sql("SELECT settled, credits > 0 FROM charge JOIN request r ON r.id = request"
                     " WHERE path = 'requests/a.prompt' ORDER BY charge.id") == ["1|0", "1|1"]
    assert orders(hub) == ["first", "a"] and len(hub.charges()) == 2 == len(set(hub.charges()))
    assert not witness.unintended
    print(f"\n{len(fired)} sync of an intent failed, {witness.count('POST')} POSTs of 2 prompts", end="")
    witness.close()


# ---- the start after a kill, killed itself ----


class Left:
    """What a killed mount left: four orders whose answers never came, two that wait, three closed files
    that are due, one that a writer still had open, and content of a file that is gone. Each start begins with a copy of it."""

    def __init__(self, make_mount):
        self.hub = FaultHub({("POST", GENERATIONS): "stall"})
        self.mount = make_mount(None, "--settle", "600000", url=self.hub.url)
        folder = self.mount / "requests"
        for k in range(6):
            (folder / f"sent{k}.part").write_text(f"sent {k}")
            os.rename(folder / f"sent{k}.part", folder / f"sent{k}.prompt")
        until("the orders", lambda: self.hub.count("POST") == 4)
        for k in range(3):
            self.mount.write(f"due{k}.prompt", f"due {k}")
        with open(folder / "open.prompt", "w") as f:
            f.write("open")
            f.flush()
            os.close(os.dup(f.fileno()))  # which flushes
            until("releases", lambda: self.mount.sql("SELECT count(*) FROM node WHERE pending = 2") == ["3"])
            self.mount.kill()
            with contextlib.suppress(OSError):
                f.close()
        self.kept = self.mount.dir / "kept"
        shutil.copytree(self.mount.state, self.kept)
        (self.kept / "spool/999999").write_text("of a file that was removed")

    def restore(self):
        shutil.rmtree(self.mount.state)
        shutil.copytree(self.kept, self.mount.state)

    def start_killed(self, call, n):
        """Starts under strace; whether it was killed before it had recovered."""
        log = self.mount.dir / "strace"
        with open(self.mount.log, "ab") as said:
            tracer = subprocess.Popen(
                ["strace", "-f", "-o", log, "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={n}",
                 *[str(a) for a in self.mount.argv()]], stdout=subprocess.DEVNULL, stderr=said, env=ENV)
        try:
            until("an end", lambda: tracer.poll() is not None or self.recovered())
            killed = "killed by SIGKILL" in log.read_text(errors="replace")
            until("unmounting", lambda: tracer.poll() is not None  # it may not be mounted yet
                  or run("fusermount3", "-uz", self.mount.path, check=False).returncode == 0)
            tracer.wait(LIMIT)
        finally:
            if tracer.poll() is None:
                tracer.kill()
                tracer.wait(LIMIT)
        run("fusermount3", "-uzq", self.mount.path, check=False)
        with open(self.mount.log, "a") as said:
            said.write("<<<\n")
        return killed

    def recovered(self):
        with contextlib.suppress(AssertionError):
            return self.mount.sql("SELECT count(*) FROM node WHERE pending <> 0"
                                  " UNION ALL SELECT count(*) FROM request WHERE id <= 4 AND state = 'sending'") == ["0", "0"]

    def check(self, copy):
        assert is_sound(self.mount.state / "catalogue.db", copy)
        self.mount.start()
        until("recovery", self.recovered)
        rows = dict(r.split("|") for r in self.mount.sql(
            "SELECT json_extract(wanted, '$.prompt'), group_concat(state) FROM request GROUP BY 1"))
        assert sorted(rows) == sorted([f"sent {k}" for k in range(6)] + [f"due {k}" for k in range(3)])
        for k in range(4):
            assert rows[f"sent {k}"] == "unknown", rows
        assert all("," not in states for states in rows.values()), f"two requests of one text: {rows}"
        assert self.mount.status("open").startswith("draft: ")
        until("the sweep", lambda: not (self.mount.state / "spool/999999").exists())
        for name, text in (("open", "open"), ("due0", "due 0"), ("sent5", "sent 5")):
            assert (self.mount / f"requests/{name}.prompt").read_text() == text
        self.mount.kill()


@pytest.mark.parametrize("call, few", [("pwrite64", (1, 8, 30)), ("fdatasync", (1, 2)), ("unlinkat", (1,))])
def test_a_kill_while_it_recovers(make_mount, tmp_path, call, few):
    left = Left(make_mount)
    killed = runs = quiet = 0
    for n in range(1, 1000) if WHOLE else few:
        left.restore()
        died = left.start_killed(call, n)
        left.check(tmp_path / "copy")
        runs, killed, quiet = runs + 1, killed + died, 0 if died else quiet + 1
        if WHOLE and quiet == QUIET:
            break
    posts = [json.loads(b)["prompt"] for m, _, _, b in left.hub.requests if m == "POST"]
    for k in range(4):
        assert posts.count(f"sent {k}") == 1, "it was sent again"
    print(f"\n{call}: {runs} starts, {killed} killed while they recovered, 0 sent again")
    assert killed > 0
    left.hub.close()
