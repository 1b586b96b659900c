"""Names that appear by themselves are announced."""
import contextlib
import os
import signal
import subprocess
import time

import pytest
from harness import LIMIT, first_line, sh, until, watches
from test_pictures import GENERATIONS, PNG, Gallery


@contextlib.contextmanager
def watching(log, *folders):
    """inotifywait on these folders; begins when its watches are set."""
    watch = subprocess.Popen(["inotifywait", "-m", "-q", "--format", "%w%f %e", "-o", str(log), *map(str, folders)],
                             stderr=subprocess.DEVNULL)
    try:
        until("the watches", lambda: watches(watch.pid) == len(folders))
        yield
    finally:
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
    mount.stop()
    mount.start()  # what is older than this mount is not new, but its names are
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


def test_inotify_sees_what_a_slow_disk_delays(hub, mount):
    """A second for each sync: names are older than that when they are told of."""
    log = mount.dir / "events"
    how = "inject=fsync,fdatasync:delay_enter=1100000"
    with watching(log, mount / "requests", mount / "generations"):
        tracer = subprocess.Popen(["strace", "-f", "-o", mount.dir / "trace", "-e", "trace=fsync,fdatasync", "-e",
                                   how, "-p", str(mount.process.pid)], stderr=subprocess.PIPE, text=True)
        try:
            assert "attached" in first_line(tracer.stderr)
            mount.write("cat.prompt", "a cat")
            mount.wait("cat")
        finally:
            tracer.terminate()
            tracer.wait(LIMIT)
        [id] = os.listdir(mount / "generations")
        want = [f"{mount.path}/requests/cat.status CREATE", f"{mount.path}/requests/cat.png CREATE",
                f"{mount.path}/requests/cat.status CLOSE_WRITE,CLOSE", f"{mount.path}/generations/{id} CREATE,ISDIR"]
        until("the events", lambda: all(w in log.read_text().splitlines() for w in want))
    delayed = (mount.dir / "trace").read_text().count("(DELAYED)")
    print(f"{delayed} syncs delayed")
    assert delayed >= 3


def test_inotify_sees_what_a_busy_helper_announces_late(hub, mount):
    """More than its socket holds, while it has stopped for longer than a name is hidden."""
    n = 60
    log = mount.dir / "events"
    with watching(log, mount / "requests"):
        os.kill(mount.helper(), signal.SIGSTOP)
        for k in range(n):
            mount.write(f"n{k}.prompt", f"---\nsize: 1024x640\n---\npicture {k}")
        for k in range(n):
            mount.wait(f"n{k}")
        os.kill(mount.helper(), signal.SIGCONT)
        late = lambda: [l for l in log.read_text().splitlines() if l.endswith(".png CLOSE_WRITE,CLOSE")]
        until("the events", lambda: len(set(late())) == n)


def test_error_is_announced_each_time_it_comes(hub, mount):
    log = mount.dir / "events"
    with watching(log, mount / "requests"):
        for k in (1, 2):
            with pytest.raises(OSError):
                mount.write("cat.prompt", "---\nqualty: high\n---\na cat")
            assert "qualty" in mount.text("cat.error")
            until("the event", lambda: log.read_text().count("cat.error CREATE\n") == k)
            mount.write("cat.prompt", f"a cat {k}")
            mount.wait("cat")


def test_inotify_sees_the_end_of_what_was_under_way_before(make_hub, make_mount):
    hub = make_hub("--hold")
    mount = make_mount(hub)
    mount.write("cat.prompt", "a cat")
    until("running", lambda: mount.sql("SELECT 1 FROM request WHERE state = 'running'"))
    mount.stop()
    mount.start()
    log = mount.dir / "events"
    with watching(log, mount / "requests"):
        hub.let_go()
        mount.wait("cat")
        want = [f"{mount.path}/requests/cat.png CREATE", f"{mount.path}/requests/cat.status CLOSE_WRITE,CLOSE"]
        until("the events", lambda: all(w in log.read_text().splitlines() for w in want))


def test_inotify_sees_every_picture_of_a_large_batch(make_mount):
    """More announcements than the helper's socket holds."""
    n = 400
    g = Gallery(make_mount)
    log = g.mount.dir / "events"
    with watching(log, g.mount / "requests"):
        for k in range(n):
            g.mount.write(f"n{k}.prompt", f"picture {k}")
        until("the pictures", limit=240, condition=lambda: g.mount.sql(
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


def test_an_end_is_told_when_its_generation_can_be_seen(make_mount):
    """Nothing is announced here: a name is seen by its age, and the generation's is less than the status's."""
    g = Gallery(make_mount)
    os.kill(g.mount.helper(), signal.SIGSTOP)

    def slowly(request):
        time.sleep(0.7)
        return g.generation(request)

    g.hub.routes[("POST", GENERATIONS)] = slowly
    g.mount.write("cat.png", "the user's own")
    g.mount.write("cat.prompt", "a cat")
    assert g.mount.wait("cat")[-1].startswith("succeeded")
    assert (g.mount / "generations/gen_00000000/1.png").read_bytes() == PNG


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
    # Opened, it is a snapshot; what nothing changes has that size by its name as well.
    for root, _, files in os.walk(mount.path):
        for name in files:
            path = os.path.join(root, name)
            with open(path, "rb") as f:
                assert os.fstat(f.fileno()).st_size == len(f.read()), path
            until(f"the size of {path}", lambda: os.stat(path).st_size == len(open(path, "rb").read()))
