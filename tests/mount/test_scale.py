"""Cost that must not grow: requests of the kernel's, counted by the mount's own debug output, and
writes to the database. No test here looks at a clock."""
import collections
import os
import re
import sqlite3
import subprocess
import sys
import time

import pytest

from faulthub import FaultHub, http
from harness import BUILD, ENV, LIMIT, ROOT, run, sh, until

LOOKING = ("LOOKUP", "GETATTR", "OPENDIR", "READDIR", "READDIRPLUS", "OPEN", "READ")


def requests(mount, pid):
    """How often the kernel has asked for what on behalf of a process, so far. The lines of two threads
    may be mixed, which hides one of them once in a while."""
    asked = rf"opcode: (\w+) \(\d+\), nodeid: \d+, insize: \d+, pid: {pid}\b"
    return collections.Counter(re.findall(asked, mount.log.read_text(errors="replace")))


def during(mount, *argv):
    """How often the kernel asked for what on behalf of a program, whoever else looks in; what it said."""
    with subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, text=True, env=ENV) as program:
        text = program.communicate(timeout=LIMIT)[0]
    assert program.returncode == 0
    count = requests(mount, program.pid)
    return {k: count[k] for k in LOOKING}, text


def finished(hub, make_mount, count):
    """A mount of `count` finished generations, started anew with its requests in the log."""
    mount = make_mount(hub)
    for i in range(count):
        mount.write(f"{i}.prompt", f"cat number {i}\n")
    for i in range(count):
        mount.wait(f"{i}.prompt")
    mount.stop()
    mount.start("-d")
    return mount


def test_a_second_find_is_answered_by_the_kernel(hub, make_mount):
    count = 20
    mount = finished(hub, make_mount, count)
    first, names = during(mount, "find", mount / "generations")
    assert names.count("/1.png\n") == count and names.count("/log\n") == count
    again, same = during(mount, "find", mount / "generations")
    third, _ = during(mount, "find", mount / "generations")
    print(first, again, third)
    assert same == names
    assert first["OPENDIR"] > count / 2, first
    # A folder costs its OPENDIR; the list of them is read anew each time.
    for seen in (again, third):
        assert count / 2 < seen["OPENDIR"] <= count + 5, seen  # give or take what the mixed lines make of it
        assert seen["LOOKUP"] == 0 and seen["READDIR"] + seen["READDIRPLUS"] <= 4, seen
    assert third["GETATTR"] <= 4, third


def test_that_there_is_no_such_prompt_is_asked_once(make_mount, hub):
    mount = make_mount(hub, "-d", "--settle", "3600000")
    place = mount / "requests"
    until("the helper's look at the two folders", lambda: requests(mount, mount.helper())["LOOKUP"] >= 1)
    (place / "folder").mkdir()

    def looked_up(name, fn):
        before = requests(mount, os.getpid())["LOOKUP"]
        for _ in range(5):
            assert not os.path.lexists(place / name)
        fn()
        assert os.path.lexists(place / name)
        return requests(mount, os.getpid())["LOOKUP"] - before

    place.joinpath("other").write_text("a cat")
    place.joinpath("folder/b.prompt").write_text("a dog")
    seen = {
        "written": looked_up("a.prompt", lambda: place.joinpath("a.prompt").write_text("a bird")),
        "made": looked_up("c.prompt", lambda: place.joinpath("c.prompt").mkdir()),
        "linked": looked_up("d.prompt", lambda: os.symlink("a.prompt", place / "d.prompt")),
        "renamed": looked_up("e.prompt", lambda: os.rename(place / "other", place / "e.prompt")),
        "moved": looked_up("f.prompt", lambda: os.rename(place / "folder/b.prompt", place / "f.prompt")),
    }
    print(seen)
    assert all(n <= 4 for n in seen.values()), seen
    # What comes by itself is asked for each time.
    before = requests(mount, os.getpid())["LOOKUP"]
    for _ in range(20):
        assert not os.path.lexists(place / "a.png")
    assert requests(mount, os.getpid())["LOOKUP"] - before > 10
    os.unlink(place / "a.prompt")
    assert not os.path.lexists(place / "a.prompt")
    place.joinpath("a.prompt").write_text("a bird again")
    assert place.joinpath("a.prompt").read_text() == "a bird again"
    mount.kill()


