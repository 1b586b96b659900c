"""/requests as an ordinary directory tree: each call with its POSIX errno."""
import errno
import fcntl
import os
import stat
import threading

import pytest
from harness import sh, until

libc = __import__("ctypes").CDLL(None, use_errno=True)


def rename2(a, b, flags):
    import ctypes
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags) < 0:
        raise OSError(ctypes.get_errno(), "renameat2")


NOREPLACE, EXCHANGE = 1, 2


def fails(number, call, *args, **kwargs):
    with pytest.raises(OSError) as caught:
        call(*args, **kwargs)
    assert caught.value.errno == number, errno.errorcode[caught.value.errno]


@pytest.fixture
def dir(mount):
    return mount / "requests"


def test_open_flags(dir):
    p = dir / "f"
    fails(errno.ENOENT, os.open, p, os.O_RDWR)
    os.close(os.open(p, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o640))
    assert stat.S_IMODE(p.stat().st_mode) == 0o640
    fails(errno.EEXIST, os.open, p, os.O_CREAT | os.O_EXCL)
    fd = os.open(p, os.O_RDWR | os.O_APPEND)
    os.write(fd, b"one")
    os.lseek(fd, 0, 0)
    os.write(fd, b"two")
    assert os.pread(fd, 10, 0) == b"onetwo"
    os.close(fd)
    os.close(os.open(p, os.O_WRONLY | os.O_TRUNC))
    assert p.stat().st_size == 0
    fails(errno.ENOTDIR, os.open, p / "x", os.O_RDONLY)
    fails(errno.ENOTDIR, os.open, p, os.O_RDONLY | os.O_DIRECTORY)
    fails(errno.EISDIR, os.open, dir, os.O_WRONLY)
    fails(errno.ENAMETOOLONG, os.open, dir / ("x" * 256), os.O_CREAT)
    os.close(os.open(dir / ("x" * 255), os.O_CREAT))
    fails(errno.EILSEQ, os.open, os.fsencode(dir) + b"/\xff", os.O_CREAT)
    os.symlink("f", dir / "link")
    fails(errno.ELOOP, os.open, dir / "link", os.O_RDONLY | os.O_NOFOLLOW)


def test_sparse_writes_truncate_and_sizes(dir):
    p = dir / "sparse"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"end", 1 << 20)
    assert os.fstat(fd).st_size == (1 << 20) + 3 and os.pread(fd, 4, 100) == b"\0" * 4
    os.ftruncate(fd, 5)
    assert os.fstat(fd).st_size == 5
    os.truncate(p, 9)
    assert p.read_bytes() == b"\0" * 9
    os.posix_fallocate(fd, 0, 100)
    assert p.stat().st_size == 100
    os.fsync(fd)
    os.close(fd)
    fails(errno.ENOENT, os.truncate, dir / "none", 0)
    fails(errno.EISDIR, os.truncate, dir, 0)


def test_directories(dir):
    (dir / "d").mkdir(mode=0o750)
    assert stat.S_IMODE((dir / "d").stat().st_mode) == 0o750 and (dir / "d").stat().st_nlink == 2
    (dir / "d/e").mkdir()
    assert (dir / "d").stat().st_nlink == 3
    fails(errno.EEXIST, os.mkdir, dir / "d")
    fails(errno.ENOENT, os.mkdir, dir / "none/x")
    fails(errno.ENOTEMPTY, os.rmdir, dir / "d")
    (dir / "f").touch()
    fails(errno.ENOTDIR, os.rmdir, dir / "f")
    fails(errno.EISDIR, os.unlink, dir / "d")
    fails(errno.ENOENT, os.rmdir, dir / "none")
    os.utime(dir / "d", (1, 1))
    (dir / "d/e").rmdir()
    assert (dir / "d").stat().st_mtime > 1
    (dir / "d").rmdir()


def test_rename(dir):
    (dir / "a").write_text("a")
    (dir / "b").write_text("b")
    ino = (dir / "a").stat().st_ino
    os.rename(dir / "a", dir / "b")
    assert (dir / "b").read_text() == "a" and (dir / "b").stat().st_ino == ino
    fails(errno.ENOENT, os.rename, dir / "a", dir / "c")
    (dir / "d").mkdir()
    (dir / "d/x").touch()
    (dir / "e").mkdir()
    fails(errno.EISDIR, os.rename, dir / "b", dir / "e")
    fails(errno.ENOTDIR, os.rename, dir / "e", dir / "b")
    fails(errno.ENOTEMPTY, os.rename, dir / "e", dir / "d")
    fails(errno.EINVAL, os.rename, dir / "d", dir / "d/below")
    os.rename(dir / "d", dir / "e")
    assert sorted(os.listdir(dir)) == ["b", "e"] and os.listdir(dir / "e") == ["x"]
    (dir / "c").write_text("c")
    fails(errno.EEXIST, rename2, dir / "c", dir / "b", NOREPLACE)
    rename2(dir / "c", dir / "c2", NOREPLACE)
    rename2(dir / "c2", dir / "e", EXCHANGE)
    assert (dir / "e").read_text() == "c" and os.listdir(dir / "c2") == ["x"]
    fails(errno.ENOENT, rename2, dir / "e", dir / "none", EXCHANGE)
    os.rename(dir / "e", dir / "e")
    assert (dir / "e").read_text() == "c"


