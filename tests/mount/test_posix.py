"""/requests as POSIX and Linux describe a directory tree: each call and flag with its errno.

One mount serves the whole file, each test in a folder of its own. Whatever they do, nothing may
have been submitted at the end but what a test announced with `world.expects()`.
"""
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import resource
import select
import shutil
import socket
import stat
import struct
import subprocess
import time
from pathlib import Path

import pytest
from harness import LIMIT, Hub, Mount, may_trace, run, until

libc = ctypes.CDLL(None, use_errno=True)
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.restype = ctypes.c_long
for name in ("readdir", "telldir", "rewinddir", "closedir"):
    getattr(libc, name).argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

AT_FDCWD, AT_SYMLINK_NOFOLLOW, NOBODY = -100, 0x100, 65534
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
KEEP_SIZE, PUNCH_HOLE, COLLAPSE, ZERO_RANGE, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
OFD_SETLK, REALTIME_COARSE = 37, 5
ROOT = os.geteuid() == 0
becomes_others = pytest.mark.skipif(not ROOT, reason="only root can become others and give files away")
traces = pytest.mark.skipif(not may_trace(), reason="kernel.yama.ptrace_scope lets only root trace the mount")
mounts = pytest.mark.skipif(not ROOT, reason="mounting a tmpfs takes root")


def check(result, what):
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, what + ": " + os.strerror(number))
    return result


def rename2(a, b, flags):
    check(libc.renameat2(AT_FDCWD, os.fsencode(a), AT_FDCWD, os.fsencode(b), flags), "renameat2")


def fallocate(fd, mode, offset, length):
    check(libc.fallocate(fd, mode, offset, length), "fallocate")


def utimens(path, atime, mtime, flags=0):
    times = struct.pack("4q", *atime, *mtime)
    check(libc.utimensat(AT_FDCWD, os.fsencode(path), times, flags), "utimensat")


def fails(number, call, *args, **kwargs):
    with pytest.raises(OSError) as caught:
        call(*args, **kwargs)
    assert caught.value.errno == number, errno.errorcode.get(caught.value.errno)


def in_child(call, user=None):
    """The errno of call() in a process of its own, 0 if it succeeds; `user` is its user and group."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        number = 255
        try:
            if user is not None:
                os.setgroups([])
                os.setgid(user)
                os.setuid(user)
            call()
            number = 0
        except OSError as e:
            number = e.errno
        finally:
            os.write(writer, struct.pack("i", number))
            os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], LIMIT)
    try:
        assert ready, "the child hangs"
        return struct.unpack("i", os.read(reader, 4))[0]
    finally:
        os.close(reader)
        if not ready:
            os.kill(pid, 9)
        os.waitpid(pid, 0)


def bind(path):
    """A socket's name in a folder; by its descriptor, as it may have 108 bytes."""
    fd = os.open(path, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(f"/proc/self/fd/{fd}/x")
    finally:
        os.close(fd)


class World:
    """The mount of this file, and what it may have submitted at the end."""

    def __init__(self):
        self.hub = Hub().start()
        self.mount = Mount(self.hub)
        self.mount.dir.chmod(0o755)
        self.mount.start(*(["-o", "allow_other"] if ROOT else []))
        self.requests = self.mount / "requests"
        self.expected = 0

    def expects(self, *names):
        """These prompts become a request each."""
        self.expected += len(names)
        for name in names:
            assert self.mount.wait(name)[-1].startswith("succeeded")

    def count(self):
        until("settling", lambda: self.mount.sql(
            "SELECT (SELECT count(*) FROM node WHERE pending <> 0),"
            " (SELECT count(*) FROM request WHERE state IN ('queued', 'sending'))") == ["0|0"])
        return self.hub.generations(), len(self.hub.charges())

    def end(self):
        fds = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")
               if os.path.islink(f"/proc/self/fd/{n}")]
        assert not [p for p in fds if p.startswith(str(self.mount.path))]
        assert self.count() == (self.expected, self.expected)
        self.mount.stop()
        self.mount.check_state()

    def close(self):
        self.mount.close()
        self.hub.close()


@pytest.fixture(scope="module")
def world():
    world = World()
    try:
        yield world
        world.end()
    finally:
        world.close()


@pytest.fixture
def dir(world, request):
    path = world.requests / request.node.name.partition("[")[0][:60]
    while path.exists():
        path = path.with_name(path.name + "+")
    path.mkdir()
    return path


@pytest.fixture(scope="module")
def things(world):
    """A folder with one of each; what fails must leave it as it is."""
    d = world.requests / "things"
    (d / "dir").mkdir(parents=True)
    (d / "full/sub").mkdir(parents=True)
    (d / "file").write_text("content")
    (d / "full/x").write_text("x")
    for name, target in (("link", "file"), ("dirlink", "dir"), ("dangling", "none"), ("loop", "loop"),
                         ("ping", "pong"), ("pong", "ping")):
        os.symlink(target, d / name)
    return d


