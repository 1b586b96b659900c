"""The money's path through a real mount: the paid POST cut, stalled and corrupted at every byte, hubs
that close in silence, kills while it is on its way. Each test counts the faults that it really fired.
"""
import os
import signal
import sqlite3
import threading

import pytest
from faulthub import FaultHub, PostProxy, http
from harness import query, run, until

GENERATIONS = r"/api/v1/images/generations"


def states(mount):
    return mount.sql("SELECT state FROM request ORDER BY id")


def test_killed_while_a_post_is_at_a_hub_without_keys(make_mount):
    """It starts again, the request is unknown with its evidence, and only the user sends it again."""
    hub = FaultHub({("POST", GENERATIONS): "stall"})
    mount = make_mount(url=hub.url)
    kills = 0
    mount.write("cat.prompt", "a cat")
    until("the POST", lambda: hub.count("POST") == 1)
    for _ in range(3):
        os.kill(mount.process.pid, signal.SIGKILL)
        kills += 1
        mount.kill()
        mount.start()
        until("unknown", lambda: states(mount) == ["unknown"])
    until("the evidence", lambda: "balance before: 500, after: 500" in mount.text("cat.error"))
    assert "this program ended" in mount.status("cat") and hub.count("POST") == 1
    hub.routes[("POST", GENERATIONS)] = http(401, {"error": {"message": "gone", "code": "invalidApiKey"}})
    mount.control("retry requests/cat.prompt\n")
    until("the refusal", lambda: hub.count("POST") == 2 and states(mount) == ["unknown"])
    # A refusal of the second says nothing of the first.
    assert "it may have been charged" in mount.status("cat") and "gone" in mount.status("cat")
    mount.control("cancel requests/cat.prompt\n")
    assert mount.status("cat").startswith("canceled: given up after its answer was lost; it may have been")
    assert hub.count("POST") == 2 and kills == 3
    print(f"\n{kills} kills, {hub.count('POST')} POSTs, the second by the user")
    hub.close()


# ---- a fault at every byte of a POST ----

SMALL = "---\nsize: 1024x640\n---\n"


class Catalogue:
    """The mount's catalogue, read while it runs."""

    def __init__(self, mount):
        self.db = sqlite3.connect(f"file:{mount.state}/catalogue.db?mode=ro", uri=True, timeout=20)

    def states(self):
        """prompt → state"""
        return dict(self.db.execute("SELECT json_extract(wanted, '$.prompt'), state FROM request"))

    def count(self, *states):
        marks = ",".join("?" * len(states))
        return self.db.execute(f"SELECT count(*) FROM request WHERE state IN ({marks})", states).fetchone()[0]


STEP = int(os.environ.get("FAULT_STEP", "5"))  # make torture: 1


def name_of(k):
    """All of one length, and none becomes another by the change of a byte."""
    return f"f{k:04}-{k:04}"


def plan_faults(proxy, mount):
    """A cut after every byte of request and answer; a stall after, and a change of, every STEPth."""
    mount.write("measure.prompt", f"{SMALL}{name_of(0)}")
    until("a whole POST", lambda: proxy.lengths[0])
    assert 200 < proxy.lengths[0] < 1000 and 200 < proxy.lengths[1] < 1200
    plan = [(direction, at, what) for what in ("cut", "stall", "corrupt")
            for direction, length in zip(("up", "down"), proxy.lengths)
            for at in range(0, length, 1 if what == "cut" else STEP)]
    return {name_of(k + 1): fault for k, fault in enumerate(plan)}


def let_stalls_end(proxy, catalogue):
    """Ends those of which the mount says `sending`; how many."""
    with proxy.lock:
        names = list(proxy.stalled)
    states = catalogue.states() if names else {}
    done = [n for n in names if states.get(n) == "sending"]
    for name in done:
        proxy.release(name)
    return len(done)


def denied(catalogue):
    """Those whose id was changed on its way: the hub does not know it, and is asked for an hour."""
    return catalogue.db.execute("SELECT count(*) FROM request r JOIN generation g ON g.id = r.generation"
                                " WHERE r.state = 'running' AND g.status LIKE 'not known to the hub%'").fetchone()[0]


