"""The dump that names the callback a process died in; faulthandler and signals stay the application's."""

import signal

import pytest

from tests.helpers.observed import observe, program, start

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


def run(tmp_path, text, **options):
    return observe(tmp_path, program(tmp_path, text), **options)


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGSEGV)", "os.abort()"])
def test_a_crash_names_the_callback(tmp_path, death):
    number = signal.SIGSEGV if "SEGV" in death else signal.SIGABRT
    observed = run(
        tmp_path,
        f"""
def crash():
    {death}
async def main():
    await asyncio.sleep(0.05)
    crash()
run(main())
""",
        status=-number,
    )
    assert observed.errors == ""
    (key,) = observed.index.unfinished()
    info = observed.index.lookup(*key)
    assert info.culprit == "__main__.crash"
    assert info.stacks[-1].source == "crash"


def test_faulthandler_of_the_application_is_left_alone(tmp_path):
    process = start(
        tmp_path / "run",
        program(
            tmp_path,
            """
faulthandler.enable()
async def main():
    await asyncio.sleep(0.05)
    os.abort()
run(main())
""",
        ),
    )
    _, errors = process.communicate()
    assert "Fatal Python error: Aborted" in errors
    (folder,) = (tmp_path / "run").glob("p-*")
    assert not (folder / "crash").exists()


def test_a_signal_or_descriptor_that_the_application_takes_is_given_up(tmp_path):
    for taking in ("signal.signal(advert['signal'], lambda *_: tell(handled=True))", "os.dup2(1, advert['fd'])"):
        place = tmp_path / str(len(taking))
        place.mkdir()
        observed = run(
            place,
            f"""
import glob
async def main():
    await asyncio.sleep(0.1)
    folder = glob.glob(os.environ["OTEL_PYTHON_TRACELOOP_RUN_DIR"] + "/p-*")[0]
    advert = json.load(open(folder + "/dump.json"))
    {taking}
    for _ in range(50):
        await asyncio.sleep(0.02)
        if not os.path.exists(folder + "/dump.json"):
            tell(withdrawn=True)
            break
    if "signal.signal" in {taking!r}:
        os.kill(os.getpid(), advert["signal"])
        await asyncio.sleep(0.05)
import warnings
warnings.simplefilter("ignore", ResourceWarning)
run(main())
""",
        )
        assert observed.facts["withdrawn"]
        if "lambda" in taking:
            assert observed.facts["handled"]
