"""One write, one request: whichever program writes the file.

All programs write into one mount, each into a folder of its own and each a text of its own, so that
what the hub was sent tells who sent too much, too little, or half of it. Every way is gone three
times: a new file, the same bytes once more, more bytes.
"""
import os
import shlex
import shutil
import signal
import subprocess
import sys

import pytest
from harness import LIMIT, Hub, Mount, sh, until
from sending import exactly, sent, settled

PY = shlex.quote(sys.executable)
SFTP_SERVER = "/usr/lib/openssh/sftp-server"


def python(code):
    return f"{PY} -c {shlex.quote('import os, sys, mmap, shutil, tempfile; f, src, dir = sys.argv[1:]; ' + code)}" \
        " {f} {src} {dir}"


def vim(*settings):
    """Without a terminal; test_editors.py has the one that people see. By itself it makes no backups
    below /tmp, where the tests' mounts are."""
    words = " ".join(f"-c {shlex.quote('set ' + s)}" for s in ("backupskip=", *settings))
    return f"vim -N -u NONE -i NONE {words} -es -c '%d _' -c '0r {{src}}' -c wq! {{f}} < /dev/null"


def emacs(*lisp):
    code = "(setq backup-enable-predicate (lambda (name) t)) " + " ".join(lisp) + " (find-file \"{f}\") (erase-buffer) (insert-file-contents \"{src}\")" \
        " (set-buffer-modified-p t) (save-buffer)"
    return f"emacs --batch -Q --eval '(progn {code})'"


