"""One saved text is paid at most once, whatever became of its file meanwhile: it was moved, its folder
was, or its request was let rest when nobody knew whether it had been paid.
"""
import shutil

import pytest
from faulthub import FaultHub, http
from harness import sh, until
from sending import settled

GENERATIONS = r"/api/v1/images/generations"


@pytest.fixture
def taking():
    """A hub that takes every order and never finishes one."""
    running = lambda request: http(202, {"id": f"gen_{hub.count('POST'):08}", "status": "queued"})
    hub = FaultHub({("POST", GENERATIONS): running,
                    ("GET", r"/api/v1/generations/.*"): lambda request: http(
                        200, {"id": request[1].rsplit("/", 1)[1], "status": "processing"})})
    yield hub
    hub.close()


EXCHANGE = "python3 -c 'import ctypes; assert not ctypes.CDLL(None).renameat2(-100, b\"x\", -100, b\"dog.prompt\", 2)'"

# Each begins with cat.prompt and other.prompt sent, and ends with cat's text saved again under the name that
# it has then.
MOVES = {
    "moved, then replaced": "mv cat.prompt dog.prompt; cp dog.prompt new; mv new dog.prompt",
    "moved, then sed -i": "mv cat.prompt dog.prompt; sed -i s/cat/cat/ dog.prompt",
    "moved, then made anew": "mv cat.prompt dog.prompt; cp dog.prompt x; rm dog.prompt; cp x dog.prompt",
    "moved, then with a backup": "mv cat.prompt dog.prompt; mv dog.prompt dog.prompt~;"
                                 " cp dog.prompt~ dog.prompt; rm dog.prompt~",
    "its folder was moved": "mkdir a; mv cat.prompt a; mv a b; sed -i s/cat/cat/ b/cat.prompt",
    "moved over another": "mv cat.prompt other.prompt; sed -i s/cat/cat/ other.prompt",
    "over another, with a backup": "mv cat.prompt other.prompt; mv other.prompt o~; cp o~ other.prompt",
    "exchanged": f"mv cat.prompt dog.prompt; cp dog.prompt x; {EXCHANGE}",
}


def test_a_moved_prompt_that_is_saved_again_costs_nothing(taking, make_mount):
    mount = make_mount(url=taking.url)
    for k in range(len(MOVES)):
        (mount / f"requests/{k}").mkdir()
        for name in ("other", "cat"):
            mount.write(f"{k}/{name}.prompt", f"a {name}, {k}")
    n = 2 * len(MOVES)
    until("all to be taken", lambda: mount.sql("SELECT count(*) FROM request WHERE state = 'running'") == [str(n)])
    for k, move in enumerate(MOVES.values()):
        sh(f"set -e; {move}", cwd=mount / f"requests/{k}")
    settled(mount)
    sent_since = mount.sql(f"SELECT path FROM request WHERE id > {n}")
    assert not sent_since, [list(MOVES)[int(path.split("/")[1])] for path in sent_since]
    # And none is mistaken for another: changed text is a new picture.
    prompts = list((mount / "requests").rglob("*.prompt"))
    for path in prompts:
        path.write_text(f"changed in {path}")
    until("the changed ones", lambda: taking.count("POST") == n + len(prompts))


def test_what_was_let_rest_is_not_sent_again_by_saving_it(make_mount):
    """It may have been paid. Only `again`, or another text, is a wish to pay."""
    hub = FaultHub({("POST", GENERATIONS): None})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    until("unknown", lambda: mount.sql("SELECT state FROM request") == ["unknown"])
    (mount / "control").write_text("cancel requests/cat.prompt\n")
    mount.write("cat.prompt", "a cat")
    sh("cp cat.prompt new; mv new cat.prompt", cwd=mount / "requests")
    settled(mount)
    assert hub.count("POST") == 1 and mount.status("cat").startswith("canceled: given up after its answer was lost")
    (mount / "control").write_text("again requests/cat.prompt\n")
    until("what was asked for", lambda: hub.count("POST") == 2)
    hub.close()


