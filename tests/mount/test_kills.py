"""kill -9 of the mount, of the hub and of both, at random moments of batches of prompts.

What close() or rename() answered with success is kept in a manifest outside of the mount. Whatever
is killed when: none of it is lost, no order arrives twice, no commit is charged twice, and both
databases are sound. KILLS sets how many (make torture-kills), SEED repeats the moments.
"""
import contextlib
import os
import random
import signal
import threading
import time

import pytest
from faulthub import BareHub
from harness import LIMIT, until
from soundness import is_sound, orders

SMALL = "---\nsize: 1024x640\n---\n"
WRITERS, BATCH = 4, 200


class Manifest:
    """By name: the text that was accepted last, and those that were on their way since."""

    def __init__(self):
        self.accepted, self.tried = {}, {}
        self.successes = 0
        self.lock = threading.Lock()

    def trying(self, name, text):
        with self.lock:
            self.tried.setdefault(name, []).append(text)

    def done(self, name, text):
        with self.lock:
            self.accepted[name], self.tried[name] = text, []
            self.successes += 1


def write(path, text, flags=os.O_CREAT | os.O_WRONLY):
    fd = os.open(path, flags)
    try:
        os.write(fd, text.encode())
    except OSError:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def plainly(folder, name, text, manifest):
    manifest.trying(name, text)
    write(folder / f"{name}.prompt", text)
    manifest.done(name, text)


def by_rename(folder, name, text, manifest):
    manifest.trying(name, text)
    write(folder / f".{name}.part", text)
    os.rename(folder / f".{name}.part", folder / f"{name}.prompt")
    manifest.done(name, text)


def replaced(folder, name, text, manifest):
    plainly(folder, name, text, manifest)
    by_rename(folder, name, text.replace("prompt", "better prompt"), manifest)


def appended(folder, name, text, manifest):
    plainly(folder, name, text, manifest)
    longer = text + "and more of it\n"
    manifest.trying(name, longer)
    write(folder / f"{name}.prompt", "and more of it\n", os.O_WRONLY | os.O_APPEND)
    manifest.done(name, longer)


WAYS = (plainly, by_rename, replaced, appended)


