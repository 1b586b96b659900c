"""Names that appear by themselves are announced."""
import contextlib
import os
import subprocess
import time

from harness import sh, until
from test_pictures import Gallery


@contextlib.contextmanager
def watching(log, *folders):
    """inotifywait on these folders; begins when its watches are set."""
    watch = subprocess.Popen(["inotifywait", "-m", "-q", "--format", "%w%f %e", "-o", str(log), *map(str, folders)],
                             stderr=subprocess.PIPE, text=True)
    info = f"/proc/{watch.pid}/fdinfo"
    until("the watches", lambda: sum(
        open(f"{info}/{f}").read().count("inotify wd") for f in os.listdir(info)) == len(folders))
    yield
    watch.kill()
    watch.wait()


def test_inotify_sees_what_appears(hub, mount):
    log = mount.dir / "events"
    with watching(log, mount / "requests", mount / "generations"):
        mount.write("cat.prompt", "a cat")
        mount.wait("cat")
        [id] = os.listdir(mount / "generations")
        want = [f"{mount.path}/requests/cat.status CREATE", f"{mount.path}/requests/cat.png CREATE",
                f"{mount.path}/requests/cat.png CLOSE_WRITE,CLOSE",
                f"{mount.path}/requests/cat.status CLOSE_WRITE,CLOSE",
                f"{mount.path}/generations/{id} CREATE,ISDIR"]
        until("the events", lambda: all(w in log.read_text().splitlines() for w in want))


def test_inotify_sees_names_that_change_and_come_back(hub, mount):
    log = mount.dir / "events"
    folder = mount / "requests/there"
    folder.mkdir()
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    with watching(log, mount / "requests", folder):
        sh("mv cat.prompt dog.prompt", cwd=mount / "requests")
        until("the names", lambda: all(f"{mount.path}/requests/{name} CREATE" in log.read_text().splitlines()
                                       for name in ("dog.png", "dog.status")))
        sh("mv dog.prompt there/cow.prompt", cwd=mount / "requests")
        until("the names", lambda: f"{folder}/cow.png CLOSE_WRITE,CLOSE" in log.read_text().splitlines())
        assert (folder / "cow.png").stat().st_size == len((folder / "cow.png").read_bytes()) > 1000
        mount.write("fox.prompt", "a fox")
        mount.wait("fox")
        created = f"{mount.path}/requests/fox.png CREATE"
        until("its name", lambda: log.read_text().splitlines().count(created) == 1)
        # Removed and written again: nothing is paid, and its picture is back.
        (mount / "requests/fox.prompt").unlink()
        until("its picture's going", lambda: not (mount / "requests/fox.png").exists())
        mount.write("fox.prompt", "a fox")
        until("its name", lambda: log.read_text().splitlines().count(created) == 2)
        assert hub.generations() == 2


def test_inotify_sees_every_picture_of_a_large_batch(make_mount):
    """More announcements than the helper's socket holds."""
    n = 400
    g = Gallery(make_mount)
    log = g.mount.dir / "events"
    with watching(log, g.mount / "requests"):
        for k in range(n):
            g.mount.write(f"n{k}.prompt", f"picture {k}")
        until("the pictures", limit=60, condition=lambda: g.mount.sql(
            "SELECT count(*) FROM request WHERE state = 'succeeded'") == [str(n)])
        created = lambda: {l for l in log.read_text().splitlines() if l.endswith(".png CREATE")}
        until("the events", lambda: len(created()) == n)


def test_a_picture_is_announced_once(hub, mount):
    """Whoever copies what is closed after writing copies it once."""
    n = 20
    log = mount.dir / "events"
    with watching(log, mount / "requests"):
        for k in range(n):
            mount.write(f"n{k}.prompt", f"picture {k}")
        for k in range(n):
            mount.wait(f"n{k}")
        mount.write("last.prompt", "the last one")  # announced in order
        closed = lambda: [l for l in log.read_text().splitlines() if l.endswith(".png CLOSE_WRITE,CLOSE")]
        until("the last", lambda: f"{mount.path}/requests/last.png CLOSE_WRITE,CLOSE" in closed())
        assert len(set(closed())) == len(closed())


def test_a_success_is_told_when_the_picture_can_be_seen(hub, mount):
    for k in range(15):
        mount.write(f"c{k}.prompt", f"cat {k}")
    for k in range(15):
        sh(f"cat c{k}.wait > /dev/null && cp c{k}.png {mount.dir}/", cwd=mount / "requests")


def test_wait_follows_and_tells_the_seconds(make_hub, make_mount):
    mount = make_mount(make_hub("--sketch-delay", "6500"))
    mount.write("slow.prompt", "slowly")
    begun = time.monotonic()
    lines = mount.wait("slow")
    assert any(l.startswith("processing") for l in lines) and lines[-1].startswith("succeeded")
    assert len(lines) < 15 and time.monotonic() - begun >= 6
    assert mount.status("slow") == lines[-1] + "\n"


def test_text_snapshots_are_stable_and_sized(hub, mount):
    with open(mount / "control") as f:
        size = os.fstat(f.fileno()).st_size
        mount.write("cat.prompt", "a cat")
        mount.wait("cat")
        assert len(f.read().encode()) == size
    for root, _, files in os.walk(mount.path):
        for name in files:
            path = os.path.join(root, name)
            assert os.stat(path).st_size == len(open(path, "rb").read()), path
