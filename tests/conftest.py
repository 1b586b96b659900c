import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import harness  # noqa: E402

# What ignores a signal hands that down. A shell's background and nohup do; what is run here must not.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture
def make_hub():
    made = []

    def make(*options, **kwargs):
        hub = harness.Hub(*options, **kwargs)
        made.append(hub)
        return hub.start()

    yield make
    for hub in made:
        hub.close()


@pytest.fixture
def hub(make_hub):
    return make_hub()


@pytest.fixture
def make_mount():
    made = []

    def make(*args, start=True, **kwargs):
        mount = harness.Mount(*args, **kwargs)
        made.append(mount)
        return mount.start() if start else mount

    yield make
    for mount in made:
        mount.close()


@pytest.fixture
def mount(hub, make_mount):
    return make_mount(hub)
