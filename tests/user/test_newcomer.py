"""An ordinary user with a home, as README tells: mounts in the background, with nothing but --local.

tests/mount/test_user.py runs this as such a user when the tests are run by root, who passes every check of
permissions and mounts without fusermount3.
"""
import contextlib
import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from harness import BUILD, ENV, FS, LIMIT, has_ended, run, until

SECONDS = ("--local-option", "--sketch-delay", "--local-option", "3000")
pytestmark = pytest.mark.skipif(os.geteuid() == 0, reason="by an ordinary user: see tests/as-user.sh")


class Person:
    """With a home, whose mounts all end with the test."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="home-"))
        self.hub = self.home / "hub"
        self.hub.mkdir()
        self.state = self.home / ".local/state/imagehubfs"
        self.env = {k: v for k, v in ENV.items() if not k.startswith(("XDG_", "IMAGEHUB_"))}
        self.env.update(HOME=str(self.home), PATH=f"{BUILD}:{ENV['PATH']}")

    def run(self, *argv, env=(), cwd=None):
        """What the program says and its status; it returns although the mount goes on."""
        full = {k: v for k, v in {**self.env, **dict(env)}.items() if v is not None}
        return subprocess.run(argv, cwd=cwd or self.home, env=full, timeout=LIMIT, errors="replace",
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def mount(self, *argv, hub="--local", env=(), cwd=None, status=0, says=""):
        done = self.run(FS, hub, *argv, env=env, cwd=cwd)
        assert done.returncode == status and says in done.stderr, (argv, done.returncode, done.stderr)
        if status:
            last = done.stderr.splitlines()[-1]
            assert last.startswith("imagehubfs: error: ") and says in last, done.stderr
        else:
            assert says or not done.stderr, done.stderr
        return done

    def sh(self, script, env=(), cwd=None):
        done = self.run("bash", "-c", script, env=env, cwd=cwd)
        assert done.returncode == 0, (script, done.stdout, done.stderr)
        return done.stdout

    def unmount(self, path="hub"):
        """It is busy for a moment while a new name is being announced."""
        until("unmounting", lambda: self.run("fusermount3", "-u", path).returncode == 0)

    def daemon(self, profile="local"):
        return int((self.state / profile / "lock").read_text().split()[0])

    def kill(self):
        """kill -9, without taking the mount away."""
        pid = self.daemon()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(OSError) as caught:
            while True:
                os.listdir(self.hub)
        assert caught.value.errno in (errno.ENOTCONN, errno.ECONNABORTED)
        until("its end", lambda: has_ended(pid))

    def mounts(self):
        lines = open("/proc/self/mounts", errors="surrogateescape").read().splitlines()
        return [l.split()[1].replace("\\040", " ") for l in lines if f" {self.home}" in l]

    def close(self):
        daemons = [self.daemon(p.name) for p in self.state.glob("*") if (p / "lock").exists()]
        for path in self.mounts():
            run("fusermount3", "-uz", path, check=False)
        for pid in daemons:
            with contextlib.suppress(OSError):
                if FS in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGKILL)
        self.run("chmod", "-R", "u+rwX", self.home)
        shutil.rmtree(self.home, ignore_errors=True)


@pytest.fixture
def person():
    person = Person()
    yield person
    person.close()


def test_the_commands_of_the_readme(person):
    person.mount("hub")
    said = person.sh("""cd ~/hub; echo 'a lighthouse at dusk' > requests/lighthouse.prompt
        cat requests/lighthouse.wait; ls requests; cat credits; cp requests/lighthouse.png ~/""").splitlines()
    assert said[-4:] == ["lighthouse.png", "lighthouse.prompt", "lighthouse.status", "992"]
    assert said[-5].startswith("succeeded: 1 picture, 8 credits, gpt-image-2")
    assert (person.home / "lighthouse.png").read_bytes()[:4] == b"\x89PNG"
    # In a script: the next mount waits for the end of the one before.
    for _ in range(3):
        person.unmount()
        assert os.listdir(person.hub) == []
        person.mount("~/hub".replace("~", str(person.home)))
    assert sorted(os.listdir(person.hub / "requests")) == said[-4:-1]
    person.unmount()


@pytest.mark.parametrize("path", [None, "/nowhere"], ids=["", "without-PATH"])
def test_killed_and_mounted_again(person, path):
    person.mount(*SECONDS, "hub")
    person.sh("echo 'a cat' > hub/requests/cat.prompt")
    until("running", lambda: person.run("cat", "hub/requests/cat.status").stdout.startswith("running"))
    person.kill()
    env = {"PATH": path} if path else {}
    person.mount("hub", env=env, says="an earlier mount was killed there; taking it away")
    assert person.sh("cat hub/requests/cat.wait").splitlines()[-1].startswith("succeeded: 1 picture, 8 credits")
    until("the balance", lambda: (person.hub / "credits").read_text() == "992\n")
    assert len(person.mounts()) == 1
    person.unmount()


def test_a_second_mount(person):
    (person.home / "other").mkdir()
    (person.home / "link").symlink_to("hub")
    person.mount("hub")
    pid = person.daemon()
    person.mount("other", status=6, says=f"is in use by process {pid}; a second mount takes a profile")
    for path in ("hub", "link"):
        person.mount("--profile", "second", path, status=5, says=f"or unmount it: fusermount3 -u '{person.hub}'")
    person.mount("--profile", "second", "other")
    assert sorted(person.mounts()) == sorted(map(str, (person.hub, person.home / "other")))
    person.unmount("other")
    person.unmount()
    person.mount("link")
    person.kill()
    person.mount("link", says="taking it away")
    person.unmount()


def allows_others():
    lines = Path("/etc/fuse.conf").read_text().splitlines() if os.path.exists("/etc/fuse.conf") else []
    return "user_allow_other" in [l.strip() for l in lines]


def test_what_it_says_when_it_does_not_start(person):
    home = person.home
    (home / "full/x").mkdir(parents=True)
    (home / "file").touch()
    for name, mode in (("readonly", 0o555), ("closed", 0), ("sticky", 0o1777)):
        (home / name).mkdir()
        (home / name).chmod(mode)
    table = [
        # mount points
        (["none"], 4, f"No such file or directory; make the folder first: mkdir -p '{home}/none'"),
        (["none/deeper"], 4, "make the folder first: mkdir -p 'none/deeper'"),
        (["file"], 4, f"{home}/file is not a folder"),
        (["full"], 5, "is not empty; choose an empty folder"),
        (["/usr"], 4, "/usr is not yours to write in, so you cannot mount on it; choose a folder of your own"),
        (["/tmp"], 4, "choose a folder of your own"),
        (["readonly"], 4, "choose a folder of your own"),
        (["closed"], 4, "choose a folder of your own"),
        (["closed/x"], 4, "closed/x: Permission denied; choose a folder of your own"),
        (["/"], 5, "/ is mounted on already"),
        # where state and pictures are kept
        (["--state", "readonly/x", "hub"], 10, "Permission denied; choose another one: --state DIR"),
        (["--state", "readonly", "hub"], 10, "Permission denied; choose another one: --state DIR"),
        (["--state", "file", "hub"], 10, "Not a directory; choose another one: --state DIR"),
        (["--state", "/usr", "hub"], 10, "it belongs to another user; choose another one: --state DIR"),
        (["--cache", "readonly", "hub"], 10, "Permission denied; choose another one: --cache DIR"),
        (["--cache", "readonly/x", "hub"], 10, "Permission denied; choose another one: --cache DIR"),
    ]
    if not allows_others():
        table += [(["-o", f"allow_{whom}", "hub"], 2, "echo user_allow_other | sudo tee -a /etc/fuse.conf")
                  for whom in ("other", "root")]
    key, hub = {"IMAGEHUB_API_KEY": "gih_live_test"}, "--hub=http://127.0.0.1:9"
    for argv, status, says in table:
        person.mount(*argv, hub=hub, env=key, status=status, says=says)
        assert person.mounts() == [], argv
    person.mount("hub", hub=hub, env={**key, "HOME": "/nowhere"}, status=10, says="/nowhere/.local/state/imagehubfs/"
                 "default cannot be used: Permission denied; choose another one: --state DIR")
    person.mount("sticky")  # of one's own
    person.unmount("sticky")


def test_homes_that_are_none(person):
    """Relative folders are ignored, as the XDG specification says; without HOME it is the user's entry."""
    real = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    if not os.access(real, os.W_OK):
        pytest.skip("this user has no home")
    here = person.home / "here"
    here.mkdir()
    for n, env in enumerate(({"XDG_STATE_HOME": "x", "XDG_CACHE_HOME": "x"}, {"HOME": None}, {"HOME": ""},
                             {"HOME": "relative"})):
        profile = f"test-{os.getpid()}-{n}"
        base = real if "HOME" in env else person.home
        state, cache = (base / folder / "imagehubfs" / profile for folder in (".local/state", ".cache"))
        person.mount("--profile", profile, person.hub, env=env, cwd=here)
        pid = int((state / "lock").read_text().split()[0])
        try:
            assert (state / "catalogue.db").exists() and cache.is_dir() and os.listdir(here) == []
        finally:
            person.unmount()
            until("the end", lambda: has_ended(pid))
            shutil.rmtree(state)
            shutil.rmtree(cache)


