"""What a user reads: NAME.status, NAME.error, NAME.wait and control, in each state."""
import contextlib
import errno
import os
import re
import signal
import subprocess
import time

import pytest
from faulthub import FaultHub, http
from harness import LIMIT, first_line, sh, until
from sending import settled


def error_of(mount, name):
    """The four parts of NAME.error."""
    text = mount.text(f"{name}.error")
    parts = re.fullmatch(r"what:    (.+)\nwhy:     (.+)\ncharged: (.+)\nnext:    ((?:.+\n)+)", text)
    assert parts, text
    return parts.groups()


def pasted(mount, name, verb):
    """The command for that verb in NAME.error, run as it stands, from a folder that is not the mount."""
    command = re.search(rf"echo '{verb} .*' > \S+", error_of(mount, name)[3])
    assert command, error_of(mount, name)
    return sh(command.group(), cwd="/")


def test_drafts(hub, mount):
    requests = mount / "requests"
    sh("printf -- '---\\nqualty: high\\n---\\nx' > a.prompt; mkdir .d; echo x > .d/h.prompt; touch b.prompt", cwd=requests)
    until("the note", (requests / "a.error").exists)
    assert mount.status("a") == 'draft: a.prompt:2:1: unknown key "qualty"; did you mean "quality"?; nothing was sent\n'
    what, why, charged, after = error_of(mount, "a")
    assert (what, charged) == ("requests/a.prompt is a draft", "nothing") and mount.status("a").startswith(f"draft: {why}")
    assert "mend it and save it" in after
    for name, words, number in (("a", "unknown key", "Invalid argument"), ("b", "no prompt text", "No data available"),
                                (".d/h", "begins with a dot", "No data available")):
        done = mount.wait(name, check=False)
        assert done.returncode == 1 and words in done.stdout.splitlines()[-1] and number in done.stderr, done
    # What had to be mended is another file.
    (requests / "c.prompt").write_text("---\nreference_image: late.png\n---\nx")
    assert mount.wait("c", check=False).returncode == 1
    mount.write("p.prompt", "a picture")
    mount.wait("p")
    sh("cp p.png late.png", cwd=requests)
    pasted(mount, "c", "again")
    assert mount.wait("c")[-1].startswith("succeeded") and not (requests / "c.error").exists()


def test_the_reason_of_a_failed_close_is_there_at_once(mount):
    for k in range(50):
        with pytest.raises(OSError):
            mount.write(f"bad{k}.prompt", "---\nn: 9\n---\na cat")
        assert "n must be 1 to 4" in (mount / f"requests/bad{k}.error").read_text()
        assert mount.status(f"bad{k}").startswith("draft: ")
        assert {f"bad{k}.error", f"bad{k}.status"} <= set(os.listdir(mount / "requests"))


def test_what_is_said_follows_the_file_when_it_moves(mount):
    (mount / "requests/a").mkdir()
    mount.write("a/x.prompt", "---\nsize: 100x100\n---\na cat")
    assert mount.wait("a/x", check=False).returncode == 1
    assert error_of(mount, "a/x")[0] == "requests/a/x.prompt is refused"
    [before] = mount.sql("SELECT max(id) FROM log")
    sh("mv a b && mv b/x.prompt b/y.prompt", cwd=mount / "requests")
    assert error_of(mount, "b/y")[0] == "requests/b/y.prompt is refused"
    pasted(mount, "b/y", "retry")
    assert mount.wait("b/y", check=False).returncode == 1
    assert mount.sql(f"SELECT 1 FROM log WHERE id > {before} AND text = 'retry, by the user'") == ["1"]


