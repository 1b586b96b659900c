"""Nothing on the mount ever hangs: with a hub that stalls in any way, whatever does not read what it
stalls answers as fast as without; readers can always be ended, and so can the mount."""
import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import time

import pytest
from faulthub import FaultHub, http
from harness import FS, LIMIT, run, sh, until

GENERATIONS = r"/api/v1/images/generations"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10" + b"p" * 2_000_000
UNKNOWN = "unknown_12345"


class StallingHub(FaultHub):
    """Takes every order and succeeds at once, with n pictures; their bytes stop half way but for those
    of a prompt that says `whole`. Of an id that it did not give it says nothing, for ever."""

    def __init__(self, n=1):
        self.n, self.orders = n, 0
        super().__init__({("POST", GENERATIONS): self._order, ("GET", r"/api/v1/generations/unknown.*"): "stall",
                          ("GET", r"/api/v1/generations/.*"): self._generation, ("GET", r"/.*png"): self._picture})

    def _order(self, request):
        with self.lock:
            self.orders += 1
            number = self.orders
        return self._success(f"{'whole' if b'whole' in request[3] else 'half'}_{number:06}")

    def _generation(self, request):
        return self._success(request[1].rpartition("/")[2])

    def _success(self, id):
        return http(200, {"id": id, "status": "succeeded", "usage": {"credits": 8}, "images": [
            {"id": f"{id}-{k}", "url": f"{self.url}/{id}/{k}.png"} for k in range(1, self.n + 1)]})

    def _picture(self, request):
        if "range" in request[2]:
            return http(206, PNG[:65536], headers=[f"Content-Range: bytes 0-65535/{len(PNG)}"])
        return http(200, PNG) if "whole" in request[1] else ("stall after", http(200, PNG)[:1_000_000])


@contextlib.contextmanager
def processes():
    """Processes that are ended whatever happens."""
    started = []

    def start(*argv, stdout=subprocess.DEVNULL):
        started.append(subprocess.Popen([str(a) for a in argv], stdout=stdout, stderr=subprocess.DEVNULL))
        return started[-1]

    try:
        yield start
    finally:
        for p in started:
            p.kill()
        for p in started:
            p.wait(LIMIT)


def look_around(mount, rounds=40):
    """Five looks a round at everything there is: seconds."""
    begun = time.monotonic()
    sh(f"for i in $(seq {rounds}); do stat . requests generations control >/dev/null; ls -lR . >/dev/null;"
       " find . -newermt 2000-01-01 >/dev/null; df . >/dev/null; getfattr -dR . >/dev/null 2>&1; done",
       cwd=mount.path, limit=120)
    return time.monotonic() - begun


def is_as_fast_as(before, mount, rounds=40):
    """A stall would show as seconds, each time."""
    took = look_around(mount, rounds)
    print(f"\n{5 * rounds} looks: {before:.2f} s before, {took:.2f} s while the hub stalls")
    assert took < 5 * before + 5, f"{took:.2f} s instead of {before:.2f} s"


LOADED = 4  # seconds that a machine with other work may take for itself; a stall takes longer


def ended_within_a_second(reader, number):
    begun = time.monotonic()
    reader.send_signal(number)
    reader.wait(LIMIT)
    took = time.monotonic() - begun
    assert took < 1 + LOADED, f"{took:.2f} s"


def ended_by_sigterm(mount):
    """SIGTERM ends the mount, whatever is blocked on it, in under 5 s."""
    begun = time.monotonic()
    mount.process.terminate()
    assert mount.process.wait(LIMIT) == 0, mount.log.read_text()
    took = time.monotonic() - begun
    mount.process = None
    assert took < 5 + LOADED, f"{took:.2f} s"
    assert not os.path.ismount(mount.path)


def unmounted(mount):
    begun = time.monotonic()
    mount.stop()
    took = time.monotonic() - begun
    assert took < 5 + LOADED, f"{took:.2f} s"


# ---- the hub stalls ----


def test_an_answer_that_never_comes(make_mount):
    hub = FaultHub({("POST", GENERATIONS): "stall"})
    mount = make_mount(url=hub.url)
    (mount / "requests/shoot").mkdir()
    for k in range(8):
        mount.write(f"shoot/p{k}.prompt", f"prompt {k}")
    until("the queue", lambda: len(mount.sql("SELECT id FROM request")) == 8)
    mount.control("pause\n")
    before = look_around(mount)
    mount.control("resume\n")
    until("the POSTs", lambda: hub.count("POST") >= 1)
    hub.routes = {(m, r"/.*"): "stall" for m in ("GET", "POST")}
    mount.control("refresh\n")
    until("the questions", lambda: hub.count("GET") >= 4)
    is_as_fast_as(before, mount)
    assert (mount / "credits").read_text() == "500\n"
    unmounted(mount)
    assert hub.fired >= 1
    hub.close()


