"""Random calls on /requests and on a local folder beside it: the same results, errors and trees.

SEED repeats a run, STEPS makes it longer (`make torture-posix` does).
"""
import errno
import os
import random
import stat

from test_posix import EXCHANGE, NOREPLACE, KEEP_SIZE, PUNCH_HOLE, fallocate, rename2

STEPS = int(os.environ.get("STEPS") or 4000)
PARTS = ["a", "b", "c", "d.txt", "향수", "x" * 40]
HANDLES = 6


class Model:
    """Two folders, in which each call is made; `both` are their paths."""

    def __init__(self, seed, real, local):
        self.random = random.Random(seed)
        self.both = (real, local)
        self.handles = []  # pairs of descriptors
        self.errors = {}   # how often each was met

    def path(self):
        return "/".join(self.random.choice(PARTS) for _ in range(self.random.choice((1, 1, 2, 2, 3))))

    def twice(self, what, calls):
        """Makes both calls; their result, which has to be the same, or None when they fail alike."""
        results = []
        for call in calls:
            try:
                results.append(("done", call()))
            except OSError as e:
                results.append((errno.errorcode[e.errno], None))
        assert [r[0] for r in results] == [results[0][0]] * 2, (what, results)
        self.errors[results[0][0]] = self.errors.get(results[0][0], 0) + 1
        return [r[1] for r in results] if results[0][0] == "done" else None

    def at(self, what, call):
        """A call with a random path."""
        path = self.path()
        return self.twice((what, path), [lambda r=root: call(r / path) for root in self.both])

    def at_two(self, what, call):
        a, b = self.path(), self.path()
        return self.twice((what, a, b), [lambda r=root: call(r / a, r / b) for root in self.both])

    def on_handle(self, what, call):
        if not self.handles:
            return
        results = self.twice(what, [lambda f=f: call(f) for f in self.random.choice(self.handles)])
        assert not results or results[0] == results[1], (what, results)

    # ---- the calls ----

    def open(self):
        flags = self.random.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        for flag in (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND, os.O_NOFOLLOW):
            flags |= flag if self.random.random() < 0.4 else 0
        pair = self.at(("open", oct(flags)), lambda p: os.open(p, flags, 0o644))
        if pair and len(self.handles) < HANDLES:
            self.handles.append(pair)
        elif pair:
            [os.close(f) for f in pair]

    def close(self):
        if self.handles:
            for fd in self.handles.pop(self.random.randrange(len(self.handles))):
                os.close(fd)

    def write(self):
        data, where = self.random.randbytes(self.random.randrange(20000)), self.random.randrange(50000)
        self.on_handle(("write", len(data), where), lambda f: os.pwrite(f, data, where))

    def append(self):
        data = self.random.randbytes(self.random.randrange(5000))
        self.on_handle(("append", len(data)), lambda f: (os.lseek(f, 0, os.SEEK_END), os.write(f, data)))

    def read(self):
        size, where = self.random.randrange(30000), self.random.randrange(60000)
        self.on_handle(("read", size, where), lambda f: os.pread(f, size, where))

    def change(self):
        """Sizes and modes by a handle."""
        size, mode = self.random.randrange(60000), self.random.randrange(0o1000)
        where = self.random.randrange(60000)
        which = self.random.choice((
            lambda f: os.ftruncate(f, size), lambda f: os.fchmod(f, mode), os.fsync,
            lambda f: fallocate(f, 0, where, size + 1),
            lambda f: fallocate(f, KEEP_SIZE | PUNCH_HOLE, where, size + 1)))
        self.on_handle(("change", size, where), which)

    def stat_handle(self):
        self.on_handle("fstat", lambda f: self.facts(os.fstat(f)) + (os.fstat(f).st_nlink,))

    def rename(self):
        flags = self.random.choice((0, 0, 0, NOREPLACE, EXCHANGE, EXCHANGE))
        self.at_two(("rename", flags), lambda a, b: rename2(a, b, flags))

    def name(self):
        """A call that changes names or attributes."""
        number, mode = self.random.randrange(70000), self.random.randrange(0o10000)
        target, key = self.path(), f"user.{self.random.choice('abc')}"
        value = self.random.randbytes(self.random.randrange(300))
        what, call = self.random.choice((
            ("mkdir", lambda p: os.mkdir(p, mode & 0o777)), ("mkdir", os.mkdir), ("rmdir", os.rmdir),
            ("unlink", os.unlink), ("symlink", lambda p: os.symlink(target, p)), ("readlink", os.readlink),
            ("mknod", os.mknod), ("truncate", lambda p: os.truncate(p, number)),
            ("chmod", lambda p: os.chmod(p, mode)), ("utime", lambda p: os.utime(p, ns=(number, number))),
            ("setxattr", lambda p: os.setxattr(p, key, value, number % 3)),
            ("getxattr", lambda p: os.getxattr(p, key)), ("removexattr", lambda p: os.removexattr(p, key))))
        results = self.at((what, number), call)
        assert not results or results[0] == results[1], (what, results)

    # ---- the trees ----

    @staticmethod
    def facts(st):
        return stat.S_IFMT(st.st_mode), stat.S_IMODE(st.st_mode), st.st_uid, (
            st.st_size if not stat.S_ISDIR(st.st_mode) else 0)

    def tree(self, root):
        found = {}
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = os.path.join(folder, name)
                st = os.lstat(path)
                more = None
                if stat.S_ISLNK(st.st_mode):
                    more = os.readlink(path)
                else:
                    more = sorted((n, os.getxattr(path, n)) for n in os.listxattr(path))
                    if stat.S_ISREG(st.st_mode):
                        with open(path, "rb") as f:
                            more.append(f.read())
                found[os.path.relpath(path, root)] = self.facts(st), more
        return found

    def run(self, steps):
        calls = [self.open] * 4 + [self.close, self.write, self.write, self.append, self.read, self.change,
                                   self.stat_handle] + [self.rename] * 5 + [self.name] * 10
        for step in range(steps):
            self.random.choice(calls)()
            if step % 500 == 499:
                assert self.tree(self.both[0]) == self.tree(self.both[1])
        while self.handles:
            self.close()
        assert self.tree(self.both[0]) == self.tree(self.both[1])


def test_random_calls_do_what_they_do_elsewhere(hub, mount):
    seed = int(os.environ.get("SEED") or random.randrange(1 << 32))
    print(f"SEED={seed}")
    real, local = mount / "requests/model", mount.dir / "model"
    real.mkdir()
    local.mkdir()
    model = Model(seed, real, local)
    model.run(STEPS)
    print(f"{STEPS} calls: {model.errors}")
    assert model.errors["done"] > STEPS / 10 and len(model.errors) > 5
    mount.stop()
    mount.start()
    assert model.tree(real) == model.tree(local)
    assert hub.generations() == 0
    mount.stop()
    mount.check_state()
