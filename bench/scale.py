"""Many generations, and many in flight.

The databases are made from one row that a real prompt through a real mount left behind: it is
multiplied by SQL, with ids, names and keys of its own for each copy. So a catalogue is what the
program itself would have written, and stays that when the schema changes.
"""
import contextlib
import hashlib
import os
import random
import shutil
import sqlite3
import subprocess
import time

import peers
from report import median, number, seconds, spread
from tools import MIB, TOOLS, Ext4, behind_proxy, cpu, harness, memory, mounted, output, rounds, say, timed

FIRST, FILES = 1000, 10_000_000  # ids of copies: rows and folders, prompt files
IN_FOLDER = 1000


def mib(value):
    return f"{number(value / MIB)} MiB"


def hub_id(i):
    return "gen_" + hashlib.blake2b(str(i).encode(), digest_size=12).hexdigest()


# ---- databases ----

def multiply(db, table, count, schema="main", **different):
    """Copies a table's first row `count` times; the columns named differ, by an expression over i,
    from 1, and t, the row."""
    columns = [row[1] for row in db.execute(f"PRAGMA {schema}.table_info({table})")]
    db.execute("DROP TABLE IF EXISTS temp.model_row")
    db.execute(f"CREATE TEMP TABLE model_row AS SELECT * FROM {schema}.{table} LIMIT 1")
    assert db.execute("SELECT count(*) FROM model_row").fetchone() == (1,), f"{table} is empty"
    values = [f"({different.pop(c)})" if c in different else f't."{c}"' for c in columns]
    assert not different, f"{table} has no {different}"
    names = ", ".join(f'"{c}"' for c in columns)
    db.execute(f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {count})"
               f" INSERT INTO {schema}.{table}({names}) SELECT {', '.join(values)}"
               " FROM k, model_row AS t")