def full_backlog():
    """A port that is listened on, and whose connections are never made."""
    server = socket.create_server(("127.0.0.1", 0), backlog=0)
    waiting = []
    for _ in range(8):
        s = socket.socket()
        s.setblocking(False)
        s.connect_ex(server.getsockname())
        waiting.append(s)
    return [server, *waiting], f"http://127.0.0.1:{server.getsockname()[1]}"


def mute_tls():
    """One that takes connections and says nothing: no TLS is ever spoken."""
    server = socket.create_server(("127.0.0.1", 0), backlog=100)
    return [server], f"https://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("stall", [full_backlog, mute_tls])
def test_a_connection_that_is_never_made(hub, make_mount, stall):
    ordinary = make_mount(hub)
    ordinary.write("a.prompt", "a")
    ordinary.wait("a")
    before = look_around(ordinary)
    ordinary.stop()
    sockets, url = stall()
    mount = make_mount(url=url)
    mount.write("a.prompt", "a")
    assert mount.status("a").startswith("queued")
    is_as_fast_as(before, mount)
    done = run("timeout", "3", "cat", mount / "requests/a.wait", check=False)
    assert done.returncode == 124 and "queued" in done.stdout
    unmounted(mount)
    for s in sockets:
        s.close()


NAMESPACE = """
mount --bind $1/resolv.conf /etc/resolv.conf
echo gih_live_test > $1/key; chmod 600 $1/key; mkdir $1/mnt
$2 --hub https://hub.example --key-file $1/key --state $1/state --cache $1/cache -f $1/mnt 2> $1/log & pid=$!
for i in $(seq 300); do grep -q 'mounted on' $1/log && break; sleep 0.1; done
echo a > $1/mnt/requests/a.prompt
for i in $(seq 300); do cat $1/mnt/requests/a.status 2> /dev/null && break; sleep 0.1; done
begun=$(date +%s%N); kill $pid; wait $pid; echo $? $((($(date +%s%N) - begun) / 1000000))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a name server of one's own takes a mount namespace")
def test_a_name_that_is_never_resolved(tmp_path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        address = f"127.{os.getpid() >> 16 & 255}.{os.getpid() >> 8 & 255}.{os.getpid() & 255 or 255}"
        mute.bind((address, 53))
        (tmp_path / "resolv.conf").write_text(f"nameserver {address}\n")
        done = run("unshare", "-m", "bash", "-c", NAMESPACE, "bash", tmp_path, FS, limit=2 * LIMIT)
        status, ended = done.stdout.splitlines()
        mute.settimeout(LIMIT)
        assert mute.recv(512), "it was not asked"
    assert status.startswith("queued") and ended.split()[0] == "0"
    assert int(ended.split()[1]) < 1000 * (5 + LOADED), f"ended after {ended} ms"


# ---- readers ----


def reads(pid, path):
    """Whether a process is in read(2) of a file that it has as descriptor 3."""
    with contextlib.suppress(OSError):
        call = open(f"/proc/{pid}/syscall").read().split()
        return call[:2] == ["0", "0x3"] and os.readlink(f"/proc/{pid}/fd/3") == str(path)
    return False


def blocked_on(start, what, mount, hub):
    """A process that is blocked there, and known to be."""
    if what == "picture":
        path = mount / "requests/half.png"
        reader = start("cat", path)
        until("the download", lambda: hub.stalled)
        until("the read", lambda: reads(reader.pid, path))
    elif what == "wait":
        reader = start("cat", mount / "requests/held.wait", stdout=subprocess.PIPE)
        assert reader.stdout.readline() == b"being written\n"
    else:
        asked = hub.count("GET", UNKNOWN)
        reader = start("stat", mount / f"generations/{UNKNOWN}{asked}")
        until("the question", lambda: hub.count("GET", UNKNOWN) > asked)
    assert reader.poll() is None
    return reader


@contextlib.contextmanager
def held_open(mount):
    """A prompt that a writer has open: following it takes as long."""
    fd = os.open(mount / "requests/held.prompt", os.O_CREAT | os.O_WRONLY)
    yield
    with contextlib.suppress(OSError):
        os.close(fd)


@pytest.fixture
def stalled(make_mount):
    """A mount with a picture that stops half way."""
    hub = StallingHub()
    mount = make_mount(url=hub.url)
    mount.write("half.prompt", "half")
    mount.wait("half")
    yield mount, hub
    hub.close()


@pytest.mark.parametrize("what", ["picture", "wait", "look-up"])
def test_blocked_readers_end_within_a_second(stalled, what):
    mount, hub = stalled
    with processes() as start, held_open(mount):
        for number in (signal.SIGINT, signal.SIGKILL, signal.SIGTERM):
            ended_within_a_second(blocked_on(start, what, mount, hub), number)


def test_the_end_of_the_mount_ends_its_readers(stalled):
    mount, hub = stalled
    for end in ("terminate", "kill"):
        with processes() as start, held_open(mount):
            readers = [blocked_on(start, what, mount, hub) for what in ("picture", "wait", "look-up")]
            if end == "terminate":
                ended_by_sigterm(mount)
            else:
                mount.process.kill()
                mount.process.wait(LIMIT)
            begun = time.monotonic()
            for reader in readers:
                assert reader.wait(LIMIT) != 0
            assert time.monotonic() - begun < 1 + LOADED
        with open(mount.log, "a") as log:
            log.write("<<<\n")
        mount.start()  # which takes away what the killed one left


def test_more_readers_than_anything_has_room_for(make_mount):
    """72 pictures stall, each with a reader: more than workers, and than the kernel lets a file system
    have of requests in the background, among which are read-ahead and every RELEASE."""
    hub = StallingHub(n=4)
    mount = make_mount(url=hub.url)
    mount.write("whole.prompt", "---\nn: 4\n---\nwhole")
    mount.wait("whole")
    assert (mount / "requests/whole-1.png").read_bytes() == PNG
    for k in range(18):
        mount.write(f"half{k}.prompt", f"---\nn: 4\n---\nhalf {k}")
    for k in range(18):
        mount.wait(f"half{k}")
    before = look_around(mount, rounds=8)
    with processes() as start:
        for k in range(18):
            for n in range(1, 5):
                start("cat", mount / f"requests/half{k}-{n}.png")
        until("the downloads", lambda: len(hub.stalled) >= 8)
        is_as_fast_as(before, mount, rounds=8)
        # A picture that is here is read, from the daemon and not from the kernel's memory.
        with open(mount / "requests/whole-1.png", "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        done = run("sha256sum", mount / "requests/whole-1.png")
        assert done.stdout.split()[0] == hashlib.sha256(PNG).hexdigest()
        # And a prompt is written, sent and paid for.
        mount.write("more.prompt", "---\nn: 4\n---\nwhole")
        assert mount.wait("more")[-1].startswith("succeeded: 4 pictures")
        ended_by_sigterm(mount)
    hub.close()


def test_a_look_up_that_waits_holds_nobody_else_up(make_mount):
    """The kernel lets nobody make or remove a folder in /generations meanwhile, and then nobody look:
    so the helper does not announce there while a look-up waits."""
    hub = StallingHub()
    mount = make_mount(url=hub.url)
    mount.write("first.prompt", "whole")
    mount.wait("first")
    before = look_around(mount)
    with processes() as start:
        # One after another, as each gives up after a while.
        lookups = [start("bash", "-c", f"for i in $(seq 1000); do stat {mount.path}/generations/{UNKNOWN}{k}$i; done")
                   for k in range(3)]
        until("the questions", lambda: hub.count("GET", UNKNOWN) >= 3)
        mount.write("second.prompt", "whole, too")
        assert mount.wait("second")[-1].startswith("succeeded")
        is_as_fast_as(before, mount)
        # By its age, as it is not announced.
        until("the second's folder", lambda: len(os.listdir(mount / "generations")) == 2)
        assert [p.poll() for p in lookups] == [None] * 3 and hub.count("GET", UNKNOWN) < 1000
    hub.close()


# ---- the end ----


@contextlib.contextmanager
def copied(mount):
    """A mount namespace of its own, in which the mount is as well."""
    with processes() as start:
        other = start("unshare", "-m", "sleep", "1000")
        ours = os.readlink("/proc/self/ns/mnt")
        until("the copy", lambda: os.readlink(f"/proc/{other.pid}/ns/mnt") != ours
              and f" {mount.path} " in open(f"/proc/{other.pid}/mountinfo").read())
        yield


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount namespace takes root")
def test_it_ends_with_its_mount_though_another_namespace_keeps_a_copy(hub, make_mount):
    mount = make_mount(hub)
    mount.write("a.prompt", "a")
    mount.wait("a")
    with copied(mount):
        unmounted(mount)
    mount.start()
    with copied(mount):
        # What is open outlives a lazy unmount.
        with open(mount / "requests/b.prompt", "wb", 0) as f:
            f.write(b"b")
            run("fusermount3", "-uz", mount.path)
            for _ in range(20):
                f.write(b" and more")
                os.fsync(f.fileno())
            assert mount.process.poll() is None
        assert mount.process.wait(LIMIT) == 0, mount.log.read_text()
    with open(mount.log, "a") as log:
        log.write("<<<\n")
    mount.start()
    assert mount.wait("b")[-1].startswith("succeeded") and len(hub.charges()) == 2


# ---- the helper ----


def test_a_killed_or_stopped_helper_hides_nothing(hub, mount):
    helper = mount.helper()
    for k, number in enumerate((signal.SIGSTOP, signal.SIGKILL)):
        os.kill(helper, number)
        mount.write(f"cat{k}.prompt", f"a cat {k}")
        assert mount.wait(f"cat{k}")[-1].startswith("succeeded")
        assert (mount / f"requests/cat{k}.png").read_bytes()[:4] == b"\x89PNG"
    assert len(os.listdir(mount / "generations")) == 2