def test_links(dir):
    (dir / "f").write_text("x")
    os.symlink("../requests/f", dir / "l")
    assert os.readlink(dir / "l") == "../requests/f" and (dir / "l").read_text() == "x"
    assert os.lstat(dir / "l").st_size == len("../requests/f")
    fails(errno.EINVAL, os.readlink, dir / "f")
    fails(errno.EPERM, os.link, dir / "f", dir / "hard")
    fails(errno.EPERM, os.mknod, dir / "fifo", stat.S_IFIFO | 0o600)
    fails(errno.EPERM, os.mknod, dir / "dev", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(dir / "plain", stat.S_IFREG | 0o600)


def test_attributes(dir):
    p = dir / "f"
    p.write_text("x")
    os.chmod(p, 0o604)
    os.utime(p, ns=(1_000_000_001, 2_000_000_003))
    st = p.stat()
    assert (stat.S_IMODE(st.st_mode), st.st_atime_ns, st.st_mtime_ns) == (0o604, 1_000_000_001, 2_000_000_003)
    if os.geteuid() == 0:
        os.chown(p, 12, 34)
        assert (p.stat().st_uid, p.stat().st_gid) == (12, 34)
    os.setxattr(p, "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, os.setxattr, p, "user.a", b"2", os.XATTR_CREATE)
    fails(errno.ENODATA, os.setxattr, p, "user.b", b"2", os.XATTR_REPLACE)
    assert os.listxattr(p) == ["user.a"] and os.getxattr(p, "user.a") == b"1"
    os.removexattr(p, "user.a")
    fails(errno.ENODATA, os.getxattr, p, "user.a")
    fails(errno.EOPNOTSUPP if os.geteuid() == 0 else errno.EPERM, os.setxattr, p, "trusted.x", b"1")
    (dir / "d").mkdir()
    os.utime(dir / "d", ns=(5, 6))
    assert (dir / "d").stat().st_mtime_ns == 6


def test_unlink_while_open(dir):
    p = dir / "f"
    fd = os.open(p, os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still here")
    os.unlink(p)
    assert not p.exists() and os.fstat(fd).st_nlink == 0
    assert os.pread(fd, 20, 0) == b"still here"
    os.write(fd, b"!")
    os.close(fd)
    p.write_text("new")
    assert p.read_text() == "new"


def test_unlinked_content_is_gone_from_the_disk(mount, dir):
    (dir / "f").write_text("x")
    fd = os.open(dir / "f", os.O_RDONLY)
    os.unlink(dir / "f")
    os.close(fd)
    until("removal", lambda: os.listdir(mount.state / "spool") == [])


def test_locks(dir):
    (dir / "f").touch()
    a, b = open(dir / "f", "r+"), open(dir / "f", "r+")
    fcntl.flock(a, fcntl.LOCK_EX)
    fails(errno.EWOULDBLOCK, fcntl.flock, b, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(a, fcntl.LOCK_UN)
    fcntl.flock(b, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_mmap_writes_arrive(dir):
    import mmap
    p = dir / "f"
    p.write_bytes(b"." * 4096)
    with open(p, "r+b") as f, mmap.mmap(f.fileno(), 4096) as m:
        m[10:15] = b"hello"
        m.flush()
    assert p.read_bytes()[10:15] == b"hello"


def test_large_directories_and_concurrent_changes(dir):
    (dir / "many").mkdir()
    for k in range(3000):
        (dir / f"many/{k:05}").touch()
    assert sorted(os.listdir(dir / "many")) == [f"{k:05}" for k in range(3000)]
    assert len(sh(f"ls -l {dir}/many").stdout.splitlines()) == 3001
    found = []
    for entry in os.scandir(dir / "many"):
        found.append(entry.name)
        os.unlink(entry.path)
    assert len(set(found)) == 3000 and os.listdir(dir / "many") == []


def test_everything_is_still_there_after_a_remount(mount, dir):
    (dir / "d").mkdir()
    (dir / "d/f").write_bytes(b"\0\1\2" * 1000)
    os.chmod(dir / "d/f", 0o600)
    os.utime(dir / "d/f", ns=(7, 8))
    os.symlink("f", dir / "d/l")
    os.setxattr(dir / "d/f", "user.x", b"y")
    before = [(os.lstat(dir / n).st_mode, os.lstat(dir / n).st_size, os.lstat(dir / n).st_mtime_ns,
               os.lstat(dir / n).st_ino) for n in ("d", "d/f", "d/l")]
    mount.stop()
    mount.start()
    assert [(os.lstat(dir / n).st_mode, os.lstat(dir / n).st_size, os.lstat(dir / n).st_mtime_ns,
             os.lstat(dir / n).st_ino) for n in ("d", "d/f", "d/l")] == before
    assert (dir / "d/f").read_bytes() == b"\0\1\2" * 1000 and os.getxattr(dir / "d/l", "user.x") == b"y"


def test_many_threads(dir):
    errors = []

    def work(n):
        try:
            for k in range(60):
                p = dir / f"t{n}-{k}"
                p.write_text(str(k))
                assert p.read_text() == str(k)
                p.rename(dir / f"r{n}-{k}")
                (dir / f"r{n}-{k}").unlink()
        except Exception as e:  # noqa: BLE001
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert errors == [] and os.listdir(dir) == []
