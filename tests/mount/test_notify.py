"""Names that appear by themselves are announced."""
import os
import subprocess
import time

from harness import run, sh, until


def test_inotify_sees_what_appears(hub, mount):
    log = mount.dir / "events"
    watch = subprocess.Popen(["inotifywait", "-m", "-q", "--format", "%w%f %e", "-o", str(log),
                              str(mount / "requests"), str(mount / "generations")],
                             stderr=subprocess.PIPE, text=True)
    until("inotifywait", lambda: "inotify" in os.listdir(f"/proc/{watch.pid}/fdinfo") or any(
        "inotify" in os.readlink(f"/proc/{watch.pid}/fd/{f}") for f in os.listdir(f"/proc/{watch.pid}/fd")))
    until("the watches", lambda: sum(
        open(f"/proc/{watch.pid}/fdinfo/{f}").read().count("inotify wd") for f in os.listdir(f"/proc/{watch.pid}/fdinfo")) == 2)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    [id] = os.listdir(mount / "generations")
    want = [f"{mount.path}/requests/cat.status CREATE", f"{mount.path}/requests/cat.png CREATE",
            f"{mount.path}/requests/cat.png CLOSE_WRITE,CLOSE", f"{mount.path}/requests/cat.status CLOSE_WRITE,CLOSE",
            f"{mount.path}/generations/{id} CREATE,ISDIR"]
    until("the events", lambda: all(w in log.read_text().splitlines() for w in want))
    watch.kill()
    watch.wait()


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
