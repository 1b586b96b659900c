"""What is due stays due, whoever looks in; what a writer was told had failed is never sent."""
import contextlib
import os

from harness import run, sh


def test_a_touch_within_the_settle_time_stops_nothing(hub, make_mount):
    mount = make_mount(hub, "--settle", "1000")
    for k in range(3):
        mount.write(f"p{k}.prompt", f"prompt {k}")
    sh("touch p0.prompt; exec 3>>p1.prompt 3>&-; truncate -s +0 p2.prompt", cwd=mount / "requests")
    for k in range(3):
        assert mount.wait(f"p{k}")[-1].startswith("succeeded")
    assert hub.generations() == 3 == len(hub.charges())


def test_a_rename_under_an_open_writer_is_sent_when_it_is_closed(hub, mount):
    requests = mount / "requests"
    (requests / "a.part").write_text("whole")
    fd = os.open(requests / "a.part", os.O_WRONLY | os.O_APPEND)  # and never writes
    os.rename(requests / "a.part", requests / "a.prompt")
    os.stat(requests / "a.prompt")
    assert mount.sql("SELECT count(*) FROM request") == ["0"]
    os.close(fd)
    assert mount.wait("a")[-1].startswith("succeeded")
    assert hub.generations() == 1 == len(hub.charges())


def test_a_kill_between_two_writes_under_a_new_name_sends_no_half(hub, mount):
    requests = mount / "requests"
    fd = os.open(requests / "a.part", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"half of it")
    os.rename(requests / "a.part", requests / "a.prompt")
    os.write(fd, b" and more")
    mount.kill()
    with contextlib.suppress(OSError):
        os.close(fd)
    mount.start()
    assert mount.wait("a", check=False).stdout.splitlines()[-1].startswith("draft: ")
    assert (requests / "a.prompt").read_text() == "half of it and more"
    assert hub.generations() == 0


def test_a_failed_write_is_told_again_at_close_and_sends_nothing(hub, mount):
    """EFBIG stands for every failure of a write: the file's own spool cannot hold it."""
    path = mount / "requests/a.prompt"
    run("prlimit", "--pid", str(mount.process.pid), "--fsize=900000:")
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    assert os.write(fd, b"x" * 900000) == 900000
    for what in (lambda: os.write(fd, b"y"), lambda: os.close(fd)):
        try:
            what()
            raise AssertionError("nothing failed")
        except OSError as error:
            assert error.errno == 27, error
    run("prlimit", "--pid", str(mount.process.pid), "--fsize=unlimited:")
    assert mount.status("a").startswith("draft: not all that was written could be kept")
    path.write_text("written anew")
    assert mount.wait("a")[-1].startswith("succeeded")
    assert hub.generations() == 1 == len(hub.charges())
