"""A Samba share of the mount: one request for each text, whatever SMB does around it."""
import os
import shutil
import socket
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from harness import run, until
from sending import exactly, sent

CONF = """[global]
server role = standalone server
security = user
map to guest = bad user
guest account = root
interfaces = 127.0.0.1
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
load printers = no
printcap name = /dev/null
disable spoolss = yes
private dir = {dir}/private
lock directory = {dir}/lock
state directory = {dir}/state
cache directory = {dir}/cache
pid directory = {dir}/pid
ncalrpc dir = {dir}/ncalrpc
usershare path =
log file = {dir}/log
max log size = 0
[mount]
path = {path}
guest ok = yes
guest only = yes
force user = root
read only = no
"""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


@pytest.fixture
def share(mount):
    """Calls smbclient with commands for a share of the mount."""
    if os.geteuid() != 0 or (not shutil.which("smbd") and os.path.exists("/run/systemd/system")):
        pytest.skip("smbd wants root, and is not installed where its package would start it")
    dir = Path(tempfile.mkdtemp(prefix="smb-"))
    for name in ("private", "lock", "state", "cache", "pid", "ncalrpc"):
        (dir / name).mkdir(mode=0o755)
    port = free_port()
    (dir / "smb.conf").write_text(CONF.format(dir=dir, path=mount.path, port=port))
    log = open(dir / "out", "wb")
    # At its end, however early, it sends SIGTERM to its whole process group: it must have one of its own.
    smbd = subprocess.Popen(["smbd", "--foreground", "--no-process-group", f"--configfile={dir}/smb.conf"],
                            start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def client(*commands, check=True):
        return run("smbclient", f"--configfile={dir}/smb.conf", "-N", "-p", str(port), "//127.0.0.1/mount", "-c",
                   "; ".join(commands), check=check)

    def ready():
        assert smbd.poll() is None, (dir / "out").read_text() + (dir / "log").read_text()
        return client("ls", check=False).returncode == 0

    try:
        until("smbd", ready)
        yield client
    finally:
        smbd.terminate()
        smbd.wait(20)
        log.close()
        shutil.rmtree(dir, ignore_errors=True)


def test_a_samba_share(hub, mount, share, tmp_path):
    texts = Counter()
    (tmp_path / "one").write_text("a cat over smb")
    (tmp_path / "two").write_text("a dog over smb")
    (tmp_path / "long").write_text("a fox over smb, " * 1000)
    local = f"lcd {tmp_path}"

    share(local, "put one requests/a.prompt")
    texts["a cat over smb"] += 1
    exactly(hub, mount, texts, "put")
    share(local, "put one requests/a.prompt", "allinfo requests/a.prompt", "setmode requests/a.prompt +r",
          "setmode requests/a.prompt -r", "utimes requests/a.prompt 2020:01:01-10:00:00 2020:01:01-10:00:00 "
          "2020:01:01-10:00:00 2020:01:01-10:00:00")
    share(local, "put two requests/b.txt")
    share(local, "rename requests/a.prompt requests/c.prompt", "rename requests/c.prompt requests/a.prompt")
    share(local, "put long requests/l.prompt")
    texts["a fox over smb, " * 1000] += 1  # its trailing space is text as well
    exactly(hub, mount, texts, "the same bytes, attributes, times, renames")
    share(local, "put two requests/a.prompt")
    texts["a dog over smb"] += 1
    exactly(hub, mount, texts, "other bytes")
    share(local, "rename requests/b.txt requests/b.prompt", "mkdir requests/d", "put one requests/d/a.prompt")
    texts.update(["a dog over smb", "a cat over smb"])
    exactly(hub, mount, texts, "a rename to a prompt, a folder")
    # And back: the picture as its bytes, listed with its size.
    mount.wait("a")
    share(local, "get requests/a.png a.png")
    assert (tmp_path / "a.png").read_bytes() == (mount / "requests/a.png").read_bytes()
    share("del requests/a.prompt", "del requests/d/a.prompt")
    assert not (mount / "requests/a.prompt").exists() and sent(hub) == texts
    print(f"{sum(texts.values())} prompts over a Samba share")
