#!/usr/bin/python3
"""Runs the public pjdfstest on the /requests of a real mount: pjdfstest.py DIR [--list]

DIR is a built copy of https://github.com/pjd/pjdfstest. Each of its test files runs in a folder of
its own. posix-expected.txt has the tests that may not pass, with the reasons; any other failure and
any of these that passes make this program fail. --list prints what failed in the form of that file.

Most of the failures are of kinds of nodes that /requests refuses, in loops over all kinds where one
drags others along. So the files with such loops run a second time ("kinds", in a copy) over the
kinds that there are.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import Hub, Mount

SUITES = "open unlink rename truncate ftruncate mkdir rmdir symlink utimensat chmod chown".split()
EXPECTED = Path(__file__).with_name("posix-expected.txt")
REFUSED = re.compile(r" (fifo|block|char|socket)\b")
LOOP = re.compile(r"^\s*for type\d* in .*$", re.M)
FILE_LIMIT = 300  # seconds


def without_kinds(source, target):
    """A copy of pjdfstest whose loops leave out what is refused. The files that this changed."""
    shutil.copytree(source / "tests", target / "tests")
    shutil.copy(source / "pjdfstest", target)
    changed = []
    for suite in SUITES:
        for path in sorted((target / "tests" / suite).glob("*.t")):
            text = path.read_text()
            narrow = LOOP.sub(lambda line: REFUSED.sub("", line.group()), text)
            if narrow != text:
                path.write_text(narrow)
                changed.append(path)
    return changed


def run_file(path, folder):
    """What a test file printed: the number of its tests, the numbers and lines of those that failed."""
    folder.mkdir()
    done = subprocess.run(["/bin/sh", str(path)], cwd=folder, stdin=subprocess.DEVNULL, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=FILE_LIMIT,
                          errors="replace")
    tests = re.findall(r"^((?:not )?ok) (\d+)(.*)$", done.stdout, re.M)
    # A "TODO" is a failure that the test itself expects.
    failed = {int(n): words for ok, n, words in tests if ok != "ok" and "# TODO" not in words}
    assert tests or re.search(r"^1\.\.0", done.stdout, re.M), f"{path}: no tests\n{done.stdout}"
    subprocess.run(["rm", "-rf", str(folder)], check=True, timeout=FILE_LIMIT)
    return len(tests), failed


def ranges(numbers):
    """{1, 2, 3, 7} as "1-3,7"."""
    parts = []
    for n in sorted(numbers):
        if parts and parts[-1][1] == n - 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


def read_expected():
    """{"open/06.t": {65, 66, …}}"""
    expected = {}
    for line in EXPECTED.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            name, numbers, reason = line.split(None, 2)
            assert reason, line
            for part in numbers.split(","):
                first, _, last = part.partition("-")
                expected.setdefault(name, set()).update(range(int(first), int(last or first) + 1))
    return expected


def run_all(source, requests, copy):
    """{name: (count, failed)} of all files; prints as it goes on."""
    files = [(f"{p.parent.name}/{p.name}", p) for s in SUITES
             for p in sorted((source / "tests" / s).glob("*.t"))]
    assert len(files) > 100, f"{source} has no tests"
    files += [(f"{p.parent.name}/{p.name}:kinds", p) for p in without_kinds(source, copy)]
    results = {}
    for name, path in files:
        results[name] = run_file(path, requests / re.sub(r"\W", "-", name))
        count, failed = results[name]
        print(f"{name}: {count} tests" + (f", {len(failed)} failed" if failed else ""), flush=True)
    return results


def compare(results):
    """Prints what is other than expected; how many tests."""
    expected = read_expected()
    wrong = 0
    for name in sorted(expected.keys() | results.keys()):
        failed = results.get(name, (0, {}))[1]
        new, gone = failed.keys() - expected.get(name, set()), expected.get(name, set()) - failed.keys()
        for number in sorted(new):
            print(f"FAILED {name} {number}{failed[number]}")
        if gone:
            print(f"PASSES, though expected to fail: {name} {ranges(gone)}")
        wrong += len(new) + len(gone)
    tests, failed = (sum(n for n, _ in results.values()), sum(len(f) for _, f in results.values()))
    print(f"{tests} tests in {len(results)} files: {tests - failed} passed, {failed} failed, "
          f"{wrong} other than expected")
    return wrong


def main(argv):
    if len(argv) < 2 or not (Path(argv[1]) / "pjdfstest").exists():
        sys.exit("usage: make posix PJDFSTEST=DIR, a copy of https://github.com/pjd/pjdfstest, built:\n"
                 "       autoreconf -ifs && ./configure && make pjdfstest")
    if os.geteuid() != 0:
        sys.exit("pjdfstest becomes other users: it has to be run by root")
    source = Path(argv[1]).resolve()
    hub = Hub().start()
    mount = Mount(hub)
    copy = Path(tempfile.mkdtemp(prefix="pjdfstest-"))
    os.umask(0o022)
    try:
        mount.dir.chmod(0o755)  # for the other users
        mount.start("-o", "allow_other")
        results = run_all(source, mount / "requests", copy)
        assert hub.generations() == 0, "something was submitted"
        mount.stop()
        mount.check_state()
    finally:
        mount.close()
        hub.close()
        shutil.rmtree(copy)
    if argv[2:] == ["--list"]:
        for name, (_, failed) in results.items():
            if failed:
                print(name, ranges(failed))
        return 0
    return 1 if compare(results) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