# What fails, and how: (what, call, errno). d is the folder of `things`, m the mount point.
BAD = b"\xff\xfe\xc3"
FAILURES = [
    ("open none", lambda d, m: os.open(d / "none", os.O_RDWR), errno.ENOENT),
    ("open below none", lambda d, m: os.open(d / "none/x", os.O_CREAT), errno.ENOENT),
    ("open below file", lambda d, m: os.open(d / "file/x", os.O_CREAT), errno.ENOTDIR),
    ("open empty name", lambda d, m: os.open("", os.O_RDONLY), errno.ENOENT),
    ("open exclusive", lambda d, m: os.open(d / "file", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open exclusive link", lambda d, m: os.open(d / "dangling", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open exclusive dir", lambda d, m: os.open(d / "dir", os.O_CREAT | os.O_EXCL), errno.EEXIST),
    ("open file as dir", lambda d, m: os.open(d / "file", os.O_DIRECTORY), errno.ENOTDIR),
    ("open dir to write", lambda d, m: os.open(d / "dir", os.O_WRONLY), errno.EISDIR),
    ("open dir to truncate", lambda d, m: os.open(d / "dir", os.O_RDWR | os.O_TRUNC), errno.EISDIR),
    ("create over dir", lambda d, m: os.open(d / "dir", os.O_CREAT | os.O_RDWR), errno.EISDIR),
    ("open link nofollow", lambda d, m: os.open(d / "link", os.O_NOFOLLOW), errno.ELOOP),
    ("open loop", lambda d, m: os.open(d / "loop", os.O_RDONLY), errno.ELOOP),
    ("open long loop", lambda d, m: os.open(d / "ping", os.O_RDONLY), errno.ELOOP),
    ("open dangling", lambda d, m: os.open(d / "dangling", os.O_RDONLY), errno.ENOENT),
    ("open nameless", lambda d, m: os.open(d, os.O_TMPFILE | os.O_RDWR), errno.EOPNOTSUPP),
    ("open file slash", lambda d, m: os.open(f"{d}/file/", os.O_RDONLY), errno.ENOTDIR),
    ("name of 256", lambda d, m: os.open(d / ("x" * 256), os.O_CREAT), errno.ENAMETOOLONG),
    ("look-up of 256", lambda d, m: os.stat(d / ("x" * 256)), errno.ENAMETOOLONG),
    ("mkdir of 256", lambda d, m: os.mkdir(d / ("x" * 256)), errno.ENAMETOOLONG),
    ("rename to 256", lambda d, m: os.rename(d / "file", d / ("x" * 256)), errno.ENAMETOOLONG),
    ("symlink of 256", lambda d, m: os.symlink("x", d / ("x" * 256)), errno.ENAMETOOLONG),
    ("path too long", lambda d, m: os.stat(f"{d}/" + "dir/../" * 700), errno.ENAMETOOLONG),
    ("create not UTF-8", lambda d, m: os.open(os.fsencode(d) + b"/" + BAD, os.O_CREAT), errno.EILSEQ),
    ("mkdir not UTF-8", lambda d, m: os.mkdir(os.fsencode(d) + b"/" + BAD), errno.EILSEQ),
    ("mknod not UTF-8", lambda d, m: os.mknod(os.fsencode(d) + b"/" + BAD), errno.EILSEQ),
    ("symlink not UTF-8", lambda d, m: os.symlink(b"x", os.fsencode(d) + b"/" + BAD), errno.EILSEQ),
    ("rename not UTF-8", lambda d, m: os.rename(d / "file", os.fsencode(d) + b"/" + BAD), errno.EILSEQ),
    ("look-up not UTF-8", lambda d, m: os.stat(os.fsencode(d) + b"/" + BAD), errno.ENOENT),
    ("unlink not UTF-8", lambda d, m: os.unlink(os.fsencode(d) + b"/" + BAD), errno.ENOENT),
    ("truncate none", lambda d, m: os.truncate(d / "none", 0), errno.ENOENT),
    ("truncate dir", lambda d, m: os.truncate(d / "dir", 0), errno.EISDIR),
    ("truncate negative", lambda d, m: os.truncate(d / "file", -1), errno.EINVAL),
    ("truncate too far", lambda d, m: os.truncate(d / "file", (1 << 63) - 1), errno.EFBIG),
    ("truncate loop", lambda d, m: os.truncate(d / "loop", 0), errno.ELOOP),
    ("unlink none", lambda d, m: os.unlink(d / "none"), errno.ENOENT),
    ("unlink dir", lambda d, m: os.unlink(d / "dir"), errno.EISDIR),
    ("unlink below file", lambda d, m: os.unlink(d / "file/x"), errno.ENOTDIR),
    ("mkdir over file", lambda d, m: os.mkdir(d / "file"), errno.EEXIST),
    ("mkdir over dir", lambda d, m: os.mkdir(d / "dir"), errno.EEXIST),
    ("mkdir over dangling", lambda d, m: os.mkdir(d / "dangling"), errno.EEXIST),
    ("mkdir below none", lambda d, m: os.mkdir(d / "none/x"), errno.ENOENT),
    ("mkdir below file", lambda d, m: os.mkdir(d / "file/x"), errno.ENOTDIR),
    ("rmdir none", lambda d, m: os.rmdir(d / "none"), errno.ENOENT),
    ("rmdir file", lambda d, m: os.rmdir(d / "file"), errno.ENOTDIR),
    ("rmdir link to dir", lambda d, m: os.rmdir(d / "dirlink"), errno.ENOTDIR),
    ("rmdir full", lambda d, m: os.rmdir(d / "full"), errno.ENOTEMPTY),
    ("rmdir dot", lambda d, m: os.rmdir(f"{d}/dir/."), errno.EINVAL),
    ("rmdir dot dot", lambda d, m: os.rmdir(f"{d}/full/sub/.."), errno.ENOTEMPTY),
    ("rmdir mount point", lambda d, m: os.rmdir(m), errno.EBUSY),
    ("rmdir requests", lambda d, m: os.rmdir(m / "requests"), errno.EROFS),
    ("rename none", lambda d, m: os.rename(d / "none", d / "x"), errno.ENOENT),
    ("rename into none", lambda d, m: os.rename(d / "file", d / "none/x"), errno.ENOENT),
    ("rename into file", lambda d, m: os.rename(d / "link", d / "file/x"), errno.ENOTDIR),
    ("rename file over dir", lambda d, m: os.rename(d / "file", d / "dir"), errno.EISDIR),
    ("rename link over dir", lambda d, m: os.rename(d / "link", d / "dir"), errno.EISDIR),
    ("rename dir over file", lambda d, m: os.rename(d / "dir", d / "file"), errno.ENOTDIR),
    ("rename dir over link", lambda d, m: os.rename(d / "dir", d / "dirlink"), errno.ENOTDIR),
    ("rename over full dir", lambda d, m: os.rename(d / "dir", d / "full"), errno.ENOTEMPTY),
    ("rename into itself", lambda d, m: os.rename(d / "full", d / "full/x2"), errno.EINVAL),
    ("rename below itself", lambda d, m: os.rename(d / "full", d / "full/sub/x"), errno.EINVAL),
    ("rename over parent", lambda d, m: os.rename(d / "full/sub", d / "full"), errno.ENOTEMPTY),
    ("rename dot", lambda d, m: os.rename(f"{d}/dir/.", d / "x"), errno.EBUSY),
    ("rename file slash", lambda d, m: os.rename(d / "file", f"{d}/x/"), errno.ENOTDIR),
    ("rename out", lambda d, m: os.rename(d / "file", m.parent / "x"), errno.EXDEV),
    ("rename in", lambda d, m: os.rename(m.parent / "log", d / "x"), errno.EXDEV),
    ("rename out of requests", lambda d, m: os.rename(d / "file", m / "x"), errno.EROFS),
    ("rename requests", lambda d, m: os.rename(m / "requests", m / "x"), errno.EROFS),
    ("noreplace file", lambda d, m: rename2(d / "link", d / "file", NOREPLACE), errno.EEXIST),
    ("noreplace dir", lambda d, m: rename2(d / "dir", d / "full", NOREPLACE), errno.EEXIST),
    ("noreplace itself", lambda d, m: rename2(d / "file", d / "file", NOREPLACE), errno.EEXIST),
    ("exchange with none", lambda d, m: rename2(d / "file", d / "none", EXCHANGE), errno.ENOENT),
    ("exchange of none", lambda d, m: rename2(d / "none", d / "file", EXCHANGE), errno.ENOENT),
    ("exchange with below", lambda d, m: rename2(d / "full", d / "full/x", EXCHANGE), errno.EINVAL),
    ("exchange with above", lambda d, m: rename2(d / "full/x", d / "full", EXCHANGE), errno.EINVAL),
    ("exchange and noreplace", lambda d, m: rename2(d / "file", d / "x", 3), errno.EINVAL),
    ("whiteout", lambda d, m: rename2(d / "file", d / "x", WHITEOUT), errno.EINVAL),
    ("unknown flag", lambda d, m: rename2(d / "file", d / "x", 64), errno.EINVAL),
    ("readlink of file", lambda d, m: os.readlink(d / "file"), errno.EINVAL),
    ("readlink of dir", lambda d, m: os.readlink(d / "dir"), errno.EINVAL),
    ("readlink of none", lambda d, m: os.readlink(d / "none"), errno.ENOENT),
    ("symlink over file", lambda d, m: os.symlink("x", d / "file"), errno.EEXIST),
    ("symlink to nothing", lambda d, m: os.symlink("", d / "x"), errno.ENOENT),
    ("symlink of 4096", lambda d, m: os.symlink("x" * 4096, d / "x"), errno.ENAMETOOLONG),
    ("stat loop", lambda d, m: os.stat(d / "loop/x"), errno.ELOOP),
    ("chmod none", lambda d, m: os.chmod(d / "none", 0o600), errno.ENOENT),
    ("chmod of a link", lambda d, m: check(libc.fchmodat(
        AT_FDCWD, os.fsencode(d / "link"), 0o600, AT_SYMLINK_NOFOLLOW), "fchmodat"), errno.EOPNOTSUPP),
    ("utimens none", lambda d, m: os.utime(d / "none"), errno.ENOENT),
    ("utimens bad", lambda d, m: utimens(d / "file", (0, 10**9), (0, 0)), errno.EINVAL),
    ("hard link", lambda d, m: os.link(d / "file", d / "hard"), errno.EPERM),
    ("hard link of a link", lambda d, m: os.link(d / "link", d / "hard", follow_symlinks=False), errno.EPERM),
    ("hard link over file", lambda d, m: os.link(d / "link", d / "file"), errno.EEXIST),
    ("hard link of a dir", lambda d, m: os.link(d / "dir", d / "hard"), errno.EPERM),
    ("mknod fifo", lambda d, m: os.mkfifo(d / "x"), errno.EPERM),
    ("mknod socket", lambda d, m: os.mknod(d / "x", stat.S_IFSOCK | 0o600), errno.EPERM),
    ("bind socket", lambda d, m: bind(d), errno.EPERM),
    ("mknod char", lambda d, m: os.mknod(d / "x", stat.S_IFCHR | 0o600, os.makedev(1, 3)), errno.EPERM),
    ("mknod block", lambda d, m: os.mknod(d / "x", stat.S_IFBLK | 0o600, os.makedev(1, 3)), errno.EPERM),
    ("mknod over file", lambda d, m: os.mknod(d / "file"), errno.EEXIST),
    ("xattr none", lambda d, m: os.getxattr(d / "file", "user.none"), errno.ENODATA),
    ("xattr remove none", lambda d, m: os.removexattr(d / "file", "user.none"), errno.ENODATA),
    ("xattr replace none", lambda d, m: os.setxattr(d / "file", "user.a", b"", os.XATTR_REPLACE), errno.ENODATA),
    ("xattr bad flags", lambda d, m: os.setxattr(d / "file", "user.a", b"", 4), errno.EINVAL),
    ("xattr of 64 KiB + 1", lambda d, m: os.setxattr(d / "file", "user.a", b"x" * 65537), errno.E2BIG),
    ("xattr name of 256", lambda d, m: os.setxattr(d / "file", "user." + "a" * 251, b""), errno.ERANGE),
    ("xattr empty name", lambda d, m: os.setxattr(d / "file", "", b""), errno.ERANGE),
    ("xattr only a prefix", lambda d, m: os.setxattr(d / "file", "user.", b""), errno.EINVAL),
    ("xattr of a link", lambda d, m: os.setxattr(d / "link", "user.a", b"", follow_symlinks=False), errno.EPERM),
    ("xattr without prefix", lambda d, m: os.setxattr(d / "file", "mine", b""), errno.EOPNOTSUPP),
    ("xattr trusted", lambda d, m: os.setxattr(d / "file", "trusted.a", b""),
     errno.EOPNOTSUPP if ROOT else errno.EPERM),
    ("xattr acl", lambda d, m: os.setxattr(d / "file", "system.posix_acl_access", b""), errno.EOPNOTSUPP),
    ("xattr of ours away", lambda d, m: os.removexattr(d / "file", "user.imagehub.id"), errno.ENODATA),
    ("xattr of ours not there", lambda d, m: os.getxattr(d / "file", "user.imagehub.id"), errno.ENODATA),
]
# The same everywhere else, also by root, who may do anything but this. Of others the kernel asks first who
# they are, and does not come to ask us.
for what, call in {
    "create": lambda p: os.open(p / "new", os.O_CREAT | os.O_WRONLY), "mkdir": lambda p: os.mkdir(p / "new"),
    "symlink": lambda p: os.symlink("x", p / "new"), "mknod": lambda p: os.mknod(p / "new"),
    "mkfifo": lambda p: os.mkfifo(p / "new"), "chmod": lambda p: os.chmod(p, 0o777),
    "chown": lambda p: os.chown(p, 1, 1), "utimens": lambda p: os.utime(p),
    "setxattr": lambda p: os.setxattr(p, "user.a", b"x"),
    "removexattr": lambda p: os.removexattr(p, "user.a"),
}.items():
    for where in ("", "generations", "models"):
        FAILURES.append((f"{what} in /{where}", lambda d, m, call=call, where=where: call(m / where),
                         errno.EPERM if what == "chown" and not ROOT else errno.EROFS))
for where in ("credits", "README.txt", "account.json"):
    FAILURES += [(f"{what} {where}", lambda d, m, call=call, where=where: call(m / where),
                  errno.EACCES if what in ("write to", "truncate") and not ROOT else errno.EROFS)
                 for what, call in {
                     "write to": lambda p: os.open(p, os.O_WRONLY), "truncate": lambda p: os.truncate(p, 0),
                     "unlink": os.unlink, "chmod": lambda p: os.chmod(p, 0o666),
                     "rename": lambda p: os.rename(p, p.with_name("x")),
                     "link": lambda p: os.link(p, p.with_name("x"))}.items()]


@pytest.mark.parametrize("what, call, number", FAILURES, ids=[f[0] for f in FAILURES])
def test_what_fails(world, things, what, call, number):
    def everything():
        return sorted((str(p), os.lstat(p).st_mode, os.lstat(p).st_size, os.lstat(p).st_mtime_ns)
                      for p in things.rglob("*"))

    before = everything()
    fails(number, call, things, world.mount.path)
    assert everything() == before


# ---- open(2) and its flags ----

def test_creating(dir):
    for mode, mask in ((0o640, 0o022), (0o666, 0o027), (0o777, 0), (0, 0), (0o4711, 0)):
        old = os.umask(mask)
        try:
            fd = os.open(dir / f"{mode:o}", os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
            os.mkdir(dir / f"d{mode:o}", mode)
            os.mknod(dir / f"n{mode:o}", mode)
        finally:
            os.umask(old)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == mode & ~mask
        os.write(fd, b"writable whatever its mode says")
        st = os.fstat(fd)
        os.close(fd)
        # Only root may write to a program that keeps its special rights.
        assert stat.S_IMODE(st.st_mode) == mode & ~mask & (0o7777 if ROOT else 0o1777)
        assert st.st_nlink == 1 and st.st_size == 31
        assert (st.st_uid, st.st_gid) == (os.geteuid(), os.getegid())
        assert stat.S_IMODE((dir / f"d{mode:o}").stat().st_mode) == mode & ~mask & 0o1777
        assert (dir / f"n{mode:o}").stat().st_size == 0
    os.symlink("made", dir / "dangling")
    os.close(os.open(dir / "dangling", os.O_CREAT | os.O_WRONLY))
    assert (dir / "made").is_file()
    os.close(os.open(dir / "made", os.O_CREAT | os.O_RDONLY))  # what is there is only opened


def test_access_modes(dir):
    (dir / "f").write_text("abc")
    for flags, reads, writes in ((os.O_RDONLY, True, False), (os.O_WRONLY, False, True),
                                 (os.O_RDWR, True, True), (os.O_PATH, False, False)):
        fd = os.open(dir / "f", flags)
        if reads:
            assert os.pread(fd, 9, 0) == b"abc"
        else:
            fails(errno.EBADF, os.read, fd, 1)
        if writes:
            assert os.pwrite(fd, b"abc", 0) == 3
        else:
            fails(errno.EBADF, os.write, fd, b"x")
            fails(errno.EBADF if flags == os.O_PATH else errno.EINVAL, os.ftruncate, fd, 0)
        assert os.fstat(fd).st_size == 3
        os.close(fd)
    fd = os.open(dir, os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.read, fd, 1)
    os.close(fd)


def test_append(dir):
    fd = os.open(dir / "f", os.O_CREAT | os.O_RDWR | os.O_APPEND)
    other = os.open(dir / "f", os.O_WRONLY | os.O_APPEND)
    for k in range(20):
        os.write(fd if k % 2 else other, bytes([65 + k]))
        os.lseek(fd, 0, os.SEEK_SET)
    assert os.pread(fd, 99, 0) == bytes(range(65, 85))
    os.ftruncate(fd, 3)
    os.write(other, b"!")
    assert (dir / "f").read_bytes() == b"ABC!"
    os.close(fd)
    os.close(other)
    writers = [subprocess.Popen(["sh", "-c", f"for k in $(seq 100); do echo line >> {dir}/g; done"])
               for _ in range(4)]
    assert [w.wait(60) for w in writers] == [0] * 4
    assert (dir / "g").read_text() == "line\n" * 400


def test_truncating_open(dir):
    (dir / "f").write_text("something")
    reader = os.open(dir / "f", os.O_RDONLY)
    os.close(os.open(dir / "f", os.O_WRONLY | os.O_TRUNC))
    assert os.fstat(reader).st_size == 0 and os.read(reader, 9) == b""
    os.close(reader)
    os.close(os.open(dir / "f", os.O_CREAT | os.O_TRUNC | os.O_RDWR))
    assert (dir / "f").stat().st_size == 0


def test_paths_as_descriptors(dir):
    (dir / "f").write_text("abc")
    os.symlink("f", dir / "l")
    fd = os.open(dir / "l", os.O_PATH | os.O_NOFOLLOW)
    assert stat.S_ISLNK(os.fstat(fd).st_mode) and os.readlink("", dir_fd=fd) == "f"
    os.close(fd)
    at = os.open(dir, os.O_PATH | os.O_DIRECTORY)
    inner = os.open("f", os.O_RDONLY, dir_fd=at)
    assert os.read(inner, 9) == b"abc"
    os.close(inner)
    os.rename("f", "g", src_dir_fd=at, dst_dir_fd=at)
    os.mkdir("d", dir_fd=at)
    assert sorted(os.listdir(dir)) == ["d", "g", "l"] and os.readlink("l", dir_fd=at) == "f"
    os.close(at)


def test_direct_io(dir):
    block = mmap.mmap(-1, 8192)
    block.write(b"d" * 8192)
    fd = os.open(dir / "f", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    assert os.pwritev(fd, [block], 0) == 8192 and os.fstat(fd).st_size == 8192
    with open(dir / "f", "r+b") as cached:
        assert cached.read() == b"d" * 8192
        os.pwrite(cached.fileno(), b"c" * 4096, 0)
    assert os.preadv(fd, [block], 0) == 8192 and block[:] == b"c" * 4096 + b"d" * 4096
    os.close(fd)


def syncs(world, action):
    """How often the mount syncs a file or folder to disk during an action, by strace(1)."""
    tracer = subprocess.Popen(["strace", "-f", "-e", "trace=fsync,fdatasync", "-p",
                               str(world.mount.process.pid)], stderr=subprocess.PIPE, text=True)
    assert "attached" in tracer.stderr.readline()
    action()
    tracer.terminate()
    text = tracer.stderr.read()
    tracer.wait(LIMIT)
    return sum(f"{call}(" in line for line in text.splitlines() for call in ("fsync", "fdatasync"))


@traces
def test_what_is_made_durable(world, dir):
    fds = {flags: os.open(dir / f"f{flags}", os.O_CREAT | os.O_WRONLY | flags)
           for flags in (0, os.O_SYNC, os.O_DSYNC)}
    at = os.open(dir, os.O_RDONLY)
    # A checkpoint of the catalogue, or what an earlier test had read, may happen to come with one of them.
    assert any(syncs(world, lambda: os.write(fds[0], b"x")) == 0 for _ in range(5))
    # Content, its name in the spool, and the catalogue's journal with the rows of all before.
    for what, action in (("O_SYNC", lambda: os.write(fds[os.O_SYNC], b"x")),
                         ("O_DSYNC", lambda: os.write(fds[os.O_DSYNC], b"x")),
                         ("fsync", lambda: os.fsync(fds[0])),
                         ("fdatasync", lambda: os.fdatasync(fds[0]))):
        assert syncs(world, action) >= 3, what
    for k in range(2):
        os.mkdir(dir / f"d{k}")
        assert syncs(world, lambda: os.fsync(at)) >= 1
    for fd in (at, *fds.values()):
        os.close(fd)


# ---- sizes, holes, allocation ----

def test_truncate_and_ftruncate(dir):
    p = dir / "f"
    p.write_bytes(b"0123456789")
    fd = os.open(p, os.O_RDWR)
    for how in (lambda n: os.truncate(p, n), lambda n: os.ftruncate(fd, n)):
        for size in (4, 4, 9, 5000, 0, 3):
            before = os.pread(fd, 10000, 0)
            how(size)
            want = before[:size] + bytes(size - len(before[:size]))
            assert os.fstat(fd).st_size == p.stat().st_size == size and os.pread(fd, 10000, 0) == want
    fails(errno.EINVAL, os.ftruncate, fd, -1)
    os.lseek(fd, 10, os.SEEK_SET)
    os.write(fd, b"end")
    assert p.read_bytes() == bytes(10) + b"end"
    os.close(fd)
    at = os.open(dir, os.O_RDONLY)
    fails(errno.EINVAL, os.ftruncate, at, 0)
    os.close(at)


def test_sparse_files(world, dir):
    """Holes are where the file system of the state has them."""
    size = 8 << 20
    found = {}
    for where in (dir / "f", world.mount.dir / "reference"):
        fd = os.open(where, os.O_CREAT | os.O_RDWR)
        os.pwrite(fd, b"a" * 65536, 0)
        os.pwrite(fd, b"b" * 65536, 4 << 20)
        os.ftruncate(fd, size)
        found[where] = [os.lseek(fd, at, whence) for at in (0, 65536, 2 << 20, 4 << 20)
                        for whence in (os.SEEK_HOLE, os.SEEK_DATA)]
        found[where].append(os.lseek(fd, size - 1, os.SEEK_HOLE))
        for whence in (os.SEEK_HOLE, os.SEEK_DATA):
            fails(errno.ENXIO, os.lseek, fd, size, whence)
            fails(errno.ENXIO, os.lseek, fd, -1, whence)
        assert os.lseek(fd, -5, os.SEEK_END) == size - 5
        fails(errno.EINVAL, os.lseek, fd, -1, os.SEEK_SET)
        assert os.pread(fd, 10, 3 << 20) == bytes(10) and os.fstat(fd).st_size == size
        os.close(fd)
    assert found[dir / "f"] == found[world.mount.dir / "reference"]
    assert (dir / "f").stat().st_blocks * 512 < size


def test_fallocate(world, dir):
    content = b"x" * 65536
    results = {}
    for where in (dir / "f", world.mount.dir / "allocated"):
        done = results[where] = []
        fd = os.open(where, os.O_CREAT | os.O_RDWR)
        for mode, offset, length in ((0, 0, 65536), (KEEP_SIZE, 0, 1 << 20), (0, 1 << 16, 4096),
                                     (PUNCH_HOLE | KEEP_SIZE, 4096, 8192), (ZERO_RANGE, 100, 1000),
                                     (ZERO_RANGE | KEEP_SIZE, 60000, 1 << 20),
                                     (PUNCH_HOLE | KEEP_SIZE, 1 << 20, 4096), (0, 0, 0), (0, -1, 1)):
            os.pwrite(fd, content, 0)
            try:
                fallocate(fd, mode, offset, length)
                done.append(("done", os.fstat(fd).st_size, os.pread(fd, 1 << 21, 0)))
            except OSError as e:
                done.append((errno.errorcode[e.errno], os.fstat(fd).st_size, os.pread(fd, 1 << 21, 0)))
        os.close(fd)
    assert results[dir / "f"] == results[world.mount.dir / "allocated"]
    assert [r[0] for r in results[dir / "f"]][:3] == ["done"] * 3
    # These would move content about.
    fd = os.open(dir / "f", os.O_RDWR)
    before = (dir / "f").read_bytes()
    for mode in (PUNCH_HOLE, COLLAPSE, INSERT, COLLAPSE | KEEP_SIZE, ZERO_RANGE | PUNCH_HOLE, 1 << 20):
        fails(errno.EOPNOTSUPP, fallocate, fd, mode, 0, 4096)
    assert (dir / "f").read_bytes() == before
    os.posix_fallocate(fd, 0, 1 << 20)
    assert os.fstat(fd).st_size == 1 << 20
    os.close(fd)
    fd = os.open(dir / "f", os.O_RDONLY)
    fails(errno.EBADF, fallocate, fd, 0, 0, 1)
    os.close(fd)


def test_allocation_for_a_prompt_changes_nothing(world, dir):
    name = f"{dir.name}/kept"
    (dir / "kept.prompt").write_text("a cat")
    world.expects(name)
    fd = os.open(dir / "kept.prompt", os.O_RDWR)
    fallocate(fd, KEEP_SIZE, 0, 65536)
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 4096, 4096)
    os.close(fd)
    assert (dir / "kept.prompt").read_text() == "a cat"
    os.truncate(dir / "kept.prompt", 5)
    assert world.count() == (world.expected, world.expected)


def test_a_limit_on_file_sizes_is_an_error_and_not_the_end(world, dir):
    pid, none = world.mount.process.pid, resource.RLIM_INFINITY
    size = 64 << 20  # the catalogue's files are smaller
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, none))
    try:
        with open(dir / "f", "wb") as f:
            fails(errno.EFBIG, os.pwrite, f.fileno(), b"x", size)
            fails(errno.EFBIG, os.ftruncate, f.fileno(), size + 1)
            assert os.pwrite(f.fileno(), b"x", 0) == 1
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (none, none))
    assert (dir / "f").read_bytes() == b"x" and world.mount.process.poll() is None


