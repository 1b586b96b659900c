"""The results: rows of figures, each with what it has to reach, as text and as RESULTS.md."""
import os
import platform
import shutil
import statistics
import subprocess
from pathlib import Path

median = statistics.median


def percentile(samples, part):
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))]


def seconds(value):
    for limit, factor, unit in ((1e-3, 1e6, "µs"), (1, 1e3, "ms")):
        if value < limit:
            return f"{number(value * factor)} {unit}"
    return f"{number(value)} s"


def number(value):
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def spread(samples, show=seconds):
    """Median, and least and most in parentheses."""
    if len(samples) == 1:
        return show(samples[0])
    return f"{show(median(samples))} ({show(min(samples))} to {show(max(samples))})"


class Report:
    def __init__(self):
        self.rows = []  # (section, what, figures, result, reach, verdict)
        self.section = ""

    def begin(self, section):
        self.section = section

    def _add(self, what, figures, result, reach="", verdict=""):
        self.rows.append((self.section, what, figures, result, reach, verdict))
        print(f"    {what}: {figures}; {result}" + (f" (reach: {reach}) {verdict}" if reach else ""),
              flush=True)

    def _judge(self, value, limit, least):
        good = value >= limit if least else value <= limit
        if not value:
            return "yes" if good else "**no**"
        if good:
            return "yes"
        factor = limit / value if least else value / limit
        return f"**no**, by a factor of {factor:.2f}"

    def ratio(self, what, ours, theirs, at_most=None, names=("imagehubfs", "peer"), note=""):
        """The median of the rounds' ratios; times in seconds."""
        value = round(median([a / b for a, b in zip(ours, theirs, strict=True)]), 2)
        self._add(what, f"{names[0]} {spread(ours)}; {names[1]} {spread(theirs)}{note}",
                  f"{value:.2f}",
                  f"at most {at_most:.2f}" if at_most else "",
                  self._judge(value, at_most, False) if at_most else "")
        return value

    def figure(self, what, figures, value, show, at_most=None, at_least=None):
        """One figure held against a limit; show makes text of either."""
        limit = at_most if at_most is not None else at_least
        words = "" if limit is None else \
            f"at most {show(limit)}" if at_most is not None else f"at least {show(limit)}"
        self._add(what, figures, show(value), words,
                  "" if limit is None else self._judge(value, limit, at_most is None))

    def fact(self, what, figures, good=None, reach=""):
        """Something that holds or does not."""
        self._add(what, figures, "" if good is None else "holds" if good else "does not hold", reach,
                  "" if good is None else "yes" if good else "**no**")

    def missed(self):
        return [row for row in self.rows if row[5].startswith("**no")]

    def markdown(self, head, plots, notes):
        lines = ["# Benchmark results", "", f"Made by `make bench`; [NOTES.md]({notes}) says how each "
                 "figure is taken, PROFILE.md what bounds it.",
                 "Figures are medians of all runs, least and most in parentheses; a ratio is the median",
                 "of the ratios of runs made in pairs.", ""]
        lines += [f"- {name}: {value}" for name, value in head]
        section = None
        for row in self.rows:
            if row[0] != section:
                section = row[0]
                lines += ["", f"## {section}", "", "| what | figures | result | reach | reached |",
                          "|---|---|---|---|---|"]
            lines.append("| " + " | ".join(row[1:]) + " |")
        missed = self.missed()
        lines += ["", "## Missed", ""]
        lines += [f"- {row[1]}: {row[3]}, {row[4]}; {row[5].strip('*').replace('**', '')}"
                  for row in missed] or ["Nothing."]
        lines += ["", "## Plots", ""] + [f"![{title}]({name})" for name, title in plots]
        return "\n".join(lines) + "\n"


# ---- the machine ----

def _first(argv):
    if not shutil.which(argv[0]):
        return "not installed"
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    return lines[0].strip() if lines else "?"


def _field(path, name):
    with open(path) as f:
        for line in f:
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return "?"


def machine(tmp, runs, root):
    memory = int(_field("/proc/meminfo", "MemTotal").split()[0]) / 1024 / 1024
    system = _field_of_release("PRETTY_NAME")
    disk = subprocess.run(["findmnt", "-no", "FSTYPE", "-T", str(tmp)], text=True,
                          stdout=subprocess.PIPE, check=False).stdout.strip()
    commit = subprocess.run(["git", "-C", str(root), "log", "-1", "--format=%h of %cs"], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout.strip()
    fuse = subprocess.run(["pkg-config", "--modversion", "fuse3"], text=True,
                          stdout=subprocess.PIPE, check=False).stdout.strip()
    return [
        ("machine", f"{_field('/proc/cpuinfo', 'model name')}, {os.cpu_count()} processors, "
                    f"{memory:.0f} GiB of memory"),
        ("system", f"{system}, Linux {platform.release()}"),
        ("disk", f"{disk}, {shutil.disk_usage(tmp).free / 1e9:.0f} GB free"),
        ("load before it began", f"{os.getloadavg()[0]:.2f}"),
        ("runs", f"{runs} of each"),
        ("imagehubfs", commit or "?"),
        ("peers", "; ".join([_first(["nginx", "-v"]), _first(["curl", "--version"]).split(" (")[0],
                             _first(["rclone", "version"]), _first(["httpdirfs", "--version"]),
                             f"libfuse {fuse}", _first(["wrk", "-v"]).split(" Copyright")[0]])),
    ]


def _field_of_release(name):
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith(name + "="):
            return line.partition("=")[2].strip('"')
    return "?"