def test_a_command_names_the_prompt_that_it_is_about(make_mount):
    """Another may have the name that it had: to approve or to retry that one would be paid."""
    hub = FaultHub({("POST", GENERATIONS): http(400, {"error": {"message": "no", "code": "invalid_request"}})})
    mount = make_mount(url=hub.url)
    mount.write("cat.prompt", "a cat")
    until("the refusal", lambda: mount.sql("SELECT state FROM request") == ["refused"])
    (mount / "requests/d").mkdir()
    (mount / "requests/cat.prompt").rename(mount / "requests/d/old.prompt")
    path = mount / "requests/d/old.error"
    until("its name", path.exists)
    error = path.read_text()
    assert "what:    requests/d/old.prompt is refused" in error and "retry requests/d/old.prompt'" in error
    hub.close()


def test_cancel_and_approve_reach_every_unsent_one(taking, make_mount):
    """After `again` a prompt has several: what is canceled by its name is not paid for after all."""
    mount = make_mount(None, "--max-spend", "0", url=taking.url)
    control = mount / "control"
    count = lambda state: int(mount.sql(f"SELECT count(*) FROM request WHERE state = '{state}'")[0])
    (mount / "requests/.thrown/away").mkdir(parents=True)
    for name in ("cat", "dog", "thrown"):
        mount.write(f"{name}.prompt", f"a {name}")
    until("the first three", lambda: count("held") == 3)
    (mount / "requests/thrown.prompt").rename(mount / "requests/.thrown/away/x.prompt")
    control.write_text("again requests/cat.prompt\n" * 3 + "again requests/dog.prompt\n")
    until("the others", lambda: count("held") == 7)
    control.write_text("cancel requests/cat.prompt\n")
    assert (count("held"), count("canceled")) == (3, 4)
    control.write_text("approve requests\n")  # not what is in a hidden folder
    until("both of dog's", lambda: taking.count("POST") == 2 and count("running") == 2)
    assert (count("held"), count("canceled")) == (1, 4)
    control.write_text("cancel requests\n")  # that one too
    settled(mount)
    assert taking.count("POST") == 2 and count("canceled") == 5


def test_a_state_that_was_restored_from_a_backup_sends_nothing_by_itself(taking, make_mount):
    """What waits in it may have been sent since the backup was made."""
    mount = make_mount(url=taking.url, start=False)
    backup, control = mount.dir / "backup", mount / "control"
    state = lambda name: mount.sql("SELECT state FROM request WHERE path LIKE " + f"'%/{name}.prompt' ORDER BY id")
    mount.start()
    control.write_text("pause\n")
    mount.write("cat.prompt", "a cat")
    until("the hold", lambda: state("cat") == ["held"])
    mount.stop()
    shutil.copytree(mount.state, backup)
    # What is only moved stays what it is.
    mount.state = mount.state.rename(mount.dir / "moved")
    mount.start()
    control.write_text("resume\n")
    until("the POST", lambda: taking.count("POST") == 1 and state("cat") == ["running"])
    mount.stop()
    mount.state = backup
    mount.start()
    mount.write("dog.prompt", "a dog")
    until("its hold", lambda: state("dog") == ["held"])
    assert "restored from a backup" in mount.status("dog") and "restored from a backup" in control.read_text()
    assert taking.count("POST") == 1 and state("cat") == ["held"]
    control.write_text("cancel requests/cat.prompt\nresume\n")
    until("what is new", lambda: state("dog") == ["running"])
    # From now on it is a state like any other.
    mount.stop()
    mount.start()
    mount.write("fox.prompt", "a fox")
    until("the next", lambda: state("fox") == ["running"])
    assert taking.count("POST") == 3 and state("cat") == ["canceled"]


def test_a_name_is_never_a_command(make_mount):
    """What .error tells to paste does what it says, whoever has made the name."""
    hub = FaultHub({("POST", GENERATIONS): http(400, {"error": {"message": "no", "code": "invalid_request"}})})
    mount = make_mount(url=hub.url)
    for name in ("cat\nagain requests\n", "it's $(a) `cat`; again requests"):
        mount.write(f"{name}.prompt", "a cat")
        path = mount / f"requests/{name}.error"
        until("its error", path.exists)
        lines = path.read_text().splitlines()
        assert [line[:9] for line in lines[:4]] == ["what:    ", "why:     ", "charged: ", "next:    "], lines
        commands = [line[line.index("echo "):] for line in lines if "echo " in line]
        assert len(commands) == ("\n" not in name) and not [line for line in lines if line.startswith("again")]
        for command in commands:
            sh(command)
            until("the second try", lambda: hub.count("POST") == 3)
    settled(mount)
    assert hub.count("POST") == 3 and mount.sql("SELECT count(*) FROM request") == ["2"]
    hub.close()
