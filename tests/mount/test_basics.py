"""The whole way: a prompt file becomes pictures, read with the programs that people use."""
import hashlib
import json
import os
import shutil
import subprocess

import pytest
from harness import run, sh, until

FOUR = "---\nmodel: gpt-image-2\nconfig:\n  size: 1024x640\n  quality: high\n  n: 4\n---\nfour of them\n"


def tree_hash(root):
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in sorted(root.rglob("*")) if p.is_file()}


def test_a_prompt_becomes_a_picture(hub, mount):
    sh("echo 'a cat' > cat.prompt; cat cat.wait && cp cat.png out.copy", cwd=mount / "requests")
    names = sorted(os.listdir(mount / "requests"))
    assert names == ["cat.png", "cat.prompt", "cat.status", "out.copy"]
    picture = (mount / "requests/cat.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and picture == (mount / "requests/out.copy").read_bytes()
    assert mount.status("cat").startswith("succeeded: 1 picture, 8 credits, gpt-image-2")
    assert (mount / "credits").read_text() == "99992\n" == f"{hub.credits()}\n"
    assert json.loads((mount / "account.json").read_text())["credits"] == 99992
    [generation] = os.listdir(mount / "generations")
    folder = mount / "generations" / generation
    assert sorted(os.listdir(folder)) == ["1.png", "log", "prompt", "request.json", "response.json",
                                          "status"]
    assert (folder / "prompt").read_text() == "a cat\n"
    assert json.loads((folder / "request.json").read_text())["prompt"] == "a cat"
    assert json.loads((folder / "response.json").read_text())["id"] == generation
    assert os.stat(folder / "1.png").st_ino == os.stat(mount / "requests/cat.png").st_ino
    assert (mount / "requests/cat.prompt").read_text() == "a cat\n"
    assert json.loads((mount / "models/gpt-image-2.json").read_text())["id"] == "gpt-image-2"
    assert "requests/cat.prompt" in (mount / "README.txt").read_text()


def test_front_matter_and_four_pictures(hub, mount):
    mount.write("shoot.prompt", FOUR)
    assert mount.wait("shoot")[-1].startswith("succeeded: 4 pictures, 32 credits")
    for k in range(1, 5):
        path = mount / f"requests/shoot-{k}.png"
        data = path.read_bytes()
        assert len(data) == path.stat().st_size
        assert (int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")) == (1024, 640)
    assert hub.charges() and len(hub.charges()) == 1


def test_names_and_prompts_in_any_script(hub, mount):
    texts = {"향수": "검은 대리석 위의 향수병", "emoji 😀 file": "a 😀 “quoted” 'cat'", "it's \"so\"": "x\ty & < >"}
    for name, text in texts.items():
        mount.write(f"{name}.prompt", text)
    for name, text in texts.items():
        assert mount.wait(name)[-1].startswith("succeeded")
        assert (mount / f"requests/{name}.prompt").read_text() == text
        id = os.getxattr(mount / f"requests/{name}.prompt", "user.imagehub.id").decode()
        assert json.loads((mount / f"generations/{id}/request.json").read_text())["prompt"] == text


@pytest.mark.parametrize("downloaded", [False, True], ids=["before", "after"])
def test_copies_are_byte_for_byte(hub, mount, tmp_path, downloaded):
    mount.write("shoot.prompt", FOUR)
    mount.wait("shoot")
    [id] = os.listdir(mount / "generations")
    source = mount / "generations" / id
    if downloaded:
        sh(f"cat {source}/*.png > /dev/null")
    out = {n: tmp_path / n for n in ("tar", "cp", "rsync", "gio", "shutil")}
    for path in out.values():
        path.mkdir()
    sh(f"tar -cf - -C {source} . | tar -xf - -C {out['tar']}")
    run("cp", "-r", f"{source}/.", out["cp"])
    run("rsync", "-a", f"{source}/", out["rsync"])
    for name in os.listdir(source):
        run("gio", "copy", source / name, out["gio"] / name)
    shutil.copytree(source, out["shutil"], dirs_exist_ok=True)
    want = tree_hash(source)
    assert len(want) == 9 and all(tree_hash(path) == want for path in out.values())
    listed = run("find", source, "-type", "f", "-ls").stdout.splitlines()
    assert len(listed) == 9 and not any(l.split()[6] == "0" for l in listed)
    sums = sh(f"cd {source} && md5sum * > {tmp_path}/sums && cd {out['tar']} && md5sum -c {tmp_path}/sums")
    assert sums.stdout.count("OK") == 9


def test_remount_shows_everything_without_the_network(hub, make_mount):
    mount = make_mount(hub, "--read-ahead=0")
    mount.write("one.prompt", FOUR)
    mount.wait("one")
    (mount / "requests/one-1.png").read_bytes()
    before = {n: (mount / "generations" / os.listdir(mount / "generations")[0] / n).read_bytes()
              for n in ("status", "log", "prompt", "request.json", "response.json", "1.png")}
    mount.stop()
    hub.stop()
    mount.start()
    [id] = os.listdir(mount / "generations")
    assert {n: (mount / "generations" / id / n).read_bytes() for n in before} == before
    assert sorted(os.listdir(mount / "requests")) == [
        "one-1.png", "one-2.png", "one-3.png", "one-4.png", "one.prompt", "one.status"]
    assert (mount / "credits").read_text() == "99968\n"
    done = run("cat", mount / "requests/one-2.png", check=False, limit=40)
    assert done.returncode == 1 and "refused" in done.stderr  # not downloaded yet, and no hub
    until("the hub's absence", lambda: "does not answer" in (mount / "control").read_text())
    hub.start()
    assert (mount / "requests/one-2.png").read_bytes()[:4] == b"\x89PNG"


def test_requests_in_flight_are_followed_on_after_a_remount(make_hub, make_mount):
    hub = make_hub("--hold")
    mount = make_mount(hub)
    mount.write("slow.prompt", "slowly")
    until("running", lambda: mount.sql("SELECT 1 FROM request WHERE state = 'running'"))
    mount.stop()
    mount.start()
    hub.let_go()
    assert mount.wait("slow")[-1].startswith("succeeded")
    assert len(hub.charges()) == hub.generations() == 1


def test_an_id_from_elsewhere_is_adopted_by_a_look_up(hub, mount):
    _, _, g = hub.post({"model": "gpt-image-2", "prompt": "from curl"})
    assert os.listdir(mount / "generations") == []
    folder = mount / "generations" / g["id"]
    until("the picture", lambda: (folder / "1.png").exists())
    assert (folder / "1.png").read_bytes() == hub.curl(g["images"][0]["url"], key=None)[2]
    assert os.listdir(mount / "generations") == [g["id"]]
    assert not (mount / "generations/gen_not_known_here").exists()
    assert not (mount / "generations/.Trash-1000").exists() and hub.generations() == 1


def test_a_finished_answer_instead_of_202_is_taken(hub, make_mount):
    from faulthub import FaultHub, http
    _, _, g = hub.post({"model": "gpt-image-2", "prompt": "now"})
    fault = FaultHub({("POST", r"/api/v1/images/generations"): http(200, g)})
    mount = make_mount(url=fault.url)
    mount.write("now.prompt", "now")
    assert mount.wait("now")[-1].startswith("succeeded: 1 picture, 8 credits")
    assert fault.count("POST") == 1
    fault.close()


def test_reading_spends_nothing_and_needs_no_network(hub, mount):
    mount.write("a.prompt", "a")
    mount.wait("a")
    before = hub.ledger()
    sh(f"find {mount.path} -type f -exec cat {{}} + > /dev/null; ls -lR {mount.path}; df {mount.path}; "
       f"touch {mount.path}/requests/a.prompt; chmod 600 {mount.path}/requests/a.prompt")
    time_to_commit(mount)
    assert hub.ledger() == before


def time_to_commit(mount):
    """Everything written before this has been looked at."""
    until("settling", lambda: not mount.sql("SELECT 1 FROM node WHERE pending <> 0"))


def test_a_log_can_be_followed(make_hub, make_mount):
    hub = make_hub("--hold")
    mount = make_mount(hub)
    mount.write("cat.prompt", "a cat")
    [id] = until("the generation", lambda: os.listdir(mount / "generations"))
    log, shown = mount / f"generations/{id}/log", mount.dir / "shown"
    with open(shown, "w") as out:
        follower = subprocess.Popen(["tail", "-n", "+1", "-s", "0.1", "-f", log], stdout=out)
    try:
        until("what was there", lambda: "accepted by the hub" in shown.read_text())
        hub.stop()
        hub.options.remove("--hold")
        hub.start()
        assert mount.wait("cat")[-1].startswith("succeeded")
        until("what came", lambda: shown.read_text() == log.read_text())
        assert "succeeded: 1 of 1 pictures" in shown.read_text()
    finally:
        follower.kill()
        follower.wait()


def test_all_but_requests_and_control_is_read_only(hub, mount):
    mount.write("a.prompt", "a")
    mount.wait("a")
    [id] = os.listdir(mount / "generations")
    for action in (f"echo x > {mount.path}/new", f"mkdir {mount.path}/generations/x",
                   f"echo x > {mount.path}/generations/{id}/new", f"rm {mount.path}/credits",
                   f"mv {mount.path}/credits {mount.path}/c", f"echo x > {mount.path}/README.txt",
                   f"chmod 777 {mount.path}/credits", f"truncate -s 0 {mount.path}/generations/{id}/1.png",
                   f"ln {mount.path}/credits {mount.path}/c2"):
        done = sh(action, check=False)
        assert done.returncode != 0 and "Read-only" in done.stderr or "Permission" in done.stderr \
            or "cross-device" in done.stderr, (action, done.stderr)


def test_derived_names_can_be_dismissed_and_folders_removed(hub, mount):
    folder = mount / "requests/shoot"
    folder.mkdir()
    for k in range(5):
        (folder / f"p{k}.prompt").write_text(f"picture {k}")
    for k in range(5):
        mount.wait(f"shoot/p{k}")
    (folder / "p0.png").unlink()
    (folder / "p1.status").unlink()
    left = os.listdir(folder)
    assert "p0.png" not in left and "p1.status" not in left and "p1.png" in left
    moved = mount / "requests/moved"
    folder.rename(moved)
    assert (moved / "p2.png").read_bytes()[:4] == b"\x89PNG"
    # The shell expands the name, and rm is a process of its own (as ":" follows).
    done = sh("rm *[34]*; :", cwd=moved)
    assert done.stderr == "" and sorted(os.listdir(moved))[-1] == "p2.status"
    # What is still to be removed has its size: a picture is being read under /generations as well.
    size = os.path.getsize(moved / "p2.png")
    code = "import os; os.listdir(); os.unlink('p2.prompt'); print(os.stat('p2.png').st_size); os.unlink('p2.png')"
    done = sh(f'/usr/bin/python3 -c "{code}"', cwd=moved)
    assert int(done.stdout) == size
    done = run("rm", "-r", moved)
    assert done.stderr == "" and not moved.exists()
    assert len(os.listdir(mount / "generations")) == 5
    id = sorted(os.listdir(mount / "generations"))[0]
    done = run("rm", "-r", mount / "generations" / id)
    assert done.stderr == "" and id not in os.listdir(mount / "generations")
    assert hub.generations() == 5


def test_a_large_folder_is_removed_without_a_complaint(make_hub, make_mount):
    n = 2100  # each with a .status and an .error, which rm lists first and removes in its own order
    mount = make_mount(make_hub())
    mount.control("pause\n")
    folder = mount / "requests/large"
    folder.mkdir()
    for k in range(n):
        (folder / f"p{k}.prompt").write_text(f"picture {k}")
    until("all held", lambda: mount.sql("SELECT count(*) FROM request WHERE state = 'held'") == [str(n)])
    until("all names", lambda: len(os.listdir(folder)) == 3 * n)
    done = run("rm", "-r", folder, limit=120)
    assert done.stderr == "" and not folder.exists()


def test_the_users_own_file_wins(hub, mount):
    mount.write("cat.png", "my own")
    mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    assert (mount / "requests/cat.png").read_text() == "my own"
    (mount / "requests/cat.png").unlink()
    until("the picture", (mount / "requests/cat.png").exists)
    assert (mount / "requests/cat.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(PermissionError):
        (mount / "requests/cat.png").write_text("x")
    sh("echo new > x && mv x cat.png", cwd=mount / "requests")
    assert (mount / "requests/cat.png").read_text() == "new\n"


def test_facts_as_extended_attributes(hub, mount):
    path = mount.write("cat.prompt", "a cat")
    mount.wait("cat")
    [id] = os.listdir(mount / "generations")
    for p in (path, mount / "requests/cat.png", mount / "generations" / id):
        facts = {n: os.getxattr(p, n).decode() for n in os.listxattr(p) if n.startswith("user.imagehub")}
        assert facts == {"user.imagehub.id": id, "user.imagehub.status": "succeeded",
                         "user.imagehub.model": "gpt-image-2", "user.imagehub.credits": "8",
                         "user.imagehub.prompt": "a cat"}
    assert os.getxattr(mount / "requests/cat.png", "user.mime_type") == b"image/png"
    assert b"?" not in os.getxattr(mount / "requests/cat.png", "user.xdg.origin.url")
    with pytest.raises(PermissionError):
        os.setxattr(path, "user.imagehub.id", b"x")
    os.setxattr(path, "user.mine", b"1")
    assert os.getxattr(path, "user.mine") == b"1"


def test_statfs_is_plausible(mount):
    st = os.statvfs(mount.path)
    assert st.f_bavail > 0 and st.f_favail > 0 and st.f_namemax == 255


def test_references(hub, mount):
    mount.write("bottle.prompt", "a bottle")
    mount.wait("bottle")
    folder = mount / "requests/shoot"
    (folder / "references").mkdir(parents=True)
    shutil.copy(mount / "requests/bottle.png", folder / "references/one.png")
    (folder / "references/notes.txt").write_text("no picture, left aside")
    shutil.copy(mount / "requests/bottle.png", folder / "logo.png")
    (folder / "a.prompt").write_text("---\nreference_image: logo.png\n---\nwith both")
    (folder / "b.prompt").write_text("with one")
    for name in ("a", "b"):
        assert mount.wait(f"shoot/{name}")[-1].startswith("succeeded")
    counts = run("sqlite3", f"file:{hub.data}/hub.db?mode=ro",
                 "SELECT n_references FROM generation ORDER BY seq").stdout.split()
    assert counts[0] == "0" and sorted(counts[1:]) == ["1", "2"]
    until("the snapshots' removal", lambda: os.listdir(mount.state / "refs") == [])
    (folder / "c.prompt").write_text("---\nreference_image: [none.png]\n---\nmissing")
    done = mount.wait("shoot/c", check=False)
    assert done.returncode == 1 and "none.png" in done.stdout and "Invalid argument" in done.stderr
    assert "nothing" in (folder / "c.error").read_text() and hub.generations() == 3


def test_defaults_are_merged_nearest_first(hub, mount):
    (mount / "requests/a/b").mkdir(parents=True)
    mount.write("defaults.yaml", "quality: low\nsize: 1024x1024\n")
    mount.write("a/defaults.yaml", "config:\n  quality: high\n  n: 2\n")
    mount.write("a/b/x.prompt", "---\nn: 1\n---\nx")
    mount.wait("a/b/x")
    id = os.getxattr(mount / "requests/a/b/x.prompt", "user.imagehub.id").decode()
    sent = json.loads((mount / f"generations/{id}/request.json").read_text())
    assert (sent["quality"], sent["size"], sent["n"]) == ("high", "1024x1024", 1)


def test_shell_examples_of_the_readme_run(hub, mount):
    sh("""printf 'one\\ntwo\\n' | while read -r line; do echo "$line" > "$line.prompt"; done
          for f in *.prompt; do cat "${f%.prompt}.wait"; done; ls *.png""", cwd=mount / "requests")
