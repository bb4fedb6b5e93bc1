"""What the recording must leave as it was: the program's own files, its faulthandler, its user, its signals, its one
thread.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap

import pytest

from tests.helpers.cores import CORES
from tests.helpers.differential import clean_environ
from tests.helpers.paths import ROOT

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can change its user")


@pytest.fixture
def run(traced, tmp_path):
    def run(text, *arguments, status=0, options=()):
        program = tmp_path / "program.py"
        program.write_text(textwrap.dedent(text))
        words = [*traced.command, "--metrics-port", "0", *options, str(program), *arguments]
        done = subprocess.run(words, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, timeout=120)
        for run_dir in re.findall(r"traceloop report (\S+)`", done.stderr):
            subprocess.run(["rm", "-rf", run_dir], check=True)
        assert done.returncode == status, done.stderr
        return done

    return run


DAEMON = """
import asyncio, faulthandler, os, sys, time

out, when = sys.argv[1:]

async def one():
    def earlier(): pass
    asyncio.get_running_loop().call_soon(earlier)
    await asyncio.sleep(0.02)

async def two():
    def later(): pass
    asyncio.get_running_loop().call_soon(later)
    await asyncio.sleep(0.6)  # the watchdog has looked at its files by then

def close_all(first=0):
    os.closerange(first, 1024)
    for number in range(300):
        os.open(f"{out}/{number}", os.O_RDWR | os.O_CREAT)

async def within():
    await one()
    close_all(100)  # the loop needs its own
    await two()

asyncio.run(one())
if os.fork():
    assert os.wait()[1] in (0, 134, 6), "it is ended by abort()"
    sizes = {name: os.path.getsize(f"{out}/{name}") for name in os.listdir(out)}
    print(len(sizes), {name: open(f"{out}/{name}").read() for name, size in sizes.items() if size})
    sys.exit()
os.setsid()
if when == "in the loop":
    asyncio.run(within())
else:
    asyncio.run(one())
    close_all()
    if when == "between loops":
        asyncio.run(two())
os.abort()
"""


@pytest.mark.parametrize("when", ["between loops", "in the loop", "after the last loop"])
def test_a_daemon_that_closes_all_descriptors_finds_nothing_of_ours_in_its_own_files(run, tmp_path, when):
    out = tmp_path / "out"
    out.mkdir()
    assert run(DAEMON, str(out), when).stdout == "300 {}\n"


IDIOM = """
import asyncio, faulthandler, os, sys

async def main():
    await asyncio.sleep(0.02)
    if not faulthandler.is_enabled():
        faulthandler.enable()
    assert faulthandler.is_enabled()
    await asyncio.sleep(0.02)
    os.abort()

asyncio.run(main())
"""


def test_a_program_that_enables_faulthandler_if_it_is_not_gets_its_dump(run):
    assert "Fatal Python error: Aborted" in run(IDIOM, status=-6).stderr


def test_faulthandler_is_as_the_program_left_it_around_loops(run):
    text = """
    import asyncio, faulthandler
    genuine = faulthandler.is_enabled
    async def ask():
        return faulthandler.is_enabled(), faulthandler.is_enabled.__name__, faulthandler.is_enabled.__module__
    print(asyncio.run(ask()), faulthandler.is_enabled(), faulthandler.is_enabled is genuine)
    faulthandler.enable()
    print(asyncio.run(ask())[0], faulthandler.is_enabled(), faulthandler.disable(), faulthandler.is_enabled())
    print(asyncio.run(ask())[0], faulthandler.is_enabled())
    """
    assert run(text).stdout.splitlines() == [
        "(False, 'is_enabled', 'faulthandler') False True",
        "True True True False",
        "False False",
    ]


def test_faulthandler_is_given_back_soon_where_a_loop_is_stopped_and_not_closed(run):
    text = """
    import asyncio, faulthandler, time
    genuine = faulthandler.is_enabled
    loop = asyncio.new_event_loop()
    async def ours():
        return faulthandler.is_enabled is not genuine
    for _ in range(3):
        print(loop.run_until_complete(ours()))
    deadline = time.monotonic() + 10
    while faulthandler.is_enabled is not genuine and time.monotonic() < deadline:
        time.sleep(0.01)
    print(faulthandler.is_enabled is genuine, genuine(), loop.run_until_complete(ours()))
    """
    assert run(text).stdout.splitlines() == ["True", "True", "True", "True False True"]


# -- ordinary ends that leave no file behind

NO_CRASH = re.compile("without an exit record|without a word|crashed")


def test_a_terminated_pool_is_no_crash(run):
    text = """
    import asyncio, multiprocessing, os
    async def work(number):
        await asyncio.sleep(0.01)
        return number
    def call(number):
        return asyncio.run(work(number))
    if __name__ == "__main__":
        pool = multiprocessing.get_context("fork").Pool(3)
        print(sum(pool.map(call, range(30))))
        pool.terminate()
        pool.join()
    """
    done = run(text)
    assert done.stdout == "435\n"
    assert not NO_CRASH.search(done.stderr), done.stderr


@pytest.mark.parametrize("after", ["loop.close()", "pass"])
def test_sigterm_when_no_loop_runs_is_no_crash(run, after):
    text = f"""
    import asyncio, os, signal, threading
    def work():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.sleep(0.01))
        {after}
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    os.kill(os.getpid(), signal.SIGTERM)
    """
    done = run(text, status=-15)
    assert not NO_CRASH.search(done.stderr), done.stderr


CHANGE = """
import asyncio, os, sys, threading

