"""What imagehubd keeps: its database's plans, an older database, what a kill leaves on disk."""
import os
import re
import sqlite3
import tempfile

import pytest
from harness import ROOT, Hub, run

ORDER = {"model": "gpt-image-2", "prompt": "a cat"}


def statements():
    """Every SQL text of src/hub with its file: the literals that db_query() and its like are given."""
    text = r'((?:"(?:[^"\\]|\\.)*"\s*)+)'
    for path in sorted((ROOT / "src" / "hub").glob("*.c")):
        for call in re.finditer(r"\bdb_(?:query|run|get_int)\(\s*[^\"()]*?" + text, path.read_text()):
            sql = "".join(re.findall(r'"((?:[^"\\]|\\.)*)"', call.group(1)))
            yield path.name, sql


def test_no_statement_of_a_request_reads_a_whole_table(hub):
    owners = {"FROM account ORDER BY id", "FROM api_key k JOIN account", "prefix = ?"}
    db = sqlite3.connect(f"file:{hub.data}/hub.db?mode=ro", uri=True)
    looked_at = 0
    for name, sql in statements():
        if any(words in sql for words in owners):
            continue
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql, [None] * sql.count("?"))]
        assert not [step for step in plan if step.startswith("SCAN")], (name, sql, plan)
        assert name == "ledger.c" or "TEMP" not in " ".join(plan), (name, sql, plan)
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


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """Where a hub is made; size() changes what it holds."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs, and making it larger, takes root")
    disk = tmp_path / "disk"
    disk.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=6m", "none", disk)
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    yield lambda size: run("mount", "-o", f"remount,size={size}", disk)
    run("umount", disk)


def test_a_full_disk_refuses_orders_and_keeps_those_it_took(small_disk):
    hub = Hub("--hold").start()
    try:
        taken, refused, number = set(), 0, 0

        def order():
            nonlocal refused, number
            number += 1
            status, _, g = hub.post({**ORDER, "prompt": f"{number} " + "x" * 30000, "async": True})
            assert status in (202, 500)
            refused += status == 500
            taken.update([g["id"]] if status == 202 else [])
            return status

        while order() == 202:
            assert number < 1000
        order()
        print(f"{refused} orders met a full disk")
        assert hub.get("/api/v1/credits")[0] == 200
        small_disk("60m")
        assert [order() for _ in range(5)] == [202] * 5 and refused == 2
        hub.kill()
        hub.start()
        rows = run("sqlite3", f"file:{hub.data}/hub.db?mode=ro", "SELECT id FROM generation")
        assert set(rows.stdout.split()) == taken
        hub.stop()
        assert run("sqlite3", hub.data / "hub.db", "PRAGMA integrity_check").stdout == "ok\n"
    finally:
        hub.close()
