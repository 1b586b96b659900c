"""What a prompt file draws in: defaults.yaml and reference pictures, by name and by folder."""
import contextlib
import errno
import itertools
import json
import os
import shutil
import sqlite3

import pytest
from harness import Hub, Mount, sh, until
from sending import sent, settled


NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def hub():
    hub = Hub().start()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def mount(hub):
    mount = Mount(hub).start()
    yield mount
    mount.close()


@pytest.fixture
def folder(mount):
    """A folder of the test's own."""
    folder = mount / "requests" / f"t{next(NUMBERS)}"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def picture(mount):
    """The bytes of a picture."""
    mount.write("picture.prompt", "a picture")
    mount.wait("picture")
    return (mount / "requests/picture.png").read_bytes()


def name_of(mount, path):
    return str(path.relative_to(mount / "requests"))


def order_of(mount, path):
    """Writes nothing: what was sent for a prompt that has succeeded."""
    assert mount.wait(name_of(mount, path))[-1].startswith("succeeded")
    id = os.getxattr(path, "user.imagehub.id").decode()
    return json.loads((mount / f"generations/{id}/request.json").read_text())


def references_of(hub, text):
    db = sqlite3.connect(f"file:{hub.data}/hub.db?mode=ro", uri=True, timeout=20)
    try:
        return db.execute("SELECT n_references FROM generation WHERE json_extract(wanted, '$.prompt') = ?",
                          (text,)).fetchone()[0]
    finally:
        db.close()


def refused(mount, path, *words):
    done = mount.wait(name_of(mount, path), check=False)
    assert done.returncode == 1 and "Invalid argument" in done.stderr, done
    assert all(w in done.stdout for w in words), done.stdout


def test_defaults(hub, mount, folder):
    (folder / "a/b").mkdir(parents=True)
    (folder / "defaults.yaml").write_text("---\nquality: low\nsize: 1024x1024\nn: 2\n---\n")
    (folder / "a/theirs.yaml").write_bytes(b"\xef\xbb\xbfconfig:\r\n  quality: high\r\n")
    os.symlink("theirs.yaml", folder / "a/defaults.yaml")
    (folder / "a/b/x.prompt").write_text("---\nn: 1\n---\nwith defaults")
    sent_for = order_of(mount, folder / "a/b/x.prompt")
    assert (sent_for["quality"], sent_for["size"], sent_for["n"]) == ("high", "1024x1024", 1)
    # A JSON body is complete in itself.
    (folder / "a/b/j.prompt").write_text('{"model": "gpt-image-2", "prompt": "without defaults"}')
    assert "quality" not in order_of(mount, folder / "a/b/j.prompt")
    # They change nothing by themselves: neither what was sent nor a file saved again as it was.
    before = sent(hub)
    (folder / "a/theirs.yaml").write_text("quality: medium\n")
    (folder / "a/b/x.prompt").write_text("---\nn: 1\n---\nwith defaults")
    (folder / "a/b/y.prompt").write_text("a later one")
    assert order_of(mount, folder / "a/b/y.prompt")["quality"] == "medium"
    assert sent(hub) - before == {"a later one": 1}


def test_what_is_half_written_is_waited_for(hub, mount, folder, picture):
    """A copier takes its time: half a picture and half of the settings would be paid for as well."""
    (folder / "references").mkdir()
    prompt = folder / "x.prompt"
    with open(folder / "references/big.png", "wb", buffering=0) as big, \
            open(folder / "defaults.yaml", "w", buffering=1) as settings:
        big.write(picture[:1000])
        settings.write("quality: low\n")
        (folder / "x.part").write_text("with all of it")
        os.rename(folder / "x.part", prompt)  # looked at now
        note = until("the note", lambda: (folder / "x.status").exists() and (folder / "x.status").read_text())
        assert "defaults.yaml is still being written" in note
        settings.write("n: 2\n")
        settings.close()
        with pytest.raises(OSError) as caught:  # no child meanwhile: it would close what it inherits
            (mount / "control").write_text(f"again {prompt}\n")
        assert caught.value.errno == errno.EINPROGRESS and "big.png" in (mount / "control").read_text()
        big.write(picture[1000:])
    assert order_of(mount, prompt)["n"] == 2 and references_of(hub, "with all of it") == 1
    assert sent(hub)["with all of it"] == 1


