"""Taking prompts: how fast cp is, how long close(2) takes, how soon the hub hears of it, and how soon
a success is seen."""
import contextlib
import itertools
import os
import tempfile
import time

import peers
from report import median, percentile, seconds
from tools import MIB, TOOLS, Ext4, behind_proxy, harness, output, rounds, say, timed

LONG = 3600 * 1000  # ms: nothing is sent meanwhile


def prompts(bench, count):
    """Files of a few hundred bytes."""
    folder = bench.tmp / "prompts"
    folder.mkdir()
    for k in range(count):
        (folder / f"q{k:04}.prompt").write_text(
            f"---\nsize: 1024x1024\nquality: high\n---\nA cinematic photo of lighthouse {k} at dusk, "
            "long exposure, the sea like glass, a small boat far out with one lamp\n")
    return sorted(folder.iterdir())


def same(files, folder):
    for file in files:
        assert (folder / file.name).read_bytes() == file.read_bytes(), f"{folder}/{file.name} differs"


class Copies:
    """Copies of the same files into one new folder after another: of the mount, and of the disk."""

    def __init__(self, files, mount, plain):
        self.files, self.mount, self.plain = files, mount, plain
        self.plain.mkdir(exist_ok=True)
        self.numbers = itertools.count()
        self.closes = {"ours": [], "ext4": []}

    def _folder(self, below):
        folder = below / f"c{next(self.numbers)}"
        folder.mkdir()
        return folder

    def cp(self):
        folder = self._folder(self.mount / "requests")
        taken = timed(["cp", *self.files, folder])
        same(self.files, folder)
        return taken

    def _copy(self, folder, key, *options):
        lines = output([TOOLS / "copy", *options, folder, *self.files]).split()
        self.closes[key] += [int(line) / 1e9 for line in lines[1:]]
        same(self.files, folder)
        return int(lines[0]) / 1e9

    def measured(self):
        """Through the mount by the tool that measures each close(2)."""
        return self._copy(self._folder(self.mount / "requests"), "ours")

    def synced(self):
        """Onto the disk, with an fsync(2) of each."""
        return self._copy(self._folder(self.plain), "ext4", "--fsync")


@contextlib.contextmanager
def below(folder):
    """What is made meanwhile (a mount's state) is made there."""
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def copy_rounds(bench, hub, files, ours_in, plain, **actions):
    """Both sides in rounds: times by action, and the copies. The mount's state is in the folder ours_in."""
    with below(ours_in):
        ours = peers.Ours(hub, "--settle", str(LONG))
    bench.keep(ours.mount)
    ours.start()
    c = Copies(files, ours.mount, plain)
    t = rounds(bench.runs, {name: lambda action=action: action(c) for name, action in actions.items()})
    ours.mount.close()  # they were never to be sent
    return t, c


def copying(bench, hub, files):
    """Each side on an ext4 of its own, and once more on the disk as it is."""
    what = f"`cp` of {len(files):,} prompt files into /requests / onto ext4 with fsync of each"
    size = 64 * MIB + len(files) * 200_000
    disks = [bench.keep(Ext4(bench.tmp / name, size, 16 * len(files) + 4096))
             for name in ("disk-ours", "disk-plain")]
    how = "" if all(disk.in_image for disk in disks) else ", on the disk as it is: an image needs root"
    t, c = copy_rounds(bench, hub, files, *(disk.path for disk in disks), cp=Copies.cp,
                       ours=Copies.measured, ext4=Copies.synced)
    for disk in disks:
        disk.close()
    bench.report.ratio(what, t["cp"], t["ext4"], 2.0, ("imagehubfs", "ext4"), how)
    p99 = percentile(c.closes["ours"], 0.99)
    bench.report.figure(
        "close(2) of a prompt, p99", f"p50 {seconds(median(c.closes['ours']))}, p99 {seconds(p99)}; "
        f"fsync and close on ext4: p50 {seconds(median(c.closes['ext4']))}, "
        f"p99 {seconds(percentile(c.closes['ext4'], 0.99))}", p99, seconds, at_most=0.005)
    t, _ = copy_rounds(bench, hub, files, bench.tmp, bench.tmp / "copies", cp=Copies.cp,
                       ext4=Copies.synced)
    bench.report.ratio(f"{what}, both on the disk as it is", t["cp"], t["ext4"], None,
                       ("imagehubfs", "ext4"))


