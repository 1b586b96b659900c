"""What becomes of a prompt that was written: errors at close, the verbs of /control, budget, offline.

One write, one request, whoever writes: test_writers.py, test_editors.py, test_samba.py; when it is
sent: test_settle.py.
"""
import os

import pytest
from harness import not_at_midnight, run, sh, until
from sending import settled


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
    error = mount.text("cat.error")
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
    mount.control("retry requests/f.prompt\n")
    assert mount.wait("f")[-1].startswith("succeeded")
    for line in ("dance", "retry requests/none.prompt", "retry requests/f.prompt", "pause now", "approve"):
        with pytest.raises(OSError) as caught:
            mount.control(line + "\n")
        assert caught.value.errno == 22, line
    assert "approve what?" in control.read_text()
    mount.control("pause\n")
    mount.write("p.prompt", "paused")
    done = mount.wait("p", check=False)
    assert done.returncode == 1 and mount.status("p").startswith("held: the queue is paused")
    mount.write("c.prompt", "to be canceled")
    mount.wait("c", check=False)
    mount.control("cancel requests/c.prompt\n")
    mount.control("resume\n")
    assert mount.wait("p")[-1].startswith("succeeded")
    assert mount.status("c").startswith("canceled")
    mount.control("again requests/p.prompt\nrefresh\n")
    assert mount.wait("p")[-1].startswith("succeeded")
    settled(mount)
    assert hub.generations() == 4  # two of f, two of p
    sh(f"rm {mount.path}/requests/p.prompt")


def test_budget_balance_and_unknown_prices_hold(make_hub, make_mount):
    not_at_midnight()
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
    mount.control("approve requests/c.prompt\n")
    assert mount.wait("c")[-1].startswith("succeeded") and hub.credits() == 6
    mount.stop()
    mount.options = []
    mount.start()
    mount.write("d.prompt", "---\nsize: 1024x1024\n---\nd")
    done = mount.wait("d", check=False)
    assert done.returncode == 1 and "costs 8 credits and the balance is 6" in mount.status("d")
    hub.cli("credits", "grant", "test", "100")
    mount.control("refresh\n")
    assert until("more credits", lambda: mount.status("d").startswith("succeeded"))
    assert len(hub.charges()) == 4


def test_removing_a_prompt_before_it_was_sent_cancels_it(hub, mount):
    mount.control("pause\n")
    mount.write("a.prompt", "a")
    mount.wait("a", check=False)
    (mount / "requests/a.prompt").unlink()
    mount.control("resume\n")
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
    until("a failed try", lambda: "waits for the hub" in mount.status("q00"))
    mount.kill()
    mount.start()
    hub.start()
    mount.control("refresh\n")
    for k in range(12):
        assert mount.wait(f"q{k:02}")[-1].startswith("succeeded")
    order = run("sqlite3", f"file:{hub.data}/hub.db?mode=ro",
                "SELECT json_extract(wanted, '$.prompt') FROM generation ORDER BY seq").stdout.split("\n")[1:-1]
    assert len(order) == 12 and hub.generations() == 13 and len(set(hub.charges())) == 13