def test_a_changed_file_is_not_called_by_what_became_of_the_old_one(hub, make_mount):
    mount = make_mount(hub, "--settle", "100")
    path = mount.write("a.prompt", "a cat")
    mount.wait("a")
    with open(path, "a") as f:
        f.write(" with a hat")
        f.flush()
        os.fsync(f.fileno())
        os.close(os.dup(f.fileno()))
        assert mount.status("a") == "draft: it is being written\n"
        # Who follows it waits for the writer, as more may come.
        follower = subprocess.Popen(["cat", str(mount / "requests/a.wait")], stdout=subprocess.PIPE, text=True)
        assert follower.stdout.readline() == "being written\n"
    assert follower.communicate(timeout=60)[0].splitlines()[-1].startswith("succeeded")
    assert follower.returncode == 0


def test_control_takes_folders_and_says_what_it_did_not_do(hub, mount):
    control = mount / "control"
    (mount / "requests/d/e").mkdir(parents=True)
    assert "requests: none yet" in control.read_text()
    mount.control("pause\n")
    for name in ("d/a", "d/e/b", "c"):
        mount.write(f"{name}.prompt", f"a {name}")
        mount.wait(name, check=False)
    assert "requests: 3 held" in control.read_text() and "queue: the queue is paused" in control.read_text()
    mount.control(f"cancel {mount.path}/requests/d/e/\n")  # as the shell completes it
    assert mount.status("d/e/b").startswith("canceled") and mount.status("d/a").startswith("held")
    refused = {
        "frobnicate": '"frobnicate" is no verb; reading control shows them',
        "cancle requests/c.prompt": 'did you mean "cancel"?',
        "cancel": "cancel what?",
        "pause requests": "pause takes no path",
        "retry requests/none.prompt": "requests/none.prompt: no such file",
        "retry c.prompt": "write the path from the mount down, as in: retry requests/cat.prompt",
        "retry ../etc/passwd": "no such file",
        "retry requests/../../etc": "no such file",
        "retry credits": "no such file",
        "retry requests/d": "nothing below it can be asked to retry",
        "retry requests/c.prompt": "it is held; retry is not possible",
        "again requests/d/e/x.txt": "its name has to end in .prompt",
        "again requests/d/e/.h/y.prompt": "begins with a dot",
        "again requests/d/e/z.prompt": "holds nothing to send",
    }
    sh("echo x > x.txt; mkdir .h; echo y > .h/y.prompt; touch z.prompt", cwd=mount / "requests/d/e")
    for line, words in refused.items():
        with pytest.raises(OSError) as caught:
            mount.control(line + "\n")
        assert caught.value.errno == 22, line
        assert words in control.read_text().splitlines()[-1], (line, control.read_text())
    # Several lines: those before the wrong one were carried out.
    with pytest.raises(OSError):
        mount.control("cancel requests/d/a.prompt\nbogus\nresume\n")
    assert mount.status("d/a").startswith("canceled") and "paused" in control.read_text()
    mount.control("  resume  \r\n\n")
    assert "carried out" not in control.read_text()
    assert mount.wait("c")[-1].startswith("succeeded") and hub.generations() == 1
    # Of a folder, where some could and some could not: how many, and why not.
    sh(f"echo again {mount.path}/requests/d/ > control", cwd=mount.path)
    assert re.fullmatch(r"the last line was carried out for 2 below \S+/requests/d and not for 1, as in: "
                        r"requests/d/e/z.prompt: .* holds nothing to send", control_said(mount)), control_said(mount)
    for name in ("d/a", "d/e/b"):
        assert mount.wait(name)[-1].startswith("succeeded")
    sh("echo again requests/d/e > control; echo cancel requests/d/e/.h > control || true", cwd=mount.path)
    assert "requests/d/e/.h" in control_said(mount) and "can be asked to cancel" in control_said(mount)
    assert mount.wait("d/e/b")[-1].startswith("succeeded") and hub.generations() == 4
    with pytest.raises(OSError):
        mount.control("cancel requests/c.prompt\n")
    assert "it has succeeded; cancel is not possible" in control.read_text()


def control_said(mount):
    return (mount / "control").read_text().splitlines()[-1]


