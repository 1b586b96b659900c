"""Random ways of saving, moving, exchanging and removing prompts, with kills in between, at a hub that loses
some answers: each text that was ever saved is ordered at most once, however often it is saved again under the
name that it has, and what stands in a file at the end has been ordered (`make torture-money`).

SEED repeats a run, SAVES makes it longer.
"""
import ctypes
import json
import os
import random
import time

import pytest
from faulthub import FaultHub, http
from harness import until
from sending import settled

GENERATIONS = r"/api/v1/images/generations"
SAVES = int(os.environ.get("SAVES") or 0)
SEED = os.environ.get("SEED")
libc = ctypes.CDLL(None, use_errno=True)


def exchange(a, b):
    assert libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) == 0


class Hub(FaultHub):
    """Counts the orders of each text; some are refused, some lost, some told to come again."""

    def __init__(self, seed):
        self.random, self.orders, self.patience = random.Random(seed), {}, set()
        super().__init__({("POST", GENERATIONS): self.order, ("GET", r"/api/v1/generations/.*"): lambda r: http(
            200, {"id": r[1].rsplit("/", 1)[1], "status": "processing"})})

    def order(self, request):
        text = json.loads(request[3])["prompt"]
        with self.lock:
            chance = self.random.random()
            if chance < 0.1 and text not in self.patience:
                self.patience.add(text)
                return http(429, headers=["Retry-After: 1"])
            self.orders[text] = self.orders.get(text, 0) + 1
            if chance < 0.2:
                return None
            if chance < 0.3:
                return http(400, {"error": {"message": "no", "code": "invalid_request"}})
            return http(202, {"id": "gen_" + text.replace(" ", "_"), "status": "queued"})


# ---- how a text comes into a file ----

def in_place(path, text):
    path.write_text(text)


def by_a_file_put_in_its_place(path, text):
    other = path.with_name(".new")
    other.write_text(text)
    os.rename(other, path)


def anew(path, text):
    path.unlink(missing_ok=True)
    path.write_text(text)


def behind_a_backup(path, text):
    if path.exists():
        os.rename(path, f"{path}~")
    path.write_text(text)


def by_an_exchange(path, text):
    other = path.with_name("other")
    other.write_text(text)
    if path.exists():
        exchange(other, path)
        other.unlink()
    else:
        os.rename(other, path)


def after_a_look(path, text):
    with open(path, "a"):
        pass
    os.utime(path)
    if path.read_text() != text:
        path.write_text(text)


WAYS = (in_place, by_a_file_put_in_its_place, anew, behind_a_backup, by_an_exchange, after_a_look)


class World:
    """What stands where: in `files` by path, in `gone` what was removed last from a path."""

    def __init__(self, mount, seed):
        self.mount, self.random = mount, random.Random(seed)
        self.root, self.files, self.gone, self.texts, self.kills = mount / "requests", {}, {}, 0, 0
        for folder in "ab":
            (self.root / folder).mkdir()

    def name(self):
        return self.random.choice(("", "a/", "b/")) + self.random.choice("xyz") + ".prompt"

    def put(self, path, text):
        self.random.choice(WAYS)(self.root / path, text)
        self.files[path] = text
        self.gone.pop(path, None)

    def write(self):
        self.texts += 1
        self.put(self.name(), f"text {self.texts}")

    def save_again(self):
        path = self.random.choice(sorted(self.files))
        self.put(path, self.files[path])

    def bring_back(self):
        if self.gone:
            path = self.random.choice(sorted(self.gone))
            self.put(path, self.gone[path])

    def move(self):
        path, to = self.random.choice(sorted(self.files)), self.name()
        if path != to:
            os.rename(self.root / path, self.root / to)
            self.files[to] = self.files.pop(path)
            for gone in (path, to):
                self.gone.pop(gone, None)

    def swap(self):
        if len(self.files) > 1:
            a, b = self.random.sample(sorted(self.files), 2)
            exchange(self.root / a, self.root / b)
            self.files[a], self.files[b] = self.files[b], self.files[a]

    def remove(self):
        path = self.random.choice(sorted(self.files))
        (self.root / path).unlink()
        self.gone[path] = self.files.pop(path)

    def swap_folders(self):
        for old, new in ("ac", "ba", "cb"):
            os.rename(self.root / old, self.root / new)
        other = {"a": "b", "b": "a"}
        self.files = {other[p[0]] + p[1:] if p[1] == "/" else p: text for p, text in self.files.items()}
        self.gone = {p: text for p, text in self.gone.items() if p[1] != "/"}

    def restart(self):
        if self.random.random() < 0.5:
            self.mount.kill()
            self.kills += 1
        else:
            self.mount.stop()
        self.mount.start()

    def step(self):
        steps = {self.write: 25, self.save_again: 35, self.move: 15, self.swap: 5, self.remove: 7,
                 self.bring_back: 6, self.swap_folders: 4, self.restart: 2}
        if not self.files:
            self.write()
        self.random.choices(list(steps), steps.values())[0]()
        if self.random.random() < 0.3:
            time.sleep(self.random.random() / 4)  # no guess: sometimes it has settled, sometimes not
        if self.random.random() < 0.1:
            settled(self.mount)


def missing(world, hub):
    """Texts of files that were not ordered and are no drafts (a kill may have come before the RELEASE)."""
    def is_draft(path):
        status = (world.root / path).with_suffix(".status")
        until("a word of it", status.exists)
        return status.read_text().startswith("draft")

    return [(path, text) for path, text in world.files.items() if text not in hub.orders and not is_draft(path)]


@pytest.mark.skipif(not SAVES, reason="a long run: make torture-money")
@pytest.mark.parametrize("seed", [int(SEED)] if SEED else range(10))
def test_each_text_is_ordered_once(make_mount, seed):
    hub = Hub(seed)
    world = World(make_mount(None, "--settle", str((0, 30, 100)[seed % 3]), url=hub.url), seed)
    for _ in range(SAVES):
        world.step()
    settled(world.mount)
    for path, text in world.files.items():
        assert (world.root / path).read_text() == text, path
    assert {text: n for text, n in hub.orders.items() if n != 1} == {}
    assert missing(world, hub) == []
    print(f"\nseed {seed}: {SAVES} steps, {world.texts} texts, {len(hub.orders)} ordered, each once; {world.kills} kills")
    hub.close()
