#!/usr/bin/python3
"""Fills a new state directory with generations, as if they had been made one after another.

	catalogue.py STATE GENERATIONS [--prompts N] [--running]

The schema is the program's own (imagehubfs --verify-cache makes it), the rows are written by SQL:
each generation with its request, its picture, the log of its life and its charge, in the sizes that
a real run leaves. --prompts N: the newest N of them also have their prompt file, in folders of 1,000
below /requests. --running: they are still in flight, as after a power cut. Prints what it made.

IMAGEHUBFS_BUILD names the folder of the program (build beside this one's parent).
"""
import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path

BUILD = Path(os.environ.get("IMAGEHUBFS_BUILD", Path(__file__).resolve().parent.parent / "build"))
HUB = "http://127.0.0.1:9"
FIRST_MS = 1_767_225_600_000  # 2026-01-01
FOLDER = 1000

NUMBERS = "WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k WHERE i < :n)"
PROMPT = "'a cinematic product photo of a transparent perfume bottle on black marble, number ' || i"
WANTED = ("json_object('model', 'gpt-image-2', 'prompt', " + PROMPT + ", 'async', json('true'))")
HUB_ID = "printf('gen_%06x%018x', (i * 2654435761) & 16777215, i)"
RESPONSE = """printf('{"object":"image_generation","id":"%s","status":"%s","model":"gpt-image-2",'
 || '"aspect_ratio":"1:1","quality":"1K","created_at":"2026-01-01T00:00:00.000Z","images":[%s],'
 || '"usage":{"credits":8,"credits_requested":8},"poll_url":"%s/api/v1/generations/%s"}',
 """ + HUB_ID + """, :status, iif(:running, '', printf('{"id":"image%027x","object":"image",'
 || '"url":"%s/images/image%027x.png","created_at":"2026-01-01T00:00:09.000Z"}', i, :hub, i)),
 :hub, """ + HUB_ID + ")"

ROWS = [
    "INSERT INTO request(id, node, path, hash, wanted, n_references, key, retries, state, hold,"
    " approved, reason, text, generation, price_low, price_high, charged, balance_before,"
    " balance_after, attempts, not_before, created, sent, changed) " + NUMBERS +
    " SELECT i, :first_node + i - 1, printf('requests/%05d/%04d.prompt', (i - 1) / 1000,"
    " (i - 1) % 1000), zeroblob(32), " + WANTED + ", 0, printf('%032x', i), 0, :state, '', 0, 'ok',"
    " NULL, i, 8, 8, iif(:running, -1, 8), 100000, iif(:running, -1, 99992), 1, 0, :t + i * 100,"
    " :t + i * 100 + 10, :t + i * 100 + 9000 FROM k",
    "INSERT INTO generation(id, hub_id, request, status, phase, model, prompt, poll_url, credits,"
    " request_json, response_json, created, changed) " + NUMBERS +
    " SELECT i, " + HUB_ID + ", i, :status, iif(:running, 0, 1), 'gpt-image-2', " + PROMPT + ","
    " :hub || '/api/v1/generations/' || " + HUB_ID + ", iif(:running, -1, 8), " + WANTED + ", " +
    RESPONSE + ", :t + i * 100 + 20, :t + i * 100 + 9000 FROM k",
    "INSERT INTO image(id, generation, number, hub_id, url, url_ms, size, type, width, height,"
    " listed) " + NUMBERS + " SELECT i, i, 1, printf('image%027x', i),"
    " printf('%s/images/image%027x.png', :hub, i), :t + i * 100 + 9000, 1500000, 'png', 1024, 1024,"
    " :t + i * 100 + 9010 FROM k WHERE NOT :running",
    "INSERT INTO charge(request, at, credits, settled) " + NUMBERS +
    " SELECT i, :t + i * 100, 8, NOT :running FROM k",
    "INSERT INTO log(request, generation, at, text) " + NUMBERS +
    " SELECT i, 0, :t + i * 100, printf('queued: requests/%05d/%04d.prompt', (i - 1) / 1000,"
    " (i - 1) % 1000) FROM k",
    "INSERT INTO log(request, generation, at, text) " + NUMBERS +
    " SELECT i, 0, :t + i * 100 + 10, 'sending to ' || :hub || ' (try 1, gpt-image-2)' FROM k",
    "INSERT INTO log(request, generation, at, text) " + NUMBERS +
    " SELECT i, i, :t + i * 100 + 20, 'accepted by the hub as ' || " + HUB_ID + " || ', queued'"
    " FROM k",
    "INSERT INTO log(request, generation, at, text) " + NUMBERS +
    " SELECT i, i, :t + i * 100 + 9000, 'succeeded: 1 of 1 pictures, 8 credits' FROM k"
    " WHERE NOT :running",
]


def make_schema(state):
    with tempfile.TemporaryDirectory() as empty:
        subprocess.run([BUILD / "imagehubfs", "--state", state, "--cache", f"{empty}/cache",
                        "--verify-cache"], check=True, stdout=subprocess.DEVNULL)


def add_prompts(db, state, count, generations):
    """Prompt files with their spool, for the newest requests; the node ids that the requests have."""
    first = db.execute("SELECT min(node) FROM request").fetchone()[0]
    folder = first + generations
    t = FIRST_MS * 1_000_000
    for i in range(generations - count + 1, generations + 1):
        parent = folder + (i - 1) // FOLDER
        db.execute("INSERT OR IGNORE INTO node(id, parent, name, mode, uid, gid, atime, mtime, ctime)"
                   " VALUES(?, 1, ?, ?, ?, ?, ?, ?, ?)",
                   (parent, f"{(i - 1) // FOLDER:05d}", 0o40755, os.getuid(), os.getgid(), t, t, t))
        db.execute("INSERT INTO node(id, parent, name, mode, uid, gid, atime, mtime, ctime, request)"
                   " VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                   (first + i - 1, parent, f"{(i - 1) % FOLDER:04d}.prompt", 0o100644, os.getuid(),
                    os.getgid(), t, t, t, i))
        (state / "spool" / str(first + i - 1)).write_text(
            f"a cinematic product photo of a transparent perfume bottle on black marble, number {i}\n")


def fill(state, generations, prompts=0, running=False):
    state = Path(state)
    if (state / "catalogue.db").exists():
        sys.exit(f"{state} has a catalogue already")
    make_schema(state)
    db = sqlite3.connect(state / "catalogue.db", isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA foreign_keys = OFF")
    db.execute("BEGIN")
    values = {"n": generations, "t": FIRST_MS, "hub": HUB, "running": running, "first_node": 2,
              "state": "running" if running else "succeeded",
              "status": "processing" if running else "succeeded"}
    for sql in ROWS:
        db.execute(sql, {name: value for name, value in values.items() if f":{name}" in sql})
    add_prompts(db, state, prompts, generations)
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for table in ("generation", "request", "image", "log", "charge", "node"):
        print(f"{table}: {db.execute(f'SELECT count(*) FROM {table}').fetchone()[0]:,}")
    db.close()
    print(f"catalogue.db: {(state / 'catalogue.db').stat().st_size / 1e6:,.0f} MB in {state}")


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("state")
    p.add_argument("generations", type=int)
    p.add_argument("--prompts", type=int, default=0)
    p.add_argument("--running", action="store_true")
    a = p.parse_args()
    if a.prompts > a.generations:
        p.error("--prompts: no more than there are generations")
    fill(a.state, a.generations, a.prompts, a.running)


if __name__ == "__main__":
    main()
