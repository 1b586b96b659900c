"""Reading pictures: warm, after a remount, cold, behind a slow network, while they download."""
import contextlib
import os
import shutil
import subprocess
import time

import peers
from report import median, spread
from tools import HANGS, TOOLS, Proxy, behind_proxy, harness, output, rounds, say, timed

EACH = 4  # pictures of a generation


class Pictures:
    """A hub with pictures made by prompts through a mount, and the hub's own files under the same
    names in a plain folder, which nginx serves."""

    def __init__(self, bench, count, size):
        self.size = size
        self.bench, self.dir = bench, bench.tmp
        self.hub = bench.keep(harness.Hub("--sketch-bytes", str(size), "--workers", "4",
                                          credits=10**8))
        self.hub.start()
        self.ours = peers.Ours(self.hub)
        bench.keep(self.ours.mount)
        self.ours.start()
        self.files = self.dir / "files"
        self.files.mkdir()
        self.ours.path.mkdir()
        for k in range(count // EACH):
            self.order(f"set/p{k:03}", EACH)
        self.names = [f"p{k:03}-{i + 1}.png" for k in range(count // EACH) for i in range(EACH)]
        self.urls = self.collect("set", self.names)
        self.sum = peers.sha256(self.files, self.names)
        self.some = self.names[:8 if bench.quick else 50]  # for what takes long
        os.sync()

    def order(self, name, n):
        self.ours.mount.write(f"{name}.prompt",
                              f"---\nsize: 1024x640\nn: {n}\n---\nthe picture {name}\n")

    def collect(self, below, names):
        """Waits for pictures; links the hub's files; (name, URL) of each."""
        folder = self.ours.mount / "requests" / below
        wanted = set(names)

        def listed():
            time.sleep(0.2)
            return wanted <= set(os.listdir(folder))

        harness.until(f"{len(names)} pictures", listed, 600)
        urls = []
        for name in names:
            url = os.getxattr(folder / name, "user.xdg.origin.url").decode()
            os.link(self.hub.data / "images" / url.rpartition("/")[2], self.files / name)
            assert os.stat(folder / name).st_size == os.stat(self.files / name).st_size
            urls.append((name, url))
        return urls

    def check(self, folder, names=None):
        """Whoever has read must have read the right bytes."""
        if names is None:
            assert peers.sha256(folder, self.names) == self.sum, f"wrong bytes in {folder}"
        else:
            assert peers.sha256(folder, names) == peers.sha256(self.files, names), \
                f"wrong bytes in {folder}"

    def cat(self, folder, names=None):
        return timed(["cat", *(names or self.names)], cwd=folder)


def warm(p, passthrough):
    report, n = p.bench.report, len(p.names)
    p.ours.fresh()
    passthrough.remount()
    p.check(p.ours.path)
    p.check(passthrough.path)
    t = rounds(p.bench.runs, {"ours": lambda: p.cat(p.ours.path),
                              "passthrough": lambda: p.cat(passthrough.path),
                              "ext4": lambda: p.cat(p.files)})
    report.ratio(f"warm `cat` of {n} pictures / passthrough_ll", t["ours"], t["passthrough"], 1.0,
                 ("imagehubfs", "passthrough_ll"))
    report.ratio(f"warm `cat` of {n} pictures / ext4", t["ours"], t["ext4"], 2.0,
                 ("imagehubfs", "ext4"))
    p.bench.plot["reads"] += [("ext4, in the page cache", median(t["ext4"])),
                              ("passthrough_ll, warm", median(t["passthrough"])),
                              ("imagehubfs, warm", median(t["ours"]))]
    return t


def remounted(p, passthrough):
    """The first read after a mount, from the disk cache, whose files are in the page cache."""
    def ours():
        p.ours.remount()
        return p.cat(p.ours.path)

    def theirs():
        passthrough.remount()
        return p.cat(passthrough.path)

    t = rounds(p.bench.runs, {"ours": ours, "passthrough": theirs})
    p.check(p.ours.path)
    p.bench.report.ratio(
        f"first `cat` of {len(p.names)} pictures after a remount, from the disk cache / "
        "passthrough_ll's first", t["ours"], t["passthrough"], 1.1, ("imagehubfs", "passthrough_ll"))
    p.bench.plot["reads"] += [("passthrough_ll, first", median(t["passthrough"])),
                              ("imagehubfs, remounted", median(t["ours"]))]


# What a cold read leaves on the disk is removed at once, so that the next one does not meet its being
# written back.

def fetch(p, urls, checked=False):
    """curl, one connection, to disk."""
    into = p.dir / "fetched"
    into.mkdir()
    config = peers.curl_config(p.dir / "curl.conf", urls, into)
    taken = timed(["curl", "-sS", "--fail", "--config", config])
    assert len(os.listdir(into)) == len(urls)
    if checked:
        p.check(into, [name for name, _ in urls])
    shutil.rmtree(into)
    return taken


def cold_of(p, peer, names):
    def run():
        peer.fresh()
        taken = p.cat(peer.path, names)
        peer.clear()
        return taken
    return run


def check_cold(p, them, urls, names=None):
    """Once more, looking at the bytes."""
    fetch(p, urls, checked=True)
    for peer in them:
        peer.fresh()
        p.check(peer.path, names)


def cold(p, nginx, rclone, httpdirfs):
    report, n = p.bench.report, len(p.names)
    from_nginx = [(name, f"{nginx.url}/{name}") for name in p.names]
    actions = {"ours": cold_of(p, p.ours, p.names),
               "curl": lambda: fetch(p, p.urls),
               "curl, nginx": lambda: fetch(p, from_nginx),
               "rclone": cold_of(p, rclone, p.names)}
    t = rounds(p.bench.runs, actions)
    check_cold(p, (p.ours, rclone), p.urls)
    what = f"cold `cat` of {n} pictures"
    report.ratio(f"{what} / curl, the same URLs, one connection, to disk", t["ours"], t["curl"], 2.0,
                 ("imagehubfs", "curl from imagehubd"))
    report.ratio(f"{what} / curl from nginx", t["ours"], t["curl, nginx"], 2.0,
                 ("imagehubfs", "curl from nginx"))
    report.ratio(f"{what} / rclone", t["ours"], t["rclone"], 0.5, ("imagehubfs", "rclone"))
    p.bench.plot["reads"] += [("curl to disk", median(t["curl"])),
                              ("imagehubfs, cold", median(t["ours"])),
                              ("rclone, cold", median(t["rclone"]))]
    if httpdirfs:
        t = rounds(p.bench.runs, {"ours": cold_of(p, p.ours, p.some),
                                  "httpdirfs": cold_of(p, httpdirfs, p.some)})
        check_cold(p, (p.ours, httpdirfs), from_nginx, p.some)
        report.ratio(f"cold `cat` of {len(p.some)} pictures / httpdirfs", t["ours"], t["httpdirfs"],
                     0.5, ("imagehubfs", "httpdirfs"))


def peers_warm(p, rclone, httpdirfs):
    """Where the others stand when everything has been read once."""
    p.ours.fresh()
    p.cat(p.ours.path)
    for peer, names in [(rclone, p.names)] + ([(httpdirfs, p.some)] if httpdirfs else []):
        p.cat(peer.path, names)
        t = rounds(p.bench.runs, {"ours": lambda: p.cat(p.ours.path, names),
                                  "theirs": lambda: p.cat(peer.path, names)})
        p.bench.report.ratio(f"warm `cat` of {len(names)} pictures / {peer.name}", t["ours"],
                             t["theirs"], names=("imagehubfs", peer.name))


def latency(p, nginx, delay_ms=50):
    """Each answer of either server comes so much later."""
    names, count = p.some, len(p.some)
    p.ours.stop()
    with contextlib.ExitStack() as stack:
        stack.enter_context(behind_proxy(p.hub, p.dir, delay_ms=delay_ms))
        far = Proxy(p.dir, nginx.port, delay_ms=delay_ms)
        stack.callback(far.stop)
        directory = p.dir / "far"
        directory.mkdir()
        rclone, httpdirfs = peers.rclone(directory, far.url), peers.httpdirfs(directory, far.url)
        actions = {"ours": cold_of(p, p.ours, names), "rclone": cold_of(p, rclone, names)}
        stack.callback(rclone.stop)
        if httpdirfs:
            actions["httpdirfs"] = cold_of(p, httpdirfs, names)
            stack.callback(httpdirfs.stop)
        actions["curl"] = lambda: fetch(p, p.urls[:count])
        t = rounds(p.bench.runs, actions)
        check_cold(p, filter(None, (p.ours, rclone, httpdirfs)), p.urls[:count], names)
        p.ours.stop()
    what = f"cold `cat` of {count} pictures, {delay_ms} ms before each answer"
    p.bench.report.ratio(f"{what} / rclone", t["ours"], t["rclone"], 0.25, ("imagehubfs", "rclone"))
    for name in list(actions)[2:]:
        p.bench.report.ratio(f"{what} / {name}", t["ours"], t[name], names=("imagehubfs", name))


# ---- one large picture ----

class Large:
    """A hub with one picture of many bytes."""

    def __init__(self, bench, size):
        self.bench, self.size = bench, size
        self.hub = bench.keep(harness.Hub("--sketch-bytes", str(size), credits=10**6))
        self.hub.start()
        self.ours = peers.Ours(self.hub)
        bench.keep(self.ours.mount)
        self.ours.start()
        self.ours.mount.write("large.prompt", "---\nsize: 1024x640\n---\na large picture\n")
        self.ours.mount.wait("large.prompt", limit=120)
        self.path = self.ours.mount / "requests" / "large.png"
        self.url = os.getxattr(self.path, "user.xdg.origin.url").decode()
        self.file = self.hub.data / "images" / self.url.rpartition("/")[2]

    def read(self):
        """(seconds to the first byte, to the last) through a fresh mount with an empty cache."""
        self.ours.fresh()
        return self.readers(1)[0]

    def readers(self, count):
        """The same for so many processes at once."""
        running = [subprocess.Popen([TOOLS / "first", self.path], stdout=subprocess.PIPE, text=True)
                   for _ in range(count)]
        results = []
        for process in running:
            out, _ = process.communicate(timeout=HANGS)
            assert process.returncode == 0, "reading the large picture failed"
            first, last, total = map(int, out.split())
            assert total == self.size, f"{total} bytes instead of {self.size}"
            results.append((first / 1e9, last / 1e9))
        return results

    def curl(self):
        out = output(["curl", "-sS", "--fail", "-o", self.bench.tmp / "large", "-w",
                      "%{time_starttransfer} %{time_total} %{size_download}", self.url])
        first, last, total = map(float, out.split())
        assert total == self.size
        return first, last


def first_byte(large, what, at_most):
    samples = rounds(large.bench.runs, {"ours": large.read, "curl": large.curl})
    firsts = {name: [first for first, _ in pairs] for name, pairs in samples.items()}
    lasts = [last for _, last in samples["ours"]]
    subprocess.run(["cmp", large.path, large.file], check=True)
    large.bench.report.ratio(f"first byte of a {large.size / 1e6:.0f} MB picture{what} / curl's",
                             firsts["ours"], firsts["curl"], at_most, ("imagehubfs", "curl"),
                             f"; all of it {spread(lasts)}")


def many_readers(large, count, rate):
    """Over a line of so many bytes a second, which is what one reader is bounded by."""
    alone, together, gets = [], [], []
    large.ours.stop()
    with behind_proxy(large.hub, large.bench.tmp, rate=rate) as proxy:
        large.ours.start()
        for _ in range(large.bench.runs):
            alone.append(large.read()[1])
            large.ours.fresh()
            before = len(proxy.seen("GET", "/images/"))
            together.append(max(last for _, last in large.readers(count)))
            gets.append(len(proxy.seen("GET", "/images/")) - before)
        large.ours.stop()
    large.ours.start()
    large.bench.report.fact(f"{count} readers of one cold picture: downloads",
                            " or ".join(map(str, sorted(set(gets)))),
                            set(gets) == {1}, "1")
    large.bench.report.ratio(f"the last of {count} readers / one reader alone "
                             f"(a line of {rate / 1e6:.0f} MB/s)", together, alone, 1.25,
                             (f"{count} readers", "one"))


def run(bench):
    bench.report.begin("Reading")
    count, size = (24, 1_500_000) if bench.quick else (500, 1_500_000)
    say(f"making {count} pictures of {size / 1e6:.1f} MB")
    p = Pictures(bench, count, size)
    nginx = peers.Nginx(bench.tmp / "nginx", p.files)
    bench.callback(nginx.stop)
    passthrough = peers.passthrough(bench.tmp, p.files)
    rclone = peers.rclone(bench.tmp, nginx.url)
    httpdirfs = peers.httpdirfs(bench.tmp, nginx.url)
    for peer in filter(None, (passthrough, rclone, httpdirfs)):
        bench.callback(peer.stop)
    say("warm reads")
    warm(p, passthrough)
    say("first reads after a remount")
    remounted(p, passthrough)
    say("cold reads")
    cold(p, nginx, rclone, httpdirfs)
    peers_warm(p, rclone, httpdirfs)
    for peer in filter(None, (passthrough, rclone, httpdirfs)):
        peer.stop()
    say("cold reads over a slow network")
    latency(p, nginx)
    p.hub.stop()
    nginx.stop()
    say("one large picture")
    large = Large(bench, 10_000_000 if bench.quick else 50_000_000)
    first_byte(large, "", 1.5)
    large.ours.stop()
    with behind_proxy(large.hub, bench.tmp, delay_ms=50, rate=100_000_000):
        large.ours.start()
        first_byte(large, ", over a line of 100 MB/s and 50 ms", None)
        large.ours.stop()
    large.ours.start()
    many_readers(large, 16, 50_000_000)
    large.ours.stop()
    large.hub.stop()