RESTING = ("unknown", "refused", "failed", "succeeded", "held", "canceled")


def run_faults(proxy, mount, faults, refresh):
    """Fires them all; the states that the requests came to."""
    catalogue = Catalogue(mount)
    proxy.faults = dict(faults)
    stalls = [0]

    def look():
        stalls[0] += let_stalls_end(proxy, catalogue)
        if refresh:  # how long a back-off is, is not what is tested
            mount.control("refresh\n")
        return catalogue.count(*RESTING) + denied(catalogue)

    for k, name in enumerate(faults):
        mount.write(f"{name}.prompt", f"{SMALL}{name}")
        if k % 16 == 0:
            look()
    until("the end of all", lambda: look() == len(faults) + 1, limit=480)
    expected = {}
    for direction, _, what in faults.values():
        expected[direction, what] = expected.get((direction, what), 0) + 1
    assert proxy.fired == expected and not proxy.faults and len(faults) > 500
    assert stalls[0] == expected["up", "stall"] + expected["down", "stall"]
    return catalogue.states()


def told_the_truth(mount, hub, states):
    """Whatever is called free was not charged for. prompt → charges at the hub, by the hub's books."""
    charged = dict(line.split("|") for line in query(
        hub.data / "hub.db", "SELECT json_extract(wanted, '$.prompt'), count(*) FROM generation GROUP BY 1"))
    free = mount.sql("SELECT json_extract(wanted, '$.prompt') FROM request WHERE charged = 0")
    assert not [name for name in free if name in charged]
    assert all(int(n) == 1 for n in charged.values()), "a prompt was ordered twice"
    assert len(hub.charges()) == len(set(hub.charges()))
    return charged


def test_a_fault_at_every_byte_at_a_hub_without_keys(make_hub, make_mount):
    """Whatever may have arrived is never sent again by itself."""
    hub = make_hub("--workers", "1", credits=1000000)
    proxy = PostProxy(hub.port, hide=True)
    mount = make_mount(url=proxy.url, key=hub.key)
    faults = plan_faults(proxy, mount)
    states = run_faults(proxy, mount, faults, False)
    for name, (direction, at, what) in faults.items():
        if what != "corrupt":
            assert states[name] == "unknown", (direction, at, what, states[name])
        else:
            assert states[name] in ("unknown", "refused", "failed", "succeeded", "running"), (direction, at)
    assert proxy.posts == {name: 1 for name in (name_of(0), *faults)}
    charged = told_the_truth(mount, hub, states)
    mount.unmount()
    print(f"\n{len(faults)} faults {proxy.fired}, {sum(proxy.posts.values())} POSTs, {len(charged)} orders")
    proxy.close()


def test_a_fault_at_every_byte_at_a_hub_that_knows_keys(make_hub, make_mount):
    """Every cut and stall ends in one picture and one charge."""
    hub = make_hub("--workers", "1", credits=1000000)
    proxy = PostProxy(hub.port)
    mount = make_mount(url=proxy.url, key=hub.key)
    faults = plan_faults(proxy, mount)
    states = run_faults(proxy, mount, faults, True)
    charged = told_the_truth(mount, hub, states)
    for name, (direction, at, what) in faults.items():
        if what != "corrupt":
            assert states[name] == "succeeded", (direction, at, what, states[name])
            assert charged[name] == "1" and proxy.posts[name] == 2, (direction, at, what)
        else:
            assert states[name] in ("unknown", "refused", "failed", "succeeded", "running"), (direction, at)
            assert proxy.posts[name] <= 3
    mount.unmount()
    print(f"\n{len(faults)} faults {proxy.fired}, {sum(proxy.posts.values())} POSTs, {len(charged)} orders")
    proxy.close()


# ---- what has and what has not left ----