def sending(bench, hub, files):
    """cp while what it has copied is sent already."""
    ours = peers.Ours(hub, "--settle", "500")
    bench.keep(ours.mount)
    ours.start()
    c = Copies(files, ours.mount, bench.tmp / "copies")
    had = hub.generations()
    begin = time.monotonic()
    taken = c.cp()
    harness.until("all POSTs", lambda: hub.generations() - had == len(files) or time.sleep(0.2), 600)
    whole = time.monotonic() - begin
    bench.report.fact(f"`cp` of {len(files):,} prompt files while they are being sent (settle 500 ms)",
                      f"{seconds(taken)}; all are at the hub {seconds(whole)} after cp began "
                      f"({len(files) / whole:.0f} a second)")
    ours.stop()


def reaching(bench, hub):
    """From close(2) to the POST's arrival, with no settle time and a hub that is idle."""
    ours = peers.Ours(hub, "--settle", "0")
    bench.keep(ours.mount)
    taken = []
    with behind_proxy(hub, bench.tmp) as proxy:
        ours.start()
        harness.until("the models", lambda: proxy.seen("GET", "/api/v1/models"))
        for k in range(20 if bench.quick else 200):
            with open(ours.mount / "requests" / f"r{k}.prompt", "w") as f:
                f.write(f"the way of prompt {k}")
            closed = time.monotonic_ns()
            harness.until("its POST", lambda: len(proxy.seen("POST", "/api/")) > k)
            taken.append((proxy.seen("POST", "/api/")[k] - closed) / 1e9)
        ours.stop()
    bench.report.figure("close(2) (settle 0) to the POST's arrival, p50",
                        f"p50 {seconds(median(taken))}, p99 {seconds(percentile(taken, 0.99))}",
                        median(taken), seconds, at_most=0.005)


def seeing(bench):
    """From the hub's success to the picture's name in its folder."""
    hub = bench.keep(harness.Hub("--sketch-delay", "300", "--workers", "8", credits=10**6))
    hub.start()
    ours = peers.Ours(hub, "--settle", "0")
    bench.keep(ours.mount)
    ours.start()
    count = 10 if bench.quick else 40
    folder = ours.mount / "requests"
    for k in range(count):
        (folder / f"s{k}.prompt").write_text(f"---\nsize: 1024x640\n---\nseen {k}")
    seen = {}
    end = time.monotonic() + 120
    while len(seen) < count:
        assert time.monotonic() < end, f"{count - len(seen)} pictures did not appear"
        now = time.time()
        for name in os.listdir(folder):
            if name.endswith(".png"):
                seen.setdefault(name, now)
        time.sleep(0.005)
    done = dict(line.split("|") for line in harness.run(
        "sqlite3", f"file:{hub.data}/hub.db?mode=ro",
        "SELECT id, finished FROM generation").stdout.split())
    taken = [at - int(done[os.getxattr(folder / name, "user.imagehub.id").decode()]) / 1000
             for name, at in seen.items()]
    bench.report.figure("the hub's success to the picture listed, p50 (first polling interval: 1 s)",
                        f"p50 {seconds(median(taken))}, most {seconds(max(taken))}", median(taken),
                        seconds, at_most=1.0)
    ours.stop()
    hub.stop()


def run(bench):
    bench.report.begin("Taking prompts")
    say("copying prompts")
    hub = bench.keep(harness.Hub("--hold", credits=10**8))
    hub.start()
    files = prompts(bench, 100 if bench.quick else 1000)
    copying(bench, hub, files)
    sending(bench, hub, files)
    say("from close to POST, from success to picture")
    reaching(bench, hub)
    hub.stop()
    seeing(bench)
