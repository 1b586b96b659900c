"""A disk that is full: what cannot be kept is refused, and not sent; what was accepted is sent once there
is room; an answer that cannot be written down is neither lost nor asked for again."""
import errno
import os
import re
from pathlib import Path

import pytest
from faulthub import BareHub
from harness import run, until
from soundness import is_sound, orders

SMALL = "---\nsize: 1024x640\n---\n"
MOUNTED = os.environ.get("SMALL_DISK")  # by tests/as-user.sh
pytestmark = pytest.mark.skipif(os.geteuid() != 0 and not MOUNTED, reason="mounting a small tmpfs takes root")


class SmallDisk:
    """A tmpfs of 4 MiB, which the catalogue's journal does not fill by itself, that can be filled to the last page, and emptied again."""

    def __init__(self, path):
        self.path = Path(MOUNTED) if MOUNTED else path
        self.filler = self.path / "filler"
        self.fills = 0
        if not MOUNTED:
            path.mkdir()
            run("mount", "-t", "tmpfs", "-o", "size=4m", "none", path)

    def fill(self):
        fd = os.open(self.filler, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        try:
            while True:
                os.write(fd, b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        finally:
            os.close(fd)
        self.fills += 1

    def free(self):
        self.filler.unlink()

    def close(self):
        if not MOUNTED:
            run("umount", "-l", self.path)
        for name in os.listdir(MOUNTED) if MOUNTED else []:
            run("rm", "-rf", self.path / name)


@pytest.fixture
def disk(tmp_path):
    disk = SmallDisk(tmp_path / "small")
    yield disk
    disk.close()


@pytest.fixture
def on_small_disk(disk, make_mount):
    """Mounts whose state is on the small disk."""
    def make(*args, **kwargs):
        mount = make_mount(*args, start=False, **kwargs)
        mount.state = disk.path / "state"
        return mount.start()
    return make


def at_rest(mount):
    return mount.sql("SELECT (SELECT count(*) FROM node WHERE pending <> 0), (SELECT count(*) FROM request"
                     " WHERE state IN ('queued', 'sending', 'running'))") == ["0|0"]


def said(mount, words):
    return re.search(words, mount.log.read_text())


def test_what_is_refused_is_not_sent_and_what_is_accepted_is(hub, on_small_disk, disk, tmp_path):
    mount = on_small_disk(hub)
    mount.write("warm.prompt", f"{SMALL}warm")
    mount.wait("warm")
    disk.fill()
    accepted, refused = {"warm"}, set()
    for k in range(40):
        try:
            mount.write(f"p{k}.prompt", f"{SMALL}p{k}")
            accepted.add(f"p{k}")
        except OSError as error:
            assert error.errno == errno.ENOSPC
            refused.add(f"p{k}")
        if k == 20:
            with open(disk.filler, "r+b") as f:  # room for a few
                f.truncate(os.path.getsize(disk.filler) - 400_000)
        if k == 25:
            disk.fill()
    assert len(refused) >= 10 and len(accepted) >= 2
    assert (mount / "requests/warm.prompt").read_text() == f"{SMALL}warm"
    assert not set(orders(hub)) & refused
    disk.free()
    until("rest", lambda: at_rest(mount))
    mount.write("after.prompt", f"{SMALL}after")
    assert mount.wait("after")[-1].startswith("succeeded")
    assert sorted(orders(hub)) == sorted(accepted | {"after"}) and len(hub.charges()) == len(accepted) + 1
    print(f"\n{len(refused)} closes refused, {len(accepted)} accepted, {len(hub.charges())} charges")
    mount.stop()
    assert is_sound(mount.state / "catalogue.db", tmp_path / "copy")
    mount.start()  # and none of the refused is sent by a remount either
    until("rest", lambda: at_rest(mount))
    assert len(orders(hub)) == len(accepted) + 1


def test_full_between_acceptance_and_intent(hub, on_small_disk, disk):
    mount = on_small_disk(hub)
    until("the models", lambda: os.listdir(mount / "models"))
    hub.kill()
    mount.write("a.prompt", f"{SMALL}a")
    until("the queue", lambda: mount.sql("SELECT state FROM request") == ["queued"])
    until("a try", lambda: mount.status("a").startswith("queued: waits for the hub"))
    disk.fill()
    hub.start()
    mount.control("refresh\n")
    until("an intent that cannot be written", lambda: said(mount, "a.prompt cannot be sent now: No space left"))
    assert hub.generations() == 0 and mount.status("a").startswith("queued")
    disk.free()
    mount.control("refresh\n")
    assert mount.wait("a")[-1].startswith("succeeded")
    assert orders(hub) == ["a"] and len(hub.charges()) == 1


class FillingHub(BareHub):
    """A real hub that knows no keys, before whose answer to the first such request since the order
    arrived the disk fills, once `first` is true."""

    def __init__(self, hub, disk, method, path):
        self.disk, self.method, self.path, self.ordered = disk, method, path, False
        self.first = lambda: True
        super().__init__(hub)

    def _answer(self, request):
        self.ordered |= request[0] == "POST"
        answer = super()._answer(request)
        if self.ordered and request[0] == self.method and self.path in request[1]:
            until("what comes first", self.first)
            with self.lock:
                if self.disk.fills == 0:
                    self.disk.fill()
        return answer


MOMENTS = {"the order's answer": ("POST", "generations", r"answer \(generation"),
           "the generation's end": ("GET", "api/v1/generations/", "database"),
           "the picture's size": ("GET", ".png", "cannot be listed yet"),
           # Asked for at the same time as the picture's size: whichever comes to be written first.
           "the balance with it": ("GET", "credits", "cannot be (written|listed) yet")}


@pytest.mark.parametrize("moment", MOMENTS)
def test_full_between_an_answer_and_its_record(hub, on_small_disk, disk, moment):
    method, path, words = MOMENTS[moment]
    between = FillingHub(hub, disk, method, path)
    mount = on_small_disk(url=between.url, key=hub.key)
    until("the hub", lambda: os.listdir(mount / "models") and mount.sql("SELECT value FROM setting WHERE name = 'balance'"))
    if path == "credits":  # asked for together with the picture's size
        between.first = lambda: mount.sql("SELECT 1 FROM image WHERE size >= 0")
    mount.write("a.prompt", f"{SMALL}a")
    until("the full disk", lambda: disk.fills)
    if words != "database":
        until("a record that cannot be written", lambda: said(mount, words))
    state = mount.status("a")
    assert not state.startswith("succeeded") and not state.startswith("unknown"), state
    disk.free()
    assert mount.wait("a")[-1].startswith("succeeded: 1 picture")
    assert (mount / "requests/a.png").read_bytes()[:4] == b"\x89PNG"
    assert between.count("POST") == 1 == len(hub.charges())
    between.close()


def test_killed_with_an_answer_that_could_not_be_written(hub, on_small_disk, disk):
    between = FillingHub(hub, disk, *MOMENTS["the order's answer"][:2])
    mount = on_small_disk(url=between.url, key=hub.key)
    mount.write("a.prompt", f"{SMALL}a")
    until("the answer", lambda: said(mount, MOMENTS["the order's answer"][2]))
    [id] = hub.charges() or until("the charge", hub.charges)
    assert said(mount, id), "the log has the id that may have been paid for"
    mount.kill()
    disk.free()
    mount.start()
    until("the end", lambda: at_rest(mount))
    assert mount.status("a").startswith("unknown: ")
    assert between.count("POST") == 1 == len(hub.charges())
    between.close()


def test_a_full_disk_under_the_cache(hub, make_mount, disk):
    mount = make_mount(hub, start=False)
    mount.cache = disk.path / "cache"
    mount.start()
    mount.write("cat.prompt", "---\nsize: 3840x2160\n---\na cat")
    mount.wait("cat")
    disk.fill()
    done = run("cat", mount / "requests/cat.png", check=False)
    assert done.returncode == 1 and ("space" in done.stderr or "Input/output" in done.stderr)
    [id] = os.listdir(mount / "generations")
    assert "the disk of the cache is full" in (mount / f"generations/{id}/log").read_text()
    # Prompts are none of the cache's business.
    mount.write("dog.prompt", f"{SMALL}a dog")
    assert mount.wait("dog")[-1].startswith("succeeded")
    disk.free()
    for name in ("cat", "dog"):
        assert (mount / f"requests/{name}.png").read_bytes()[:4] == b"\x89PNG"
    assert len(hub.charges()) == 2
