"""What imagehubd keeps: its database's plans, an older database, what a kill leaves on disk."""
import os
import re
import sqlite3

from harness import ROOT, run, until

ORDER = {"model": "gpt-image-2", "prompt": "a cat"}


def statements():
    """Every SQL text of src/hub with its file: the literals that db_query() and its like are given."""
    text = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'
    for path in sorted((ROOT / "src" / "hub").glob("*.c")):
        for call in re.finditer(r"\bdb_(?:query|run|get_int)\(\s*[^\"()]*?" + text, path.read_text()):
            sql = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', call.group(1)))
            yield path.name, sql


def test_no_statement_of_a_request_reads_a_whole_table(hub):
    listings = {"FROM account ORDER BY id", "FROM api_key k JOIN account"}  # the owner's tables
    db = sqlite3.connect(f"file:{hub.data}/hub.db?mode=ro", uri=True)
    looked_at = 0
    for name, sql in statements():
        if any(l in sql for l in listings) or "api_key WHERE prefix" in sql or "prefix = ?" in sql:
            continue
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, [None] * sql.count("?"))]
        assert not [step for step in plan if step.startswith("SCAN")], (name, sql, plan)
        looked_at += 1
    db.close()
    print(f"{looked_at} statements")
    assert looked_at > 20


def test_a_database_of_the_first_version_is_taken_over(hub):
    ids = [hub.post(order)[2]["id"] for order in (
        ORDER, {**ORDER, "size": "1024x640", "n": 2}, {**ORDER, "prompt": "가" * 32000})]
    before = [hub.get(f"/api/v1/generations/{id}")[1] for id in ids]
    assert [g["model"] for g in before] == ["gpt-image-2"] * 3
    assert [g["aspect_ratio"] for g in before] == ["1:1", "8:5", "1:1"]
    assert [len(g["images"]) for g in before] == [1, 2, 1]
    hub.stop()
    run("sqlite3", hub.data / "hub.db", "".join(
        f"ALTER TABLE generation DROP COLUMN {column};" for column in ("model", "size", "n")) +
        "PRAGMA user_version = 1")
    hub.start()
    assert [hub.get(f"/api/v1/generations/{id}")[1] for id in ids] == before


def test_ids_begin_with_the_time(hub):
    ids = []
    for k in range(5):
        ids.append(hub.post({**ORDER, "prompt": str(k), "async": True})[2]["id"])
    assert ids == sorted(ids) and len(set(ids)) == 5
