"""What the tests of writers share: what a hub was really sent, and when nothing more is to come."""
import sqlite3
from collections import Counter

from harness import LIMIT, until


def settled(mount):
    """Everything that was closed has been looked at, and what was queued has been sent."""
    left = []

    def none_left():
        left[:] = mount.sql(
            "SELECT 'node', id, parent, name, pending, request FROM node WHERE pending <> 0 UNION ALL"
            " SELECT 'request', id, node, path, state, '' FROM request WHERE state IN ('queued', 'sending')")
        return not left
    try:
        until("settling", none_left)
    except AssertionError:
        raise AssertionError(f"not settled: {left}") from None


def sent(hub):
    """The texts of all POSTs that the hub took, each with how often."""
    db = sqlite3.connect(f"file:{hub.data}/hub.db?mode=ro", uri=True, timeout=LIMIT)
    try:
        return Counter(text for text, in db.execute("SELECT json_extract(wanted, '$.prompt') FROM generation"))
    finally:
        db.close()


def exactly(hub, mount, texts, what):
    """The hub gets each of these texts once, and nothing else: no half of one, no second time."""
    want = Counter(texts)
    until(what, lambda: not want - sent(hub) or sent(hub) - want)
    settled(mount)
    got = sent(hub)
    assert got == want, f"{what}: missing {dict(want - got)}, too much {dict(got - want)}"
