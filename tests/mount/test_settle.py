"""The settle time between the last close and the commit: what puts it off, what cancels it.

That something was *not* sent is shown by a later file, whose settle time ends after the first one's
would have: once that one is sent, the first one's time is over. Nothing sleeps.
"""
import os

import pytest
from faulthub import PostProxy
from harness import run, sh, until

@pytest.fixture
def mount(hub, make_mount):
    return make_mount(hub, "--settle", "400")


@pytest.fixture
def patient(hub, make_mount):
    """With time enough for a slow machine to do something within the settle time."""
    return make_mount(hub, "--settle", "3000")


def time_passes(mount, name="later"):
    """The settle time of everything closed before this is over, and what it led to has been sent."""
    mount.write(f"{name}.prompt", f"a later prompt, {name}")
    until(f"{name}'s commit", lambda: requests_of(mount, name) == 1)
    until("sending", lambda: mount.sql("SELECT count(*) FROM request WHERE state IN ('queued', 'sending')") == ["0"])


def requests_of(mount, name):
    return int(mount.sql("SELECT count(*) FROM request WHERE path = "
                         f"'requests/{name}.prompt'")[0])


def test_an_open_that_writes_nothing_only_puts_it_off(hub, patient):
    """touch(1) opens for writing: the prompt that was owed must not be forgotten."""
    mount = patient
    sh("echo 'a cat' > a.prompt; touch a.prompt; : >> a.prompt", cwd=mount / "requests")
    assert mount.wait("a")[-1].startswith("succeeded")
    fd = os.open(mount.write("b.prompt", "a dog"), os.O_WRONLY)
    time_passes(mount)
    assert requests_of(mount, "b") == 0
    os.close(fd)
    assert mount.wait("b")[-1].startswith("succeeded")
    assert hub.generations() == 3


def test_what_happens_within_the_settle_time(hub, patient):
    """Re-opened, removed or renamed away: nothing is sent of what was there before."""
    mount = patient
    requests = mount / "requests"
    for name in ("reopened", "removed", "renamed", "truncated"):
        mount.write(f"{name}.prompt", f"this must not be sent ({name})")
    with open(requests / "reopened.prompt", "r+") as writer:
        (requests / "removed.prompt").unlink()
        (requests / "renamed.prompt").rename(requests / "renamed.txt")
        (requests / "truncated.prompt").write_text("")
        time_passes(mount)
        assert hub.generations() == 1
        writer.write("THAT")
    assert mount.wait("reopened")[-1].startswith("succeeded")
    (requests / "renamed.txt").rename(requests / "back.prompt")  # at once: it has a name of its own
    assert mount.wait("back")[-1].startswith("succeeded")
    assert sorted(mount.sql("SELECT json_extract(wanted, '$.prompt') FROM request")) == [
        "THAT must not be sent (reopened)", "a later prompt, later", "this must not be sent (renamed)"]
    assert hub.generations() == 3


def test_moving_within_the_settle_time_and_after_it_spends_once(hub, mount):
    requests = mount / "requests"
    (requests / "d").mkdir()
    mount.write("a.prompt", "a cat")
    (requests / "a.prompt").rename(requests / "d/b.prompt")
    assert mount.wait("d/b")[-1].startswith("succeeded")
    (requests / "d/b.prompt").rename(requests / "c.prompt")
    (requests / "d").rename(requests / "e")
    (requests / "c.prompt").rename(requests / "e/c.txt")
    (requests / "e/c.txt").rename(requests / "e/c.prompt")
    time_passes(mount)
    assert mount.status("e/c").startswith("succeeded")
    until("the picture", (requests / "e/c.png").exists)
    assert hub.generations() == 2


def test_exchange(hub, mount):
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)

    def exchange(a, b):
        assert libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), 2) == 0

    a, b, draft = mount.write("a.prompt", "a cat"), mount.write("b.prompt", "a dog"), mount.write("x.txt", "a fox")
    for name in "ab":
        mount.wait(name)
    exchange(a, b)  # each takes its request with it
    time_passes(mount)
    assert hub.generations() == 3 and a.read_text() == "a dog"
    assert os.getxattr(a, "user.imagehub.prompt") == b"a dog"
    exchange(draft, a)  # what was no prompt has become one; what was one is kept as a scratch file
    assert mount.wait("a")[-1].startswith("succeeded") and a.read_text() == "a fox"
    exchange(draft, a)  # and back: it was submitted under this file
    time_passes(mount, "latest")
    assert os.getxattr(a, "user.imagehub.prompt") == b"a dog" and hub.generations() == 5


def test_a_rename_goes_at_once(hub, make_mount):
    mount = make_mount(hub, "--settle", "600000")
    requests = mount / "requests"
    (requests / "x.txt").write_text("a cat")
    (requests / "x.txt").rename(requests / "a.prompt")
    assert requests_of(mount, "a") == 1  # when rename(2) returns
    (requests / "y.txt").write_text("---\nqualty: high\n---\nx")
    (requests / "y.txt").rename(requests / "b.prompt")
    assert requests_of(mount, "b") == 0 and "qualty" in error_of(mount, "b")
    (requests / "z.txt").write_text("a dog")
    with open(requests / "z.txt", "a") as writer:
        (requests / "z.txt").rename(requests / "c.prompt")
        assert requests_of(mount, "c") == 0  # a writer has it open
        writer.write(" with a hat")
    assert mount.wait("a")[-1].startswith("succeeded")
    assert requests_of(mount, "c") == 0 and hub.generations() == 1  # its close settles


