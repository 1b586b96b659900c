"""The settle time between the last close and the commit: what puts it off, what cancels it.

That something was *not* sent is shown by a later file, whose settle time ends after the first one's
would have: once that one is sent, the first one's time is over. Nothing sleeps.
"""
import os

import pytest
from harness import sh, until

SETTLE = ["--settle", "400"]


@pytest.fixture
def mount(hub, make_mount):
    return make_mount(hub, *SETTLE)


def time_passes(mount, name="later"):
    """The settle time of everything closed before this is over."""
    mount.write(f"{name}.prompt", f"a later prompt, {name}")
    assert mount.wait(name)[-1].startswith("succeeded")


def requests_of(mount, name):
    return int(mount.sql("SELECT count(*) FROM request WHERE path = "
                         f"'requests/{name}.prompt'")[0])


def test_an_open_that_writes_nothing_only_puts_it_off(hub, mount):
    """touch(1) opens for writing: the prompt that was owed must not be forgotten."""
    sh("echo 'a cat' > a.prompt; touch a.prompt; : >> a.prompt", cwd=mount / "requests")
    assert mount.wait("a")[-1].startswith("succeeded")
    fd = os.open(mount.write("b.prompt", "a dog"), os.O_WRONLY)
    time_passes(mount)
    assert requests_of(mount, "b") == 0
    os.close(fd)
    assert mount.wait("b")[-1].startswith("succeeded")
    assert hub.generations() == 3
