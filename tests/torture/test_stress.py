"""stress-ng and fio on scratch files in /requests of a real mount: `make torture-posix`.

DURATION is how many seconds of them there are in all. Each run ends with a hub that was asked for
nothing and charged nothing, a mount that ends cleanly, and a state without anything left over.
"""
import json
import os

import pytest
from harness import run

DURATION = int(os.environ.get("DURATION") or 60)
# Several at once, as many processes each; link(2) alone, as it is refused.
STRESSORS = ("filename", "rename", "dentry", "symlink")
FIO = {
    "psync": ["--ioengine=psync", "--numjobs=3", "--fsync=64"],
    "mmap": ["--ioengine=mmap", "--numjobs=2", "--fdatasync=64"],
    "direct": ["--ioengine=psync", "--direct=1", "--numjobs=2", "--bs=4k-64k"],
}


@pytest.fixture
def folder(hub, make_mount):
    """A folder for scratch files; with what is asked of a mount after all that."""
    mount = make_mount(hub)
    before = hub.credits()
    folder = mount / "requests/scratch"
    folder.mkdir()
    yield folder
    assert os.listdir(folder) == []
    assert (hub.generations(), hub.charges(), hub.credits()) == (0, [], before)
    assert mount.sql("SELECT count(*) FROM request") == ["0"]
    mount.stop()
    mount.check_state()


def stress(folder, seconds, *stressors):
    # It makes its folders in the one that it runs in.
    return run("stress-ng", "--temp-path", folder, "--timeout", f"{seconds}s", "--verify", "--metrics-brief",
               *(word for s in stressors for word in (f"--{s}", 2)), limit=seconds + 300, check=False)


def test_names_by_stress_ng(folder):
    seconds = max(5, DURATION // 2)
    done = stress(folder, seconds, *STRESSORS)
    print(done.stdout + done.stderr)
    assert done.returncode == 0
    counts = {words[3]: int(words[4]) for line in (done.stdout + done.stderr).splitlines()
              if len(words := line.split()) > 6 and words[1] == "metrc:" and words[4].isdigit()}
    assert sorted(counts) == sorted(STRESSORS) and all(counts.values()), counts
    # It makes one file and 2^16 names of it; here it ends at the first.
    done = stress(folder, 5, "link")
    assert "link calls not allowed on the filesystem" in done.stdout + done.stderr
    assert done.returncode == 3, done.stderr  # nothing to be had, and no failure


@pytest.mark.parametrize("engine", FIO)
def test_contents_by_fio(folder, engine):
    seconds = max(3, DURATION // 2 // len(FIO))
    done = run("fio", f"--name={engine}", f"--directory={folder}", "--rw=randwrite", "--bs=4k", "--size=8m",
               "--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0", "--verify_backlog=512",
               "--time_based", f"--runtime={seconds}", "--unlink=1", "--randrepeat=0", "--output-format=json",
               *FIO[engine], limit=seconds + 300)
    jobs = json.loads(done.stdout[done.stdout.index("{"):])["jobs"]
    written, verified = (sum(j[way]["io_bytes"] for j in jobs) for way in ("write", "read"))
    print(f"fio {engine}: {len(jobs)} jobs wrote {written >> 20} MiB and verified {verified >> 20} MiB")
    assert all(j["error"] == 0 for j in jobs) and written > 0 and verified > 0