def test_what_cannot_change_is_not_asked_for_again(hub, make_mount):
    mount = finished(hub, make_mount, 1)
    folder = next((mount / "generations").iterdir())
    paths = [str(folder / n) for n in ("status", "prompt", "request.json", "1.png")]
    first, text = during(mount, "stat", "-c", "%n %s", *paths)
    seen, same = during(mount, "stat", "-c", "%n %s", *paths)
    print(seen)
    assert first["LOOKUP"] > 0, first
    assert same == text and seen["GETATTR"] == 0 and seen["LOOKUP"] == 0, seen
    for line in text.splitlines():
        name, size = line.rsplit(" ", 1)
        assert int(size) == len(open(name, "rb").read()), name


def test_a_log_is_never_shown_with_an_old_size(hub, make_mount):
    mount = finished(hub, make_mount, 1)
    folder = next((mount / "generations").iterdir())
    before = os.stat(folder / "log").st_size
    os.unlink(folder / "1.png")  # the log says so
    after = os.stat(folder / "log").st_size
    assert after > before and after == len((folder / "log").read_bytes())


def test_names_that_the_kernel_keeps_go_when_they_are_removed(hub, make_mount):
    mount = finished(hub, make_mount, 2)
    keep, gone = sorted((mount / "generations").iterdir())
    for _ in range(2):
        assert "1.png" in os.listdir(gone) and "status" in os.listdir(gone)
    os.unlink(gone / "1.png")
    assert "1.png" not in os.listdir(gone) and not (gone / "1.png").exists()
    os.unlink(gone / "status")
    assert "status" not in os.listdir(gone)
    sh(f"rm -r {gone}")
    assert os.listdir(mount / "generations") == [keep.name]
    assert "1.png" in os.listdir(keep)


def test_a_folder_that_was_listed_early_shows_what_comes_later(make_hub, make_mount):
    """Names are kept by the kernel only once no more can come."""
    hub = make_hub("--hold")
    mount = make_mount(hub)
    mount.write("cat.prompt", "a cat\n")
    folder = until("the generation", lambda: next((mount / "generations").iterdir(), None))
    for _ in range(3):
        assert "1.png" not in os.listdir(folder) and not (folder / "1.png").exists()
    hub.let_go()
    until("the picture's name", lambda: "1.png" in os.listdir(folder))
    assert mount.wait("cat")[-1].startswith("succeeded")
    assert (folder / "1.png").read_bytes()[:4] == b"\x89PNG"


IN_FLIGHT = 1500
RATE = 200  # polls a second for all of them together: engine/follow.c


@pytest.fixture
def busy_hub():
    """A hub at which everything is still under way, and when it was asked."""
    asked = []

    def pending(request):
        asked.append(time.monotonic())
        id = request[1].rsplit("/", 1)[1]
        return http(200, {"id": id, "status": "processing", "images": []})

    hub = FaultHub({("GET", r"/api/v1/generations/\w+"): pending})
    hub.asked = asked
    yield hub
    hub.close()


def test_many_in_flight_are_polled_evenly_and_nothing_is_written(busy_hub, make_mount):
    mount = make_mount(url=busy_hub.url, start=False)
    run(sys.executable, ROOT / "bench/catalogue.py", mount.state, IN_FLIGHT, "--running", limit=120)
    mount.start()
    until("a poll of each", lambda: len({p for _, p, _, _ in busy_hub.requests}) >= IN_FLIGHT, limit=120)

    catalogue = sqlite3.connect(f"file:{mount.state}/catalogue.db?mode=ro", uri=True)
    before = catalogue.execute("PRAGMA data_version").fetchone()
    first = len(busy_hub.asked)
    until("another round", lambda: len(busy_hub.asked) >= first + IN_FLIGHT, limit=120)
    assert catalogue.execute("PRAGMA data_version").fetchone() == before, "it was written to"
    catalogue.close()

    # What a hub without a processor could not hear in one second it hears in the next; all together are
    # no more for that.
    asked = list(busy_hub.asked)
    seconds = collections.Counter(int(t) for t in asked)
    print(sorted(seconds.values()), f"{len(asked)} in {asked[-1] - asked[0]:.1f} s")
    assert max(seconds.values()) <= RATE * 4 < IN_FLIGHT, seconds
    assert len(asked) <= RATE * (asked[-1] - asked[0] + 2), seconds
    memory = int(re.search(r"VmHWM:\s*(\d+)", open(f"/proc/{mount.process.pid}/status").read()).group(1))
    if "address" not in str(BUILD) and "thread" not in str(BUILD):
        assert memory < 40 * 1024, f"{memory} KiB"
