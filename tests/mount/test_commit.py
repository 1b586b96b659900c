"""One write, one request: whichever program writes the file."""
import os
import shutil
import signal
import subprocess
import sys

import pytest
from harness import ENV, run, sh, until


def settled(mount):
    """Everything that was closed has been looked at, and what was queued has been sent."""
    until("settling", lambda: mount.sql(
        "SELECT (SELECT count(*) FROM node WHERE pending <> 0),"
        " (SELECT count(*) FROM request WHERE state IN ('queued', 'sending'))") == ["0|0"])


PY = sys.executable
WRITERS = {
    "bash": "echo 'a cat' > {f}",
    "dash": "dash -c \"echo 'a cat' > {f}\"",
    "subshell": "(echo 'a cat'; echo 'on a sofa') > {f}",
    "append": "echo 'a cat' >> {f}",
    "printf without newline": "printf 'a cat' > {f}",
    "cp": "cp {src} {f}",
    "mv": "mv {src} {f}",
    "scratch and rename": "cp {src} {dir}/x.tmp && mv {dir}/x.tmp {f}",
    "tee": "echo 'a cat' | tee {f} > /dev/null",
    "dd": "dd if={src} of={f} bs=3 status=none",
    "dd fsync": "dd if={src} of={f} bs=4 conv=fsync status=none",
    "install": "install -m 600 {src} {f}",
    "rsync": "rsync {src} {f}",
    "rsync inplace": "rsync --inplace {src} {f}",
    "python": f"{PY} -c \"open('{{f}}', 'w').write('a cat')\"",
    "python dup and fork": f"{PY} -c \"import os; fd = os.open('{{f}}', os.O_CREAT | os.O_WRONLY); "
                           "d = os.dup(fd); os.write(fd, b'a '); os.close(fd); pid = os.fork(); "
                           "pid or (os.write(d, b'cat'), os._exit(0)); os.waitpid(pid, 0); os.close(d)\"",
    "gio copy": "gio copy {src} {f}",
    "gio save": "cat {src} | gio save {f}",
    "tar": "tar -cf - -C {tmp} --transform s,source.txt,made.prompt, source.txt | tar -xf - -C {dir}",
    "cat": "cat {src} > {f}",
    "truncate first": ": > {f}; echo 'a cat' > {f}",
    "vim": "vim -u NONE -es -c 'normal ia cat' -c 'wq' {f}",
    "vim with backup": "vim -u NONE -es -c 'set backup backupcopy=no' -c 'normal ia cat' -c 'wq' {f}",
    "sed -i": "echo 'a dog' > {dir}/y.txt; sed -i 's/dog/cat/' {dir}/y.txt; mv {dir}/y.txt {f}",
    "unlink and write": "echo 'a dog' > {f}; rm {f}; echo 'a cat' > {f}",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_one_write_one_request(hub, mount, tmp_path, writer):
    folder = mount / "requests"
    source = tmp_path / "source.txt"
    source.write_text("a cat\n")
    words = {"f": folder / "made.prompt", "src": source, "dir": folder, "tmp": tmp_path}
    program = WRITERS[writer].split()[0]
    if program in ("vim", "rsync", "gio") and not shutil.which(program):
        pytest.fail(f"{program} is not installed")
    sh(WRITERS[writer].format(**words))
    assert mount.wait("made")[-1].startswith("succeeded")
    settled(mount)
    assert hub.generations() == 1
    # The same bytes again, by another way, spend nothing; nor does touching.
    kept = (folder / "made.prompt").read_bytes()
    (folder / "made.prompt").write_bytes(kept)
    sh(f"touch {words['f']}; chmod 600 {words['f']}; cp {words['f']} {tmp_path}/k && cp {tmp_path}/k {words['f']}")
    settled(mount)
    assert hub.generations() == 1
    # Changed content is a new generation; the older one stays.
    sh(f"echo 'with a hat' >> {words['f']}")
    assert mount.wait("made")[-1].startswith("succeeded")
    settled(mount)
    assert hub.generations() == 2 and len(os.listdir(mount / "generations")) == 2


def test_editing_in_place(hub, mount):
    mount.write("e.prompt", "a dog")
    mount.wait("e")
    sh("sed -i s/dog/cat/ e.prompt", cwd=mount / "requests")
    mount.wait("e")
    settled(mount)
    assert hub.generations() == 2
    assert "cat" in (mount / "requests/e.prompt").read_text()


def test_what_is_no_commit(hub, mount):
    folder = mount / "requests"
    sh(f"""touch {folder}/blank.prompt; echo '   ' > {folder}/white.prompt
        echo x > {folder}/.hidden.prompt; echo x > {folder}/notes.txt; echo x > {folder}/.prompt
        echo x > {folder}/cat.prompt.swp; echo x > {folder}/.cat.prompt.XyZ123; mkdir {folder}/d.prompt
        ln -s notes.txt {folder}/l.prompt""")
    settled(mount)
    assert hub.generations() == 0
    assert not [n for n in os.listdir(folder) if n.endswith((".status", ".error"))]


def test_a_writer_that_was_killed_leaves_a_draft(hub, mount):
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        name = f"killed{number}"
        path = mount / f"requests/{name}.prompt"
        writer = subprocess.Popen(["bash", "-c", f"exec cat > {path}"], stdin=subprocess.PIPE)
        writer.stdin.write(b"half a promp")
        writer.stdin.flush()
        until("the bytes", lambda: path.exists() and path.stat().st_size == 12)
        writer.send_signal(number)
        writer.wait(10)
        until("the note", lambda: (mount / f"requests/{name}.status").exists())
        assert mount.status(name).startswith("draft: ")
        assert path.read_bytes() == b"half a promp"
    settled(mount)
    assert hub.generations() == 0
    sh(f"echo 'again requests/killed9.prompt' > {mount.path}/control")
    assert mount.wait("killed9")[-1].startswith("succeeded") and hub.generations() == 1


@pytest.mark.parametrize("text, words", [
    ("---\nqualty: high\n---\nx", ['cat.prompt:2:1: unknown key "qualty"', 'did you mean "quality"']),
    ("---\nquality: hgih\n---\nx", ["cat.prompt:2:10", '"high"']),
    ("---\nconfig:\n  n: 7\n---\nx", ["cat.prompt:3:6", "1 to 4"]),
    ("---\nmodel: gpt-image-3\n---\nx", ["cat.prompt:2:8", 'did you mean "gpt-image-2"']),
    ("---\nsize: large\n---\nx", ["cat.prompt:2:7", "1536x1024"]),
    ("---\nsize: 1024x1024\nx", ["has no end"]),
    ("x" * 33000, ["33000 characters"]),
    ('{"prompt": 5}', ["prompt must be a string"]),
])
def test_bad_front_matter_is_told_at_close_and_free(hub, mount, text, words):
    until("the models", lambda: os.listdir(mount / "models"))
    path = mount / "requests/cat.prompt"
    fd = os.open(path, os.O_CREAT | os.O_WRONLY)
    os.write(fd, text.encode())
    with pytest.raises(OSError) as caught:
        os.close(fd)
    assert caught.value.errno == 22
    error = until("the note", lambda: (mount / "requests/cat.error").exists()
                  and (mount / "requests/cat.error").read_text())
    assert all(w in error for w in words) and "charged: nothing" in error and "next:" in error
    settled(mount)
    assert path.read_text() == text and hub.generations() == 0
    path.write_text("a cat")
    assert mount.wait("cat")[-1].startswith("succeeded")
    assert not (mount / "requests/cat.error").exists()


def test_a_json_body(hub, mount):
    mount.write("j.prompt", '{"prompt": "as json", "model": "gpt-image-2", "n": 2, "seed": 7}')
    assert mount.wait("j")[-1].startswith("succeeded: 2 pictures, 16 credits")
    assert '"seed": 7' in (mount / "generations" / os.listdir(mount / "generations")[0] / "request.json").read_text()


def test_control_verbs(make_hub, make_mount):
    hub = make_hub("--sketch-fail", "1")
    mount = make_mount(hub)
    control = mount / "control"
    mount.write("f.prompt", "fails")
    done = mount.wait("f", check=False)
    assert done.returncode == 1 and "Input/output error" in done.stderr
    assert "failed" in (mount / "requests/f.error").read_text()
    hub.stop()
    hub.options = []
    hub.start()
    control.write_text("retry requests/f.prompt\n")
    assert mount.wait("f")[-1].startswith("succeeded")
    for line in ("dance", "retry requests/none.prompt", "retry requests/f.prompt", "pause now", "approve"):
        with pytest.raises(OSError) as caught:
            control.write_text(line + "\n")
        assert caught.value.errno == 22, line
    assert "approve what?" in control.read_text()
    control.write_text("pause\n")
    mount.write("p.prompt", "paused")
    done = mount.wait("p", check=False)
    assert done.returncode == 1 and mount.status("p").startswith("held: the queue is paused")
    mount.write("c.prompt", "to be canceled")
    mount.wait("c", check=False)
    control.write_text("cancel requests/c.prompt\n")
    control.write_text("resume\n")
    assert mount.wait("p")[-1].startswith("succeeded")
    assert mount.status("c").startswith("canceled")
    control.write_text("again requests/p.prompt\nrefresh\n")
    assert mount.wait("p")[-1].startswith("succeeded")
    settled(mount)
    assert hub.generations() == 4  # two of f, two of p
    sh(f"rm {mount.path}/requests/p.prompt")


def test_budget_balance_and_unknown_prices_hold(make_hub, make_mount):
    hub = make_hub(credits=30)
    mount = make_mount(hub, "--max-spend", "16")
    for name, text in (("a", "---\nsize: 1024x1024\n---\na"), ("b", "---\nsize: 1024x1024\n---\nb")):
        mount.write(f"{name}.prompt", text)
        assert mount.wait(name)[-1].startswith("succeeded")
    mount.write("c.prompt", "---\nsize: 1024x1024\n---\nc")
    done = mount.wait("c", check=False)
    assert done.returncode == 1 and "Disk quota exceeded" in done.stderr
    assert "budget" in mount.status("c") and "approve requests/c.prompt" in (mount / "requests/c.error").read_text()
    mount.stop()
    mount.start()  # the budget is counted from the catalogue, not from memory
    assert mount.status("c").startswith("held")
    (mount / "control").write_text("approve requests/c.prompt\n")
    assert mount.wait("c")[-1].startswith("succeeded") and hub.credits() == 6
    mount.stop()
    mount.options = []
    mount.start()
    mount.write("d.prompt", "---\nsize: 1024x1024\n---\nd")
    done = mount.wait("d", check=False)
    assert done.returncode == 1 and "costs 8 credits and the balance is 6" in mount.status("d")
    hub.cli("credits", "grant", "test", "100")
    (mount / "control").write_text("refresh\n")
    assert until("more credits", lambda: mount.status("d").startswith("succeeded"))
    assert len(hub.charges()) == 4


def test_removing_a_prompt_before_it_was_sent_cancels_it(hub, mount):
    (mount / "control").write_text("pause\n")
    mount.write("a.prompt", "a")
    mount.wait("a", check=False)
    (mount / "requests/a.prompt").unlink()
    (mount / "control").write_text("resume\n")
    settled(mount)
    assert hub.generations() == 0 and mount.sql("SELECT state FROM request") == ["canceled"]


def test_offline_prompts_go_out_in_order_when_the_hub_is_back(hub, mount):
    mount.write("warm.prompt", "warm")
    mount.wait("warm")
    hub.stop()
    for k in range(12):
        mount.write(f"q{k:02}.prompt", f"queued {k}")
    settled_queue = lambda: mount.sql("SELECT count(*) FROM request WHERE state = 'queued'") == ["12"]
    until("queueing", settled_queue)
    until("a failed try", lambda: (mount / "requests/q00.status").exists()
          and "waits for the hub" in mount.status("q00"))
    mount.kill()
    mount.start()
    hub.start()
    (mount / "control").write_text("refresh\n")
    for k in range(12):
        assert mount.wait(f"q{k:02}")[-1].startswith("succeeded")
    order = run("sqlite3", f"file:{hub.data}/hub.db?mode=ro",
                "SELECT json_extract(wanted, '$.prompt') FROM generation ORDER BY seq").stdout.split("\n")[1:-1]
    assert len(order) == 12 and hub.generations() == 13 and len(set(hub.charges())) == 13
