"""Starting: each failure is one clear line and a status of its own."""
import os
import signal
import subprocess

import pytest
from faulthub import FaultHub
from harness import ENV, FS, has_ended, run, sh, until


def start(mount, *extra, options=None):
    return run(*(options or mount.argv(*extra)), check=False)


def test_options():
    for argv, words in ((["--lokal", "x"], "did you mean --local"), ([], "where should it be mounted"),
                        (["--fetch=often", "x"], "lazy or eager"), (["--cache-max=much", "x"], "500M"),
                        (["a", "b"], "one mount point"), (["--local", "--hub", "http://x", "m"], "exclude")):
        done = run(FS, *argv, check=False)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "usage: imagehubfs" in run(FS, "--help").stdout
    assert run(FS, "--version").stdout.startswith("imagehubfs ")


def test_mount_points(hub, make_mount):
    mount = make_mount(hub, start=False)
    (mount.dir / "file").touch()
    for path, status in ((mount.dir / "none", 4), (mount.dir / "file", 4), (mount.dir, 5)):
        done = start(mount, options=[*mount.argv()[:-1], path])
        assert done.returncode == status and done.stderr.count("\n") == 1, done.stderr


def test_busy(hub, make_mount):
    mount = make_mount(hub)
    second = start(mount)
    assert second.returncode == 6 and f"process {mount.process.pid}" in second.stderr
    argv = [a if a != mount.state else mount.dir / "other" for a in mount.argv()]
    third = run(*argv, check=False)
    assert third.returncode == 5 and "is mounted on already" in third.stderr


def test_a_stale_mount_is_taken_away(hub, make_mount):
    mount = make_mount(hub)
    mount.process.kill()
    mount.process.wait(20)
    with open(mount.log, "a") as log:
        log.write("<<<\n")
    mount.start()
    assert "requests" in os.listdir(mount.path)


def test_keys(hub, make_mount):
    mount = make_mount(hub, start=False)
    (mount.dir / "key").chmod(0o644)
    done = start(mount)
    assert done.returncode == 8 and "chmod 600" in done.stderr
    env = dict(ENV, HOME=str(mount.dir), XDG_CONFIG_HOME=str(mount.dir / "config"))
    argv = [FS, "--hub", hub.url, "--state", mount.state, "--cache", mount.cache, "-f", mount.path]
    done = subprocess.run([str(a) for a in argv], env=env, stderr=subprocess.PIPE, text=True, timeout=20)
    assert done.returncode == 7 and done.stderr.count("\n") == 3 and "--local" in done.stderr
    (mount.dir / "config/imagehubfs").mkdir(parents=True)
    (mount.dir / "config/imagehubfs/key").write_text("gih_live_x\n")
    (mount.dir / "config/imagehubfs/key").chmod(0o640)
    done = subprocess.run([str(a) for a in argv], env=env, stderr=subprocess.PIPE, text=True, timeout=20)
    assert done.returncode == 8


def test_another_hub(hub, make_mount):
    mount = make_mount(hub)
    mount.stop()
    mount.url = "https://hub.example"
    done = start(mount)
    assert done.returncode == 9 and hub.url in done.stderr and "--profile" in done.stderr
    mount.url = "http://hub.example"
    assert start(mount).returncode in (1, 9)


def test_a_start_that_failed_binds_a_profile_to_nothing(hub, make_mount):
    mount = make_mount(hub, start=False)
    (mount.dir / "key").chmod(0o644)
    mount.url = "https://hub.example"
    assert start(mount).returncode == 8
    (mount.dir / "key").chmod(0o600)
    mount.url = hub.url
    done = start(mount, "-o", "nonsense")
    assert done.returncode == 2 and "not possible as mount options: -o nonsense\n" in done.stderr
    mount.start()


def test_a_hub_that_does_not_answer_still_mounts_and_says_so(make_mount):
    hub = FaultHub()
    hub.close()
    mount = make_mount(url=hub.url)
    for name in ("README.txt", "control"):
        until(name, lambda: "does not answer" in (mount / name).read_text())
    assert run("cat", mount / "credits", check=False).stderr.endswith("Connection refused\n")
    mount.write("a.prompt", "a cat")
    until("queueing", lambda: (mount / "requests/a.status").exists()
          and mount.status("a").startswith("queued: waits for the hub"))


def test_in_the_background_and_no_key_anywhere(hub, make_mount):
    mount = make_mount(hub, start=False)
    argv = [a for a in mount.argv() if a != "-f"]
    done = run(*argv)
    assert done.stdout == "" and "requests" in os.listdir(mount.path)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    texts = sh(f"cat {mount.path}/README.txt {mount.path}/control {mount.path}/generations/*/[a-z]*; "
               f"strings -n 8 {mount.state}/catalogue.db* 2>/dev/null || cat {mount.state}/catalogue.db*").stdout
    assert hub.key not in texts + done.stderr and "gih_live" not in texts
    run("fusermount3", "-u", mount.path)
    until("the end", lambda: run("pgrep", "-f", str(mount.state), check=False).returncode == 1)


@pytest.mark.parametrize("foreground", [False, True], ids=["", "-f"])
def test_started_without_standard_descriptors(make_mount, foreground):
    """What it opens must not become what it takes for stderr."""
    mount = make_mount(local=True, start=False)
    argv = [a for a in mount.argv() if foreground or a != "-f"]
    started = subprocess.Popen(["bash", "-c", 'exec "$@" <&- >&- 2>&-', "bash", *map(str, argv)], env=ENV)
    until("mounting", lambda: (mount / "requests").exists())
    if not foreground:
        assert started.wait(20) == 0
    pid = int((mount.state / "lock").read_text())
    assert [os.readlink(f"/proc/{pid}/fd/{n}") for n in range(3)] == 3 * ["/dev/null"]
    mount.write("cat.prompt", "a cat")
    assert mount.wait("cat")[-1].startswith("succeeded")
    until("unmounting", lambda: run("fusermount3", "-u", mount.path, check=False).returncode == 0)
    until("the end", lambda: started.poll() is not None and has_ended(pid))
    mount.check_state()


def test_local(make_mount):
    mount = make_mount(local=True)
    mount.write("cat.prompt", "a cat")
    assert mount.wait("cat")[-1].startswith("succeeded")
    hub = int(run("pgrep", "-f", f"imagehubd --data {mount.state}/hub").stdout)
    mount.stop()
    assert not os.path.exists(f"/proc/{hub}")
    mount.start()
    until("the balance", lambda: (mount / "credits").read_text() == "992\n")
    os.kill(mount.process.pid, signal.SIGKILL)
    until("the hub's end", lambda: run("pgrep", "-f", f"imagehubd --data {mount.state}/hub", check=False).returncode == 1)
