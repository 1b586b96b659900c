"""Hubs that misbehave: a scripted one, and a proxy in front of a real one.

Both count what they received and what faults they really fired, as a fault test that fires none
proves nothing.
"""
import contextlib
import json
import re
import socket
import struct
import threading
import time
from http import client as http_client

from harness import until


def http(status, body=b"", headers=(), reason="X", length=True):
    if isinstance(body, (dict, list)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    lines = [f"HTTP/1.1 {status} {reason}", *headers]
    if length and not any(h.lower().startswith("content-length") for h in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


MODELS = http(200, {"data": [{"id": "gpt-image-2", "credits_per_image": {"1K": 8, "2K": 10, "4K": 12},
                              "reference_image_limit": 16}]})
CREDITS = http(200, {"credits": 500, "account_type": "PRO", "next_expiration": None})


class FaultHub:
    """Answers by a table: (method, path pattern) to bytes, None (close in silence), "stall",
    ("stall after", bytes), or a function of the request that gives one of these."""

    def __init__(self, routes=None):
        self.routes = {("GET", r"/api/v1/models"): MODELS, ("GET", r"/api/v1/credits"): CREDITS}
        self.routes.update(routes or {})
        self.requests = []  # (method, path, headers, body)
        self.fired = 0
        self.warm_posts = 0  # on a connection that had carried something before
        self.lock = threading.Lock()
        self.server = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.port = self.server.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.stalled = []
        threading.Thread(target=self._accept, daemon=True).start()

    def count(self, method, path=""):
        with self.lock:
            return sum(1 for m, p, _, _ in self.requests if m == method and path in p)

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)  # close() alone leaves a blocked accept() listening
        self.server.close()
        for s in self.stalled:
            s.close()

    def _accept(self):
        while True:
            try:
                s, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _read(self, s, data):
        while b"\r\n\r\n" not in data:
            piece = s.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        want = int(length.group(1)) if length else 0
        while len(body) < want:
            piece = s.recv(65536)
            if not piece:
                return None
            body += piece
        lines = head.decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        headers = {k.lower(): v for k, v in (l.split(": ", 1) for l in lines[1:] if ": " in l)}
        return (method, path, headers, body[:want]), body[want:]

    def _serve(self, s):
        data, carried = b"", 0
        try:
            while True:
                got = self._read(s, data)
                if got is None:
                    return
                request, data = got
                with self.lock:
                    self.requests.append(request)
                    self.warm_posts += request[0] == "POST" and carried > 0
                carried += 1
                answer = self._answer(request)
                if answer == "stall" or answer and answer[0] == "stall after":
                    self.stalled.append(s)
                    if answer != "stall":
                        s.sendall(answer[1])
                    return
                if answer is None:
                    s.close()
                    return
                s.sendall(answer)
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", answer)
                body = answer.partition(b"\r\n\r\n")[2]
                whole = length and len(body) >= int(length.group(1))
                if not whole and not answer.endswith(b"0\r\n\r\n"):
                    s.close()
                    return
        except OSError:
            pass

    def _answer(self, request):
        for (method, pattern), answer in self.routes.items():
            if method == request[0] and re.fullmatch(pattern, request[1]):
                answer = answer(request) if callable(answer) else answer
                if (method, pattern) not in (("GET", r"/api/v1/models"), ("GET", r"/api/v1/credits")):
                    with self.lock:
                        self.fired += 1
                return answer
        return http(404, {"error": {"message": "no", "code": "notFound"}})


class BareHub(FaultHub):
    """A real hub, but for its one extension: it neither announces idempotency nor is it told a key
    (bare=False passes both on). delay: seconds that the answer to a POST is held back."""

    def __init__(self, hub, delay=0, bare=True):
        self.hub, self.delay = hub, delay
        self.go, self.held = threading.Event(), 0  # POSTs whose answers wait for go
        self.go.set()
        self.dropped = ("idempotency", "idempotent-replayed", "idempotency-key") if bare else ()
        super().__init__()

    @contextlib.contextmanager
    def holding(self):
        """The real hub has taken an order, and its answer waits for the end of this."""
        self.go.clear()
        try:
            until("an order", lambda: self.held)
            yield
        finally:
            self.go.set()

    def _wait(self):
        if not self.go.is_set():
            with self.lock:
                self.held += 1
            self.go.wait()
            with self.lock:
                self.held -= 1

    def _answer(self, request):
        method, path, headers, body = request
        headers = {k: v for k, v in headers.items() if k not in ("connection", *self.dropped)}
        up = http_client.HTTPConnection("127.0.0.1", self.hub.port, timeout=60)
        try:
            up.request(method, path, body, headers)
            answer = up.getresponse()
            body = answer.read()
        except (OSError, http_client.HTTPException):
            return None
        finally:
            up.close()
        if method == "POST":
            time.sleep(self.delay)
            self._wait()
        dropped = ("transfer-encoding", "content-length", "connection", *self.dropped)
        kept = [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in dropped]
        return http(answer.status, body, headers=kept)


def read_http(s, data=b""):
    """One message, whole: (its bytes, what came after it), or None when the connection ended before."""
    while b"\r\n\r\n" not in data:
        piece = s.recv(65536)
        if not piece:
            return None
        data += piece
    head = data.index(b"\r\n\r\n") + 4
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", data[:head])
    end = head + (int(length.group(1)) if length else 0)
    while len(data) < end:
        piece = s.recv(65536)
        if not piece:
            return None
        data += piece
    return data[:end], data[end:]


class PostProxy:
    """In front of a hub: passes everything on, but for the first POST of each prompt in `faults`:
    prompt → (direction, offset, what). direction "up" is the request, of which the hub gets so many
    bytes, "down" the answer; what is "cut", "corrupt" (that byte is changed), or "stall" (it stays so
    until release()).

    hide: the hub's announcement of idempotency and the keys are taken out, so that it is a hub that
    knows none."""

    def __init__(self, port, hide=False, port_here=0):
        self.port, self.hide = port, hide
        self.faults = {}
        self.posts = {}    # prompt → how many
        self.fired = {}    # (direction, what) → how many
        self.stalled = {}  # prompt → sockets
        self.lengths = (0, 0)
        self.leave = False  # nobody listens any more once a fault was fired
        self.reset = False  # POSTs are reset before a byte of them is read, and counted
        self.resets = 0
        self.lock = threading.Lock()
        self.server = socket.create_server(("127.0.0.1", port_here), backlog=500)
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)
        self.server.close()

    def release(self, prompt):
        with self.lock:
            sockets = self.stalled.pop(prompt)
        for s in sockets:
            self._end(s)

    @staticmethod
    def _end(s):
        try:
            s.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        s.close()

    def _accept(self):
        while True:
            try:
                s, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        up, data, kept = None, b"", False
        try:
            if self.reset and s.recv(4, socket.MSG_PEEK) == b"POST":
                with self.lock:
                    self.resets += 1
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.close()
                return
            up = socket.create_connection(("127.0.0.1", self.port))
            while True:
                got = read_http(s, data)
                if got is None:
                    break
                request, data = got
                if request.startswith(b"POST"):
                    kept = self._post(s, up, request)
                    break
                up.sendall(request)
                answer = read_http(up)
                if answer is None:
                    break
                s.sendall(self._hidden(answer[0]))
        except OSError:
            pass
        if not kept:
            for one in (s, up):
                if one:
                    self._end(one)

    def _hidden(self, message):
        return re.sub(rb"(?i)\r\nidempotency[a-z-]*: [^\r]*", b"", message) if self.hide else message

    def _fire(self, fault, prompt, sockets):
        """True when the sockets are kept open."""
        if self.leave:
            self.close()
        with self.lock:
            key = (fault[0], fault[2])
            self.fired[key] = self.fired.get(key, 0) + 1
            if fault[2] == "stall":
                self.stalled[prompt] = sockets
        return fault[2] == "stall"

    @staticmethod
    def _changed(message, at):
        return message[:at] + bytes([message[at] ^ 6]) + message[at + 1:]

    def _post(self, s, up, request):
        prompt = re.search(rb'"prompt": *"([^"]*)"', request).group(1).decode()
        with self.lock:
            self.posts[prompt] = self.posts.get(prompt, 0) + 1
            fault = self.faults.pop(prompt, None)
        request = self._hidden(request)
        if fault and fault[0] == "up":
            if fault[2] != "corrupt":
                up.sendall(request[:fault[1]])
                return self._fire(fault, prompt, (s, up))
            self._fire(fault, prompt, ())
            request = self._changed(request, fault[1])
            up.settimeout(1)  # the hub may now expect more than there is
        up.sendall(request)
        answer = read_http(up)
        if answer is None:
            return False
        answer = self._hidden(answer[0])
        if not fault:
            self.lengths = (len(request), len(answer))
        elif fault[0] == "down":
            if fault[2] != "corrupt":
                s.sendall(answer[:fault[1]])
                return self._fire(fault, prompt, (s, up))
            self._fire(fault, prompt, ())
            answer = self._changed(answer, fault[1])
        s.sendall(answer)
        return False