def test_control_lines_that_come_in_pieces(hub, mount):
    """A program writes whole buffers: a path that one of them cuts is not taken for a shorter one."""
    (mount / "requests/pieces").mkdir(parents=True)
    control = str(mount / "control")
    (mount / "control").write_text("pause\n")
    for k in range(3):
        mount.write(f"pieces/{k}.prompt", f"a piece {k}")
        mount.wait(f"pieces/{k}", check=False)

    def states():
        return [mount.status(f"pieces/{k}")[:4] for k in range(3)]
    # The first 4096 bytes end behind the name of a folder.
    line = b"cancel requests/pieces"
    start = b"\n" * (4096 - len(line)) + line
    fd = os.open(control, os.O_WRONLY)
    assert os.write(fd, start) == 4096 and states() == ["held", "held", "held"]
    assert os.write(fd, b"/1.prompt") == 9 and states() == ["held", "canc", "held"]
    os.close(fd)
    # The end of the file ends a line as well, and close(2) says how it went.
    fd = os.open(control, os.O_WRONLY)
    os.write(fd, b"\n" * 4091 + b"dance")
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == errno.EINVAL and '"dance" is no verb' in control_said(mount)
    sh(f"printf 'cancel requests/pieces/0.prompt' > {control}")
    assert states() == ["canc", "canc", "held"]
    # Not when the writer was killed within a line; and no NUL ends one.
    writer = subprocess.Popen(["/usr/bin/python3", "-c", "import os, sys, time; "
                               "fd = os.open(sys.argv[1], os.O_WRONLY); os.write(fd, bytes.fromhex(sys.argv[2])); "
                               "print(flush=True); time.sleep(600)", control, start.hex()], stdout=subprocess.PIPE)
    assert writer.stdout.readline() == b"\n"
    writer.kill()
    writer.communicate()
    fd = os.open(control, os.O_WRONLY)
    with pytest.raises(OSError):
        os.write(fd, line + b"\0/2.prompt\n")
    os.close(fd)
    assert states() == ["canc", "canc", "held"]
    (mount / "control").write_text("resume\n")
    assert mount.wait("pieces/2")[-1].startswith("succeeded")


def test_what_control_refused_is_not_done_by_a_second_flush(hub, mount):
    """Python's files write their buffer again when they are closed: an error that was reported stands."""
    before = hub.generations()
    control = mount / "control"
    mount.write("twice.prompt", "one more")
    assert mount.wait("twice")[-1].startswith("succeeded")
    f = open(control, "w")
    f.write("again requests/later.prompt\n")
    with pytest.raises(OSError):
        f.flush()
    mount.write("later.prompt", "it is there now")
    assert mount.wait("later")[-1].startswith("succeeded")
    with pytest.raises(OSError) as caught:
        f.close()
    assert caught.value.errno == errno.EINVAL and "no such file" in control_said(mount)
    settled(mount)
    assert hub.generations() == before + 2
    # Other lines of the same open file are carried out.
    fd = os.open(control, os.O_WRONLY)
    for line, rc in (("dance", errno.EINVAL), ("again requests/later.prompt", 0), ("dance", errno.EINVAL)):
        with pytest.raises(OSError) if rc else contextlib.nullcontext():
            os.write(fd, line.encode() + b"\n")
    os.close(fd)
    assert mount.wait("later")[-1].startswith("succeeded") and hub.generations() == before + 3


