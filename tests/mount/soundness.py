"""What tests ask of a hub's and a mount's databases."""
import contextlib
import json
import shutil

from harness import query, run


def orders(hub):
    """The text of each order that has arrived at the hub."""
    return json.loads(query(hub.data / "hub.db",
                            "SELECT json_group_array(json_extract(wanted, '$.prompt')) FROM generation")[0])


def is_sound(database, copy):
    """PRAGMA integrity_check of a copy, so that the recovery is left to whoever owns it."""
    copy.mkdir()
    for name in (database.name, f"{database.name}-wal"):
        with contextlib.suppress(FileNotFoundError):
            shutil.copy(database.parent / name, copy / name)
    said = run("sqlite3", copy / database.name, "PRAGMA integrity_check", limit=60).stdout
    shutil.rmtree(copy)
    return said == "ok\n"
