"""The money's path through a real mount: the paid POST cut, stalled and corrupted at every byte, hubs
that close in silence, kills while it is on its way. Each test counts the faults that it really fired.
"""
import os
import re
import signal
import socket
import threading
import time

import pytest
from faulthub import FaultHub, http
from harness import run, until

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
    until("the evidence", lambda: "balance before: 500, after: 500" in
          (mount / "requests/cat.error").read_text())
    assert "this program ended" in mount.status("cat") and hub.count("POST") == 1
    hub.routes[("POST", GENERATIONS)] = http(401, {"error": {"message": "gone", "code": "invalidApiKey"}})
    (mount / "control").write_text("retry requests/cat.prompt\n")
    until("the refusal", lambda: hub.count("POST") == 2 and states(mount) == ["unknown"])
    # A refusal of the second says nothing of the first.
    assert "it may have been charged" in mount.status("cat") and "gone" in mount.status("cat")
    (mount / "control").write_text("cancel requests/cat.prompt\n")
    assert mount.status("cat").startswith("canceled: given up after its answer was lost; it may have been")
    assert hub.count("POST") == 2 and kills == 3
    print(f"\n{kills} kills, {hub.count('POST')} POSTs, the second by the user")
    hub.close()
