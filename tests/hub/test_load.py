"""imagehubd with many connections at once: what it has answered is durable, it ends cleanly, and
nobody holds a connection for ever."""
import concurrent.futures
import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import time

import pytest
from harness import LIMIT, query, until

ORDER = {"model": "gpt-image-2", "prompt": "a cat"}
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def request(method, path, key, body="", *headers):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", f"Authorization: Bearer {key}",
                        "Content-Type: application/json", f"Content-Length: {len(body)}", *headers,
                        "", body]).encode()


def connect(hub, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", hub.port), LIMIT, source_address=(source, 0))


def read_all(s):
    """What comes until the hub closes."""
    got = b""
    while True:
        try:
            piece = s.recv(65536)
        except ConnectionResetError:
            return got
        if not piece:
            return got
        got += piece


class Flood:
    """Connections on each of which many orders are under way at once."""

    def __init__(self, hub, connections=48, orders=100):
        self.hub = hub
        self.pool = concurrent.futures.ThreadPoolExecutor(connections)
        self.readers = []
        for c in range(connections):
            s = connect(hub)
            s.sendall(b"".join(request("POST", "/api/v1/images/generations", hub.key, json.dumps(
                {**ORDER, "prompt": f"{c} {k}", "async": True})) for k in range(orders)))
            self.readers.append(self.pool.submit(self.read, s))

    @staticmethod
    def read(s):
        with s:
            return read_all(s)

    def accepted(self):
        """The ids that were answered with 202, once every connection has ended."""
        answers = b"".join(r.result(LIMIT * 3) for r in self.readers)
        self.pool.shutdown()
        whole = re.findall(rb'HTTP/1\.1 (\d+).*?\r\n\r\n(?:[^\r]*?"id":"(gen_[a-z0-9]+)")?', answers, re.S)
        assert {status for status, _ in whole} <= {b"202"}, answers[:2000]
        return [id.decode() for _, id in whole if id]


def stored(hub):
    return set(query(hub.data / "hub.db", "SELECT id FROM generation"))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_end_under_load_loses_no_answered_order(make_hub, how):
    hub = make_hub("--hold", credits=10 ** 8)
    cut = 0
    for round in range(4):
        before = hub.generations()
        flood = Flood(hub)
        until("orders", lambda: hub.generations() > before + 200 * round)
        if how == signal.SIGTERM:
            hub.stop()  # asserts that it ends with status 0
        else:
            hub.kill()
        ids = flood.accepted()
        assert set(ids) <= stored(hub) and len(ids) == len(set(ids))
        cut += 0 < len(ids) < 48 * 100
        hub.start()
    print(f"{cut} of 4 ends came in the middle")
    assert cut > 0
    assert query(hub.data / "hub.db", "PRAGMA integrity_check") == ["ok"]


def is_traced(pid):
    """Whether strace has every thread of it."""
    try:
        return all("TracerPid:\t0\n" not in open(f"/proc/{pid}/task/{thread}/status").read()
                   for thread in os.listdir(f"/proc/{pid}/task"))
    except (FileNotFoundError, ProcessLookupError):
        return False  # one has just ended


def test_an_order_is_synced_before_it_is_answered(make_hub):
    hub = make_hub("--hold")
    trace = hub.dir / "trace"
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-y", "-s", "16", "-o", trace, "-e",
                               "trace=fdatasync,fsync,pwrite64,sendmsg,sendto,writev",
                               "-p", str(hub.process.pid)], stderr=subprocess.PIPE)
    try:
        until("tracing", lambda: is_traced(hub.process.pid))
        for k in range(10):
            assert hub.post({**ORDER, "prompt": str(k), "async": True})[0] == 202
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(LIMIT)
    answered, written, synced, finished = 0, False, False, {}
    for line in trace.read_text().splitlines():
        thread, call = line.split(None, 1)
        if "<unfinished" in call:
            finished[thread] = call
            continue
        if "resumed>" in call:
            call = finished.pop(thread, "") + call
        if "hub.db-wal" in call:
            written |= call.startswith("pwrite64")
            synced |= call.startswith(("fdatasync", "fsync")) and call.endswith("= 0") and written
        elif "HTTP/1.1 202" in call:
            assert synced, f"answer {answered} was sent before its order was synced"
            answered, written, synced = answered + 1, False, False
    print(f"{answered} answers")
    assert answered == 10


def test_the_longest_wait_of_a_call_without_async(make_hub):
    hub = make_hub("--hold", "--wait-max", "1")
    status, _, g = hub.post(ORDER)
    assert (status, g["status"]) == (202, "queued") and g["poll_url"].endswith(g["id"])
    assert hub.get(f"/api/v1/generations/{g['id']}")[0] == 200


def established(port, peer, state="01"):
    with open("/proc/net/tcp") as table:
        return any(f":{port:04X} " in line and f":{peer:04X} {state} " in line for line in table)