# ---- folders ----

def test_links_of_folders(dir):
    def links(*names):
        return [(dir / n).stat().st_nlink for n in names]

    for name in ("a", "b", "a/1", "a/2", "b/3"):
        (dir / name).mkdir()
    (dir / "a/f").touch()
    assert links(".", "a", "b", "a/1", "a/f") == [4, 4, 3, 2, 1]
    (dir / "a/1").rename(dir / "b/1")
    assert links(".", "a", "b") == [4, 3, 4]
    rename2(dir / "a/f", dir / "b/3", EXCHANGE)
    assert links("a", "b", "a/f", "b/3") == [4, 3, 2, 1]
    (dir / "empty").mkdir()
    (dir / "b").rename(dir / "empty")
    assert links(".", "empty") == [4, 3]
    shutil.rmtree(dir / "a")
    assert links(".") == [3]


def test_a_removed_folder_in_use(dir):
    (dir / "d").mkdir()
    fd = os.open(dir / "d", os.O_RDONLY | os.O_DIRECTORY)
    handle = os.open(dir / "d", os.O_PATH)
    ino = os.fstat(fd).st_ino
    os.rmdir(dir / "d")
    for k in (fd, handle):
        st = os.fstat(k)
        assert (st.st_nlink, st.st_ino) == (0, ino) and stat.S_ISDIR(st.st_mode)
    os.fchmod(fd, 0o700)
    os.utime(fd, ns=(1, 2))
    st = os.fstat(fd)
    assert (stat.S_IMODE(st.st_mode), st.st_mtime_ns, st.st_nlink) == (0o700, 2, 0)
    fails(errno.ENOENT, os.setxattr, fd, "user.a", b"1")
    fails(errno.ENODATA, os.getxattr, fd, "user.a")
    fails(errno.ENOENT, os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
    fails(errno.ENOENT, os.mkdir, "x", dir_fd=fd)
    fails(errno.ENOENT, os.symlink, "x", "x", dir_fd=fd)
    fails(errno.ENOENT, os.rename, dir.parent / "things", "x", dst_dir_fd=fd)
    os.fsync(fd)
    (dir / "d").mkdir()
    assert (dir / "d").stat().st_ino != ino and os.fstat(fd).st_nlink == 0
    os.close(fd)
    assert os.fstat(handle).st_nlink == 0
    os.close(handle)
    # As a working directory, and replaced by a rename.
    (dir / "w").mkdir()
    shell = subprocess.Popen(["sh", "-c", "read x; stat -c %h ."], cwd=dir / "w", stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE)
    (dir / "d").rename(dir / "w")
    assert shell.communicate(b"\n", timeout=LIMIT)[0] == b"0\n"


def names_of(stream):
    while entry := libc.readdir(stream):
        yield ctypes.string_at(entry + 19).decode()


def test_reading_a_folder_that_changes(dir):
    names = {f"{k:04}" for k in range(1500)}
    for name in names:
        (dir / name).touch()
    stream = libc.opendir(os.fsencode(dir))
    reading = names_of(stream)
    first = [next(reading) for _ in range(700)]
    mark = libc.telldir(stream)
    behind = [next(reading) for _ in range(5)]
    unread = sorted(names - set(first) - set(behind))
    for name in (*first[2:300], *unread[:100]):
        (dir / name).unlink()
    for k in range(200):
        (dir / f"new{k}").touch()
    rest = list(reading)
    kept = set(unread[100:])
    assert kept <= set(rest) and len(rest) == len(set(rest)) and not set(first) & set(rest)
    libc.seekdir(stream, mark)
    assert next(names_of(stream)) == behind[0]
    libc.rewinddir(stream)
    assert sorted(names_of(stream)) == sorted([".", "..", *os.listdir(dir)])
    libc.closedir(stream)
    assert set(os.listdir(dir)) >= kept | {f"new{k}" for k in range(200)}
    assert all(e.inode() == e.stat(follow_symlinks=False).st_ino for e in os.scandir(dir))
    fails(errno.ENOTEMPTY, os.rmdir, dir)


def test_a_listing_makes_no_name_of_what_has_gone(dir):
    """What the kernel is told with its attributes in a listing, it keeps as a name's own."""
    kinds = {"moved": Path.touch, "folder": Path.mkdir, "open": Path.touch, "replaced": Path.touch}
    for k in range(1000):
        (dir / f"a{k:04}").touch()
    for k in range(50):
        for kind, make in kinds.items():
            make(dir / f"z{kind}{k}")
    stream = libc.opendir(os.fsencode(dir))
    reading = names_of(stream)
    seen = [next(reading) for _ in range(100)]
    before = {}
    fds = []
    for k in range(50):
        (dir / f"zmoved{k}").rename(dir / f"new{k}")
        (dir / f"zfolder{k}").rename(dir / f"newfolder{k}")
        fds += [os.open(dir / f"zopen{k}", flags) for flags in (os.O_RDONLY, os.O_PATH)]
        (dir / f"zopen{k}").unlink()
        before[k] = (dir / f"zreplaced{k}").stat().st_ino
        (dir / "other").write_text("other")
        (dir / "other").rename(dir / f"zreplaced{k}")
    for name in reading:  # as `ls -l` does it
        seen.append(name)
        with contextlib.suppress(FileNotFoundError):
            os.lstat(dir / name)
    libc.closedir(stream)
    for k in range(50):
        for name in (f"zmoved{k}", f"zfolder{k}", f"zopen{k}"):
            fails(errno.ENOENT, os.stat, dir / name)
        assert f"zreplaced{k}" in seen and (dir / f"zreplaced{k}").stat().st_ino != before[k]
        assert (dir / f"zreplaced{k}").read_text() == "other"
        assert (dir / f"new{k}").exists() and (dir / f"newfolder{k}").is_dir()
    for fd in fds:
        os.close(fd)


def test_names(dir):
    names = ["x" * 255, "é" * 127 + "x", "향" * 85, "😀" * 63 + "xyz", "a b\tc\nd", "\x01exchange", "\\", "*?[", "-rf",
             "'\"`$(x)", "...", ".hidden", "שלום", "नमस्ते", "cafe\u0301", "café", "\u202ertl", "\x7f"]
    for name in names:
        (dir / name).write_text(name)
    assert sorted(os.listdir(dir)) == sorted(names)
    assert all((dir / name).read_text() == name for name in names)
    for name in names:
        (dir / name).rename(dir / "moved")
        (dir / "moved").rename(dir / name)
        (dir / name).unlink()
    assert os.listdir(dir) == []


def test_a_very_deep_tree(world, dir):
    """Deeper than a path may be long: by descriptors. A prompt there is one like any other."""
    depth = 1500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    fds = [os.open(dir, os.O_RDONLY)]
    for _ in range(depth):
        os.mkdir("down", dir_fd=fds[-1])
        fds.append(os.open("down", os.O_RDONLY, dir_fd=fds[-1]))
    fails(errno.EINVAL, os.rename, "down", "x", src_dir_fd=fds[0], dst_dir_fd=fds[-1])
    prompt = os.open("deep.prompt", os.O_CREAT | os.O_WRONLY, dir_fd=fds[700])
    os.write(prompt, b"deep")
    os.close(prompt)
    world.expected += 1

    def answered():
        try:
            with open(os.open("deep.status", os.O_RDONLY, dir_fd=fds[700])) as f:
                return f.read().startswith("succeeded")
        except FileNotFoundError:
            return False

    until("the deep prompt's picture", answered, 60)
    os.unlink("deep.prompt", dir_fd=fds[700])
    for k in range(depth - 1, -1, -1):
        os.rmdir("down", dir_fd=fds[k])
        os.close(fds[k + 1])
    os.close(fds[0])
    assert os.listdir(dir) == []


# ---- renaming ----

def test_renaming(dir):
    kinds = {"f": lambda p: p.write_text("f"), "d": lambda p: p.mkdir(), "l": lambda p: os.symlink("none", p)}
    for a, make_a in kinds.items():
        for b, make_b in {**kinds, "nothing": lambda p: None}.items():
            if b != "nothing" and (a == "d") != (b == "d"):
                continue
            make_a(dir / "a")
            make_b(dir / "b")
            ino = os.lstat(dir / "a").st_ino
            os.rename(dir / "a", dir / "b")
            assert os.listdir(dir) == ["b"] and os.lstat(dir / "b").st_ino == ino
            os.rename(dir / "b", dir / "b")
            shutil.rmtree(dir / "b") if a == "d" else os.unlink(dir / "b")
    for flags in (0, NOREPLACE):
        (dir / "x").write_text("x")
        rename2(dir / "x", dir / "y", flags)
        assert os.listdir(dir) == ["y"]
        (dir / "y").unlink()


def test_exchanging(dir):
    (dir / "d/sub").mkdir(parents=True)
    (dir / "\x01exchange").write_text("the user's own")
    (dir / "f").write_text("f")
    (dir / "g").write_text("g")
    os.symlink("f", dir / "l")
    (dir / "d/e").mkdir()
    for a, b in (("f", "g"), ("f", "d"), ("l", "f"), ("d/e", "g"), ("f", "\x01exchange")):
        before = [os.lstat(dir / n).st_ino for n in (a, b)]
        rename2(dir / a, dir / b, EXCHANGE)
        assert [os.lstat(dir / n).st_ino for n in (b, a)] == before
        rename2(dir / b, dir / a, EXCHANGE)
        assert [os.lstat(dir / n).st_ino for n in (a, b)] == before
    rename2(dir / "f", dir / "f", EXCHANGE)
    assert (dir / "f").read_text() == "f" and (dir / "\x01exchange").read_text() == "the user's own"


def test_exchanging_a_prompt(world, dir):
    (dir / "a.prompt").write_text("the first")
    world.expects(f"{dir.name}/a")
    (dir / "draft.txt").write_text("the second")
    rename2(dir / "a.prompt", dir / "draft.txt", EXCHANGE)
    world.expects(f"{dir.name}/a")
    assert (dir / "a.prompt").read_text() == "the second" and (dir / "draft.txt").read_text() == "the first"
    # A name that is not the user's own file can neither be exchanged nor be renamed.
    fails(errno.EXDEV, rename2, dir / "draft.txt", dir / "a.status", EXCHANGE)
    fails(errno.EXDEV, rename2, dir / "a.status", dir / "draft.txt", EXCHANGE)
    fails(errno.EXDEV, os.rename, dir / "a.status", dir / "x")
    fails(errno.EEXIST, rename2, dir / "draft.txt", dir / "a.status", NOREPLACE)
    fails(errno.EPERM, os.unlink, dir / "a.wait")
    (dir / "folder").mkdir()
    fails(errno.ENOTDIR, os.rename, dir / "folder", dir / "a.status")
    for call in (os.mkdir, lambda p: os.symlink("x", p), os.mknod, lambda p: os.open(p, os.O_CREAT | os.O_EXCL)):
        fails(errno.EEXIST, call, dir / "a.status")
    fails(errno.EACCES, os.open, dir / "a.png", os.O_WRONLY)
    fails(errno.EROFS, os.chmod, dir / "a.png", 0o666)
    os.rename(dir / "draft.txt", dir / "a.status")
    assert (dir / "a.status").read_text() == "the first"
    rename2(dir / "a.status", dir / "folder", EXCHANGE)  # it is the user's own now
    assert (dir / "a.status").is_dir()
    (dir / "a.status").rmdir()
    until("the status", lambda: (dir / "a.status").is_file())


# ---- links ----

def test_symbolic_links(dir):
    targets = ["x", "x" * 4095, "/etc/passwd", "..", "향수", b"not \xff utf-8", "a/../b//c/", " "]
    for k, target in enumerate(targets):
        os.symlink(target, os.fsencode(dir / str(k)) if isinstance(target, bytes) else dir / str(k))
        st = os.lstat(dir / str(k))
        assert os.readlink(os.fsencode(dir / str(k))) == os.fsencode(target)
        assert stat.S_ISLNK(st.st_mode) and st.st_size == len(os.fsencode(target)) and st.st_nlink == 1
    for k in range(40):
        os.symlink(f"chain{k + 1}" if k < 39 else "end", dir / f"chain{k}")
    (dir / "end").write_text("the end")
    assert (dir / "chain0").read_text() == "the end"
    os.symlink("chain0", dir / "one too many")
    fails(errno.ELOOP, open, dir / "one too many")
    os.chown(dir / "chain0", os.geteuid(), os.getegid(), follow_symlinks=False)
    utimens(dir / "chain0", (5, 6), (7, 8), AT_SYMLINK_NOFOLLOW)
    assert (os.lstat(dir / "chain0").st_atime_ns, os.lstat(dir / "chain0").st_mtime_ns) == (5000000006, 7000000008)
    assert (dir / "end").stat().st_mtime_ns != 7000000008


# ---- modes, owners, times ----

def test_modes_and_owners(dir):
    (dir / "f").touch()
    (dir / "d").mkdir()
    for p in (dir / "f", dir / "d"):
        for mode in (0, 0o777, 0o1755, 0o2755, 0o7000, 0o4755):
            os.chmod(p, mode)
            assert stat.S_IMODE(p.stat().st_mode) == mode
    fd = os.open(dir / "f", os.O_RDWR)
    os.fchmod(fd, 0o604)
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o604
    os.close(fd)


@becomes_others
def test_owners(dir):
    (dir / "f").touch()
    for args, want in (((12, 34), (12, 34)), ((-1, 56), (12, 56)), ((78, -1), (78, 56)), ((-1, -1), (78, 56))):
        os.chown(dir / "f", *args)
        assert ((dir / "f").stat().st_uid, (dir / "f").stat().st_gid) == want
    # A program's special rights go with its owner.
    os.chmod(dir / "f", 0o6755)
    os.chown(dir / "f", 1, 1)
    assert stat.S_IMODE((dir / "f").stat().st_mode) == 0o755
    os.symlink("f", dir / "l")
    os.lchown(dir / "l", 5, 6)
    assert (os.lstat(dir / "l").st_uid, (dir / "f").stat().st_uid) == (5, 1)
    # A folder's group is inherited where it says so.
    (dir / "d").mkdir()
    os.chown(dir / "d", -1, 77)
    os.chmod(dir / "d", 0o2755)
    (dir / "d/f").touch()
    (dir / "d/e").mkdir()
    assert (dir / "d/f").stat().st_gid == 77 and (dir / "d/e").stat().st_mode & 0o2000


def test_setting_times(dir):
    (dir / "f").write_text("x")
    (dir / "d").mkdir()
    os.symlink("f", dir / "l")
    for name, flags in (("f", 0), ("d", 0), ("l", AT_SYMLINK_NOFOLLOW)):
        p = dir / name

        def times():
            st = os.lstat(p)
            return st.st_atime_ns, st.st_mtime_ns

        for sec, ns in ((1, 1), (1 << 31, 999999999), (0, 0), (1 << 33, 5), (-5, 7)):
            utimens(p, (sec, ns), (sec + 1, ns), flags)
            assert times() == (sec * 10**9 + ns, (sec + 1) * 10**9 + ns)
        utimens(p, (10, 11), (0, UTIME_OMIT), flags)
        utimens(p, (0, UTIME_OMIT), (12, 13), flags)
        assert times() == (10000000011, 12000000013)
        before = os.lstat(p)
        later_than(before.st_ctime_ns)
        utimens(p, (0, UTIME_OMIT), (0, UTIME_OMIT), flags)
        assert os.lstat(p).st_ctime_ns == before.st_ctime_ns
        utimens(p, (0, UTIME_NOW), (0, UTIME_OMIT), flags)
        assert times()[0] > before.st_ctime_ns and times()[1] == 12000000013
        utimens(p, (3, 3), (0, UTIME_NOW), flags)
        assert times()[0] == 3000000003 and times()[1] >= before.st_ctime_ns
        utimens(p, (3, 3), (3, 3), flags)
        os.utime(p, follow_symlinks=not flags)
        assert min(times()) >= before.st_ctime_ns and os.lstat(p).st_ctime_ns >= max(times())


def later_than(*times_ns):
    """Until the clock that files are stamped with has gone on."""
    until("time", lambda: time.clock_gettime_ns(REALTIME_COARSE) > max(times_ns) + 10**7)


# What changes which times: the call, and the names of those whose m- and ctime advance.
CHANGES = [
    ("create", lambda d: (d / "new").touch(), "m.", "c."),
    ("mkdir", lambda d: (d / "dir").mkdir(), "m.", "c."),
    ("symlink", lambda d: os.symlink("f", d / "l"), "m.", "c."),
    ("unlink", lambda d: (d / "new").unlink(), "m.", "c."),
    ("rmdir", lambda d: (d / "dir").rmdir(), "m.", "c."),
    ("create deeper", lambda d: (d / "a/new").touch(), "ma", "ca"),
    ("rename", lambda d: (d / "f").rename(d / "g"), "m.", "c.", "cg"),
    ("rename back", lambda d: (d / "g").rename(d / "f"), "m.", "c.", "cf"),
    ("move", lambda d: (d / "a/new").rename(d / "b/new"), "ma", "mb", "ca", "cb", "cb/new"),
    ("move over", lambda d: (d / "b/new").rename(d / "f"), "m.", "mb", "c.", "cb", "cf", "mf"),
    ("exchange", lambda d: rename2(d / "f", d / "a/x", EXCHANGE), "m.", "ma", "c.", "ca", "cf", "ca/x", "mf", "ma/x"),
    ("write", lambda d: (d / "f").open("r+").write("x"), "mf", "cf"),
    ("truncate", lambda d: os.truncate(d / "f", 1), "mf", "cf"),
    ("truncating open", lambda d: (d / "f").open("w").close(), "mf", "cf"),
    ("truncating open of nothing", lambda d: (d / "f").open("w").close(), "mf", "cf"),
    ("truncate to the same", lambda d: os.truncate(d / "f", 0), "mf", "cf"),
    ("chmod", lambda d: os.chmod(d / "f", 0o600), "cf"),
    ("chmod of a folder", lambda d: os.chmod(d / "a", 0o700), "ca"),
    ("chown", lambda d: os.chown(d / "f", os.geteuid(), os.getegid()), "cf"),
    ("utimens", lambda d: os.utime(d / "f", ns=(1, 1)), "mf", "cf"),
    ("utimens now", lambda d: os.utime(d / "f"), "mf", "cf"),
    ("setxattr", lambda d: os.setxattr(d / "f", "user.a", b"1"), "cf"),
    ("removexattr", lambda d: os.removexattr(d / "f", "user.a"), "cf"),
    ("read", lambda d: (d / "f").read_bytes()),
    ("list", lambda d: os.listdir(d / "a")),
    ("open to write", lambda d: (d / "f").open("a").close()),
    ("failure", lambda d: pytest.raises(OSError, os.mkdir, d / "a")),
]


def test_what_changes_times(dir):
    (dir / "a").mkdir()
    (dir / "b").mkdir()
    for name in ("f", "a/x"):
        (dir / name).write_text("content")
    assert all(p.stat().st_ctime_ns >= p.stat().st_mtime_ns for p in dir.rglob("*"))

    def times():
        return {(kind, name): value for name in [".", *(str(p.relative_to(dir)) for p in dir.rglob("*"))]
                for kind, value in (("m", os.lstat(dir / name).st_mtime_ns), ("c", os.lstat(dir / name).st_ctime_ns))}

    for what, call, *names in CHANGES:
        before = times()
        later_than(*before.values())
        call(dir)
        after = times()
        # What is replaced or made by the call is another node; only what has both is compared.
        changed = {key for key in before.keys() & after.keys() if after[key] != before[key]}
        wanted = {(n[0], n[1:]) for n in names}
        assert changed == wanted & before.keys(), what
        assert all(after[key] > before[key] for key in changed - {("m", "f"), ("m", "a/x")}), what


@becomes_others
def test_an_ordinary_user(world, dir):
    mine, shared = dir / "mine", dir / "shared"
    mine.mkdir()
    (mine / "f").write_text("secret")
    os.chmod(mine / "f", 0o640)
    shared.mkdir()
    os.chmod(shared, 0o1777)
    (shared / "roots").write_text("root's")
    os.chmod(shared / "roots", 0o666)
    os.mkdir(shared / "theirs")
    os.chown(shared / "theirs", NOBODY, NOBODY)
    closed = dir / "closed"
    closed.mkdir(mode=0o700)
    (closed / "f").touch()
    (dir / "program").write_bytes(b"x")
    table = [
        ("read", lambda: os.open(mine / "f", os.O_RDONLY), errno.EACCES),
        ("write", lambda: os.open(mine / "f", os.O_WRONLY), errno.EACCES),
        ("create", lambda: os.open(mine / "x", os.O_CREAT), errno.EACCES),
        ("mkdir", lambda: os.mkdir(mine / "x"), errno.EACCES),
        ("symlink", lambda: os.symlink("x", mine / "x"), errno.EACCES),
        ("unlink", lambda: os.unlink(mine / "f"), errno.EACCES),
        ("rename", lambda: os.rename(mine / "f", shared / "x"), errno.EACCES),
        ("truncate", lambda: os.truncate(mine / "f", 0), errno.EACCES),
        ("chmod", lambda: os.chmod(mine / "f", 0o777), errno.EPERM),
        ("chown", lambda: os.chown(mine / "f", NOBODY, -1), errno.EPERM),
        ("give away", lambda: os.chown(shared / "theirs", 0, -1), errno.EPERM),
        ("change a group", lambda: os.chown(shared / "theirs", -1, 5), errno.EPERM),
        ("utimens", lambda: os.utime(mine / "f", ns=(1, 1)), errno.EPERM),
        ("utimens now", lambda: os.utime(mine / "f"), errno.EACCES),
        ("utimens now of what it may write", lambda: os.utime(shared / "roots"), 0),
        ("utimens of what it may write", lambda: os.utime(shared / "roots", ns=(1, 1)), errno.EPERM),
        ("setxattr", lambda: os.setxattr(mine / "f", "user.a", b"x"), errno.EACCES),
        ("getxattr", lambda: os.getxattr(mine / "f", "user.a"), errno.EACCES),
        ("search", lambda: os.stat(closed / "f"), errno.EACCES),
        ("list", lambda: os.listdir(closed), errno.EACCES),
        ("noatime of another's", lambda: os.open(shared / "roots", os.O_RDONLY | os.O_NOATIME), errno.EPERM),
        ("sticky unlink", lambda: os.unlink(shared / "roots"), errno.EPERM),
        ("sticky rename", lambda: os.rename(shared / "roots", shared / "x"), errno.EPERM),
        ("sticky rename over", lambda: (open(shared / "own", "w").close(),
                                        os.rename(shared / "own", shared / "roots")), errno.EPERM),
        ("write to what all may", lambda: os.truncate(shared / "roots", 0), 0),
        ("own file", lambda: os.chmod(shared / "own", 0o4755), 0),
        ("own folder", lambda: (os.mkdir(shared / "theirs/x"), os.rmdir(shared / "theirs/x"),
                                os.rmdir(shared / "theirs")), 0),
        ("noatime of its own", lambda: os.open(shared / "own", os.O_RDONLY | os.O_NOATIME), 0),
        ("outside", lambda: os.open(world.mount / "x", os.O_CREAT), errno.EACCES),
        ("control", lambda: os.open(world.mount / "control", os.O_WRONLY), errno.EACCES),
    ]
    for what, call, number in table:
        assert errno.errorcode.get(got := in_child(call, NOBODY), 0) == errno.errorcode.get(number, 0), (what, got)
    assert (shared / "own").stat().st_uid == NOBODY
    # Writing to a program takes its special rights away, unless root does it.
    os.chmod(dir / "program", 0o6777)
    assert in_child(lambda: (dir / "program").open("r+b").write(b"y"), NOBODY) == 0
    assert stat.S_IMODE((dir / "program").stat().st_mode) == 0o777
    assert (mine / "f").read_text() == "secret" and (shared / "roots").exists()


# ---- extended attributes ----

def test_extended_attributes(dir):
    (dir / "f").touch()
    (dir / "d").mkdir()
    for p in (dir / "f", dir / "d"):
        values = {"user.empty": b"", "user.binary": bytes(range(256)), "user.big": b"x" * 65536,
                  "user." + "n" * 250: b"long name", "user.향수": "값".encode(), "user.a.b c": b"\n"}
        for name, value in values.items():
            os.setxattr(p, name, value, os.XATTR_CREATE)
            fails(errno.EEXIST, os.setxattr, p, name, value, os.XATTR_CREATE)
            assert os.getxattr(p, name) == value
            os.setxattr(p, name, value[::-1], os.XATTR_REPLACE)
        assert sorted(os.listxattr(p)) == sorted(values)
        small = ctypes.create_string_buffer(3)
        for call, args in ((libc.getxattr, (b"user.binary",)), (libc.listxattr, ())):
            assert call(os.fsencode(p), *args, None, 0) > 3
            assert call(os.fsencode(p), *args, small, 3) == -1 and ctypes.get_errno() == errno.ERANGE
        for name in values:
            os.removexattr(p, name)
        assert os.listxattr(p) == []


def test_there_is_room_for_so_many_attributes(dir):
    (dir / "f").touch()
    count = 0
    with pytest.raises(OSError) as caught:
        while count < 1000:
            os.setxattr(dir / "f", f"user.{count:0245}", b"")
            count += 1
    assert caught.value.errno == errno.ENOSPC and len(os.listxattr(dir / "f")) == count > 200
    os.setxattr(dir / "f", f"user.{0:0245}", b"replaced")
    os.removexattr(dir / "f", f"user.{1:0245}")
    os.setxattr(dir / "f", "user.there is room again", b"")


def test_attributes_of_ours(world, dir):
    (dir / "a.prompt").write_text("a")
    world.expects(f"{dir.name}/a")
    os.setxattr(dir / "a.prompt", "user.mine", b"1")
    names = os.listxattr(dir / "a.prompt")
    assert "user.mine" in names and "user.imagehub.status" in names
    assert os.getxattr(dir / "a.prompt", "user.imagehub.status") == b"succeeded"
    # Of a picture, whose mode is 0444, all but root learn that they may not write it.
    for name, number in (("a.prompt", errno.EPERM), ("a.status", errno.EROFS),
                         ("a.png", errno.EROFS if ROOT else errno.EACCES)):
        p = dir / name
        fails(number, os.setxattr, p, "user.imagehub.status", b"x")
        fails(number, os.removexattr, p, "user.imagehub.status")
    run("cp", "--preserve=mode,timestamps,xattr", dir / "a.png", world.mount.dir / "copy.png")
    assert os.getxattr(world.mount.dir / "copy.png", "user.imagehub.status") == b"succeeded"


def facts(path):
    return {n: os.getxattr(path, n) for n in os.listxattr(path)}


def test_a_copy_keeps_the_attributes_of_ours(world, dir):
    (dir / "a.prompt").write_text("a")
    world.expects(f"{dir.name}/a")
    of_picture, of_prompt = facts(dir / "a.png"), facts(dir / "a.prompt")
    backup = world.mount.dir / f"backup-{dir.name}"
    run("rsync", "-aX", f"{dir}/", backup)
    run("rsync", "-aX", f"{backup}/", dir / "restored")  # .a.prompt.XXXXXX has them before it is a prompt
    assert facts(backup / "a.png") == facts(dir / "restored/a.png") == of_picture
    done = run("mv", dir / "a.png", dir / "kept.png")
    assert done.stderr == "" and facts(dir / "kept.png") == of_picture
    world.expects(f"{dir.name}/restored/a")
    assert facts(dir / "restored/a.prompt").keys() == of_prompt.keys()
    assert facts(dir / "restored/a.prompt")["user.imagehub.id"] != of_prompt["user.imagehub.id"]
    os.rename(dir / "restored/a.prompt", dir / "restored/a.txt")  # a scratch file, with its copied ones
    assert facts(dir / "restored/a.txt") == of_prompt


# ---- what stays open ----

def test_unlinked_while_open(world, dir):
    p = dir / "f"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still here")
    reader = os.open(p, os.O_RDONLY)
    os.unlink(p)
    p.write_text("another")
    assert os.fstat(fd).st_nlink == os.fstat(reader).st_nlink == 0 and os.fstat(fd).st_ino != p.stat().st_ino
    os.pwrite(fd, b"STILL", 0)
    os.ftruncate(fd, 8)
    os.fchmod(fd, 0o600)
    os.setxattr(fd, "user.a", b"1")
    os.utime(fd, ns=(1, 1))
    os.fsync(fd)
    fallocate(fd, 0, 0, 100)
    assert os.pread(reader, 9, 0) == b"STILL he\0" and os.getxattr(reader, "user.a") == b"1"
    with mmap.mmap(fd, 100) as m:
        m[0:5] = b"mmap!"
    assert os.pread(reader, 5, 0) == b"mmap!"
    os.close(fd)
    assert os.pread(reader, 5, 0) == b"mmap!"
    os.close(reader)
    # The same by a rename over it.
    fd = os.open(p, os.O_RDWR)
    (dir / "new").write_text("new")
    os.rename(dir / "new", p)
    assert os.pread(fd, 9, 0) == b"another" and os.fstat(fd).st_nlink == 0 and p.read_text() == "new"
    os.close(fd)


def test_a_prompt_unlinked_while_open_is_not_sent(world, dir):
    fd = os.open(dir / "gone.prompt", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"never sent")
    os.unlink(dir / "gone.prompt")
    os.close(fd)
    assert world.count() == (world.expected, world.expected)


def test_locks(dir):
    (dir / "f").touch()
    fd = os.open(dir / "f", os.O_RDWR)

    def flock(how):
        fcntl.flock(os.open(dir / "f", os.O_RDWR), how | fcntl.LOCK_NB)

    def lockf(start, how=fcntl.LOCK_EX):
        fcntl.lockf(os.open(dir / "f", os.O_RDWR), how | fcntl.LOCK_NB, 10, start)

    def ofd(at, kind, start):
        fcntl.fcntl(at, OFD_SETLK, struct.pack("hhqqi4x", kind, 0, start, 10, 0))

    fcntl.flock(fd, fcntl.LOCK_SH)
    assert in_child(lambda: flock(fcntl.LOCK_SH)) == 0
    assert in_child(lambda: flock(fcntl.LOCK_EX)) == errno.EWOULDBLOCK
    fcntl.flock(fd, fcntl.LOCK_UN)
    assert in_child(lambda: flock(fcntl.LOCK_EX)) == 0
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    assert in_child(lambda: lockf(5)) in (errno.EAGAIN, errno.EACCES) and in_child(lambda: lockf(10)) == 0
    fcntl.lockf(fd, fcntl.LOCK_UN)
    assert in_child(lambda: lockf(5)) == 0
    ofd(fd, fcntl.F_WRLCK, 0)
    other = os.open(dir / "f", os.O_RDWR)
    fails(errno.EAGAIN, ofd, other, fcntl.F_RDLCK, 0)
    ofd(other, fcntl.F_RDLCK, 20)
    assert in_child(lambda: lockf(0)) in (errno.EAGAIN, errno.EACCES)
    os.close(fd)
    ofd(other, fcntl.F_WRLCK, 0)
    os.close(other)


def test_mapped_memory(dir):
    p = dir / "f"
    p.write_bytes(bytes(3 * 4096))
    with open(p, "r+b") as f:
        a = mmap.mmap(f.fileno(), 0)
    with open(p, "rb") as f:
        b = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)
        private = mmap.mmap(f.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    a[5000:5005] = b"hello"  # the descriptor is closed already
    assert b[5000:5005] == b"hello"
    private[0:3] = b"own"
    fd = os.open(p, os.O_RDWR)
    os.pwrite(fd, b"by write", 100)
    assert a[100:108] == b"by write"
    a.flush()
    assert os.pread(fd, 5, 5000) == b"hello" and os.pread(fd, 3, 0) == bytes(3)
    a[6000:6005] = b"later"
    for each in (a, b, private):
        each.close()
    os.close(fd)
    assert p.read_bytes()[6000:6005] == b"later" and p.stat().st_size == 3 * 4096


def test_a_prompt_written_by_mmap(world, dir):
    for name, early in (("mapped", False), ("closed before", True)):
        p = dir / f"{name}.prompt"
        fd = os.open(p, os.O_CREAT | os.O_RDWR)
        os.ftruncate(fd, 16)
        m = mmap.mmap(fd, 16)
        if early:  # as it is at that close, it is refused; the mapping writes all the same
            fails(errno.EINVAL, os.close, fd)
        m[:] = b"a mapped prompt\n"
        if not early:
            m.flush()
            os.close(fd)
        m.close()
        world.expects(f"{dir.name}/{name}")
        assert os.getxattr(p, "user.imagehub.prompt") == b"a mapped prompt" == p.read_bytes()[:-1]
        assert {n for n in os.listdir(dir) if n.startswith(name)} == {
            f"{name}.png", f"{name}.prompt", f"{name}.status"}


def test_copying_in_the_kernel(world, dir):
    data = os.urandom(300000)
    outside = world.mount.dir / "source"
    outside.write_bytes(data)
    (dir / "a").write_bytes(data)

    def whole(call, source, target):
        left = len(data)
        with open(source, "rb") as a, open(target, "wb") as b:
            while left > 0:
                n = call(a.fileno(), b.fileno(), left)
                assert n > 0
                left -= n
        return target.read_bytes() == data

    for source, target in ((dir / "a", dir / "b"), (outside, dir / "c"), (dir / "a", world.mount.dir / "target")):
        assert whole(lambda a, b, n: os.sendfile(b, a, None, n), source, target)
        try:
            assert whole(lambda a, b, n: os.copy_file_range(a, b, n), source, target)
        except OSError as e:  # between file systems it is the program's own affair
            assert e.errno == errno.EXDEV and (source, target) != (dir / "a", dir / "b")
    fd = os.open(dir / "a", os.O_RDWR)
    assert os.copy_file_range(fd, fd, 1000, 0, len(data)) == 1000
    assert os.pread(fd, 1000, len(data)) == data[:1000]
    fails(errno.EINVAL, os.copy_file_range, fd, fd, 1000, 0, 500)
    os.close(fd)


def test_space(world):
    st, under = os.statvfs(world.requests), os.statvfs(world.mount.state)
    assert st.f_namemax == 255 and 0 < st.f_bavail <= st.f_bfree <= st.f_blocks
    assert st.f_blocks * st.f_frsize == under.f_blocks * under.f_frsize and st.f_favail > 0


@mounts
def test_space_that_nobody_counts(hub, make_mount):
    """A file system without limits tells 0 of each; so does btrfs of its inodes."""
    mount = make_mount(hub, start=False)
    mount.state.mkdir(mode=0o700)
    run("mount", "-t", "tmpfs", "-o", "size=0,nr_inodes=0,mode=700", "none", mount.state)
    try:
        under = os.statvfs(mount.state)
        assert under.f_blocks == under.f_files == 0
        mount.start()
        st = os.statvfs(mount / "requests")
        assert st.f_bavail > 0 and st.f_favail > 0 and st.f_bfree <= st.f_blocks
        mount.stop()
    finally:
        mount.kill()
        run("umount", mount.state)