@pytest.mark.parametrize("make, words", [
    ("printf 'n: 1\\nqualty: low\\n' > defaults.yaml", '../defaults.yaml:2:1: unknown key "qualty"; did you mean "quality"?'),
    ("printf 'quality: best' > b/defaults.yaml", 'draft: defaults.yaml:1:10: quality "best" is not possible'),
    ("head -c 70000 /dev/zero | tr '\\0' '#' > defaults.yaml", "../defaults.yaml is over 64 KiB"),
    ("ln -s /etc/passwd defaults.yaml", "../defaults.yaml leads out of /requests"),
    ("ln -s nowhere.yaml defaults.yaml", "../defaults.yaml leads nowhere"),
    ("ln -s defaults.yaml defaults.yaml", "../defaults.yaml leads nowhere"),
], ids=["key", "value", "large", "outside", "dangling", "loop"])
def test_bad_defaults_are_called_by_their_own_name(hub, mount, folder, make, words):
    before = sent(hub)
    (folder / "b").mkdir()
    sh(make, cwd=folder)
    sh("echo 'a cat' > b/x.prompt; true", cwd=folder)
    refused(mount, folder / "b/x.prompt", words)
    settled(mount)
    assert sent(hub) == before


def test_references_by_name(hub, mount, folder, picture):
    (folder / "shoot/deep").mkdir(parents=True)
    (folder / "shared").mkdir()
    (folder / "shared/logo").write_bytes(picture)  # its content counts, not its name
    (folder / "shoot/bottle.png").write_bytes(picture)
    os.symlink("../../shared/logo", folder / "shoot/deep/link.png")
    os.symlink("../shared", folder / "shoot/dir")
    names = ["../bottle.png", "../../shared/logo", "link.png", "../dir/logo", "../deep/../bottle.png"]
    (folder / "shoot/deep/x.prompt").write_text(f"---\nreference_image: {json.dumps(names)}\n---\nfive of them")
    order_of(mount, folder / "shoot/deep/x.prompt")
    assert references_of(hub, "five of them") == 5
    # Those of a defaults.yaml are relative to its folder.
    (folder / "shoot/defaults.yaml").write_text("reference_image: bottle.png\n")
    (folder / "shoot/deep/y.prompt").write_text("with the default one")
    order_of(mount, folder / "shoot/deep/y.prompt")
    assert references_of(hub, "with the default one") == 1
    (folder / "shoot/deep/z.prompt").write_text("---\nreference_image: []\n---\nwith none")
    order_of(mount, folder / "shoot/deep/z.prompt")
    assert references_of(hub, "with none") == 0


@pytest.mark.parametrize("name, words", [
    ("none.png", 'reference "none.png" is not there'),
    ("a.png, b.png", "write several in brackets"),
    ("text.png", "is not a PNG, JPEG or WebP picture"),
    ("empty.png", "is not a PNG, JPEG or WebP picture"),
    ("folder.png", "is not a file"),
    ("../../../../etc/hostname", "is outside of /requests"),
    ("/etc/hostname", "is outside of /requests"),
    ("out.png", "is outside of /requests"),
    ("loop.png", "is not there"),
    ("x.status", "is not there"),
    ("large.png", "is over 50 MB"),
])
def test_references_that_are_refused(hub, mount, folder, picture, name, words):
    before = sent(hub)
    sh("echo text > text.png; touch empty.png; mkdir folder.png; ln -s /etc/hostname out.png; ln -s loop.png loop.png",
       cwd=folder)
    with open(folder / "large.png", "wb") as f:
        f.write(picture)
        f.truncate((50 << 20) + 1)
    (folder / "x.prompt").write_text(f"---\nreference_image: {json.dumps(name)}\n---\nrefused")
    refused(mount, folder / "x.prompt", words)
    settled(mount)
    assert sent(hub) == before
    until("no snapshots", lambda: not os.listdir(mount.state / "refs"))


