"""Pictures: one download for all readers, read-ahead, the disk cache."""
import contextlib
import errno
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest
from faulthub import FaultHub, http
from harness import LIMIT, run, sh, until
from test_faults import PNG

GENERATIONS = r"/api/v1/images/generations"


class Gallery:
    """A scripted hub with a mount: the k-th prompt becomes a generation of `each` pictures. Counts
    the whole downloads of each picture (a probe of its size is no download)."""

    def __init__(self, make_mount, *options, each=1, id_of="gen_{:08}".format, delay=0):
        self.hub = FaultHub()
        self.each, self.id_of, self.delay = each, id_of, delay
        self.made, self.downloads, self.answers = 0, [], {}
        self.under_way = self.most = 0  # downloads at once
        self.lock = threading.Lock()
        self.hub.routes.update({("POST", GENERATIONS): self.generation,
                                ("GET", r"/picture/.*"): self.picture})
        self.mount = make_mount(None, *options, url=self.hub.url)

    def generation(self, _):
        with self.lock:
            k, self.made = self.made, self.made + 1
        images = [{"url": f"{self.hub.url}/picture/{k}-{n}"} for n in range(1, self.each + 1)]
        return http(200, {"id": self.id_of(k), "status": "succeeded", "usage": {"credits": 8 * self.each},
                          "images": images})

    def picture(self, request):
        if "range" in request[2]:
            return http(206, PNG, [f"Content-Range: bytes 0-{len(PNG) - 1}/{len(PNG)}"])
        name = request[1].rpartition("/")[2]
        with self.lock:
            self.downloads.append(name)
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        if self.delay:
            time.sleep(self.delay)  # the latency of a network
        with self.lock:
            self.under_way -= 1
        return self.answers.pop(name, http(200, PNG))

    def fill(self, count):
        text = f"---\nn: {self.each}\n---\n" if self.each > 1 else ""
        for k in range(count):
            self.mount.write(f"p{k:02}.prompt", f"{text}picture {k}")
            self.mount.wait(f"p{k:02}")
        return self

    def read(self, name):
        assert (self.mount / name).read_bytes() == PNG

    def until_downloaded(self, *names):
        until(f"the download of {names}", lambda: set(names) <= set(self.downloads))


def test_what_follows_in_a_folder_is_on_its_way(make_mount):
    g = Gallery(make_mount).fill(20)
    g.read("requests/p00.png")
    g.read("requests/p01.png")
    g.until_downloaded("2-1", "3-1", "4-1")
    assert len(g.downloads) <= 2 + 8
    for k in range(2, 20):
        g.read(f"requests/p{k:02}.png")
        assert len(g.downloads) <= k + 1 + 8
    assert sorted(g.downloads) == sorted(f"{k}-1" for k in range(20))  # each once


def test_what_follows_by_id_and_inside_of_a_generation(make_mount):
    g = Gallery(make_mount, each=3, id_of=lambda k: f"gen_{99999999 - k}").fill(6)
    ids = sorted(os.listdir(g.mount / "generations"))  # against the order of age
    g.read(f"generations/{ids[0]}/1.png")
    g.until_downloaded("5-1", "5-2", "5-3")
    assert set(g.downloads) == {"5-1", "5-2", "5-3"}
    for name in (f"{ids[0]}/2.png", f"{ids[0]}/3.png", f"{ids[1]}/1.png"):
        g.read(f"generations/{name}")
    g.until_downloaded("4-1", "4-2", "4-3", "3-1", "3-2")


def test_read_ahead_can_be_turned_off(make_mount):
    g = Gallery(make_mount, "--read-ahead", "0", each=2).fill(4)
    for name in ("p00-1", "p01-1", "p02-1", "p03-2"):
        g.read(f"requests/{name}.png")
    assert g.downloads == ["0-1", "1-1", "2-1", "3-2"]


def test_a_failure_ahead_is_no_news_and_the_reader_tries_again(make_mount):
    g = Gallery(make_mount).fill(6)
    g.answers = {"2-1": http(500), "3-1": http(200, PNG[:-7], [f"Content-Length: {len(PNG)}"])}
    g.read("requests/p00.png")
    g.read("requests/p01.png")
    until("the two failures", lambda: not g.answers)
    for k in range(2, 6):
        g.read(f"requests/p{k:02}.png")
    logs = "".join((g.mount / f"generations/{i}/log").read_text() for i in os.listdir(g.mount / "generations"))
    assert "not downloaded" not in logs
    assert g.downloads.count("2-1") == g.downloads.count("3-1") == 2


def test_read_ahead_hides_the_latency_of_the_network(make_mount):
    seconds, at_once = {}, {}
    for ahead in ("0", "8"):
        g = Gallery(make_mount, "--read-ahead", ahead, delay=0.1).fill(20)
        start = time.monotonic()
        for k in range(20):
            g.read(f"requests/p{k:02}.png")
        seconds[ahead], at_once[ahead] = time.monotonic() - start, g.most
    print(f"20 pictures at 100 ms: {seconds['0']:.2f} s one by one, {seconds['8']:.2f} s with up to "
          f"{at_once['8']} at once")
    # How long it takes is the machine's affair; that the waiting is shared is not.
    assert seconds["0"] >= 2 and at_once["0"] == 1 and 4 <= at_once["8"] <= 9