def test_what_provably_never_left_goes_out_by_itself_and_once(hub, make_mount):
    """Connections refused: in order, one charge each, when the hub is back."""
    proxy = PostProxy(hub.port, hide=True)
    mount = make_mount(url=proxy.url, key=hub.key)
    mount.write("warm.prompt", f"{SMALL}warm")
    mount.wait("warm")
    port = int(proxy.url.rsplit(":", 1)[1])
    proxy.close()
    names = [f"n{k:02}" for k in range(12)]
    for name in names:
        mount.write(f"{name}.prompt", f"{SMALL}{name}")
    tried = lambda: int(mount.sql("SELECT count(*) FROM log WHERE text LIKE 'queued again:%'")[0])

    def try_again():
        mount.control("refresh\n")
        return tried() >= 10

    until("ten tries in vain", try_again)
    refused = tried()
    again = PostProxy(hub.port, hide=True, port_here=port)
    mount.control("refresh\n")
    for name in names:
        assert mount.wait(name)[-1].startswith("succeeded")
    assert again.posts == {name: 1 for name in names}
    sent = mount.sql("SELECT request FROM log WHERE text LIKE 'sending to%' GROUP BY request ORDER BY max(id)")
    in_order = sorted(sent, key=int)
    # Up to four are under way at once: the last of those may meet the hub when the others have just missed it.
    assert all(abs(sent.index(r) - in_order.index(r)) < 4 for r in sent), sent
    assert len(hub.charges()) == len(set(hub.charges())) == len(names) + 1
    assert mount.sql("SELECT sum(credits) FROM charge") == [str(8 * (len(names) + 1))]
    print(f"\n{refused} connections refused, {len(names)} POSTs, one each")
    again.close()


def test_a_reset_before_a_byte_is_read_may_have_left(hub, make_mount):
    proxy = PostProxy(hub.port, hide=True)
    proxy.reset = True
    mount = make_mount(url=proxy.url, key=hub.key)
    n = 40
    for k in range(n):
        mount.write(f"r{k}.prompt", f"{SMALL}r{k}")
    until("all to be unknown", lambda: states(mount) == ["unknown"] * n)
    assert proxy.resets == n and hub.charges() == []
    mount.stop()
    mount.start()
    until("the hub", lambda: mount.sql("SELECT count(*) FROM request WHERE balance_after < 0") == ["0"])
    assert proxy.resets == n and states(mount) == ["unknown"] * n
    print(f"\n{n} POSTs reset before they were read, none sent again")
    proxy.close()


