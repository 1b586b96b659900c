"""Root runs these tests; users are ordinary. Here the mount is theirs, by Debian's setuid fusermount3."""
import os
import signal
import subprocess
import sys

import pytest
from harness import ENV, LIMIT, ROOT, first_line, run, until

AS_USER = ["sh", str(ROOT / "tests/as-user.sh")]
CANNOT = 77
SMOKE = "readme or killed or says"  # make check-user runs all
by_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become others")


def made(status, words):
    if status == CANNOT:
        pytest.skip(words.strip())
    return status


def test_as_an_ordinary_user():
    done = run(*AS_USER, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/user", "-k", SMOKE,
               limit=300, check=False, stdin=subprocess.DEVNULL)
    assert made(done.returncode, done.stderr) == 0, f"{done.stdout}\n{done.stderr}"
    last = done.stdout.splitlines()[-1]
    print(f"\nas an ordinary user: {last}")
    assert " passed" in last and "skipped" not in last


MOUNTED = """
cd ~; mkdir hub other; echo $$ $PWD "$IMAGEHUBFS_BUILD/imagehubfs"
exec "$IMAGEHUBFS_BUILD/imagehubfs" --local -f hub 2> log
"""


class There:
    """Where such a user has a mount, which only is in a namespace of its own."""

    def __init__(self):
        self.process = subprocess.Popen([*AS_USER, "sh", "-c", MOUNTED], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV)
        line = first_line(self.process.stdout)
        if not line:
            pytest.skip(self.process.stderr.read().strip())
        self.pid, self.home, self.program = line.split()
        [self.user] = {l.split()[1] for l in open(f"/proc/{self.pid}/status") if l.startswith("Uid:")}
        until("mounting", lambda: b"/hub fuse.imagehubfs" in open(f"/proc/{self.pid}/mounts", "rb").read())

    def run(self, user, *argv, check=True):
        become = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups"] if user != "0" else []
        env = [f"HOME={self.home}", f"GCOV_PREFIX={self.home}/../tmp"]
        return run("nsenter", "-t", self.pid, "-m", *become, "env", *env, *argv, check=check)

    def close(self):
        os.kill(int(self.pid), signal.SIGTERM)
        assert self.process.wait(LIMIT) == 0


@pytest.fixture
def there():
    there = There()
    yield there
    there.close()


@by_root
def test_nobody_else_looks_in(there):
    """Not even root, as the kernel has it for mounts of users."""
    hub = f"{there.home}/hub"
    assert "requests" in there.run(there.user, "ls", hub).stdout
    for other in ("0", "65534"):
        for call in (["ls", hub], ["cat", f"{hub}/credits"], ["touch", f"{hub}/requests/x.prompt"]):
            done = there.run(other, *call, check=False)
            assert done.returncode != 0 and "Permission denied" in done.stderr, (other, call)
    assert there.run(there.user, "ls", f"{hub}/requests").stdout == ""


@by_root
def test_without_the_device_or_fusermount3(there):
    device = f"{there.home}/../own/fuse"  # which is /dev/fuse there
    assert not os.path.exists(device)

    def refused():
        done = there.run(there.user, there.program, "--local", "--profile", "other", f"{there.home}/other", check=False)
        assert done.returncode == 3, done.stderr
        return done.stderr.splitlines()[-1]

    there.run("0", "chmod", "600", device)
    assert refused() == ("imagehubfs: error: you may not open /dev/fuse (Permission denied); root can change that: "
                         "sudo chmod 666 /dev/fuse")
    there.run("0", "chmod", "666", device)
    there.run("0", "mount", "--bind", "/dev/null", "/usr/bin/fusermount3")
    assert refused() == "imagehubfs: error: fusermount3 is missing; install the package fuse3"
