"""imagehubd under load: orders and look-ups by wrk with 64 connections."""
import os
import re

from report import median, number, spread
from tools import HERE, harness, output, say

CONNECTIONS = 64


def wrk(bench, hub, script, path="", **env):
    """(requests a second, how many were answered)."""
    text = output(["wrk", "-t2", f"-c{CONNECTIONS}", f"-d{2 if bench.quick else 6}s", "--timeout", "60s",
                   "-H", f"Authorization: Bearer {hub.key}", "-s", HERE / script, hub.url + path],
                  env=dict(os.environ, **env))
    assert "Non-2xx" not in text and "Socket errors" not in text, text
    return (float(re.search(r"Requests/sec:\s+([\d.]+)", text).group(1)),
            int(re.search(r"(\d+) requests in", text).group(1)))


def a_second(value):
    return f"{number(value)}/s"


def posts(bench, hub):
    """Orders, none of which is worked on meanwhile. What was answered is there after kill -9."""
    samples, answered = [], 0
    for _ in range(bench.runs):
        rate, count = wrk(bench, hub, "post.lua", "/api/v1/images/generations")
        samples.append(rate)
        answered += count
    hub.kill()
    hub.start()
    kept = hub.generations()
    assert kept >= answered, f"{answered} orders were answered, {kept} are kept"
    bench.report.figure(f"async POSTs to imagehubd, {CONNECTIONS} connections, each durable before "
                        "its answer", f"{spread(samples, a_second)}; after kill -9 all {answered:,} "
                        "answered ones are there", median(samples), a_second, at_least=2000)


def some_ids(bench, hub):
    """A file with ids of generations that the hub has, for get.lua."""
    ids = bench.tmp / "ids"
    ids.write_text(harness.run("sqlite3", f"file:{hub.data}/hub.db?mode=ro",
                               "SELECT id FROM generation ORDER BY random() LIMIT 10000").stdout)
    return str(ids)


def gets(bench, hub):
    ids = some_ids(bench, hub)
    samples = [wrk(bench, hub, "get.lua", BENCH_IDS=ids)[0] for _ in range(bench.runs)]
    bench.report.figure(f"GET of a generation at imagehubd, {CONNECTIONS} connections",
                        spread(samples, a_second), median(samples), a_second, at_least=10000)


def run(bench):
    bench.report.begin("imagehubd")
    say("imagehubd under wrk")
    hub = bench.keep(harness.Hub("--hold", credits=10**9))
    hub.start()
    posts(bench, hub)
    gets(bench, hub)
    hub.stop()
