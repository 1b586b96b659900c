"""make bench: this project and its peers side by side, in one run, on the same files.

    bench.py [--quick] [--only PART,...] --results DIR

Writes RESULTS.md and the plots into DIR. Fails when something does not work (wrong bytes, a peer
that is missing, a crash), and never because of a time. Each part is a module with run(bench).
"""
import argparse
import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools import HERE, TOOLS, harness, say  # first: finds the tests' harness

import accept
import hub
import reads
import report
import scale

# accept first: for minutes after many files were removed, ext4 makes new ones slowly (NOTES.md).
PARTS = {"accept": accept, "reads": reads, "scale": scale, "hub": hub}


class Bench(contextlib.ExitStack):
    """What the parts share. Whatever is kept is closed at the end, the last first."""

    def __init__(self, quick, tmp):
        super().__init__()
        self.quick, self.tmp = quick, tmp
        self.runs = 2 if quick else 5
        self.report = report.Report()
        self.plot = collections.defaultdict(list)  # rows of a data file, by its name

    def keep(self, thing):
        self.callback(thing.close)
        return thing


def draw(bench, into):
    """The data for the plots, and the plots; (file, title) of each."""
    data = bench.tmp / "plots"
    data.mkdir()
    plots = {"reads": "Reading all pictures", "generations": "Cost over the number of generations",
             "inflight": "Cost over the number in flight"}
    for name in plots:
        lines = ["\t".join(f'"{v}"' if isinstance(v, str) else f"{v:.9g}" for v in row)
                 for row in bench.plot[name]]
        (data / name).write_text("\n".join(lines) + "\n")
    drawn = [(f"{name}.svg", title) for name, title in plots.items() if bench.plot[name]]
    for file, _ in drawn:
        name = file.partition(".")[0]
        subprocess.run(["gnuplot", "-c", HERE / "plots.gp", name, data / name, into / file], check=True)
    return drawn


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true")
    options.add_argument("--only", default=",".join(PARTS))
    options.add_argument("--results", type=Path, required=True)
    o = options.parse_args()
    o.results.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))  # unmounts on its way out
    begin = time.monotonic()
    # On the disk of the build folder, as /tmp may be memory.
    tmp = Path(tempfile.mkdtemp(prefix="run-", dir=TOOLS))
    tempfile.tempdir = str(tmp)
    try:
        with Bench(o.quick, tmp) as bench:
            head = report.machine(tmp, bench.runs, HERE.parent)
            for name in o.only.split(","):
                PARTS[name].run(bench)
            plots = draw(bench, o.results)
        taken = time.monotonic() - begin
        head.append(("taken", f"{taken / 60:.1f} minutes{' (QUICK)' if o.quick else ''}"))
        text = bench.report.markdown(head, plots, os.path.relpath(HERE / "NOTES.md", o.results))
        (o.results / "RESULTS.md").write_text(text)
        say(f"{o.results / 'RESULTS.md'}: {len(bench.report.rows)} rows, "
            f"{len(bench.report.missed())} missed, {taken:.0f} s")
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