@pytest.mark.parametrize("locale", ["C", "ko_KR.EUC-KR", "C.UTF-8"])
def test_any_locale_and_any_name(person, locale):
    env = {"LC_ALL": locale, "LANG": locale}
    folder = "내 향수 'n' \"m\" 폴더"
    for name in (folder, os.fsencode("바탕 ") + b"\xc7\xe2\xbc\xf6"):  # as a program of 1999 writes it
        os.mkdir(os.path.join(os.fsencode(person.home), os.fsencode(name)))
        person.mount(name, env=env)
        person.run("fusermount3", "-u", name)
    person.mount(folder, env=env)
    requests = person.home / folder / "requests"
    person.sh("cd requests; echo '향수 한 병' > 'my 향수.prompt'; cat 'my 향수.wait'", env, person.home / folder)
    assert sorted(os.listdir(requests)) == ["my 향수.png", "my 향수.prompt", "my 향수.status"]
    [generation] = os.listdir(person.home / folder / "generations")
    assert (person.home / folder / "generations" / generation / "prompt").read_text() == "향수 한 병\n"
    with pytest.raises(OSError) as caught:
        open(os.fsencode(requests) + b"/\xc7\xe2\xbc\xf6.prompt", "w")
    assert caught.value.errno == errno.EILSEQ
    person.mount("--profile", "other", "없는 곳", env=env, status=4, says=f"mkdir -p '{person.home}/없는 곳'")
    person.mount("--profile", "other", folder, env=env, status=5, says="is mounted on already")
    person.unmount(folder)