class Batch:
    """200 prompts by several writers at once, each in another way, until all are written or a writer
    meets an error."""

    def __init__(self, mount, number, manifest):
        self.folder, self.number, self.manifest = mount / "requests", number, manifest
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._write, args=(w,)) for w in range(WRITERS)]
        for t in self.threads:
            t.start()

    def _write(self, writer):
        for k in range(BATCH // WRITERS):
            name = f"b{self.number}-{writer}-{k}"
            try:
                WAYS[(k + writer) % len(WAYS)](self.folder, name, f"{SMALL}prompt {name}\n", self.manifest)
            except OSError:
                return
            if self.stop.is_set():
                return

    def writing(self):
        return any(t.is_alive() for t in self.threads)

    def end(self):
        self.stop.set()
        for t in self.threads:
            t.join(LIMIT)
            assert not t.is_alive(), "a writer hangs"


def prompt_of(text):
    return text[len(SMALL):].strip()


class Killing:
    """One run: a hub, a mount, and batches that end in a kill."""

    def __init__(self, hub, mount, victim, seed, tmp_path):
        self.hub, self.mount, self.victim, self.tmp_path = hub, mount, victim, tmp_path
        self.dice = random.Random(f"{victim} {seed}")
        self.manifest = Manifest()
        self.mounts_killed = self.hubs_killed = 0
        self.found_sending = []

    def once(self, number, held=contextlib.nullcontext()):
        begun = self.manifest.successes
        batch = Batch(self.mount, number, self.manifest)
        # Most moments are early, so that a run stays short; the last may be the batch's end.
        moment = int(self.dice.random() ** 3 * (BATCH - 1)) + 1
        until("writing", lambda: self.manifest.successes - begun >= moment or not batch.writing())
        time.sleep(self.dice.random() * 0.01)
        with held:
            self.kill()
        batch.end()
        self.restart()

    def kill(self):
        if self.victim != "hub":
            os.kill(self.mount.process.pid, signal.SIGKILL)
            self.mounts_killed += 1
        if self.victim != "mount":
            self.hub.kill()
            self.hubs_killed += 1

    def restart(self):
        if self.victim != "hub":
            self.mount.kill()
            assert is_sound(self.mount.state / "catalogue.db", self.tmp_path / "copy")
            self.found_sending += self.mount.sql("SELECT id FROM request WHERE state = 'sending'")
        if self.victim != "mount":
            assert is_sound(self.hub.data / "hub.db", self.tmp_path / "copy")
            self.hub.start()
        if self.victim != "hub":
            self.mount.start()

    def finish(self, limit):
        self.mount.control("refresh\n")
        until("the end of the queue", lambda: self.mount.sql(
            "SELECT (SELECT count(*) FROM node WHERE pending <> 0), (SELECT count(*) FROM request"
            " WHERE state IN ('queued', 'sending', 'running'))") == ["0|0"], limit=limit)

    def states(self):
        return self.mount.sql("SELECT state FROM request")

    def check(self):
        """Nothing lost, nothing twice; how many are drafts."""
        arrived = orders(self.hub)
        assert len(arrived) == len(set(arrived)), "a prompt was ordered twice"
        charges = self.hub.charges()
        assert len(charges) == len(set(charges)) <= len(arrived), "a commit was charged twice"
        arrived, drafts = set(arrived), 0
        for name, text in self.manifest.accepted.items():
            texts = [text, *self.manifest.tried[name]]
            assert (self.mount / f"requests/{name}.prompt").read_text() in texts, name
            if any(prompt_of(t) in arrived for t in texts):
                continue
            status = self.mount.status(name)
            assert status.startswith(("draft: ", "unknown: ")), (name, status)
            drafts += status.startswith("draft: ")
        # Closed, but killed before the kernel had told that its last writer is gone.
        assert drafts <= self.mounts_killed * WRITERS
        for database in (self.mount.state / "catalogue.db", self.hub.data / "hub.db"):
            assert is_sound(database, self.tmp_path / "copy")
        self.told(drafts, len(charges))
        return drafts

    def told(self, drafts, charges):
        print(f"\n{self.victim}: {self.mounts_killed} mounts and {self.hubs_killed} hubs killed, "
              f"{self.manifest.successes} closes returned 0, {charges} charges, {drafts} drafts, "
              f"{self.states().count('unknown')} unknown, {len(self.found_sending)} found sending, "
              f"0 lost, 0 paid twice")


def seed():
    value = os.environ.get("SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"\nSEED={value}")
    return value


def how_many(share, default):
    """A share of KILLS, or the few of `make check`."""
    kills = os.environ.get("KILLS")
    return max(1, int(int(kills) * share)) if kills else default


@pytest.mark.parametrize("victim, share, default",
                         [("mount", 0.5, 12), ("hub", 0.15, 3), ("both", 0.25, 4)])
def test_kill_9(make_hub, make_mount, tmp_path, victim, share, default):
    kills = how_many(share, default)
    hub = make_hub("--workers", "2", credits=10000000)
    mount = make_mount(hub, "--settle", "20")
    killing = Killing(hub, mount, victim, seed(), tmp_path)
    for number in range(kills):
        killing.once(number)
    killing.finish(limit=120 + 10 * kills)
    killing.check()
    assert killing.mounts_killed + killing.hubs_killed >= kills and killing.manifest.successes >= kills
    # This hub knows repeated requests by their key: what was found `sending` was sent again.
    assert set(killing.states()) <= {"succeeded", "canceled"}, killing.states()


@pytest.mark.parametrize("victim, share, default", [("mount", 0.25, 4), ("both", 0.1, 2)])
def test_kill_9_with_a_hub_that_knows_no_keys(make_hub, make_mount, tmp_path, victim, share, default):
    kills = how_many(share, default)
    hub = make_hub("--workers", "2", credits=10000000)
    bare = BareHub(hub, delay=0.02)
    mount = make_mount(None, "--settle", "20", url=bare.url, key=hub.key)
    killing = Killing(hub, mount, victim, seed(), tmp_path)
    for number in range(kills - 1):
        killing.once(number)
    killing.once(kills - 1, held=bare.holding())  # at least then one is under way
    killing.finish(limit=120 + 10 * kills)
    killing.check()
    assert mount.sql("SELECT value FROM setting WHERE name = 'idempotent'") == [], "it was announced"
    # Nobody can know what became of those that were under way: they are never sent again.
    found = ", ".join(killing.found_sending)
    assert killing.mounts_killed >= kills and killing.found_sending
    assert set(mount.sql(f"SELECT state FROM request WHERE id IN ({found})")) == {"unknown"}
    assert bare.count("POST") == len({(p, b) for m, p, _, b in bare.requests if m == "POST"})
    bare.close()