@contextlib.contextmanager
def opened(path):
    """For filling only. It is durable when it is closed, as a database that has grown would be: the
    first sync of whoever opens it would write all of it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.create_function("hub_id", 1, hub_id, deterministic=True)
        for pragma in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF",
                       "cache_size = -400000", "foreign_keys = OFF"):
            db.execute(f"PRAGMA {pragma}").fetchall()
        yield db
    with open(path, "rb") as f:
        os.fsync(f.fileno())


def fill_catalogue(path, count):
    with opened(path) as db:
        model, = db.execute("SELECT hub_id FROM generation").fetchone()
        renamed = f"replace(t.%s, '{model}', hub_id(i))"
        db.execute("BEGIN")
        db.execute(f"WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM k"
                   f" WHERE i < {count // IN_FOLDER}) INSERT INTO node(id, parent, name, mode, uid, gid,"
                   f" atime, mtime, ctime) SELECT {FIRST} + i, 1, printf('folder-%04d', i), mode, uid, gid,"
                   " atime, mtime, ctime FROM k, (SELECT * FROM node WHERE id = 1)")
        db.execute("CREATE TEMP TABLE file AS SELECT * FROM node WHERE name LIKE '%.prompt'")
        columns = [row[1] for row in db.execute("PRAGMA table_info(node)")]
        own = {"id": f"{FILES} + i", "parent": f"{FIRST} + i / {IN_FOLDER}",
               "name": "printf('p%07d.prompt', i)", "request": f"{FIRST} + i"}
        db.execute(f"WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < {count})"
                   f" INSERT INTO node({', '.join(columns)})"
                   f" SELECT {', '.join(own.get(c, 't.' + c) for c in columns)} FROM k, file AS t")
        multiply(db, "request", count, id=f"{FIRST} + i", node=f"{FILES} + i",
                 generation=f"{FIRST} + i", key="printf('%032d', i)",
                 path=f"printf('requests/folder-%04d/p%07d.prompt', i / {IN_FOLDER}, i)")
        multiply(db, "charge", count, id=f"{FIRST} + i", request=f"{FIRST} + i")
        multiply(db, "generation", count, id=f"{FIRST} + i", request=f"{FIRST} + i",
                 hub_id="hub_id(i)", poll_url=renamed % "poll_url",
                 response_json=renamed % "response_json")
        if db.execute("SELECT count(*) FROM image").fetchone()[0]:
            multiply(db, "image", count, id=f"{FIRST} + i", generation=f"{FIRST} + i")
        for line in range(3):
            multiply(db, "log", count, id=f"{FILES} * {line + 1} + i", request=f"{FIRST} + i",
                     generation=f"{FIRST} + i")
        db.execute("COMMIT")


def fill_hub(path, count):
    with opened(path) as db:
        db.execute("BEGIN")
        multiply(db, "generation", count, seq=f"{FIRST} + i", id="hub_id(i)",
                 idempotency="printf('%032d-0', i)")
        db.execute("COMMIT")


class World:
    """A hub, and a state directory with one prompt that it has taken."""

    def __init__(self, bench, *options, succeeds):
        self.bench = bench
        self.hub = bench.keep(harness.Hub(*options, credits=10**8))
        self.hub.start()
        ours = peers.Ours(self.hub)
        mount = bench.keep(ours.mount)
        ours.start()
        mount.write("model.prompt", "---\nsize: 1024x640\n---\nA lighthouse at dusk, long exposure\n")
        if succeeds:
            mount.wait("model.prompt")
        else:
            harness.until("the order", lambda: mount.sql(
                "SELECT 1 FROM request WHERE state = 'running'"))
        ours.stop()
        self.state = mount.state

    def copied(self, count):
        """A mount, not started, with a catalogue of so many generations more."""
        ours = peers.Ours(self.hub)
        self.bench.keep(ours.mount)
        shutil.copytree(self.state, ours.mount.state)
        if count:
            fill_catalogue(ours.mount.state / "catalogue.db", count)
        return ours


# ---- a large catalogue ----

def first_answer(ours):
    """Seconds from starting the program to its first answer to stat(2)."""
    m = ours.mount
    argv = [str(a) for a in m.argv()]
    place = str(m.path / "generations")
    with open(m.log, "ab") as log:
        begin = time.perf_counter()
        m.process = subprocess.Popen(argv, env=harness.ENV, stdout=subprocess.DEVNULL, stderr=log)
        while not os.path.exists(place):
            assert m.process.poll() is None and time.perf_counter() < begin + 60, m.log.read_text()
            time.sleep(0.0002)
        taken = time.perf_counter() - begin
    assert mounted(m.path)
    harness.until("mounting", m.mounted)
    return taken


def list_all(ours, count, out):
    with open(out, "w") as f:
        taken = timed(["ls", "-f", ours.mount / "generations"], stdout=f)
    with open(out) as f:
        names = sum(1 for _ in f)
    assert names == count + 3, f"{names} names instead of {count + 3}"
    return taken


def look_up(ours, names, found):
    """Seconds of one stat(2), the median of many."""
    text = "\n".join(names) + "\n"
    done = subprocess.run([TOOLS / "lookup", ours.mount / "generations"], input=text,
                          stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert int(done[0]) == (len(names) if found else 0), f"{done[0]} of {len(names)} names were found"
    return int(done[2]) / 1e9


def measure_catalogue(bench, world, count, last):
    """One point of the plot; the last one is judged."""
    begin = time.monotonic()
    ours = world.copied(count)
    size = os.stat(ours.mount.state / "catalogue.db").st_size
    say(f"a catalogue of {count:,} generations ({mib(size)}, made in {time.monotonic() - begin:.0f} s)")
    chance = random.Random(count)
    t = {key: [] for key in ("mount", "first", "list", "id", "null", "end")}
    for k in range(bench.runs):
        t["mount"].append(first_answer(ours))
        t["first"].append(memory(ours.pid))
        ids = [hub_id(chance.randint(1, count)) for _ in range(500 if bench.quick else 3000)]
        t["id"].append(look_up(ours, sorted(set(ids), key=ids.index), True))
        t["null"].append(look_up(ours, [f".nothing-{k}-{i}" for i in range(len(ids))], False))
        t["list"].append(list_all(ours, count, bench.tmp / "names"))
        t["end"].append(memory(ours.pid))
        ours.stop()
    own = [max(0, a - b) for a, b in zip(t["id"], t["null"])]
    bench.plot["generations"].append([float(count), median(t["mount"]) * 1e3, median(t["first"]) / MIB,
                                      median(t["list"]) * 1e3, median(own) * 1e6,
                                      median(t["end"]) / MIB])
    if last:
        r, what = bench.report, f"{count:,} generations"
        r.figure(f"{what}: mount to first answer", spread(t["mount"]), median(t["mount"]), seconds,
                 at_most=0.1)
        r.figure(f"{what}: resident memory after look-ups and `ls -f`",
                 f"{spread(t['end'], mib)}; after the first answer {spread(t['first'], mib)}",
                 median(t["end"]), mib, at_most=40 * MIB)
        r.figure(f"{what}: `ls -f /generations`", spread(t["list"]), median(t["list"]), seconds,
                 at_most=1.5)
        r.figure(f"{what}: look-up of one id, at the file system's side",
                 f"a look-up {spread(t['id'])}, less one of a name that is answered from memory "
                 f"{spread(t['null'])}", median(own), seconds, at_most=50e-6)
    ours.mount.close()


# ---- find ----

def find(path):
    return timed(["find", path])


def finding(bench, world, count):
    say(f"find over {count:,} generations")
    ours = world.copied(count)
    ours.start()
    place, listing = ours.mount / "generations", bench.tmp / "listing"
    with open(listing, "w") as f:
        timed(["find", place, "-printf", "%y %P\\n"], stdout=f)
    with open(listing) as f:
        lines = f.read().splitlines()
    dirs = sum(line.startswith("d") for line in lines)
    assert dirs == count + 2 and len(lines) >= 6 * count, f"find saw {dirs} folders, {len(lines)} names"
    # The same tree on ext4: a fresh mount of it has nothing in memory but the image's blocks.
    disk = bench.keep(Ext4(bench.tmp / "tree", 64 * MIB + len(lines) * 1280, len(lines) * 5 // 4 + 1000))
    with open(listing) as f:
        output([TOOLS / "tree", disk.path], stdin=f)
    disk.remount()
    t = {"ours": [], "ext4": []}

    def twice(key, remount, path):
        remount()
        t[key].append((find(path), find(path)))

    rounds(bench.runs, {"ours": lambda: twice("ours", ours.remount, place),
                        "ext4": lambda: twice("ext4", disk.remount, disk.path)})
    how = "freshly mounted" if disk.in_image else "not freshly mounted, as that needs root"
    for k, (which, limit, note) in enumerate((("first", 8.0, f"; ext4 {how}"), ("second", 3.0, ""))):
        bench.report.ratio(f"{which} `find` over {count:,} generations ({len(lines):,} names) / the same "
                           "tree on ext4", [pair[k] for pair in t["ours"]],
                           [pair[k] for pair in t["ext4"]], limit, ("imagehubfs", "ext4"), note)
    ours.stop()
    ours.mount.close()
    disk.close()


# ---- in flight ----

def stamp(state):
    """Changes with every write to the database."""
    return [(name, s.st_size, s.st_mtime_ns) for name in ("catalogue.db", "catalogue.db-wal")
            for s in [os.stat(state / name)]]


def is_quiet(state):
    before = stamp(state)
    time.sleep(0.3)
    return stamp(state) == before


def watch(ours, seconds, times):
    """Windows of so many seconds: (shares of a core, resident bytes, whether the database was
    written)."""
    shares, sizes, before = [], [], stamp(ours.mount.state)
    for _ in range(times):
        used, begin = cpu(ours.pid), time.monotonic()
        time.sleep(seconds)
        shares.append((cpu(ours.pid) - used) / (time.monotonic() - begin))
        sizes.append(memory(ours.pid))
    return shares, sizes, stamp(ours.mount.state) != before


def in_flight(bench, count, seconds, last):
    """One point of the plot; the last one is judged."""
    world = World(bench, "--hold", succeeds=False)
    ours = world.copied(count - 1)
    world.hub.stop()
    if count > 1:
        fill_hub(world.hub.data / "hub.db", count - 1)
    world.hub.start()
    with behind_proxy(world.hub, bench.tmp) as proxy:
        def polls():
            return proxy.seen("GET", "/api/v1/generations/")

        ours.start()
        harness.until("every one's first poll", lambda: len(polls()) >= count or time.sleep(0.1), 300)
        harness.until("a quiet database", lambda: is_quiet(ours.mount.state), 60)
        shares, sizes, written = watch(ours, seconds, bench.runs)
        seen = sorted(polls())
        running = ours.mount.sql("SELECT count(*) FROM request WHERE state = 'running'")
        assert running == [str(count)], f"{running} in flight instead of {count}"
        ours.stop()
    world.hub.close()
    ours.mount.close()
    bench.plot["inflight"].append([float(count), median(sizes) / MIB, median(shares) * 100])
    if last:
        judge_flight(bench.report, f"{count:,} generations in flight", shares, sizes, written, seen)


def percent(share):
    return f"{share * 100:.1f} %"


def judge_flight(report, what, shares, sizes, written, seen):
    busy = [0] * (1 + (seen[-1] - seen[0]) // 10**9)  # polls in each second, the start included
    for at in seen:
        busy[(at - seen[0]) // 10**9] += 1
    average = sum(busy) / len(busy)
    report.figure(f"{what}: resident memory", spread(sizes, mib), median(sizes), mib, at_most=64 * MIB)
    report.figure(f"{what}: processor, of one core", spread(shares, percent), median(shares), percent,
                  at_most=0.05)
    report.figure(f"{what}: polls in the busiest second / on average",
                  f"most {max(busy):,}, on average {number(average)} a second, over {len(busy)} s from "
                  "the mount on", max(busy) / average, number, at_most=3.0)
    report.fact(f"{what}: writes to the database while nothing changes", "some" if written else "none",
                not written, "none")


def run(bench):
    sizes = (1000, 10_000) if bench.quick else (1000, 10_000, 100_000, 1_000_000)
    counts = (1, 100, 1000) if bench.quick else (1, 10, 100, 1000, 10_000)
    bench.report.begin("A large catalogue")
    world = World(bench, "--sketch-bytes", "100000", succeeds=True)
    for count in sizes:
        measure_catalogue(bench, world, count, count == sizes[-1])
    finding(bench, world, 2000 if bench.quick else 100_000)
    world.hub.close()
    bench.report.begin("In flight")
    for count in counts:
        say(f"{count:,} in flight")
        in_flight(bench, count, 2 if bench.quick else 12 if count == counts[-1] else 3,
                  count == counts[-1])