def test_the_folder_of_references(hub, mount, folder, picture):
    refs = folder / "references"
    refs.mkdir()
    for name in ("one.png", "two.PNG", ".hidden.png"):
        (refs / name).write_bytes(picture)
    (refs / "notes.txt").write_text("left aside")
    (refs / "sub").mkdir()
    (folder / "both.png").write_bytes(picture)
    (folder / "x.prompt").write_text("---\nreference_image: both.png\n---\nby name and by folder")
    order_of(mount, folder / "x.prompt")
    assert references_of(hub, "by name and by folder") == 3
    # Not those of the folder below or above.
    (folder / "sub").mkdir()
    (folder / "sub/y.prompt").write_text("in a folder below")
    order_of(mount, folder / "sub/y.prompt")
    assert references_of(hub, "in a folder below") == 0
    # What looks like a picture and is none is not left aside in silence.
    (refs / "broken.jpg").write_text("no picture")
    (folder / "z.prompt").write_text("with a broken one")
    refused(mount, folder / "z.prompt", "broken.jpg", "convert it")
    (refs / "broken.jpg").unlink()
    # More than the model takes.
    for k in range(15):
        shutil.copy(refs / "one.png", refs / f"more{k}.png")
    (folder / "z.prompt").write_text("with too many")
    refused(mount, folder / "z.prompt", "takes at most 16 reference images, and there are 17")


def test_generated_pictures_are_references(hub, mount, folder):
    """bottle.png is seen beside bottle.prompt: it can be named, though it was never downloaded."""
    (folder / "references").mkdir()
    for name in ("bottle", "references/table"):
        (folder / f"{name}.prompt").write_text(f"a picture of {folder.name}/{name}")
        order_of(mount, folder / f"{name}.prompt")
    (folder / "sub").mkdir()
    (folder / "x.prompt").write_text("---\nreference_image: bottle.png\n---\nwith a bottle on the table")
    order_of(mount, folder / "x.prompt")
    assert references_of(hub, "with a bottle on the table") == 2
    (folder / "sub/y.prompt").write_text("---\nreference_image: ../bottle.png\n---\nwith a bottle")
    order_of(mount, folder / "sub/y.prompt")
    assert references_of(hub, "with a bottle") == 1
    settled(mount)
    until("the snapshots' removal", lambda: os.listdir(mount.state / "refs") == [])
    # Evicted, and asked for by name: it is fetched, and the user says it again.
    mount.stop()
    shutil.rmtree(mount.cache)
    mount.start()
    control = mount / "control"
    with pytest.raises(OSError) as caught:
        control.write_text(f"again requests/{folder.name}/sub/y.prompt\n")
    assert caught.value.errno == errno.EINPROGRESS and "say it again in a moment" in control.read_text()

    def said():
        with contextlib.suppress(OSError):
            return control.write_text(f"again requests/{folder.name}/sub/y.prompt\n")
    until("its turn", said)
    order_of(mount, folder / "sub/y.prompt")
    assert sent(hub)["with a bottle"] == 2


def test_what_is_accepted_as_text(hub, mount, folder):
    files = {
        "bom": (b"\xef\xbb\xbfwith a BOM", "with a BOM"),
        "crlf": (b"---\r\nn: 1\r\n---\r\nwith CRLF\r\nand more\r\n", "with CRLF\nand more"),
        "bare": (b"without a final newline", "without a final newline"),
        "blank lines": (b"\n\n---\nn: 1\n---\nbehind empty lines\n", "behind empty lines"),
        "colon": (b"16:9 - a title: with colons\n", "16:9 - a title: with colons"),
        "fence": (b"text\n---\nn: 9\n---\n", "text\n---\nn: 9\n---"),
        "향수": ("검은 대리석 위의 향수병".encode(), "검은 대리석 위의 향수병"),
        "long": (b"x" * 32000, "x" * 32000),
    }
    for name, (data, _) in files.items():
        (folder / f"{name}.prompt").write_bytes(data)
    for name, (data, text) in files.items():
        assert order_of(mount, folder / f"{name}.prompt")["prompt"] == text, name
        assert (folder / f"{name}.prompt").read_bytes() == data


def test_what_is_too_much_or_no_text(hub, mount, folder):
    before = sent(hub)
    for name, data, words in (("large", b" x" * 600_000, "1 MiB"), ("latin", "caf\u00e9".encode("latin-1"), "1:4: the text is not UTF-8"),
                              ("nul", b"a\0b", "a NUL byte"), ("long", b"x" * 32001, "32001 characters")):
        path = folder / f"{name}.prompt"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view):]
        with pytest.raises(OSError) as caught:
            os.close(fd)
        assert caught.value.errno == 22, name
        refused(mount, path, words)
        assert path.read_bytes() == data
    settled(mount)
    assert sent(hub) == before