def test_who_leaves_while_it_waits_is_let_go(make_hub):
    hub = make_hub("--hold")
    body = json.dumps(ORDER)
    clients = [connect(hub) for _ in range(20)]
    for s in clients:
        s.sendall(request("POST", "/api/v1/images/generations", hub.key, body))
    until("the orders", lambda: hub.generations() == 20)
    stays, leaves = clients[0], clients[1:]
    ports = [s.getsockname()[1] for s in leaves]
    for s in leaves:
        s.close()
    close_wait = "08"
    until("the leaving", lambda: not any(established(hub.port, p, close_wait) or established(hub.port, p)
                                         for p in ports))
    assert established(hub.port, stays.getsockname()[1])
    hub.stop()  # who has stayed is told where to look
    assert read_all(stays).startswith(b"HTTP/1.1 202")
    assert hub.generations() == 20


def test_who_does_not_read_or_write_loses_the_connection(hub):
    _, _, g = hub.post({**ORDER, "size": "2048x2048"})
    path = g["images"][0]["url"].partition(hub.url)[2]
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect(("127.0.0.1", hub.port))
    reader.sendall(request("GET", path, hub.key) * 200)
    writer = connect(hub)
    writer.send(b"GET /api/v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ")
    writer.settimeout(0.5)
    begun = time.monotonic()
    ended = {}
    assert established(hub.port, reader.getsockname()[1])

    def look():
        now = time.monotonic() - begun
        if "writer" not in ended:
            try:
                writer.send(b"x")
                if writer.recv(100) == b"":
                    ended["writer"] = now
            except socket.timeout:
                pass
            except OSError:
                ended["writer"] = now
        # The hub's side of the one that reads nothing.
        if "reader" not in ended and not established(hub.port, reader.getsockname()[1]):
            ended["reader"] = now
        return len(ended) == 2

    until("the ends", look, limit=120)
    print(ended)
    assert ended["writer"] > 15 and ended["reader"] > 15
    assert hub.get("/api/v1/credits")[0] == 200


def closed(sockets):
    by_number = {s.fileno(): s for s in sockets}
    watch = select.poll()
    for number in by_number:
        watch.register(number, select.POLLIN)
    return [by_number[number] for number, _ in watch.poll(0)]


def test_connections_beyond_the_limit(hub):
    kept = connect(hub)
    kept.sendall(request("GET", "/api/health", hub.key))
    assert kept.recv(4096).startswith(b"HTTP/1.1 200")
    # From one address 1,024 are possible: what is beyond is closed at once.
    many = [connect(hub) for _ in range(1100)]
    until("the refusals", lambda: len(closed(many)) == 1101 - 1024)
    for s in closed(many):
        many.remove(s)
        s.close()
    kept.sendall(request("GET", "/api/health", hub.key))
    assert kept.recv(4096).startswith(b"HTTP/1.1 200")
    # In all 2,048: those beyond wait until one ends, and are served then.
    others = [connect(hub, "127.0.0.2") for _ in range(1024)]
    late = connect(hub, "127.0.0.3")
    late.sendall(request("GET", "/api/health", hub.key))
    late.settimeout(0.3)
    with pytest.raises(socket.timeout):
        late.recv(4096)
    for s in many[:10] + others[:10]:
        s.close()
    late.settimeout(LIMIT)
    assert late.recv(4096).startswith(b"HTTP/1.1 200")
    for s in many + others + [kept, late]:
        s.close()


def test_references_go_with_an_order_that_is_not_taken(make_hub):
    hub = make_hub()
    picture = hub.dir / "picture.png"
    _, _, g = hub.post(ORDER)
    picture.write_bytes(hub.curl(g["images"][0]["url"], key=None)[2])
    hub.stop()
    hub.options = ["--hold"]
    hub.start()
    hub.cli("account", "add", "poor", "--credits", "3")
    form = ["-F", "model=gpt-image-2", "-F", "prompt=with a photo", "-F", "async=true",
            "-F", f"reference_image=@{picture}"]
    post = lambda *argv, **kwargs: hub.curl("/api/v1/images/generations", *form, *argv, **kwargs)[0]
    for _ in range(2):
        assert post("-H", "Idempotency-Key: abc") == 202
    assert post(key=hub.cli("key", "create", "poor").strip()) == 402
    (id,) = stored(hub) - {g["id"]}
    until("the removal", lambda: os.listdir(hub.data / "refs") == [id])
    assert os.listdir(hub.data / "tmp") == []
    # What a kill between the move and the commit leaves goes at the next start.
    hub.kill()
    os.rename(hub.data / "refs" / id, hub.data / "refs" / "gen_neverwritten")
    os.mkdir(hub.data / "refs" / id)
    hub.start()
    assert os.listdir(hub.data / "refs") == [id]
