"""Editors as people use them: in a terminal, with swap files, lock files and backups.

Each makes a new prompt, saves it again as it is, and adds to it: one request for each text.
"""
import os
import signal
from collections import Counter

import pytest
from harness import Hub, Mount, until
from sending import exactly, sent, settled
from terminal import Terminal


@pytest.fixture(scope="module")
def hub():
    hub = Hub().start()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def mount(hub):
    mount = Mount(hub).start("--settle", "300")
    yield mount
    mount.close()


class Vim:
    def __init__(self, *settings):
        # By itself it makes no backups below /tmp, where the tests' mounts are.
        self.settings = [w for s in ("backupskip=", *settings) for w in ("-c", f"set {s}")]

    def edit(self, path, keys, save=True):
        t = Terminal("vim", "-N", "-u", "NONE", "-i", "NONE", *self.settings, path)
        # The swap file is there while it runs.
        swap = path.with_name(f".{path.name}.swp")
        until("the swap file", swap.exists)
        t.type(keys)
        if not save:
            return t
        t.type("\x1b:w!\r")
        t.expect("written")
        t.type(":q\r")
        assert t.end() == 0 and not swap.exists()

    def make(self, path, text):
        self.edit(path, "i" + text)

    def resave(self, path):
        self.edit(path, "")

    def add(self, path, text):
        self.edit(path, "A" + text)


class Nano:
    def __init__(self, *options):
        self.options = options

    def edit(self, path, keys):
        t = Terminal("nano", "--ignorercfiles", *self.options, path)
        t.expect("Exit")
        t.type(keys + "\x0f")
        t.expect("Write")
        t.type("\r")
        t.expect("Wrote")
        t.type("\x18")
        assert t.end() == 0

    def make(self, path, text):
        self.edit(path, text)

    def resave(self, path):
        self.edit(path, "")

    def add(self, path, text):
        self.edit(path, "\x05" + text)


class Emacs:
    def __init__(self, *lisp):
        # By itself it makes no backups below /tmp, where the tests' mounts are.
        always = "(setq backup-enable-predicate (lambda (name) t) require-final-newline t)"
        self.lisp = [w for code in (always, *lisp) for w in ("--eval", code)]

    def edit(self, path, keys):
        t = Terminal("emacs", "-nw", "-Q", *self.lisp, path)
        t.expect(path.name)
        t.type(keys + "\x18\x13")
        t.expect("Wrote")
        t.type("\x18\x03")
        assert t.end() == 0

    def make(self, path, text):
        self.edit(path, text)

    def resave(self, path):
        self.edit(path, "x\x7f")  # a change and back: it saves only what was touched

    def add(self, path, text):
        self.edit(path, "\x05" + text)


EDITORS = {
    "vim": Vim(),
    "vim with backup": Vim("backup", "backupdir=.", "backupcopy=auto"),
    "vim backupcopy=no": Vim("backup", "backupdir=.", "backupcopy=no"),
    "vim backupcopy=yes": Vim("backup", "backupdir=.", "backupcopy=yes"),
    "vim nowritebackup": Vim("nowritebackup", "nobackup"),
    "nano": Nano(),
    "nano with backup": Nano("--backup"),
    "nano with a lock": Nano("--locking"),
    "emacs": Emacs(),
    "emacs without backup": Emacs("(setq make-backup-files nil)"),
    "emacs that auto-saves": Emacs("(setq auto-save-interval 20)", "(setq auto-save-timeout 1)"),
}


def path_of(mount, name):
    folder = mount / "requests" / name.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    return folder / "made.prompt"


def test_editors_in_a_terminal(hub, mount):
    texts = Counter()
    for what in ("make", "resave", "add"):
        for name, editor in EDITORS.items():
            text = f"a cat by {name}"
            if what == "make":
                editor.make(path_of(mount, name), text)
                texts[text] += 1
            elif what == "resave":
                editor.resave(path_of(mount, name))
            else:
                editor.add(path_of(mount, name), " with a hat")
                texts[text + " with a hat"] += 1
        exactly(hub, mount, texts, f"editors: {what}")
    print(f"{len(EDITORS)} editors, each three times")
    backups = [p for p in (mount / "requests").rglob("*~")]
    assert len(backups) == 6, backups  # of three vims, a nano and two emacs
    for name in EDITORS:
        assert mount.wait(f"{name.replace(' ', '-')}/made")[-1].startswith("succeeded")
        assert path_of(mount, name).with_suffix(".png").exists()


def test_an_editor_that_dies_sends_nothing(hub, mount):
    before = sent(hub)
    killed = 0
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP):
        path = path_of(mount, f"dying{number.value}")
        t = Vim().edit(path, "inot saved", save=False)
        t.expect("not saved")
        assert t.kill(number) != 0
        killed += 1
        assert not path.exists()
    settled(mount)
    assert sent(hub) == before
    print(f"{killed} editors killed")
    # What it left behind is a scratch file; the text is saved by the next one.
    assert os.path.exists(path_of(mount, "dying9").with_name(".made.prompt.swp"))
