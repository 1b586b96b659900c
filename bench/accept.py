"""Taking prompts: how fast cp is, how long close(2) takes, how soon the hub hears of it, and how soon
a success is seen."""
import itertools
import os
import time

import peers
from report import median, percentile, seconds
from tools import TOOLS, behind_proxy, harness, output, rounds, say, timed

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
    """Copies of the same files into one new folder after another."""

    def __init__(self, bench, files, mount):
        self.files, self.mount = files, mount
        self.plain = bench.tmp / "copies"
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


def copying(bench, hub, files):
    n = len(files)
    ours = peers.Ours(hub, "--settle", str(LONG))
    bench.keep(ours.mount)
    ours.start()
    c = Copies(bench, files, ours.mount)
    t = rounds(bench.runs, {"cp": c.cp, "ours": c.measured, "ext4": c.synced})
    bench.report.ratio(f"`cp` of {n:,} prompt files into /requests / onto ext4 with fsync of each",
                       t["cp"], t["ext4"], 2.0, ("imagehubfs", "ext4"))
    p99 = percentile(c.closes["ours"], 0.99)
    bench.report.figure(
        "close(2) of a prompt, p99", f"p50 {seconds(median(c.closes['ours']))}, p99 {seconds(p99)}; "
        f"fsync and close on ext4: p50 {seconds(median(c.closes['ext4']))}, "
        f"p99 {seconds(percentile(c.closes['ext4'], 0.99))}", p99, seconds, at_most=0.005)
    ours.mount.kill()  # they were never to be sent

    sending = peers.Ours(hub, "--settle", "500")
    bench.keep(sending.mount)
    sending.start()
    c = Copies(bench, files, sending.mount)
    had = hub.generations()
    begin = time.monotonic()
    taken = c.cp()
    harness.until("all POSTs", lambda: hub.generations() - had == n or time.sleep(0.2), 600)
    whole = time.monotonic() - begin
    bench.report.fact(f"`cp` of {n:,} prompt files while they are being sent (settle 500 ms)",
                      f"{seconds(taken)}; all are at the hub {seconds(whole)} after cp began "
                      f"({n / whole:.0f} a second)")
    sending.stop()


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
    copying(bench, hub, prompts(bench, 100 if bench.quick else 1000))
    say("from close to POST, from success to picture")
    reaching(bench, hub)
    hub.stop()
    seeing(bench)