# {f} is to hold what {src} holds; {dir} is the folder on the mount, {tmp} one that is not. Programs
# that only edit start from a copy.
EDIT = "[ -e {f} ] || cp {src} {f}; "
WRITERS = {
    "bash": "cat {src} > {f}",
    "bash builtin": "echo \"$(< {src})\" > {f}",
    "bash here-string": "cat > {f} <<< \"$(< {src})\"",
    "bash descriptor": "exec 3> {f}; cat {src} >&3; exec 3>&-",
    "bash noclobber": "rm -f {f}; set -C; cat {src} > {f}",
    "dash": "dash -c 'cat {src} > {f}'",
    "subshell": "(head -c 3 {src}; tail -c +4 {src}) > {f}",
    "truncate, then append": ": > {f}; cat {src} >> {f}",
    "append": "[ -e {f} ] || : > {f}; tail -c +$(($(stat -c %s {f}) + 1)) {src} >> {f}",
    "unlink and write": "rm -f {f}; cat {src} > {f}",
    "printf without newline": "printf %s \"$(< {src})\" > {f}",
    "cp": "cp {src} {f}",
    "cp -a": "cp -a {src} {f}",
    "cp --reflink": "cp --reflink=auto {src} {f}",
    "cp --sparse": "cp --sparse=always {src} {f}",
    "cp --remove-destination": "cp --remove-destination {src} {f}",
    "cp --backup": "cp --backup=simple {src} {f}",
    "cp of a folder": "mkdir -p {tmp}/d && cp {src} {tmp}/d/made.prompt && cp -r {tmp}/d/. {dir}",
    "mv in": "cp {src} {tmp}/x && mv {tmp}/x {f}",
    "mv of a folder in": "rm -rf {tmp}/d; mkdir {tmp}/d && cp {src} {tmp}/d/made.prompt && rm -rf {dir} && mv {tmp}/d {dir}",
    "scratch and rename": "cp {src} {dir}/x.tmp && mv {dir}/x.tmp {f}",
    "scratch and rename --backup": "cp {src} {dir}/x.tmp && mv --backup=simple {dir}/x.tmp {f}",
    "tee": "tee {f} < {src} > /dev/null",
    "tee -a": ": > {f}; tee -a {f} < {src} > /dev/null",
    "dd": "dd if={src} of={f} bs=3 status=none",
    "dd notrunc": "dd if={src} of={f} conv=notrunc bs=5 status=none",
    "dd fsync": "dd if={src} of={f} bs=4 conv=fsync oflag=dsync status=none",
    "install": "install -m 600 {src} {f}",
    "install -b": "install -b -m 600 {src} {f}",
    "sort -o": "sort -o {f} {src}",
    "split": "split -n 1 --additional-suffix=.prompt {src} {dir}/made; mv {dir}/madeaa.prompt {f}",
    "rsync": "rsync {src} {f}",
    "rsync -a": "rsync -a {src} {f}",
    "rsync --inplace": "rsync --inplace --no-whole-file {src} {f}",
    "rsync --append": "rsync --append {src} {f}",
    "rsync --delay-updates": "rsync --delay-updates {src} {f}",
    "rsync --backup": "rsync --backup --ignore-times {src} {f}",
    "rsync --partial-dir": "rsync --partial-dir=.part {src} {f}",
    "sftp": f"printf 'put {{src}} {{f}}\\n' | sftp -q -b - -D {SFTP_SERVER}",
    "sftp and rename": f"printf 'put {{src}} {{dir}}/x\\nrename {{dir}}/x {{f}}\\n' | sftp -q -b - -D {SFTP_SERVER}",
    "curl -o": "curl -sS -o {f} file://{src}",
    "gio copy": "gio copy {src} {f}",
    "gio copy --backup": "gio copy --backup {src} {f}",
    "gio move": "cp {src} {tmp}/x && gio move {tmp}/x {f}",
    "gio save": "gio save {f} < {src}",
    "gio save --backup": "gio save --backup {f} < {src}",
    "tar": "tar -cf - -C {tmp} --transform s,source.txt,made.prompt, source.txt | tar -xf - -C {dir}",
    "tar --overwrite": "tar -cf - -C {tmp} --transform s,source.txt,made.prompt, source.txt | tar --overwrite -xf - -C {dir}",
    "tar --unlink-first": "tar -cf - -C {tmp} --transform s,source.txt,made.prompt, source.txt | tar -U -xf - -C {dir}",
    "bsdtar": "bsdtar -cf - -C {tmp} -s ,source.txt,made.prompt, source.txt | bsdtar -xf - -C {dir}",
    "bsdtar -U": "bsdtar -cf - -C {tmp} -s ,source.txt,made.prompt, source.txt | bsdtar -xUf - -C {dir}",
    "cpio": "cd {tmp}; cp source.txt made.prompt; echo made.prompt | cpio -o --quiet | (cd {dir}; cpio -iu --quiet)",
    "cpio -p": "cd {tmp}; cp source.txt made.prompt; echo made.prompt | cpio -pu --quiet {dir}",
    "unzip": "cd {tmp}; cp source.txt made.prompt; zip -q z.zip made.prompt; unzip -qo z.zip -d {dir}; rm z.zip",
    "sed -i": EDIT + "sed -i \"s|.*|$(< {src})|\" {f}",
    "sed -i with backup": EDIT + "sed -i.bak \"s|.*|$(< {src})|\" {f}",
    "sed -i --follow-symlinks": EDIT + "sed -i --follow-symlinks \"s|.*|$(< {src})|\" {f}",
    "perl -i": EDIT + "perl -i -pe \"s|.*|$(< {src})|\" {f}",
    "perl -i with backup": EDIT + "perl -i.bak -pe \"s|.*|$(< {src})|\" {f}",
    "ed": EDIT + "printf '1,$d\\n0r {src}\\nw\\nq\\n' | ed -s {f}",
    "patch": EDIT + "diff -u {f} {src} > {tmp}/p; patch -s {f} < {tmp}/p",
    "patch -b": EDIT + "diff -u {f} {src} > {tmp}/p; patch -b -s {f} < {tmp}/p",
    "vim": vim(),
    "vim backup": vim("backup", "backupdir=."),
    "vim backupcopy=no": vim("backupcopy=no"),
    "vim backup backupcopy=no": vim("backup", "backupdir=.", "backupcopy=no"),
    "vim backup backupcopy=yes": vim("backup", "backupdir=.", "backupcopy=yes"),
    "vim nowritebackup": vim("nowritebackup"),
    "emacs": emacs(),
    "emacs without backup": emacs("(setq make-backup-files nil)"),
    "emacs backup-by-copying": emacs("(setq backup-by-copying t)"),
    "emacs precious": emacs("(setq file-precious-flag t)"),
    "python": python("open(f, 'w').write(open(src).read())"),
    "python in pieces": python("t = open(src).read(); o = open(f, 'w', buffering=1)\nfor c in t: o.write(c); o.flush()"),
    "python two opens": python("t = open(src).read(); open(f, 'w').write(t[:4]); open(f, 'a').write(t[4:])"),
    "python fsync": python("o = open(f, 'w'); o.write(open(src).read()); o.flush(); os.fsync(o.fileno()); o.close()"),
    "python dup and fork": python(
        "t = open(src, 'rb').read(); fd = os.open(f, os.O_CREAT | os.O_WRONLY | os.O_TRUNC); d = os.dup(fd)\n"
        "os.write(fd, t[:2]); os.close(fd); pid = os.fork()\n"
        "if not pid: os.write(d, t[2:]); os._exit(0)\n"
        "os.waitpid(pid, 0); os.close(d)"),
    "python os.replace": python(
        "t = tempfile.NamedTemporaryFile('w', dir=dir, delete=False); t.write(open(src).read()); t.close()\n"
        "os.replace(t.name, f)"),
    "python mmap": python(
        "t = open(src, 'rb').read(); o = open(f, 'a+b'); o.truncate(len(t)); m = mmap.mmap(o.fileno(), len(t))\n"
        "m[:] = t; m.close(); o.close()"),
    "python mmap after close": python(
        "t = open(src, 'rb').read(); o = open(f, 'a+b'); o.truncate(len(t)); m = mmap.mmap(o.fileno(), len(t))\n"
        # All NUL as it is closed, which is told as a fault of the text; then the text arrives.
        "try: o.close()\nexcept OSError: pass\nm[:] = t; m.close()"),
    "python pwrite backwards": python(
        "t = open(src, 'rb').read(); fd = os.open(f, os.O_CREAT | os.O_RDWR)\n"
        "os.pwrite(fd, t[5:], 5); os.pwrite(fd, t[:5], 0); os.close(fd)"),
    "python copy2": python("shutil.copy2(src, f)"),
    "python sendfile": python(
        "a = open(src, 'rb'); b = open(f, 'wb'); os.sendfile(b.fileno(), a.fileno(), 0, 1000); b.close()"),
    "python copy_file_range": python(
        "shutil.copy(src, dir + '/other.txt'); a = open(dir + '/other.txt', 'rb'); b = open(f, 'wb')\n"
        "os.copy_file_range(a.fileno(), b.fileno(), 1000); b.close()"),
}