def error_of(mount, name):
    return mount.text(f"{name}.error")


def test_another_file_in_its_place(hub, mount):
    """Editors and copiers put a new file in the place of the old one: the same text spends nothing."""
    requests = mount / "requests"
    sh("echo 'a cat' > a.prompt; cat a.wait", cwd=requests)
    first = os.getxattr(requests / "a.prompt", "user.imagehub.id")
    for k, replace in enumerate((
            "cp a.prompt new; mv new a.prompt",
            "cp a.prompt new; rm a.prompt; mv new a.prompt",
            "cp a.prompt new; rm a.prompt; cp new a.prompt; rm new",
            "mv a.prompt a.prompt~; cp a.prompt~ a.prompt; rm a.prompt~",
            "tar -cf t a.prompt; tar -xf t; rm t")):
        sh(replace, cwd=requests)
        time_passes(mount, f"later{k}")
        assert os.getxattr(requests / "a.prompt", "user.imagehub.id") == first, replace
        assert mount.status("a").startswith("succeeded")
        until("the picture", (requests / "a.png").exists)
        assert requests_of(mount, "a") == 1, replace
    # A prompt that was moved keeps its request; its old name is free for the same text.
    sh("mv a.prompt b.prompt; echo 'a cat' > a.prompt; cat a.wait", cwd=requests)
    assert os.getxattr(requests / "a.prompt", "user.imagehub.id") != first
    assert os.getxattr(requests / "b.prompt", "user.imagehub.id") == first
    sh("echo 'a dog' > new; mv new a.prompt; cat a.wait", cwd=requests)
    assert os.getxattr(requests / "a.prompt", "user.imagehub.prompt") == b"a dog"
    assert hub.generations() == 3 + 5


def test_the_file_that_takes_over_is_told_of_what_is_under_way(make_hub, make_mount):
    hub = make_hub("--hold")
    mount = make_mount(hub)
    requests = mount / "requests"
    mount.write("a.prompt", "a cat")
    until("running", lambda: mount.sql("SELECT 1 FROM request WHERE state = 'running'"))
    sh("cp a.prompt new; mv new a.prompt", cwd=requests)
    hub.let_go()
    assert mount.wait("a")[-1].startswith("succeeded") and (requests / "a.png").exists()
    assert hub.generations() == 1


def test_unsent_text_that_was_replaced_is_withdrawn(hub, mount):
    """Neither could be approved nor canceled any more: only the latest text is paid."""
    requests = mount / "requests"
    mount.control("pause\n")
    for how, script in (("in place", "echo new > a.prompt"), ("by a rename", "echo newer > n; mv n a.prompt"),
                        ("as vim does", "mv a.prompt a~; echo newest > a.prompt; rm a~")):
        sh("[ -e a.prompt ] || echo old > a.prompt", cwd=requests)
        mount.wait("a", check=False)
        sh("cp a.prompt k; cat k > a.prompt; mv k a.prompt", cwd=requests)  # the same text changes nothing
        mount.wait("a", check=False)
        assert mount.sql("SELECT count(*) FROM request WHERE state = 'held'") == ["1"], how
        sh(script, cwd=requests)
        done = mount.wait("a", check=False)
        assert done.returncode == 1 and done.stdout.splitlines()[-1].startswith("held"), how
        assert mount.sql("SELECT count(*) FROM request WHERE state = 'held'") == ["1"], how
    mount.control("resume\n")
    assert mount.wait("a")[-1].startswith("succeeded")
    assert hub.generations() == 1 and mount.sql(
        "SELECT json_extract(wanted, '$.prompt') FROM request WHERE state = 'succeeded'") == ["newest"]


def test_a_removal_that_a_crash_cut_short(hub, mount):
    mount.control("pause\n")
    mount.write("a.prompt", "a cat")
    mount.wait("a", check=False)
    mount.stop()
    run("sqlite3", mount.state / "catalogue.db", "DELETE FROM node WHERE name = 'a.prompt'")
    mount.start()
    mount.control("resume\n")
    time_passes(mount)
    assert mount.sql("SELECT state FROM request WHERE path = 'requests/a.prompt'") == ["canceled"]
    assert hub.generations() == 1


def test_removed_while_its_answer_is_lost(hub, make_mount):
    """A hub that knows repeated requests is asked again: what may be paid is not called canceled."""
    proxy = PostProxy(hub.port)
    mount = make_mount(url=proxy.url, key=hub.key)
    mount.write("warm.prompt", "the hub announces what it can")
    mount.wait("warm")
    proxy.faults["a cat"] = ("down", 1, "cut")
    proxy.leave = True
    mount.write("a.prompt", "a cat")
    until("the lost answer", lambda: mount.sql(
        "SELECT 1 FROM request WHERE path = 'requests/a.prompt' AND state = 'queued' AND attempts = 1"))
    (mount / "requests/a.prompt").unlink()
    assert mount.sql("SELECT count(*) FROM request WHERE state = 'canceled'") == ["0"]
    again = PostProxy(hub.port, port_here=int(proxy.url.rsplit(":", 1)[1]))
    mount.control("refresh\n")
    until("its end", lambda: mount.sql("SELECT count(*) FROM request WHERE state = 'succeeded'") == ["2"])
    print("answers cut:", proxy.fired)
    assert proxy.fired == {("down", "cut"): 1} and len(hub.charges()) == len(set(hub.charges())) == 2
    again.close()
