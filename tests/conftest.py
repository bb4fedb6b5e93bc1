"""What the tests find is theirs: not what whoever started them has set up. And fixtures that all may use."""

import gc
import os
import signal
import sysconfig
from pathlib import Path

import hypothesis
import pytest

from tests.helpers.collected_run import Run
from tests.helpers.cores import CORES, NATIVE, WHY_NOT
from tests.helpers.leftovers import remove_runs_of
from tests.helpers.otlp_receiver import Receiver
from tests.helpers.paths import ROOT
from tests.helpers.reporting import Progress, Reruns
from tests.helpers.traced import Traced, make_traced
from tests.helpers.waiting import PATIENCE
from traceloop.record.built import SHARED, sources_of

# A CI job, a container's image or a shell sets these, and the programs of the tests would obey.
for name in [*os.environ]:
    if name.startswith("OTEL_") or name in {
        "CI", "BUILD_NUMBER", "GITHUB_ACTIONS", "PYTEST_ADDOPTS", "COLUMNS", "LINES",
        "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "PY_COLORS", "PYTHON_COLORS",
        "PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONFAULTHANDLER", "PYTHONINSPECT", "PYTHONIOENCODING",
        "PYTHONOPTIMIZE", "PYTHONSAFEPATH", "PYTHONTRACEMALLOC", "PYTHONUNBUFFERED", "PYTHONVERBOSE", "PYTHONWARNINGS",
        "PYTHONCOERCECLOCALE", "PYTHONUTF8",
    }:  # fmt: skip
        del os.environ[name]
# The same examples each time: what fails, fails for everybody. `--hypothesis-profile default` draws others. Whether one
# takes 0.2 s, or drawing them longer than a second, says how busy the machine is and nothing else.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")
# `nohup make test`: programs that are sent SIGHUP would inherit that it is ignored.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
# A shell starts what it puts into the background with SIGINT ignored, and so would our programs be.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def refuse_stale_extensions():
    """An extension that is older than its sources would be tested in their place: some tests would wait for ever."""
    shared = [str(ROOT / "traceloop" / each) for each in SHARED]
    for folder in (ROOT / "traceloop/core", ROOT / "traceloop/reading/decoding", ROOT / "exporters/otlp"):
        built = [each.stat().st_mtime for each in folder.glob("_*" + sysconfig.get_config_var("EXT_SUFFIX"))]
        sources = [Path(each) for each in sources_of(str(folder / "native"), shared)]
        if built and min(built) < max(each.stat().st_mtime for each in sources):
            raise pytest.UsageError(f"what is in C in {folder} is older than its sources: make native builds it")


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        return
    refuse_stale_extensions()
    config.pluginmanager.register(Reruns(config))
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(Progress(config))


def pytest_terminal_summary(terminalreporter):
    """Says which of the loop's cores were tested: in a checkout the C one is there only after `make native`."""
    missing = "" if NATIVE is not None else f" alone, not in C: {WHY_NOT} (make native)"
    terminalreporter.write_line(f"the loop's cores that were there: {', '.join(CORES)}{missing}")


@pytest.fixture(scope="session", autouse=True)
def only_what_the_tests_make_is_collected():
    """Hundreds of collections need not look at some thousand tests, and at what all the imports have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_in_shared_memory(tmp_path_factory):
    """Fails the session's last test where programs of this session left records behind, and names them."""
    yield
    left = remove_runs_of(tmp_path_factory.getbasetemp(), PATIENCE)
    assert not left, "left in shared memory:\n" + "\n".join(left)


@pytest.fixture(scope="session", autouse=True)
def a_pytest_that_is_run_has_a_root_of_its_own(tmp_path_factory):
    """A pytest that starts closes the folder above those of all sessions: programs of another user stand there."""
    os.environ["PYTEST_DEBUG_TEMPROOT"] = str(tmp_path_factory.mktemp("pytest"))


@pytest.fixture(scope="session")
def traced(tmp_path_factory) -> Traced:
    """An interpreter that has traceloop installed with its startup hook, for programs to be run under."""
    return make_traced(tmp_path_factory.mktemp("traced"))


@pytest.fixture
def make_run(tmp_path):
    made = []

    def make(environ=None, **choices):
        folder = tmp_path / f"run{len(made)}"
        folder.mkdir(mode=0o700)
        made.append(Run(folder, environ or {}, **choices))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def receiver():
    made = Receiver()
    yield made
    made.close()
