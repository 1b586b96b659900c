"""Nothing lost, nothing paid twice, nothing hung: faults that are really fired, and counted."""
import json
import os
import re
import time

import pytest
from faulthub import MODELS, FaultHub, http
from harness import SANITIZED, run, sh, until

GENERATIONS = r"/api/v1/images/generations"
SMALL = "---\nsize: 1024x640\n---\n"


def states(mount):
    return mount.sql("SELECT state FROM request ORDER BY id")




ANSWERS = {
    "closed in silence": (None, "unknown"),
    "500 without a body": (http(500), "unknown"),
    "502 with HTML": (http(502, "<html>Bad gateway</html>"), "unknown"),
    "504 with a gateway's JSON": (http(504, {"error": {"code": "504", "message": "timed out"}}), "unknown"),
    "503": (http(503), "unknown"),
    "200 with HTML": (http(200, "<html>"), "unknown"),
    "200 cut off": (b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"id\":", "unknown"),
    "200 without an id": (http(200, {"status": "queued"}), "unknown"),
    "202 with a hostile id": (http(202, {"id": "../../x", "status": "queued"}), "unknown"),
    "302": (http(302, headers=["Location: http://127.0.0.1:1/"]), "unknown"),
    "garbage": (b"\x00\xff\x00\r\n\r\n", "unknown"),
    "400": (http(400, {"error": {"message": "Invalid size", "code": "invalid_request"}}), "refused"),
    "401": (http(401, {"error": {"message": "Invalid API key", "code": "invalidApiKey"}}), "refused"),
    "401 expired": (http(401, {"error": {"message": "x", "code": "expiredApiKey"}}), "refused"),
    "402": (http(402, {"error": {"message": "Not enough", "code": "insufficientCredits"}}), "held"),
    "403": (http(403), "refused"),
    "408": (http(408), "refused"), "409": (http(409), "refused"), "413": (http(413), "refused"),
    "422": (http(422, b"\xff\xfe"), "refused"),
    "500 failed": (http(500, {"error": {"message": "It failed", "code": "generationFailed"}}), "failed"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_an_answer_means(make_mount, answer):
    body, state = ANSWERS[answer]
    hub = FaultHub({("POST", GENERATIONS): body})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    done = mount.wait("cat", check=False)
    assert done.returncode == 1 and done.stdout.splitlines()[-1].startswith(f"{state}: "), done.stdout
    error = (mount / "requests/cat.error").read_text()
    assert all(w in error for w in ("what:", "why:", "charged:", "next:"))
    if state == "unknown":
        assert "balance before: 500, after: 500" in until(
            "the evidence", lambda: "after" in (mount / "requests/cat.error").read_text()
            and (mount / "requests/cat.error").read_text())
    mount.stop()
    mount.start()  # and it is not sent again by a remount either
    assert mount.status("cat").startswith(state)
    assert hub.count("POST") == 1 == hub.fired
    hub.close()


def test_429_waits_and_goes_on(make_mount):
    left = [3]

    def answer(_):
        left[0] -= 1
        if left[0] >= 0:
            return http(429, headers=["Retry-After: 1"])
        return http(500, {"error": {"message": "done", "code": "generationFailed"}})

    hub = FaultHub({("POST", GENERATIONS): answer})
    mount = make_mount(url=hub.url)
    begun = time.monotonic()
    mount.write("cat.prompt", "a cat")
    done = mount.wait("cat", check=False)
    assert "failed" in done.stdout and hub.count("POST") == 4 and time.monotonic() - begun >= 3
    hub.close()


def test_the_key_goes_to_the_hub_alone(make_mount):
    other = FaultHub({("GET", r"/.*"): lambda r: http(200, b"\x89PNG\r\n\x1a\n" + b"0" * 100)})
    images = [{"id": "i", "url": f"{other.url}/a.png"}, {"id": "j", "url": "{hub}/redirect.png"}]
    hub = FaultHub()

    def generation(_):
        return http(200, json.dumps({"id": "gen_1234567890", "status": "succeeded", "images": images,
                                     "usage": {"credits": 16},
                                     "poll_url": f"{other.url}/steal"}).replace("{hub}", hub.url))

    hub.routes.update({("POST", GENERATIONS): generation, ("GET", r"/api/v1/generations/.*"): generation,
                       ("GET", r"/redirect.png"): http(302, headers=[f"Location: {other.url}/b.png"])})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "---\nn: 2\n---\na cat")
    mount.wait("cat")
    assert (mount / "requests/cat-1.png").read_bytes() and (mount / "requests/cat-2.png").read_bytes()
    assert other.count("GET") >= 4 and other.count("GET", "steal") == 0
    seen = json.dumps([h for _, _, h, _ in other.requests]) + mount.log.read_text()
    assert "gih_live" not in seen and "authorization" not in seen.lower() and "cookie" not in seen.lower()
    assert any("gih_live" in h.get("authorization", "") for _, _, h, _ in hub.requests)
    hub.close()
    other.close()


HOSTILE = {
    "id with a path": {"id": "../../../tmp/evil", "status": "queued"},
    "id with a slash": {"id": "a/b", "status": "queued"},
    "id with a NUL": {"id": "a\0b", "status": "queued"},
    "4 KiB id": {"id": "x" * 4096, "status": "queued"},
    "empty id": {"id": "", "status": "queued"},
    "a number as id": {"id": 5, "status": "queued"},
    "deep": "[" * 100000 + "]" * 100000,
    "huge": "[" + "{}," * 4000000 + "{}]",
    "endless objects under the limit": "[" + "{}," * 340000 + "{}]",
    "empty": "",
    "html": "<!doctype html><title>x</title>",
    "not utf-8": b'{"id":"\xff","status":"queued"}',
}


@pytest.mark.parametrize("answer", HOSTILE)
def test_hostile_answers(make_mount, answer):
    body = HOSTILE[answer]
    hub = FaultHub({("POST", GENERATIONS): http(200, body), ("GET", r"/api/v1/models"): http(200, body),
                    ("GET", r"/api/v1/generations/.*"): http(200, body)})
    hub.routes[("GET", r"/api/v1/models")] = MODELS
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    done = mount.wait("cat", check=False)
    assert done.returncode == 1 and "unknown: " in done.stdout
    assert not os.path.exists(mount / "generations/gen_12345678")
    hub.routes[("GET", r"/api/v1/models")] = http(200, body)
    hub.routes[("GET", r"/api/v1/credits")] = http(200, body)
    mount.control("refresh\n")
    until("the questions", lambda: hub.count("GET", "models") >= 2 and hub.count("GET", "credits") >= 2)
    sh(f"ls -R {mount.path} > /dev/null")
    if not SANITIZED:
        peak = int(re.search(r"VmHWM:\s+(\d+)", open(f"/proc/{mount.process.pid}/status").read()).group(1))
        assert peak < 128 * 1024, f"{peak} KiB"
    assert hub.fired >= 2 and not os.path.exists("/tmp/evil")
    assert os.listdir(mount / "generations") == []
    hub.close()


PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10" + b"p" * 5000
PICTURES = {
    "file:": "file:///etc/passwd", "ftp:": "ftp://127.0.0.1/x.png", "gopher:": "gopher://127.0.0.1/x",
    "no scheme": "x.png", "user info": "http://user:pass@127.0.0.1:1/x.png",
    "redirect to file:": ("GET", http(302, headers=["Location: file:///etc/passwd"])),
    "redirect for ever": ("GET", http(302, headers=["Location: /p.png"])),
    "html": ("GET", http(200, "<html>no picture</html>")),
    "empty": ("GET", http(200, b"")),
    "404": ("GET", http(404)),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_hostile_pictures(make_mount, kind):
    what = PICTURES[kind]
    hub = FaultHub()
    url = what if isinstance(what, str) else f"{hub.url}/p.png"
    g = http(200, {"id": "gen_1234567890", "status": "succeeded", "usage": {"credits": 8},
                   "images": [{"id": "i", "url": url}]})
    hub.routes.update({("POST", GENERATIONS): g, ("GET", r"/api/v1/generations/.*"): g})
    if not isinstance(what, str):
        hub.routes[("GET", r"/p.png")] = what[1]
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    last = mount.wait("cat")[-1]
    assert last.startswith("succeeded: 0 pictures of 1, 8 credits")
    where = re.search("; 1 cannot be reached, which is tried again, see (generations/.*/log)$", last).group(1)
    log = (mount / where).read_text()
    assert "picture 1 cannot be measured" in log and "root:" not in log
    assert sorted(os.listdir(mount / "requests")) == ["cat.prompt", "cat.status"]
    assert hub.count("POST") == 1
    hub.close()


def test_a_hub_that_does_not_tell_what_it_cost(make_mount):
    hub = FaultHub({("GET", r"/p.png"): http(206, PNG, headers=[f"Content-Range: bytes 0-{len(PNG) - 1}/{len(PNG)}"])})
    hub.routes[("POST", GENERATIONS)] = http(200, {
        "id": "gen_1234567890", "status": "succeeded", "images": [{"url": f"{hub.url}/p.png"}]})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    assert mount.wait("cat")[-1].startswith("succeeded: 1 picture, 8 to 12 credits")
    log = (mount / "generations/gen_1234567890/log").read_text()
    assert "succeeded: 1 of 1 pictures, the hub does not tell what it cost\n" in log
    hub.close()


@pytest.mark.parametrize("kind", ["short", "long", "other type", "cut", "one byte less"])
def test_a_bad_download_is_never_served(make_mount, kind):
    good = http(200, PNG)
    bad = {"short": http(200, PNG[:3000]), "long": http(200, PNG + b"more"),
           "other type": http(200, b"\xff\xd8\xff\xe0" + PNG[4:]),
           "cut": good[:-1000], "one byte less": good[:-1]}[kind]
    mode = ["good"]

    def picture(request):
        if "range" in request[2]:
            first, last = 0, min(65535, len(PNG) - 1)
            return http(206, PNG[:last + 1], headers=[f"Content-Range: bytes {first}-{last}/{len(PNG)}"])
        if mode[0] == "bad":
            return bad
        return good

    g = http(200, {"id": "gen_1234567890", "status": "succeeded", "usage": {"credits": 8},
                   "images": [{"id": "i", "url": "URL"}]})
    hub = FaultHub()
    body = lambda _: http(200, json.loads(g.partition(b"\r\n\r\n")[2].replace(b"URL", f"{hub.url}/p.png".encode())))
    hub.routes.update({("POST", GENERATIONS): body, ("GET", r"/api/v1/generations/.*"): body,
                       ("GET", r"/p.png"): picture})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    assert os.stat(mount / "requests/cat.png").st_size == len(PNG)
    mode[0] = "bad"
    done = run("cat", mount / "requests/cat.png", check=False, limit=45)
    assert done.returncode == 1 and "Input/output error" in done.stderr or "reset" in done.stderr, done.stderr
    assert "was not downloaded" in (mount / "generations/gen_1234567890/log").read_text()
    # The kernel may have asked once more for what its read-ahead did not get.
    until("nothing of it", lambda: not [p for p in mount.cache.rglob("*") if p.is_file()])
    mode[0] = "good"
    assert (mount / "requests/cat.png").read_bytes() == PNG
    hub.close()


def test_an_expired_address_is_renewed_once(make_mount):
    fresh = ["old"]

    def generation(_):
        return http(200, {"id": "gen_1234567890", "status": "succeeded", "usage": {"credits": 8},
                          "images": [{"id": "i", "url": f"{hub.url}/{fresh[0]}.png?sig=SECRET"}]})

    def picture(request):
        if f"/{fresh[0]}.png" not in request[1]:
            return http(403)
        return http(200, PNG)

    hub = FaultHub()
    hub.routes.update({("POST", GENERATIONS): generation, ("GET", r"/api/v1/generations/.*"): generation,
                       ("GET", r"/(old|new).png.*"): picture})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    fresh[0] = "new"
    assert (mount / "requests/cat.png").read_bytes() == PNG
    assert hub.count("GET", "/api/v1/generations/") == 1 and hub.count("GET", "/old.png") == 2
    log = (mount / "generations/gen_1234567890/log").read_text() + mount.log.read_text()
    assert "SECRET" not in log and "SECRET" not in os.getxattr(mount / "requests/cat.png", "user.xdg.origin.url").decode()
    hub.close()


def test_a_server_without_range_or_length(make_mount):
    body = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (PNG[:2000], PNG[2000:])) + b"0\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    hub = FaultHub()
    generation = lambda _: http(200, {"id": "gen_1234567890", "status": "completed", "usage": None,
                                      "images": [{"url": f"{hub.url}/p.png"}, "junk", {"id": "no url"}]})
    hub.routes.update({("POST", GENERATIONS): generation, ("GET", r"/p.png"): chunked})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    assert mount.wait("cat")[-1].startswith("succeeded: 1 picture")
    assert (mount / "requests/cat.png").stat().st_size == len(PNG)
    assert (mount / "requests/cat.png").read_bytes() == PNG
    hub.close()