def test_held_refused_failed_and_unknown(hub, make_mount):
    """Each .error says what, why, whether it was charged, and a next step that works as it is pasted."""
    answers = {}
    fault = FaultHub({("POST", r"/api/v1/images/generations"): lambda request: next(
        a for word, a in answers.items() if word.encode() in request[3])})
    answers.update({
        "refuse": http(400, {"error": {"message": "The prompt is bad", "code": "invalid_request"}}),
        "fail": http(500, {"error": {"message": "It went wrong", "code": "generationFailed"}}),
        "lose": None,
        "no credits": http(402, {"error": {"message": "Not enough credits", "code": "insufficientCredits"}}),
    })
    mount = make_mount(url=fault.url)
    want = {
        "refuse": ("refused", "The prompt is bad", "nothing", "Invalid argument", "retry"),
        "fail": ("failed", "It went wrong", "nothing", "Input/output error", "retry"),
        "lose": ("unknown", "", "not known; balance before: 500", "", "cancel"),
        "no credits": ("held", "Not enough credits", "nothing", "Disk quota exceeded", "cancel"),
    }
    for name, (state, why, charged, number, verb) in want.items():
        mount.write(f"{name}.prompt", f"please {name}")
        done = mount.wait(name, check=False)
        assert done.returncode == 1 and number in done.stderr
        assert done.stdout.splitlines()[-1] + "\n" == mount.status(name)
        assert mount.status(name).startswith(f"{state}: {why}") and mount.status(name).count("\n") == 1
        error = error_of(mount, name)
        assert error[0] == f"requests/{name}.prompt is {state}" and error[1].startswith(why), error
        assert error[2].startswith(charged), error
        pasted(mount, name, verb)
    settled(mount)
    assert mount.status("lose") .startswith("canceled: ") and "may have been charged" in mount.status("lose")
    assert mount.status("no credits") == "canceled: withdrawn before it was sent; not charged\n"
    assert not (mount / "requests/lose.error").exists()
    print(f"{fault.fired} answers of {len(want)} kinds")
    assert fault.fired == 6  # two were asked to retry
    fault.close()


def test_paths_that_a_shell_would_mistake(hub, mount):
    mount.control("pause\n")
    name = "it's $HOME; \"so\" & on"
    (mount / "requests" / name).mkdir()
    for k in "ab":
        mount.write(f"{name}/{k}.prompt", "x")
        mount.wait(f"{name}/{k}", check=False)
    mount.stop()
    mount.start("--max-spend", "0")
    mount.control("resume\n")
    until("the budget", lambda: "budget" in mount.status(f"{name}/a"))
    command = re.search(r"now: (.*)", error_of(mount, f"{name}/a")[3]).group(1)
    sh(command, cwd="/")
    assert mount.wait(f"{name}/a")[-1].startswith("succeeded") and hub.generations() == 1


def test_wait_tells_the_progress(make_hub, make_mount):
    """A line at each change, and at the latest 5 s after the one before; the status; the end of file."""
    hub = make_hub("--hold")
    mount = make_mount(hub, "--settle", "3000")  # the follower is there by then
    mount.write("a.prompt", "slowly")
    follower = subprocess.Popen(["cat", str(mount / "requests/a.wait")], stdout=subprocess.PIPE, bufsize=0)
    lines = []
    while line := first_line(follower.stdout, limit=5 + 10).decode():  # 10 for a loaded machine
        lines.append(line)
        seconds = re.fullmatch(r"queued at the hub (\d+) s\n", line)
        # Nothing else has happened for so long: the clock alone gave that line.
        if seconds and int(seconds.group(1)) >= 5 and hub.options:
            hub.let_go()
    assert follower.wait(LIMIT) == 0
    print("".join(lines))
    assert lines[0] == "settling\n" and lines[-1] == mount.status("a") and not hub.options


def test_wait_can_be_killed_and_ends_when_the_prompt_goes(make_hub, make_mount):
    hub = make_hub("--sketch-delay", "30000")
    mount = make_mount(hub)
    mount.write("a.prompt", "very slowly")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        follower = subprocess.Popen(["cat", str(mount / "requests/a.wait")], stdout=subprocess.PIPE)
        assert follower.stdout.readline()
        begun = time.monotonic()
        follower.send_signal(number)
        assert follower.wait(LIMIT) == -number and time.monotonic() - begun < 1 + 4  # 4 for a loaded machine
    follower = subprocess.Popen(["cat", str(mount / "requests/a.wait")], stdout=subprocess.PIPE, text=True,
                                stderr=subprocess.PIPE)
    assert follower.stdout.readline()
    (mount / "requests/a.prompt").unlink()
    out, err = follower.communicate(timeout=LIMIT)
    assert follower.returncode == 1 and out.splitlines()[-1] == "it was removed" and "No such file" in err
