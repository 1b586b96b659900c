"""imagehubd by the very calls of its API, made with curl."""
import concurrent.futures
import http.client
import json
import os
import socket
import struct
import subprocess
import threading
import time
import zlib

import pytest
from harness import HUB, LIMIT, query, run, until

ORDER = {"model": "gpt-image-2", "prompt": "a cat"}


def png_size(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", data[16:24])


def finished(hub, id, **kwargs):
    def look():
        status, g = hub.get(f"/api/v1/generations/{id}", **kwargs)
        assert status == 200
        return g if g["status"] in ("succeeded", "failed") else None

    return until("the generation's end", look)


def test_models(hub):
    status, answer = hub.get("/api/v1/models", key=None)
    assert status == 200 and answer["object"] == "list"
    model = answer["data"][0]
    assert model["id"] == "gpt-image-2" and model["reference_image_limit"] == 16
    assert model["credits_per_image"] == {"1K": 8, "2K": 10, "4K": 12}


def test_credits(hub):
    assert hub.get("/api/v1/credits") == (200, {
        "object": "credit_balance", "credits": 100000, "account_type": "PRO",
        "next_expiration": None})


def test_sync_answer_has_the_documented_keys(hub):
    status, _, g = hub.post({**ORDER, "size": "1024x1024", "quality": "high"})
    assert status == 200
    assert list(g) == ["object", "id", "status", "model", "aspect_ratio", "quality", "images",
                       "usage", "balance"]
    assert g["status"] == "succeeded" and g["aspect_ratio"] == "1:1" and g["quality"] == "1K"
    assert list(g["images"][0]) == ["id", "object", "url", "created_at"]
    assert g["usage"] == {"credits": 8}
    assert g["balance"] == {"credits": 99992, "account_type": "PRO", "next_expiration": None}


def test_async_answer_has_the_documented_keys_and_ends(hub):
    status, headers, g = hub.post({**ORDER, "async": True, "n": 2})
    assert status == 202 and headers["idempotency"] == "supported"
    assert list(g) == ["object", "id", "status", "model", "aspect_ratio", "quality", "created_at",
                       "images", "usage", "poll_url"]
    assert g["status"] == "queued" and g["images"] == []
    assert g["usage"] == {"credits": 0, "credits_requested": 16}
    assert g["poll_url"] == f"{hub.url}/api/v1/generations/{g['id']}"
    end = finished(hub, g["id"])
    assert end["status"] == "succeeded" and len(end["images"]) == 2
    assert end["usage"] == {"credits": 16, "credits_requested": 16}


@pytest.mark.parametrize("size, tier, price", [
    ("1024x1024", "1K", 8), ("1536x1024", "1K", 8), ("2048x2048", "2K", 10), ("3840x2160", "4K", 12)])
def test_sizes_tiers_prices_and_exact_pixels(hub, size, tier, price):
    status, _, g = hub.post({**ORDER, "size": size})
    assert status == 200 and g["quality"] == tier and g["usage"]["credits"] == price
    _, headers, picture = hub.curl(g["images"][0]["url"], key=None)
    assert png_size(picture) == tuple(map(int, size.split("x")))
    assert int(headers["content-length"]) == len(picture)


def test_the_sketch_is_deterministic(hub):
    pictures = []
    for index in (0, 0):
        _, _, g = hub.post({**ORDER, "prompt": "향수 \U0001f600", "n": 2})
        pictures.append([hub.curl(i["url"], key=None)[2] for i in g["images"]])
    assert pictures[0] == pictures[1] and pictures[0][0] != pictures[0][1]


def test_sketches_of_a_size_in_bytes(make_hub):
    hub = make_hub("--sketch-bytes", "300000")
    sizes = []
    for size in ("1024x640", "3840x2160"):
        _, _, g = hub.post({**ORDER, "size": size})
        picture = hub.curl(g["images"][0]["url"], key=None)[2]
        at, types = 8, []
        while at < len(picture):  # every chunk is whole, and its CRC right
            length, = struct.unpack(">I", picture[at:at + 4])
            body = picture[at + 4:at + 8 + length]
            assert struct.unpack(">I", picture[at + 8 + length:at + 12 + length])[0] == zlib.crc32(body)
            types.append(body[:4])
            at += 12 + length
        assert at == len(picture) and types[-1] == b"IEND"
        sizes.append((len(picture), b"noIs" in types))
    assert sizes[0] == (300000, True) and sizes[1][0] > 300000 and not sizes[1][1]


def test_pictures_range_etag_head(hub):
    _, _, g = hub.post(ORDER)
    url = g["images"][0]["url"]
    status, headers, whole = hub.curl(url, key=None)
    assert status == 200 and headers["content-type"] == "image/png"
    etag = headers["etag"]
    assert hub.curl(url, "-r", "5-9", key=None)[0::2] == (206, whole[5:10])
    status, headers, tail = hub.curl(url, "-r", "-7", key=None)
    assert (status, tail) == (206, whole[-7:])
    assert headers["content-range"] == f"bytes {len(whole) - 7}-{len(whole) - 1}/{len(whole)}"
    assert hub.curl(url, "-r", f"{len(whole)}-", key=None)[0] == 416
    status, headers, body = hub.curl(url, "-I", key=None)
    assert status == 200 and int(headers["content-length"]) == len(whole) and body == b""
    assert hub.curl(url, "-H", f"If-None-Match: {etag}", key=None)[0] == 304
    assert hub.curl(url, "-r", "0-1", "-H", 'If-Range: "other"', key=None)[0] == 200
    assert hub.curl(url[:-6] + "aa.png", key=None)[0] == 404


@pytest.mark.parametrize("body, words", [
    ("", "JSON"), ("[]", "object"), ("{", "JSON"), ('{"model":"gpt-image-2"}', "prompt"),
    ('{"prompt":"x"}', "model"), ('{"model":"gpt-image-3","prompt":"x"}', "model"),
    (json.dumps({**ORDER, "prompt": " \n"}), "blank"),
    (json.dumps({**ORDER, "prompt": "x" * 32001}), "32000"),
    (json.dumps({**ORDER, "n": 0}), "n must"), (json.dumps({**ORDER, "n": 5}), "n must"),
    (json.dumps({**ORDER, "n": 1.5}), "n must"), (json.dumps({**ORDER, "n": "2"}), "n must"),
    (json.dumps({**ORDER, "size": "big"}), "size"), (json.dumps({**ORDER, "size": "1000x1000"}), "16"),
    (json.dumps({**ORDER, "size": "3840x1024"}), "ratio"), (json.dumps({**ORDER, "size": "16x16"}), "655"),
    (json.dumps({**ORDER, "quality": "hgih"}), "high"), (json.dumps({**ORDER, "async": "yes"}), "async"),
    (json.dumps({**ORDER, "prompt": 5}), "string"), ('{"model":"gpt-image-2","prompt":"a\\u0000b"}', "JSON"),
])
def test_bad_requests_are_named_and_free(hub, body, words):
    status, _, answer = hub.post(body)
    assert status == 400 and answer["error"]["code"] == "invalid_request"
    assert words in answer["error"]["message"]
    assert hub.charges() == [] and hub.generations() == 0


def test_a_prompt_at_the_limit_and_unknown_fields_pass(hub):
    status, _, _ = hub.post({**ORDER, "prompt": "가" * 32000, "seed": 4, "style": {"a": [1]},
                             "async": True})
    assert status == 202


def prefix_of(hub, key):
    return [prefix for prefix in (line.split("\t")[0] for line in hub.cli("key", "list").splitlines())
            if key.startswith(prefix)][0]


def soon(seconds):
    """That moment, as the owner's commands take it: in whole seconds, and not before."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds + 1))


def test_keys(hub):
    path = "/api/v1/credits"
    assert hub.get(path, key=None)[1]["error"]["code"] == "missingApiKey"
    assert hub.get(path, key="gih_live_" + "x" * 32)[1]["error"]["code"] == "invalidApiKey"
    begun = time.monotonic()
    assert hub.get(path, key=hub.cli("key", "create", "test").strip())[0] == 200
    later = hub.cli("key", "create", "test", "--expires", soon(2 + 10 * (time.monotonic() - begun))).strip()
    assert hub.get(path, key=later)[0] == 200
    until("the key's end", lambda: hub.get(path, key=later)[0] == 401)
    assert hub.get(path, key=later)[1]["error"]["code"] == "expiredApiKey"
    second = hub.cli("key", "create", "test").strip()
    assert hub.get(path, key=second)[0] == 200
    hub.cli("key", "revoke", prefix_of(hub, second))
    assert hub.get(path, key=second)[1]["error"]["code"] == "invalidApiKey"
    assert hub.get(path)[0] == 200
    database = (hub.data / "hub.db").read_bytes() + (hub.data / "hub.db-wal").read_bytes()
    assert hub.key.encode() not in database and second.encode() not in database


def test_a_revocation_is_effective_at_once_for_a_key_in_use(hub):
    key = hub.cli("key", "create", "test").strip()
    prefix = prefix_of(hub, key)
    seen, revoked, enough = [], [], threading.Event()

    def use():
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=LIMIT)
        while not enough.is_set():
            begun = time.monotonic()
            connection.request("GET", "/api/v1/credits", headers={"Authorization": f"Bearer {key}"})
            answer = connection.getresponse()
            answer.read()
            seen.append((begun, answer.status))
        connection.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        users = [pool.submit(use) for _ in range(4)]
        try:
            until("use", lambda: len(seen) > 200)
            hub.cli("key", "revoke", prefix)
            revoked.append(time.monotonic())
            before = len(seen)
            until("more use", lambda: len(seen) > before + 200)
        finally:
            enough.set()
        for user in users:
            user.result()
    assert {status for begun, status in seen if begun > revoked[0]} == {401}
    assert 200 in {status for _, status in seen}


def test_not_found_and_other_peoples_generations(hub):
    hub.cli("account", "add", "other", "--credits", "50")
    other = hub.cli("key", "create", "other").strip()
    _, _, g = hub.post(ORDER)
    assert hub.get(f"/api/v1/generations/{g['id']}")[0] == 200
    for path, key in [(f"/api/v1/generations/{g['id']}", other), ("/api/v1/generations/none", None),
                      ("/api/v1/nothing", None), ("/images/x.png", None)]:
        status, answer = hub.get(path, key=key or hub.key)
        assert (status, answer["error"]["code"]) == (404, "notFound")


def test_not_enough_credits(make_hub):
    hub = make_hub(credits=15)
    assert hub.post({**ORDER, "n": 2})[0] == 402
    assert hub.post({**ORDER, "n": 2})[2]["error"]["code"] == "insufficientCredits"
    assert hub.post(ORDER)[0] == 200 and hub.credits() == 7


def test_an_order_that_is_poor_when_its_work_starts_fails_unpaid(make_hub):
    hub = make_hub("--hold", credits=8)
    ids = [hub.post({**ORDER, "prompt": p, "async": True})[2]["id"] for p in "ab"]
    hub.stop()
    hub.options = []
    hub.start()
    states = sorted(finished(hub, i)["status"] for i in ids)
    assert states == ["failed", "succeeded"] and hub.credits() == 0
    failed = [g for g in (finished(hub, i) for i in ids) if g["status"] == "failed"][0]
    assert failed["error"]["code"] == "insufficientCredits" and failed["usage"]["credits"] == 0


def test_failures_are_refunded(make_hub):
    hub = make_hub("--sketch-fail", "1")
    status, _, answer = hub.post(ORDER)
    assert status == 500 and answer["error"]["code"] == "generationFailed"
    id = hub.post({**ORDER, "async": True})[2]["id"]
    g = finished(hub, id)
    assert g["status"] == "failed" and g["usage"] == {"credits": 0, "credits_requested": 8}
    assert g["error"]["code"] == "generationFailed" and hub.credits() == 100000
    assert [k for k, _, _ in hub.ledger()] == ["grant", "charge", "refund", "charge", "refund"]


def test_missing_pictures_are_refunded_in_part(make_hub):
    hub = make_hub("--sketch-fewer")
    _, _, g = hub.post({**ORDER, "n": 4})
    assert len(g["images"]) == 3 and g["usage"]["credits"] == 24 and hub.credits() == 100000 - 24


def test_grants_that_expire_go_first_and_are_written_off(hub):
    begun = time.monotonic()
    hub.cli("account", "add", "guest", "--credits", "10")
    key = hub.cli("key", "create", "guest").strip()
    assert hub.post(ORDER)[0] == 200  # of another account: how long one takes here
    end = soon(2 + 10 * (time.monotonic() - begun))
    hub.cli("credits", "grant", "guest", "20", "--expires", end)
    before = hub.get("/api/v1/credits", key=key)[1]
    assert before["credits"] == 30 and before["next_expiration"].startswith(end[:19])
    assert hub.post(ORDER, key=key)[0] == 200
    until("the expiry", lambda: hub.get("/api/v1/credits", key=key)[1]["credits"] == 10)
    assert hub.post(ORDER, key=key)[2]["balance"]["credits"] == 2
    assert ("expiry", -12, "-") in hub.ledger("guest")


def test_multipart_with_references(hub, tmp_path):
    _, _, g = hub.post(ORDER)
    picture = tmp_path / "named.txt"  # the content decides, not the name
    picture.write_bytes(hub.curl(g["images"][0]["url"], key=None)[2])
    form = ["-F", "model=gpt-image-2", "-F", "prompt=with a photo", "-F", "n=1"]
    status, _, text = hub.curl("/api/v1/images/generations", *form,
                               "-F", f"reference_image=@{picture}", "-F", f"reference_image=@{picture}")
    assert status == 200
    drawn = hub.curl(json.loads(text)["images"][0]["url"], key=None)[2]
    _, _, plain = hub.post({**ORDER, "prompt": "with a photo"})
    assert drawn != hub.curl(plain["images"][0]["url"], key=None)[2]
    until("the removal", lambda: os.listdir(hub.data / "refs") == os.listdir(hub.data / "tmp") == [])

    fake = tmp_path / "fake.png"
    fake.write_text("no picture")
    status, _, text = hub.curl("/api/v1/images/generations", *form, "-F", f"reference_image=@{fake}")
    assert status == 400 and b"PNG" in text
    many = sum((["-F", f"reference_image=@{picture}"] for _ in range(17)), [])
    status, _, text = hub.curl("/api/v1/images/generations", *form, *many)
    assert status == 400 and b"16" in text
    large = tmp_path / "large.png"
    with open(large, "wb") as f:
        f.write(picture.read_bytes())
        f.truncate(50 * 1024 * 1024 + 1)
    status, _, text = hub.curl("/api/v1/images/generations", *form, "-F", f"reference_image=@{large}")
    assert status == 400 and b"50 MB" in text
    until("the uploads' removal", lambda: os.listdir(hub.data / "tmp") == [])


def test_idempotency(hub):
    header = ["-H", "Idempotency-Key: abc"]
    first = hub.post({**ORDER, "async": True}, *header)
    again = hub.post({**ORDER, "async": True}, *header)
    assert first[2]["id"] == again[2]["id"] and again[1]["idempotent-replayed"] == "true"
    other = hub.post({**ORDER, "prompt": "a dog", "async": True}, *header)
    assert other[0] == 422 and other[2]["error"]["code"] == "idempotencyMismatch"
    bad = ["-H", "Idempotency-Key: def"]
    assert hub.post({**ORDER, "n": 9}, *bad)[0] == 400
    assert hub.post({**ORDER, "async": True}, *bad)[0] == 202  # a refusal does not consume it
    until("both", lambda: len(hub.charges()) == 2)


def test_methods_and_health(hub):
    assert hub.get("/api/health", key=None) == (200, {"status": "ok"})
    status, headers, _ = hub.curl("/api/v1/models", "-X", "DELETE")
    assert status == 405 and headers["allow"] == "GET, HEAD"


def test_too_large(hub):
    body = hub.dir / "large.json"
    body.write_text(json.dumps({**ORDER, "pad": "x" * (1024 * 1024)}))
    for extra in ([], ["-H", "Transfer-Encoding: chunked"]):
        status, _, text = hub.curl("/api/v1/images/generations", "-H", "Content-Type: application/json",
                                   "--data-binary", f"@{body}", *extra, check=False)
        assert status == 413 and json.loads(text)["error"]["message"] == "The request is too large"
    assert hub.curl("/api/v1/credits", "-H", "X-Large: " + "x" * 100000, check=False)[0] in (431, 413)
    assert hub.credits() == 100000


def test_500_idle_connections_leave_an_honest_client_served(hub):
    idle = [socket.create_connection(("127.0.0.1", hub.port)) for _ in range(500)]
    for s in idle[:250]:
        s.send(b"POST /api/v1/images/generations HTTP/1.1\r\nHost: x\r\n")
    assert hub.post(ORDER)[0] == 200
    for s in idle:
        s.close()


def test_two_accounts_eight_clients_a_thousand_requests(make_hub):
    hub = make_hub("--workers", "2", credits=800)
    hub.cli("account", "add", "second", "--credits", "600")
    keys = [hub.key, hub.cli("key", "create", "second").strip()]
    small = {**ORDER, "size": "1024x640", "async": True}

    def client(number):
        out = []
        connection = http.client.HTTPConnection("127.0.0.1", hub.port, timeout=LIMIT)
        headers = {"Authorization": f"Bearer {keys[number % 2]}", "Content-Type": "application/json"}
        for k in range(125):
            connection.request("POST", "/api/v1/images/generations",
                               json.dumps({**small, "prompt": f"{number} {k}"}), headers)
            answer = connection.getresponse()
            answer.read()
            out.append(answer.status)
        connection.close()
        return out

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        states = sum(pool.map(client, range(8)), [])
    assert len(states) == 1000 and set(states) <= {202, 402}
    hub.stop()
    hub.options = ["--workers", "2"]
    hub.start()
    left = lambda: query(hub.data / "hub.db",
                         "SELECT count(*) FROM generation WHERE status IN ('queued','processing')")
    until("the queue's end", lambda: left() == ["0"], limit=300)
    for account, grant in (("test", 800), ("second", 600)):
        rows = hub.ledger(account)
        balance, lowest = 0, 0
        for _, credits, _ in rows:
            balance += credits
            lowest = min(lowest, balance)
        assert lowest == 0 and rows[0][:2] == ("grant", grant)
        shown = [l.split("\t") for l in hub.cli("account", "list").splitlines()]
        assert int([l[1] for l in shown if l[0] == account][0]) == balance >= 0
        charged = [g for kind, _, g in rows if kind == "charge"]
        assert len(charged) == len(set(charged)) == grant // 8


def test_kill_9_loses_nothing_and_charges_once(make_hub):
    hub = make_hub("--sketch-delay", "30")
    ids = []
    for round in range(4):
        for k in range(10):
            ids.append(hub.post({**ORDER, "size": "1024x640", "prompt": f"{round} {k}",
                                 "async": True})[2]["id"])
        until("work", lambda: len(hub.charges()) > round * 6)
        hub.kill()
        hub.start()
    for id in ids:
        assert finished(hub, id)["status"] == "succeeded"
    assert sorted(hub.charges()) == sorted(ids)
    assert query(hub.data / "hub.db", "PRAGMA integrity_check") == ["ok"]


def test_sigterm_finishes_what_is_being_answered(make_hub):
    hub = make_hub("--sketch-delay", "700")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(hub.post, ORDER)
        until("work", lambda: len(hub.charges()) == 1)
        hub.stop()
        assert answer.result()[0] == 200


def test_commands_while_it_serves_and_their_errors(hub):
    assert "100000" in hub.cli("account", "list")
    for words in (["account", "add", "test"], ["credits", "grant", "nobody", "5"],
                  ["credits", "grant", "test", "-5"], ["key", "create", "nobody"], ["key", "revoke", "x"],
                  ["ledger"], ["dance"], ["key", "create", "test", "--expires", "tomorrow"]):
        done = hub.cli(*words, check=False)
        assert done.returncode == 1 and done.stderr.startswith("imagehubd: error: "), words
    second = run(HUB, "--data", hub.data, "serve", check=False)
    assert second.returncode == 1 and "is served by process" in second.stderr
    assert oct(os.stat(hub.data).st_mode & 0o777) == "0o700"
    assert oct(os.stat(hub.data / "hub.db").st_mode & 0o777) == "0o600"


def test_exit_with_stdin(tmp_path):
    p = subprocess.Popen([HUB, "--data", tmp_path / "d", "--listen", "127.0.0.1:0", "--exit-with-stdin",
                          "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert p.stdout.readline().startswith("listening on")
    p.stdin.close()
    assert p.wait(LIMIT) == 0
