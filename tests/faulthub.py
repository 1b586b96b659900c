"""Hubs that misbehave: a scripted one, and a proxy in front of a real one.

Both count what they received and what faults they really fired, as a fault test that fires none
proves nothing.
"""
import json
import re
import socket
import threading
import time
from http import client as http_client


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
        data = b""
        try:
            while True:
                got = self._read(s, data)
                if got is None:
                    return
                request, data = got
                with self.lock:
                    self.requests.append(request)
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
                    self.fired += 1
                return answer
        return http(404, {"error": {"message": "no", "code": "notFound"}})


class BareHub(FaultHub):
    """A real hub, but for its one extension: it neither announces idempotency nor is it told a key
    (bare=False passes both on). delay: seconds that the answer to a POST is held back."""

    def __init__(self, hub, delay=0, bare=True):
        self.hub, self.delay = hub, delay
        self.dropped = ("idempotency", "idempotent-replayed", "idempotency-key") if bare else ()
        super().__init__()

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
        dropped = ("transfer-encoding", "content-length", "connection", *self.dropped)
        kept = [f"{k}: {v}" for k, v in answer.getheaders() if k.lower() not in dropped]
        return http(answer.status, body, headers=kept)


class FaultProxy:
    """In front of a real hub: passes everything on, but for the POST, whose fault is
    (direction, offset, what): "up" or "down", after so many bytes, "cut" or "stall"."""

    def __init__(self, hub):
        self.hub = hub
        self.fault = None
        self.fired = 0
        self.posts = 0
        self.server = socket.create_server(("127.0.0.1", 0), backlog=200)
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.open = True
        self.kept = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self.server.shutdown(socket.SHUT_RDWR)  # close() alone leaves a blocked accept() listening
        self.server.close()

    def _accept(self):
        while True:
            try:
                s, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(s,), daemon=True).start()

    def _serve(self, s):
        try:
            first = s.recv(65536)
            up = socket.create_connection(("127.0.0.1", self.hub.port))
        except OSError:
            s.close()
            return
        fault = None
        if first.startswith(b"POST"):
            self.posts += 1
            fault, self.fault = self.fault, None
        threading.Thread(target=self._pump, args=(up, s, fault if fault and fault[0] == "down" else None, b""),
                         daemon=True).start()
        self._pump(s, up, fault if fault and fault[0] == "up" else None, first)

    def _pump(self, source, sink, fault, data):
        passed = 0
        try:
            while True:
                if not data:
                    data = source.recv(65536)
                    if not data:
                        break
                if fault and passed + len(data) >= fault[1]:
                    sink.sendall(data[:fault[1] - passed])
                    self.fired += 1
                    if fault[2] == "stall":
                        self.kept += [source, sink]
                        return
                    break
                sink.sendall(data)
                passed += len(data)
                data = b""
        except OSError:
            pass
        for s in (source, sink):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            s.close()