@pytest.fixture(scope="module")
def hub():
    hub = Hub().start()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def mount(hub):
    mount = Mount(hub).start("--settle", "1000")  # some open a file twice
    yield mount
    mount.close()


def write_all(mount, tmp, text_of):
    for number, (name, script) in enumerate(WRITERS.items()):
        own = tmp / str(number)
        folder = mount / "requests" / f"w{number}"
        own.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        (own / "source.txt").write_text(text_of(name))
        words = {"f": folder / "made.prompt", "src": own / "source.txt", "dir": folder, "tmp": own}
        done = sh(script.format(**words), check=False, limit=120)
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"
        got = (folder / "made.prompt").read_text()
        assert got.strip() == text_of(name), f"{name}: wrote {got!r}"


def test_every_writer(hub, mount, tmp_path):
    missing = [p for p in ("vim", "emacs", "ed", "patch", "rsync", "gio", "unzip", "zip", "bsdtar", "cpio", "curl",
                           SFTP_SERVER) if not shutil.which(p)]
    assert not missing, f"not installed: {missing}"
    before = list(sent(hub).elements())

    def first(name):
        return f"a cat, by {name}"

    def longer(name):
        return f"a cat, by {name}, with a hat"

    write_all(mount, tmp_path, first)
    exactly(hub, mount, [*before, *map(first, WRITERS)], "a new file")
    write_all(mount, tmp_path, first)
    exactly(hub, mount, [*before, *map(first, WRITERS)], "the same bytes")
    write_all(mount, tmp_path, longer)
    exactly(hub, mount, [*before, *map(first, WRITERS), *map(longer, WRITERS)], "more bytes")
    print(f"{len(WRITERS)} ways of writing, each three times")
    for number in range(len(WRITERS)):
        assert mount.wait(f"w{number}/made")[-1].startswith("succeeded")