def test_what_an_owner_may_do(person):
    """And what takes root: give files away, keep special rights over a write."""
    person.mount("hub")
    d = person.hub / "requests/rights"
    me, group = os.geteuid(), os.getegid()
    person.sh("umask 077; mkdir hub/requests/rights; echo x > hub/requests/rights/f; mkdir hub/requests/rights/d")
    assert [stat.S_IMODE((d / n).stat().st_mode) for n in ("", "f", "d")] == [0o700, 0o600, 0o700]

    def fails(number, call, *args):
        with pytest.raises(OSError) as caught:
            call(*args)
        assert caught.value.errno == number, (call, args)

    for path in (d / "f", d / "d", d):
        before = path.stat()
        for uid, gid in ((0, -1), (me + 1, -1), (-1, 0), (me + 1, group)):
            fails(errno.EPERM, os.chown, path, uid, gid)
        for uid, gid in ((me, group), (me, -1), (-1, group), (-1, -1)):
            os.chown(path, uid, gid)
        after = path.stat()
        assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    for mode in (0o4755, 0o2755, 0o6755):
        os.chmod(d / "f", mode)
        assert stat.S_IMODE((d / "f").stat().st_mode) == mode
        (d / "f").write_text("changed")
        assert stat.S_IMODE((d / "f").stat().st_mode) == 0o755
    assert f" {person.hub} " in "".join(l for l in open("/proc/self/mounts") if "nosuid,nodev" in l)
    # One's own files: what their mode takes away is taken from their owner as well.
    os.chmod(d / "f", 0)
    fails(errno.EACCES, open, d / "f")
    fails(errno.EACCES, os.truncate, d / "f", 0)
    os.chmod(d / "f", 0o400)
    assert (d / "f").read_text() == "changed"
    fails(errno.EACCES, open, d / "f", "a")
    (d / "d/x").touch()
    os.chmod(d / "d", 0o555)
    fails(errno.EACCES, os.unlink, d / "d/x")
    fails(errno.EACCES, open, d / "d/new", "w")
    os.chmod(d / "d", 0o1777)
    (d / "d/x").unlink()
    os.chmod(d / "d", 0o2755)
    (d / "d/e").mkdir()
    assert (d / "d/e").stat().st_mode & stat.S_ISGID
    # A prompt that its writer may not read again is a prompt.
    person.sh("umask 777; echo 'a cat' > hub/requests/rights/closed.prompt")
    assert person.sh("cat hub/requests/rights/closed.wait").splitlines()[-1].startswith("succeeded")
    person.unmount()