def drop():
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)

async def main(how=""):
    if how == "during":
        drop()
    await asyncio.sleep(0.02)
    def counted(): pass
    for _ in range(40):
        asyncio.get_running_loop().call_soon(counted)
    await asyncio.sleep(0.3)  # the watchdog has looked at its files by then

def threads():
    both = [threading.Thread(target=asyncio.run, args=(main(),)) for _ in range(2)]
    for thread in both: thread.start()
    for thread in both: thread.join()

how = sys.argv[1]
if how == "child":
    if os.fork() == 0:
        drop()
        asyncio.run(main())
        sys.stdout.flush()
        os._exit(0)
    assert os.wait()[1] == 0
else:
    if how == "before": drop()
    asyncio.run(main(how))
    if how == "between": drop()
    asyncio.run(main())
    threads()
"""


@root_only
@pytest.mark.parametrize(("how", "callbacks"), [("before", 160), ("during", 160), ("between", 160), ("child", 40)])
def test_a_process_that_drops_its_privileges_is_recorded_and_ends_well(run, how, callbacks):
    done = run(CHANGE, how)
    (summary,) = re.findall(r"^traceloop: .*loops?.* ([\d,]+) callbacks.*$", done.stderr, re.MULTILINE)
    assert callbacks <= int(summary.replace(",", "")) < callbacks + 120, done.stderr
    assert not NO_CRASH.search(done.stderr), done.stderr
    assert "nothing was recorded" not in done.stderr


# -- threads


def can_unshare() -> bool:
    """Not so before 3.12, in a chroot, nor in most containers."""
    text = "import os; os.unshare(os.CLONE_NEWUSER)"
    return subprocess.run([sys.executable, "-c", text], capture_output=True).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs os.unshare (3.12) and the right to make a user namespace")
def test_a_user_namespace_can_be_made_before_within_and_after_a_loop(run):
    text = """
    import asyncio, os
    async def make():
        await asyncio.sleep(0.05)
        os.unshare(os.CLONE_NEWUSER)
        await asyncio.sleep(0.05)
    def in_child(function):
        pid = os.fork()
        if pid == 0:
            function()
            os._exit(0)
        print(os.waitpid(pid, 0)[1])
    def after():
        for _ in range(20):
            asyncio.run(asyncio.sleep(0))
        os.unshare(os.CLONE_NEWUSER)
    def before():
        os.unshare(os.CLONE_NEWUSER)
        asyncio.run(asyncio.sleep(0))
    in_child(before)
    in_child(lambda: asyncio.run(make()))
    in_child(after)
    """
    assert run(text).stdout.split() == ["0", "0", "0"]


def test_loops_that_follow_one_another_share_the_watchdogs_thread_and_it_ends(run):
    text = """
    import asyncio, os, time, _thread
    started = 0
    genuine = _thread.start_new_thread
    def counting(*arguments):
        global started
        started += 1
        return genuine(*arguments)
    _thread.start_new_thread = counting
    for _ in range(200):
        asyncio.run(asyncio.sleep(0))
    print(started)
    while len(os.listdir("/proc/self/task")) > 1:
        time.sleep(0.01)
    """
    # One for each, and more only where a busy machine let 50 ms pass between two.
    assert int(run(text).stdout) < 100


LEFT_OPEN = """
import asyncio, builtins, gc
from traceloop import EventLoop

def make():
    loop = EventLoop()
    loop.run_until_complete(asyncio.sleep(0))
    def inner():
        return loop, inner
    return inner

make()
gc.collect()
builtins.kept = make()  # until the interpreter ends, after its modules
"""


@pytest.mark.parametrize("core", list(CORES))
def test_loops_in_a_circle_that_nobody_closed_go_without_a_word(tmp_path, core):
    """They close themselves, and may outlive what is kept for their record."""
    program = tmp_path / "program.py"
    program.write_text(LEFT_OPEN)
    environ = {**clean_environ(), "PYTHONPATH": str(ROOT), "OTEL_PYTHON_TRACELOOP_CORE": core}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", program], env=environ, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BLOCKED = """
import asyncio, os, signal

handled = []

async def main():
    signal.signal(signal.SIGUSR2, lambda *_: handled.append("handled"))
    both = {signal.SIGUSR1, signal.SIGUSR2}
    signal.pthread_sigmask(signal.SIG_BLOCK, both)
    found = set()
    for _ in range(200):  # before and after our threads are there
        os.kill(os.getpid(), signal.SIGUSR1)  # its default action ends the process, in whichever thread
        os.kill(os.getpid(), signal.SIGUSR2)
        found |= {signal.sigwait(both).name for _ in both}
        await asyncio.sleep(0.001)
    print(handled, *sorted(found))

asyncio.run(main())
"""


@pytest.mark.parametrize("collector", ["process", "thread"])
def test_a_signal_that_the_program_has_blocked_waits_for_the_program(run, collector):
    done = run(BLOCKED, options=("--collector", collector))
    assert done.stdout == "[] SIGUSR1 SIGUSR2\n"
