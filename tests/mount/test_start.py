"""Starting: each failure is one clear line and a status of its own."""
import contextlib
import glob
import os
import re
import signal
import socket
import subprocess
import urllib.parse

import pytest
from faulthub import FaultHub
from harness import ENV, FS, HUB, LIMIT, ROOT, has_ended, run, sh, until


def start(mount, *extra, options=None):
    return run(*(options or mount.argv(*extra)), check=False)


def unmounted(mount):
    """One in the background: it is busy for a moment while the helper makes its calls."""
    until("unmounting", lambda: run("fusermount3", "-u", mount.path, check=False).returncode == 0)


def test_options():
    for argv, words in ((["--lokal", "x"], "did you mean --local"), ([], "where should it be mounted"),
                        (["--fetch=often", "x"], "lazy or eager"), (["--cache-max=much", "x"], "500M"),
                        (["a", "b"], "one mount point"), (["--local", "--hub", "http://x", "m"], "exclude")):
        done = run(FS, *argv, check=False)
        assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert "usage: imagehubfs" in run(FS, "--help").stdout
    assert run(FS, "--version").stdout.startswith("imagehubfs ")


def test_the_man_pages_know_every_option():
    for program in (FS, HUB):
        page = (ROOT / f"doc/{os.path.basename(program)}.1").read_text().replace("\\-", "-")
        options = set(re.findall("--[a-z-]+[a-z]", run(program, "--help").stdout))
        assert len(options) > 9 and {o for o in options if o not in page} == set()


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


def state_users(mount):
    """Processes that have the folder of the state open."""
    users = set()
    for fd in glob.glob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(fd) == str(mount.state):
                users.add(int(fd.split("/")[2]))
    return users


def test_a_mount_right_behind_an_unmount(hub, make_mount):
    """Ending takes a moment, and longer while a download is stopped: the next mount waits for it."""
    mount = make_mount(hub)
    before = mount.process
    before.send_signal(signal.SIGSTOP)
    argv = [a for a in mount.argv() if a != "-f"]
    mount.unmount()
    assert start(mount, options=argv).returncode == 6
    second = subprocess.Popen([str(a) for a in argv], env=ENV)
    until("its waiting", lambda: state_users(mount) - {before.pid})
    before.send_signal(signal.SIGCONT)
    assert second.wait(LIMIT) == 0 and before.wait(LIMIT) == 0
    assert "requests" in os.listdir(mount.path)
    unmounted(mount)
    until("the end", lambda: run("pgrep", "-f", str(mount.state), check=False).returncode == 1)


def test_a_stale_mount_is_taken_away(hub, make_mount):
    mount = make_mount(hub)
    mount.process.kill()
    mount.process.wait(LIMIT)
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
    done = subprocess.run([str(a) for a in argv], env=env, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    assert done.returncode == 7 and done.stderr.count("\n") == 3 and "--local" in done.stderr
    (mount.dir / "config/imagehubfs").mkdir(parents=True)
    (mount.dir / "config/imagehubfs/key").write_text("gih_live_x\n")
    (mount.dir / "config/imagehubfs/key").chmod(0o640)
    done = subprocess.run([str(a) for a in argv], env=env, stderr=subprocess.PIPE, text=True, timeout=LIMIT)
    assert done.returncode == 8


def test_mount_options_add_up(hub, make_mount):
    mount = make_mount(hub, "-o", "ro,noatime", "-o", "noexec")
    [line] = [words for words in map(str.split, open("/proc/self/mounts")) if words[1] == str(mount.path)]
    assert {"ro", "noatime", "noexec"} <= set(line[3].split(","))


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
    until("queueing", lambda: mount.status("a").startswith("queued: waits for the hub"))


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
    unmounted(mount)
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


def hub_of(mount):
    return int(run("pgrep", "-f", f"imagehubd --data {mount.state}/hub").stdout)


def test_local(make_mount):
    mount = make_mount(local=True)
    mount.write("cat.prompt", "a cat")
    assert mount.wait("cat")[-1].startswith("succeeded")
    hub = hub_of(mount)
    mount.stop()
    until("the hub's end", lambda: not os.path.exists(f"/proc/{hub}"))
    mount.start()
    until("the balance", lambda: (mount / "credits").read_text() == "992\n")
    os.kill(mount.process.pid, signal.SIGKILL)
    until("the hub's end", lambda: run("pgrep", "-f", f"imagehubd --data {mount.state}/hub", check=False).returncode == 1)


def test_pictures_of_an_earlier_local_mount(make_mount):
    """The hub of --local has another port each time: the addresses that it gave before lead nowhere."""
    mount = make_mount(local=True)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    size = os.stat(mount / "requests/cat.png").st_size
    url = os.getxattr(mount / "requests/cat.png", "user.xdg.origin.url").decode()
    mount.stop()
    with socket.socket() as taken:  # and connections to it are refused
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", urllib.parse.urlsplit(url).port))
        mount.start()
        picture = (mount / "requests/cat.png").read_bytes()
    assert len(picture) == size and picture.startswith(b"\x89PNG")
    assert os.getxattr(mount / "requests/cat.png", "user.xdg.origin.url").decode() != url


def test_local_in_the_background_holds_no_pipe_of_whoever_started_it(make_mount):
    mount = make_mount(local=True, start=False)
    run(*[a for a in mount.argv() if a != "-f"])  # until its output and its errors have ended
    assert oct((mount.state / "hub.log").stat().st_mode)[-3:] == "600"
    unmounted(mount)
    until("the end", lambda: run("pgrep", "-f", str(mount.state), check=False).returncode == 1)


def test_a_local_hub_that_cannot_start_says_where_to_look(make_mount):
    mount = make_mount(local=True, start=False)
    done = start(mount, "--local-option", "--workers=0")
    assert done.returncode == 11 and f"{mount.state}/hub.log may say why" in done.stderr
    assert "--workers 0: 1 to 64" in (mount.state / "hub.log").read_text()


def test_a_local_hub_that_was_killed_is_started_again(make_mount):
    mount = make_mount(local=True)
    for k in range(2):
        first = hub_of(mount)
        os.kill(first, signal.SIGKILL)
        mount.write(f"cat{k}.prompt", f"a cat {k}")
        assert mount.wait(f"cat{k}")[-1].startswith("succeeded")
        assert (mount / f"requests/cat{k}.png").read_bytes().startswith(b"\x89PNG")
    last = hub_of(mount)
    mount.stop()
    assert not os.path.exists(f"/proc/{last}")
    assert "has ended; it is started again" in mount.log.read_text()
