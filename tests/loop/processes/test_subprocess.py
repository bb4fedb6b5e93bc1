"""Child processes, on both loops. Children are ``python -S -c``: without site they start in half the time."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading

import pytest

PYTHON = (sys.executable, "-S", "-I", "-c")
CAT = (*PYTHON, "import sys, shutil; shutil.copyfileobj(sys.stdin.buffer, sys.stdout.buffer)")
SLEEP = (*PYTHON, "import time; print('up', flush=True); time.sleep(60)")
PIPE = subprocess.PIPE


@pytest.fixture
def run(loop_factory):
    def run(coroutine, **options):
        with asyncio.Runner(loop_factory=loop_factory, **options) as runner:
            return runner.run(asyncio.wait_for(coroutine, 120))

    return run


def children():
    """The processes whose parent this one is, by their numbers."""
    found = set()
    for thread in os.listdir("/proc/self/task"):
        # A thread that has ended meanwhile has none: another one has inherited them.
        with contextlib.suppress(FileNotFoundError), open(f"/proc/self/task/{thread}/children") as file:
            found.update(map(int, file.read().split()))
    return found


class Recorder(asyncio.SubprocessProtocol):
    def __init__(self):
        self.events = []
        self.data = {1: b"", 2: b""}
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport):
        self.events.append("made")

    def pipe_data_received(self, fd, data):
        assert "made" in self.events
        self.data[fd] += data

    def pipe_connection_lost(self, fd, exc):
        self.events.append(("pipe lost", fd, exc))

    def process_exited(self):
        self.events.append("exited")

    def connection_lost(self, exc):
        self.events.append(("lost", exc))
        self.lost.set_result(None)


def test_communicate_with_much_data(run):
    data = os.urandom(300_000)

    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        assert await process.communicate(data) == (data, None)
        assert process.returncode == 0

    run(main())


def test_exit_statuses(run):
    async def main():
        codes = {"exit": "raise SystemExit(7)", "kill": "import os; os.kill(os.getpid(), 9)"}
        for name, expected in (("exit", 7), ("kill", -9)):
            process = await asyncio.create_subprocess_exec(*PYTHON, codes[name])
            assert await process.wait() == expected
            assert await process.wait() == expected

    run(main())


def test_shell(run):
    async def main():
        process = await asyncio.create_subprocess_shell("echo out; echo err >&2; exit 3", stdout=PIPE, stderr=PIPE)
        assert await process.communicate() == (b"out\n", b"err\n")
        assert process.returncode == 3

    run(main())


def test_the_protocol_is_told_in_order(run):
    async def main():
        loop = asyncio.get_running_loop()
        code = "import sys; print('o'); print('e', file=sys.stderr); sys.exit(4)"
        transport, protocol = await loop.subprocess_exec(Recorder, *PYTHON, code)
        assert transport.get_protocol() is protocol
        assert transport.get_pid() == transport.get_extra_info("subprocess").pid
        assert [transport.get_pipe_transport(fd) is None for fd in range(4)] == [False, False, False, True]
        await protocol.lost
        assert protocol.data == {1: b"o\n", 2: b"e\n"}
        assert transport.get_returncode() == 4
        assert protocol.events[0] == "made" and protocol.events[-1] == ("lost", None)
        assert {("pipe lost", fd, None) for fd in (1, 2)} < set(protocol.events)
        assert protocol.events.count("exited") == 1
        # Standard input's end is told too, by the reader that went away.
        assert any(event[:2] == ("pipe lost", 0) for event in protocol.events)
        transport.close()

    run(main())


def test_stderr_into_stdout_and_into_files(run, tmp_path):
    async def main():
        code = "import sys; print('o', flush=True); print('e', file=sys.stderr)"
        process = await asyncio.create_subprocess_exec(*PYTHON, code, stdout=PIPE, stderr=subprocess.STDOUT)
        assert (await process.communicate())[0] == b"o\ne\n"
        with open(tmp_path / "out", "wb") as out:
            process = await asyncio.create_subprocess_exec(
                *PYTHON, code, stdout=out, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL
            )
            assert await process.wait() == 0
        assert (tmp_path / "out").read_bytes() == b"o\n"

    run(main())


@pytest.mark.parametrize(
    ("method", "signum"), [("kill", signal.SIGKILL), ("terminate", signal.SIGTERM), (None, signal.SIGHUP)]
)
def test_signals(run, method, signum):
    async def main():
        process = await asyncio.create_subprocess_exec(*SLEEP, stdout=PIPE)
        assert await process.stdout.readline() == b"up\n"
        getattr(process, method)() if method else process.send_signal(signum)
        assert await process.wait() == -signum
        for call in (process.kill, process.terminate, lambda: process.send_signal(signum)):
            # Gone for good, or not quite yet: by version, and by when the pipe ends.
            try:
                call()
            except ProcessLookupError:
                pass

    run(main())


def test_a_program_that_does_not_exist_leaks_nothing(run):
    async def main():
        before = len(os.listdir("/proc/self/fd"))
        for stdin in (None, PIPE):
            with pytest.raises(FileNotFoundError):
                await asyncio.create_subprocess_exec("/nonexistent/program", stdin=stdin, stdout=PIPE)
        # The watchdog's thread has a file open for a moment now and then; a leak stays, and ends at run's timeout.
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.001)

    run(main())


def test_nothing_stays_open_after_many(run):
    async def one():
        process = await asyncio.create_subprocess_exec("/bin/cat", stdin=PIPE, stdout=PIPE, stderr=PIPE)
        assert await process.communicate(b"x") == (b"x", b"")

    async def main():
        await one()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await asyncio.gather(*(one() for _ in range(8)))
        # The watchdog's thread has a file open for a moment now and then; a leak stays, and ends at run's timeout.
        while len(os.listdir("/proc/self/fd")) > before:
            await asyncio.sleep(0.001)

    run(main())


def test_the_child_does_not_read_what_it_is_given(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*PYTHON, "pass", stdin=PIPE)
        # The pipe breaks on the way; communicate says nothing of it.
        await process.communicate(b"x" * 1_000_000)
        assert process.returncode == 0

    run(main())


def test_close_kills_what_runs(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Recorder, *SLEEP)
        transport.close()
        transport.close()
        assert transport.is_closing()
        await protocol.lost
        assert transport.get_returncode() == -signal.SIGKILL

    run(main())


def test_cancelling_the_start(run):
    async def main():
        before, old_children = len(os.listdir("/proc/self/fd")), children()
        task = asyncio.ensure_future(asyncio.create_subprocess_exec(*SLEEP, stdin=PIPE, stdout=PIPE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while len(os.listdir("/proc/self/fd")) > before or children() - old_children:
            await asyncio.sleep(0.01)

    run(main())


def test_cancelling_the_wait(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*SLEEP, stdout=PIPE)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(process.wait(), 0.01)
        process.kill()
        assert await process.wait() == -signal.SIGKILL

    run(main())


def test_somebody_else_reaps_the_child(run, caplog):
    async def main():
        process = await asyncio.create_subprocess_exec(*PYTHON, "import sys; sys.stdin.read()", stdin=PIPE)
        os.kill(process.pid, signal.SIGSTOP)
        os.kill(process.pid, signal.SIGKILL)
        # Before the loop runs again, and before a waiting thread of 3.11's is told: a race only in the latter.
        try:
            os.waitpid(process.pid, 0)
        except ChildProcessError:
            await process.wait()
            pytest.skip("the watcher's thread was faster")
        assert await process.wait() == 255
        assert any("will report returncode 255" in text for text in caplog.messages)

    run(main())


def test_refused_options(run):
    async def main():
        loop = asyncio.get_running_loop()
        refused = {
            "universal_newlines": True, "bufsize": 4096, "text": True, "encoding": "utf-8", "errors": "strict",
        }  # fmt: skip
        for name, value in refused.items():
            with pytest.raises(ValueError, match=f"{name} must be"):
                await loop.subprocess_exec(Recorder, "true", **{name: value})
            with pytest.raises(ValueError, match=f"{name} must be"):
                await loop.subprocess_shell(Recorder, "true", **{name: value})
        with pytest.raises(ValueError, match="shell must be False"):
            await loop.subprocess_exec(Recorder, "true", shell=True)
        with pytest.raises(ValueError, match="shell must be True"):
            await loop.subprocess_shell(Recorder, "true", shell=False)
        with pytest.raises(ValueError, match="cmd must be a string"):
            await loop.subprocess_shell(Recorder, ["true"])

    run(main())


def test_options_of_popen(run, tmp_path):
    async def main():
        process = await asyncio.create_subprocess_exec(
            *PYTHON[:-1], "-c", "import os; print(os.getcwd(), os.environ['NAME'])",
            cwd=tmp_path, env={**os.environ, "NAME": "value"}, stdout=PIPE,
        )  # fmt: skip
        assert (await process.communicate())[0].decode().split() == [str(tmp_path), "value"]

    run(main())


def test_from_a_loop_in_another_thread(loop_factory):
    results = []

    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        results.append((await process.communicate(b"data"))[0])

    def other():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())

    thread = threading.Thread(target=other)
    thread.start()
    thread.join(120)
    assert results == [b"data"]


def test_repr(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(Recorder, *CAT)
        text = repr(transport)
        assert f"SubprocessTransport pid={transport.get_pid()} running stdin=<" in text
        assert " stdout=<" in text and " stderr=<" in text
        transport.close()
        await protocol.lost
        assert f"closed pid={transport.get_pid()} returncode=-9" in repr(transport)

    run(main())


def test_debug_mode_logs(run, caplog):
    caplog.set_level("DEBUG", "asyncio")

    async def main():
        process = await asyncio.create_subprocess_exec(*PYTHON, "'a secret'", stdout=PIPE, stderr=subprocess.STDOUT)
        await process.communicate()
        process = await asyncio.create_subprocess_shell("exit 0", stdin=PIPE)
        await process.communicate()

    run(main(), debug=True)
    messages = "\n".join(caplog.messages)
    assert f"execute program {sys.executable!r} stdout=stderr=<pipe>" in messages
    assert f"execute program {sys.executable!r}: <" in messages
    assert f"process {sys.executable!r} created: pid " in messages
    assert "run shell command 'exit 0' stdin=<pipe>" in messages
    assert "exited with return code 0" in messages
    assert "a secret" not in messages


def test_an_unclosed_transport_warns_and_kills(run):
    async def main():
        loop = asyncio.get_running_loop()
        transport, protocol = await loop.subprocess_exec(
            Recorder, *SLEEP, stdin=None, stdout=None, stderr=subprocess.DEVNULL
        )
        pid = transport.get_pid()
        with pytest.warns(ResourceWarning, match="unclosed transport"):
            # What __del__ does; the child watcher keeps the transport alive for as long as the process lives.
            transport.__del__()
        await protocol.lost
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    run(main())
    gc.collect()


def test_wait_does_not_wait_for_grandchildren():
    """gh-119710, mended in the standard loop of 3.14: a grandchild that holds the pipe open holds up wait()."""
    from traceloop.loop.event_loop import EventLoop

    async def main():
        process = await asyncio.create_subprocess_shell("sleep 60 & echo $!", stdout=PIPE)
        grandchild = int(await process.stdout.readline())
        try:
            assert await asyncio.wait_for(process.wait(), 120) == 0
        finally:
            os.kill(grandchild, signal.SIGKILL)
        await process.stdout.read()

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        runner.run(main())


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="policies have no child watchers any more")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_policy_without_child_watchers():
    """uvloop's policy has none: programs that install it keep their subprocesses on our loop."""
    from traceloop.loop.event_loop import EventLoop

    class Policy(asyncio.events.BaseDefaultEventLoopPolicy):
        _loop_factory = EventLoop

    async def main():
        process = await asyncio.create_subprocess_exec(*CAT, stdin=PIPE, stdout=PIPE)
        return (await process.communicate(b"data"))[0]

    asyncio.set_event_loop_policy(Policy())
    try:
        assert asyncio.run(main()) == b"data"
    finally:
        asyncio.set_event_loop_policy(None)