# What changes no content, all on {f}; {dir} is its folder.
TOUCHES = [
    "touch {f}", "touch -a {f}", "touch -d '2020-01-01' {f}", "touch -c {f}", "chmod 600 {f}", "chmod a+x {f}",
    "setfattr -n user.mine -v 1 {f}", "setfattr -x user.mine {f}", "truncate -s +0 {f}", ": >> {f}", "exec 3<> {f}",
    "sync {f}", "flock {f} true", "cat {f} > /dev/null; head -c1 {f} > /dev/null", "mv {f} {dir}/b.prompt; mv {dir}/b.prompt {f}",
    "mv {f} {dir}/b.txt; mv {dir}/b.txt {f}", "ln -s made.prompt {dir}/link.prompt", "cp {f} {dir}/copy.txt",
    "cp {f} {dir}/k; cat {dir}/k > {f}", "cp -p {f} {dir}/k; mv {dir}/k {f}", "fallocate -n -l 4096 {f}",
    "mkdir {dir}/sub.prompt; rmdir {dir}/sub.prompt", "stat {f}; find {dir}; ls -l {dir}; du {dir}; grep -r cat {dir}; true",
    "mv {dir} {dir}.moved; mv {dir}.moved {dir}",
] + (["chown 12:34 {f}", "chown 0:0 {f}"] if os.geteuid() == 0 else [])


def test_what_changes_no_content(hub, mount):
    before = sent(hub)
    folder = mount / "requests/touched"
    folder.mkdir()
    words = {"f": folder / "made.prompt", "dir": folder}
    (folder / "made.prompt").write_text("touched")
    exactly(hub, mount, [*before.elements(), "touched"], "the first")
    for script in TOUCHES:
        sh(script.format(**words))
    mount.write("end of touches.prompt", "the end of touches")
    exactly(hub, mount, [*before.elements(), "touched", "the end of touches"], "touching")
    print(f"{len(TOUCHES)} ways of touching")


SCRATCH = [".cat.prompt.swp", ".cat.prompt.swx", "cat.prompt.swp", "cat.prompt.part", "cat.prompt~", "4913", "#cat.prompt#",
           ".#cat.prompt", ".goutputstream-1A2B3C", ".cat.prompt.XyZ123", "cat.prompt.tmp", "cat.prompt.crdownload",
           ".~lock.cat.prompt#", "cat.prompt.bak", "cat.prompt.save", "cat.PROMPT", "cat.prompt ", "cat prompt", "prompt",
           ".prompt", ".hidden.prompt", "cat.prompt.1", ".nfs000001", "cat.prompt.filepart", "smb.prompt.delete-me"]
HIDDEN = [".part/cat.prompt", ".~tmp~/cat.prompt", ".Trash-1000/files/cat.prompt", ".git/refs/heads/cat.prompt"]


def test_scratch_names(hub, mount):
    before = sent(hub)
    folder = mount / "requests/scratch"
    for name in SCRATCH + HIDDEN:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"not to be sent: {name}")
    sh("echo '   ' > white.prompt; touch blank.prompt; printf -- '---\\nn: 2\\n---\\n' > settings.prompt", cwd=folder)
    mount.write("end of scratch.prompt", "the end of scratch")
    until("the end", lambda: sent(hub)["the end of scratch"])
    assert sent(hub) - before == {"the end of scratch": 1}
    assert not [n for n in os.listdir(folder) if n.endswith((".status", ".error"))]
    for name in SCRATCH + HIDDEN:
        assert (folder / name).read_text() == f"not to be sent: {name}"
    print(f"{len(SCRATCH)} scratch names, {len(HIDDEN)} in hidden folders")
    # Out of a hidden folder it is a prompt, alone or with its folder; into the trash and back is nothing new.
    (folder / HIDDEN[0]).rename(folder / "out.prompt")
    (folder / ".~tmp~").rename(folder / "shown")
    texts = [*before.elements(), "the end of scratch", *(f"not to be sent: {n}" for n in HIDDEN[:2])]
    exactly(hub, mount_without_hidden(mount, folder), texts, "out of hidden folders")
    (folder / "out.prompt").rename(folder / HIDDEN[2])
    (folder / HIDDEN[2]).rename(folder / "out.prompt")
    mount.write("end of trash.prompt", "the end of trash")
    exactly(hub, mount, [*texts, "the end of trash"], "the trash")