def test_a_thousand_posts_that_are_closed_in_silence(make_mount):
    """curl would send a POST again whose warm connection dies without an answer. Each goes out once,
    and on a connection of its own while warm ones are at hand."""
    n = 1000
    hub = FaultHub({("POST", GENERATIONS): None})
    mount = make_mount(url=hub.url)
    catalogue = Catalogue(mount)
    mount.control("pause\n")
    for k in range(20):
        mount.write(f"p{k}.prompt", f"prompt {k}")
    until("twenty held", lambda: catalogue.count("held") == 20)
    for _ in range(n // 20 - 1):
        mount.control("again requests\n")
    mount.control("resume\n")
    until("the last", lambda: catalogue.count("unknown") == n, limit=240)
    assert hub.count("POST") == n == hub.fired and hub.count("GET") >= 2
    assert len({h["idempotency-key"] for m, _, h, _ in hub.requests if m == "POST"}) == n
    assert hub.warm_posts == 0
    mount.unmount()
    print(f"\n{n} POSTs closed in silence, {hub.count('POST')} received")
    hub.close()


def test_a_batch_over_the_balance_is_held_and_goes_on(make_hub, make_mount):
    """The hub takes an order before it charges: what is in flight counts, so that none fails."""
    hub = make_hub("--workers", "1", credits=20)
    mount = make_mount(hub)
    catalogue = Catalogue(mount)
    for k in range(6):
        mount.write(f"b{k}.prompt", f"---\nsize: 1024x1024\n---\nb{k}")
    until("two pictures, four held", lambda: (catalogue.count("succeeded"), catalogue.count("held")) == (2, 4))
    assert hub.credits() == 4 and "not charged" in mount.status("b5")
    hub.cli("credits", "grant", "test", "20")
    mount.control("refresh\n")
    until("three more", lambda: (catalogue.count("succeeded"), catalogue.count("held")) == (5, 1))
    hub.cli("credits", "grant", "test", "100")
    mount.control("refresh\n")
    until("all", lambda: catalogue.count("succeeded") == 6)
    assert len(hub.charges()) == 6 and hub.credits() == 92
    sent = mount.sql("SELECT request FROM log WHERE text LIKE 'sending to%'")
    assert sent == ["1", "2", "3", "4", "5", "6"]


def test_what_waits_for_others_charges_says_so(make_mount):
    """The balance would do, but for what is under way and not charged yet."""
    hub = FaultHub()
    running = lambda request: http(200, {"id": "gen_running1", "status": "processing", "images": []})
    hub.routes.update({("POST", GENERATIONS): running, ("GET", r"/api/v1/generations/.*"): running,
                       ("GET", r"/api/v1/credits"): http(200, {"credits": 10})})
    mount = make_mount(url=hub.url)
    mount.write("a.prompt", "---\nsize: 1024x1024\n---\na")
    until("the first", lambda: states(mount) == ["running"])
    mount.write("b.prompt", "---\nsize: 1024x1024\n---\nb")
    until("the reason", lambda: mount.status("b")
          == "queued: waits for those under way, which may take what is left of the balance\n")
    hub.routes[("GET", r"/api/v1/credits")] = http(200, {"credits": 100})
    mount.control("refresh\n")
    until("the second", lambda: hub.count("POST") == 2)
    hub.close()


def test_429_and_402_pause_the_queue_and_fail_nothing(make_mount):
    script = [http(429, headers=["Retry-After: 1"]), http(429), http(402)]
    posts = []
    lock = threading.Lock()

    def answer(request):
        with lock:
            posts.append(request[3])
            k = len(posts)
        if k <= len(script):
            return script[k - 1]
        return http(202, {"id": f"gen_{k:08}", "status": "queued"})

    hub = FaultHub({("POST", GENERATIONS): answer})
    mount = make_mount(url=hub.url)
    catalogue = Catalogue(mount)
    for k in range(4):
        mount.write(f"q{k}.prompt", f"q{k}")

    def going():
        mount.control("refresh\n")  # past the pause; Retry-After itself is kept
        return (catalogue.count("running"), catalogue.count("held")) == (3, 1)

    until("three to run, one held", going)
    hub.routes[("GET", r"/api/v1/credits")] = http(200, {"credits": 900})
    mount.control("refresh\n")
    until("all to run", lambda: catalogue.count("running") == 4)
    assert len(posts) == 4 + len(script)
    print(f"\n{len(script)} refusals, {len(posts)} POSTs, none failed")
    hub.close()


def test_removing_withdraws_every_request_of_a_prompt(make_mount):
    hub = FaultHub({("POST", GENERATIONS): http(500)})
    mount = make_mount(url=hub.url)
    catalogue = Catalogue(mount)
    control = mount / "control"
    mount.control("pause\n")
    mount.write("a.prompt", "a")
    mount.write("b.prompt", "b")
    until("both held", lambda: catalogue.count("held") == 2)
    for _ in range(69):
        mount.control("again requests/a.prompt\n")
    with pytest.raises(OSError) as caught:  # it would be let past its budget later
        mount.control("approve requests/b.prompt\n")
    assert caught.value.errno == 22 and "resume" in control.read_text()
    until("all held", lambda: catalogue.count("held") == 71)
    (mount / "requests/a.prompt").unlink()
    assert (catalogue.count("canceled"), catalogue.count("held")) == (70, 1)
    # The mount died after the removal and before the withdrawal: the queue looks for the file itself.
    mount.stop()
    run("sqlite3", mount.state / "catalogue.db", "DELETE FROM node WHERE name = 'b.prompt'")
    mount.start()
    mount.control("resume\n")
    until("the withdrawal", lambda: states(mount) == ["canceled"] * 71)
    assert hub.count("POST") == 0
    hub.close()
