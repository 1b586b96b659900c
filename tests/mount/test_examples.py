"""Each example of examples/ does what it says."""
import os
import subprocess

from harness import ENV, FS, LIMIT, ROOT, run, sh, until, watches

EXAMPLES = ROOT / "examples"


def test_batch(hub, mount, tmp_path):
    lines = tmp_path / "lines.txt"
    lines.write_text("a cat\na dog\n\na fish")
    done = run("sh", EXAMPLES / "batch.sh", mount.path, "animals", lines, limit=120)
    assert done.stdout.count("succeeded") == 3 and hub.generations() == 3
    run("sh", EXAMPLES / "batch.sh", mount.path, "animals", lines, limit=120)
    assert hub.generations() == 3


def test_hot_folder(hub, mount, tmp_path):
    watcher = subprocess.Popen(["sh", EXAMPLES / "hot-folder.sh", mount.path, tmp_path / "out", "1"],
                               stdout=subprocess.PIPE, text=True, env=ENV)

    def watching():
        found = run("pgrep", "-f", f"inotifywait.*{mount.path}/requests", check=False).stdout.split()
        return any(watches(p) for p in found)

    until("the watch", watching)
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    watcher.wait(LIMIT)  # it was told to end after one
    assert (tmp_path / "out/cat.png").read_bytes() == (mount / "requests/cat.png").read_bytes()


def test_reference_shoot(hub, mount, tmp_path):
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    run("cp", mount / "requests/cat.png", tmp_path / "product.png")
    run("sh", EXAMPLES / "reference-shoot.sh", mount.path, "shoot", tmp_path / "product.png",
        "on marble", "in the rain", limit=120)
    counts = run("sqlite3", f"file:{hub.data}/hub.db?mode=ro",
                 "SELECT n_references FROM generation ORDER BY seq").stdout.split()
    assert counts == ["0", "1", "1"]


def test_function(hub, mount, tmp_path):
    sh(f". {EXAMPLES}/functions.sh; IMAGEHUB_MOUNT={mount.path} picture 'a cat' > {tmp_path}/cat.png")
    assert (tmp_path / "cat.png").read_bytes()[:4] == b"\x89PNG"


def test_demo():
    done = run("sh", EXAMPLES / "demo.sh", limit=120)
    assert "succeeded: 1 picture, 8 credits" in done.stdout and "1024x1024 pixels" in done.stdout
    assert "\n1000\n" in done.stdout and "\n992\n" in done.stdout


def test_systemd_unit(tmp_path):
    """Its commands, as systemd would run them."""
    unit = dict(line.split("=", 1) for line in (EXAMPLES / "imagehubfs.service").read_text().splitlines()
                if "=" in line and line[0] != "#")
    env = dict(ENV, HOME=str(tmp_path), OPTIONS="--local")
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        env.pop(name, None)
    command = unit["ExecStart"].replace("%h", str(tmp_path)).replace("/usr/local/bin/imagehubfs", FS)
    subprocess.run(["sh", "-c", unit["ExecStartPre"].replace("%h", str(tmp_path))], check=True, timeout=LIMIT)
    mount = subprocess.Popen(["sh", "-c", f"exec {command}"], env=env, stderr=subprocess.DEVNULL)
    try:
        until("the mount", lambda: (tmp_path / "hub/requests").is_dir())
    finally:
        mount.terminate()
        assert mount.wait(LIMIT) == 0
    assert os.listdir(tmp_path / "hub") == []