def mount_without_hidden(mount, folder):
    """What stays in hidden folders is owed for ever; settled() would wait for it."""
    for name in HIDDEN[2:]:
        (folder / name).unlink()
    return mount


# Writers that read their standard input and write it as it comes.
SLOW = {
    "cat": "exec cat > {f}",
    "tee": "exec tee {f} > /dev/null",
    "dd": "exec dd of={f} bs=1 status=none",
    "cp": "exec cp /dev/stdin {f}",
    "bash": "while read -r -n1 c; do printf %s \"${{c:- }}\"; done > {f}",
    "python": PY + " -c \"import sys\nwith open('{f}', 'wb', 0) as f:\n  while c := sys.stdin.buffer.raw.read(1): f.write(c)\"",
}
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
# These catch it and close their files as if they were done: that cannot be told apart.
TIDY = {("dd", signal.SIGINT), ("python", signal.SIGINT)}


def test_writers_that_are_killed_leave_drafts(hub, mount):
    before = sent(hub)
    folder = mount / "requests/killed"
    folder.mkdir()
    writers = {}
    for name, script in SLOW.items():
        for number in SIGNALS:
            if (name, number) not in TIDY:
                path = folder / f"{name}{number.value}.prompt"
                writers[path] = number, subprocess.Popen(["bash", "-c", script.format(f=path)], stdin=subprocess.PIPE)
    for _, writer in writers.values():
        writer.stdin.write(b"half a prompt")
        writer.stdin.flush()
    for path, (number, writer) in writers.items():
        until(f"the bytes of {path}", lambda: path.exists() and path.stat().st_size == 13)
        writer.send_signal(number)
        assert writer.wait(LIMIT) == -number, path
        writer.stdin.close()
    for path in writers:
        until("the note", path.with_suffix(".status").exists)
        assert path.with_suffix(".status").read_text().startswith("draft: the program that wrote it was killed"), path
        assert path.read_text() == "half a prompt"
    settled(mount)
    assert sent(hub) == before
    print(f"{len(writers)} writers killed by {len(SIGNALS)} signals")
    mount.control("again requests/killed/cat9.prompt\n")
    assert mount.wait("killed/cat9")[-1].startswith("succeeded")
    (folder / "tee15.prompt").write_text("half a prompt, and the rest")
    exactly(hub, mount, [*before.elements(), "half a prompt", "half a prompt, and the rest"], "what the user did then")


def test_git_checkout(hub, mount, tmp_path):
    before = sent(hub)
    git = "git -c init.defaultBranch=main -c user.name=me -c user.email=me@example.org -c advice.detachedHead=false -c gc.auto=0"
    sh(f"""set -e; mkdir source; cd source; {git} init -q
        for k in 0 1 2 3 4 5 6 7; do echo "git picture $k" > p$k.prompt; done; echo notes > notes.txt
        {git} add .; {git} commit -qm one; {git} checkout -q -b other
        for k in 1 2 3; do echo "git picture $k, changed" > p$k.prompt; done
        echo "git picture 8" > p8.prompt; {git} rm -q p0.prompt; {git} mv p4.prompt q4.prompt
        {git} add .; {git} commit -qm two; {git} checkout -q main""", cwd=tmp_path)
    repo = mount / "requests/repo"
    texts = [*before.elements(), *(f"git picture {k}" for k in range(8))]
    sh(f"{git} clone -q {tmp_path}/source {repo} && cd {repo} && {git} fsck --strict && {git} status --short", limit=120)
    exactly(hub, mount, texts, "git clone")
    sh(f"{git} checkout -q -- . && {git} reset -q --hard && {git} status", cwd=repo)
    sh(f"{git} checkout -q other", cwd=repo)
    # Changed ones, a new one, and one with a new name.
    texts += [*(f"git picture {k}, changed" for k in (1, 2, 3)), "git picture 8", "git picture 4"]
    exactly(hub, mount, texts, "another branch")
    assert sh(f"{git} status --short --untracked-files=no", cwd=repo).stdout == ""
    # Back: other text than was submitted last; p0 and p4 hold what they held.
    sh(f"{git} checkout -q main", cwd=repo)
    texts += [f"git picture {k}" for k in (1, 2, 3)]
    exactly(hub, mount, texts, "the first branch")
