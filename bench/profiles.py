"""make bench-profile: where the time of the measured program goes.

    profiles.py --results DIR

Runs the benchmark's workloads, smaller, once under perf (software clock, so that it works in virtual
machines) and once under strace, both attached to the program, and writes PROFILE.md into DIR.
"""
import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import Bench
from tools import TOOLS, cpu, harness, output, say

import accept
import hub
import peers
import reads
import scale

SYMBOLS, CALLS = 14, 10


class Profile:
    def __init__(self, tmp):
        self.tmp, self.lines = tmp, []

    def _attached(self, argv, pid, workload):
        tool = subprocess.Popen([*argv, "-p", str(pid)], stderr=subprocess.DEVNULL)
        time.sleep(1)  # neither says when it has attached
        used, begin = cpu(pid), time.monotonic()
        workload()
        taken, used = time.monotonic() - begin, cpu(pid) - used
        tool.send_signal(signal.SIGINT)
        tool.wait(60)
        return taken, used

    def take(self, title, pid, workload, before=lambda: None):
        """pid: a function, as `before` may start the program anew."""
        say(title)
        data, calls = self.tmp / "perf.data", self.tmp / "strace"
        before()
        taken, used = self._attached(["perf", "record", "-q", "-F", "999", "-e", "cpu-clock", "-o",
                                      data], pid(), workload)
        symbols = [line for line in output(
            ["perf", "report", "-i", data, "--stdio", "--sort", "dso,symbol"]).splitlines()
            if line.strip() and not line.startswith("#")]
        before()
        self._attached(["strace", "-f", "-qq", "-w", "-c", "-S", "time", "-o", calls], pid(), workload)
        self.lines += [f"## {title}", "", f"{taken:.2f} s, {used:.2f} s of processor in the program. "
                       "Where that went (perf), and the system calls (strace; times with waiting):", "",
                       "```", *(line.rstrip(" -") for line in symbols[:SYMBOLS]), "",
                       *calls.read_text().splitlines()[:CALLS + 2], "```", ""]


def reading(bench, profile):
    p = reads.Pictures(bench, 100, 1_500_000)
    pid = lambda: p.ours.pid  # noqa: E731  (it changes with each mount)
    for _ in range(2):
        p.cat(p.ours.path)
    profile.take("Warm cat of 100 pictures, 20 times", pid,
                 lambda: [p.cat(p.ours.path) for _ in range(20)])
    profile.take("First cat of 100 pictures after a remount", pid, lambda: p.cat(p.ours.path),
                 p.ours.remount)
    profile.take("Cold cat of 100 pictures", pid, lambda: p.cat(p.ours.path), p.ours.fresh)
    p.ours.stop()
    p.hub.stop()


def accepting(bench, profile):
    world = bench.keep(harness.Hub("--hold", credits=10**8))
    world.start()
    ours = peers.Ours(world, "--settle", str(accept.LONG))
    bench.keep(ours.mount)
    ours.start()
    copies = accept.Copies(accept.prompts(bench, 500), ours.mount, bench.tmp / "copies")
    profile.take("cp of 500 prompts into /requests", lambda: ours.pid, copies.cp)
    ours.mount.kill()
    world.stop()


def listing(bench, profile):
    world = scale.World(bench, "--sketch-bytes", "100000", succeeds=True)
    ours = world.copied(20_000)
    ours.start()
    place = ours.mount / "generations"
    profile.take("find over 20,000 generations, the second time", lambda: ours.pid,
                 lambda: scale.find(place), lambda: scale.find(place))
    profile.take("ls -f of 20,000 generations, 20 times", lambda: ours.pid,
                 lambda: [scale.list_all(ours, 20_000, bench.tmp / "names") for _ in range(20)])
    ids = [scale.hub_id(i) for i in range(1, 20_001)]
    profile.take("Look-up of 20,000 ids", lambda: ours.pid, lambda: scale.look_up(ours, ids, True),
                 ours.remount)
    ours.stop()
    world.hub.stop()


def serving(bench, profile):
    served = bench.keep(harness.Hub("--hold", credits=10**9))
    served.start()
    profile.take("imagehubd: POSTs", lambda: served.process.pid,
                 lambda: hub.wrk(bench, served, "post.lua", "/api/v1/images/generations"))
    ids = hub.some_ids(bench, served)
    profile.take("imagehubd: GETs of a generation", lambda: served.process.pid,
                 lambda: hub.wrk(bench, served, "get.lua", BENCH_IDS=ids))
    served.stop()


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--results", type=Path, required=True)
    o = options.parse_args()
    tmp = Path(tempfile.mkdtemp(prefix="run-", dir=TOOLS))
    tempfile.tempdir = str(tmp)
    profile = Profile(tmp)
    try:
        with Bench(True, tmp) as bench:
            for part in (reading, accepting, listing, serving):
                part(bench, profile)
        text = ["# Profiles", "", "Made by `make bench-profile`, of the program alone and not of what it is "
                "measured by.", "", *profile.lines]
        (o.results / "PROFILE.md").write_text("\n".join(text))
        say(f"{o.results / 'PROFILE.md'}")
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