@pytest.mark.parametrize("name", ["PidfdChildWatcher", "ThreadedChildWatcher"])
def test_our_child_watchers(name, caplog):
    from traceloop.loop.event_loop import EventLoop
    from traceloop.loop.processes import child_watchers

    class Loop(EventLoop):
        def _find_watcher(self):
            return watcher

    async def main():
        for code, expected in (("pass", 0), ("raise SystemExit(5)", 5)):
            process = await asyncio.create_subprocess_exec(*PYTHON, code)
            assert await process.wait() == expected
        process = await asyncio.create_subprocess_exec(*SLEEP, stdout=PIPE)
        await process.stdout.readline()
        process.kill()
        assert await process.wait() == -9

    old_children = children()
    watcher = getattr(child_watchers, name)()
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(main())
    assert not caplog.messages
    assert not children() - old_children


def test_our_threaded_watcher_reaps_for_a_closed_loop(caplog):
    from traceloop.loop.event_loop import EventLoop
    from traceloop.loop.processes import child_watchers

    class Loop(EventLoop):
        def _find_watcher(self):
            return watcher

    async def main():
        loop = asyncio.get_running_loop()
        transport, _ = await loop.subprocess_exec(Recorder, *SLEEP, stdin=None, stdout=None, stderr=None)
        return transport

    watcher = child_watchers.ThreadedChildWatcher()
    with asyncio.Runner(loop_factory=Loop) as runner:
        transport = runner.run(main())
        (thread,) = watcher._threads.values()
    transport.close()
    thread.join(120)
    assert not watcher._threads
    # Nobody could tell Popen, which would warn of a process that still runs.
    transport._proc.wait()
    assert any("is closed" in text for text in caplog.messages)


def test_transports_have_the_names_that_stand_in_logs(run):
    async def main():
        process = await asyncio.create_subprocess_exec(*PYTHON, "input()", stdin=PIPE, stdout=PIPE)
        transport = process._transport
        ends = [transport, transport.get_pipe_transport(0), transport.get_pipe_transport(1)]
        names = [repr(end).strip("<").split(" ")[0] for end in ends]
        assert names == ["_UnixSubprocessTransport", "_UnixWritePipeTransport", "_UnixReadPipeTransport"]
        await process.communicate(b"go on\n")

    run(main())