def test_sixteen_readers_one_download(make_mount):
    g = Gallery(make_mount, delay=0.2).fill(1)
    readers = [subprocess.Popen(["cmp", g.mount / "requests/p00.png", "-"], stdin=subprocess.PIPE)
               for _ in range(16)]
    for reader in readers:
        reader.communicate(PNG, timeout=LIMIT)
    assert [r.returncode for r in readers] == [0] * 16
    assert g.downloads == ["0-1"]


def files_of(folder):
    """What is there now, with the bytes that it takes on disk; files come and go meanwhile."""
    found = {}
    for root, _, names in os.walk(folder):
        for path in (Path(root) / name for name in names):
            with contextlib.suppress(FileNotFoundError):
                found[path] = path.stat().st_blocks * 512
    return found


def test_eager_download_and_the_cache_across_mounts(hub, make_mount):
    mount = make_mount(hub, "--fetch=eager")
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    [path] = until("the download", lambda: cached(mount))
    want = (mount / "requests/cat.png").read_bytes()
    mount.stop()
    hub.stop()
    mount.start()
    assert (mount / "requests/cat.png").read_bytes() == want
    mount.stop()
    ok = run(*mount.argv()[:-2], "--verify-cache")
    assert "1 pictures are whole, 0 were damaged" in ok.stdout
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    bad = run(*mount.argv()[:-2], "--verify-cache", check=False)
    assert bad.returncode == 1 and "1 were damaged" in bad.stdout and not path.exists()
    hub.start()
    mount.start()
    assert (mount / "requests/cat.png").read_bytes() == want


def test_the_cache_has_a_limit_and_evicted_pictures_come_back(hub, make_mount):
    mount = make_mount(hub, "--cache-max=300K")
    for k in range(6):
        mount.write(f"p{k}.prompt", f"picture {k}")
    pictures = []
    for k in range(6):
        mount.wait(f"p{k}")
        pictures.append((mount / f"requests/p{k}.png").read_bytes())
    assert sum(map(len, pictures)) > 300 * 1024
    until("the eviction", lambda: sum(files_of(mount.cache).values()) <= 300 * 1024)
    with open(mount / "requests/p5.png", "rb") as reader:  # what is being read stays
        assert reader.read(10) == pictures[5][:10]
        for k in range(5):
            assert (mount / f"requests/p{k}.png").read_bytes() == pictures[k]
        assert reader.read() == pictures[5][10:]
    mount.stop()
    mount.start()
    assert [(mount / f"requests/p{k}.png").read_bytes() for k in range(6)] == pictures


def cached(mount):
    return [p for p in files_of(mount.cache) if p.parent.name != "tmp"]


def drop_from_memory(path):
    """So that the next read comes to the file system."""
    with open(path, "rb") as f:
        os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_a_cut_cache_file_is_never_the_end_of_a_picture(hub, mount):
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    picture = mount / "requests/cat.png"
    want = picture.read_bytes()
    for size in (0, 1000, len(want) - 1):
        [path] = until("keeping", lambda: cached(mount))
        drop_from_memory(picture)
        os.truncate(path, size)
        assert picture.read_bytes() == want
    [path] = until("keeping", lambda: cached(mount))
    with open(picture, "rb", buffering=0) as reader:
        os.truncate(path, 1000)
        drop_from_memory(picture)
        with pytest.raises(OSError) as told:
            while reader.read(65536):
                pass
        assert told.value.errno == errno.EIO
    assert picture.read_bytes() == want and os.stat(picture).st_size == len(want)
    assert mount.log.read_text().count("was cut; it is fetched again") >= 4


def test_a_cache_that_is_cleared_away_under_the_mount(hub, mount):
    mount.write("first.prompt", "a cat")
    mount.wait("first")
    first = (mount / "requests/first.png").read_bytes()
    until("keeping", lambda: cached(mount))
    for k, gone in enumerate((f"{mount.cache}/*", mount.cache)):
        sh(f"rm -r {gone}")
        mount.write(f"cat{k}.prompt", f"another cat {k}")
        mount.wait(f"cat{k}")
        assert (mount / f"requests/cat{k}.png").read_bytes().startswith(b"\x89PNG")
        until("keeping", lambda: cached(mount))
        drop_from_memory(mount / "requests/first.png")
        assert (mount / "requests/first.png").read_bytes() == first
    assert oct(mount.cache.stat().st_mode)[-3:] == "700"


def test_a_picture_that_is_removed_while_it_is_open(hub, mount):
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    [id] = os.listdir(mount / "generations")
    path = mount / f"generations/{id}/1.png"
    with open(path, "rb") as reader:
        head = reader.read(100)
        path.unlink()
        assert head + reader.read() and not path.exists()
    with pytest.raises(FileNotFoundError):
        open(mount / "requests/cat.png", "rb")
