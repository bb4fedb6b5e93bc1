"""Signal handlers, on both loops."""

import asyncio
import os
import signal
import threading

import pytest


def stop_soon(loop):
    # For a signal that never comes: the test fails instead of hanging.
    return loop.call_later(10, loop.stop)


def test_handler_gets_its_arguments(loop):
    seen = []

    def handler(*args):
        seen.append(args)
        loop.stop()

    loop.add_signal_handler(signal.SIGUSR1, handler, "a", 2)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    stop_soon(loop)
    loop.run_forever()
    assert seen == [("a", 2)]


def test_a_signal_ends_the_poll(loop):
    loop.add_signal_handler(signal.SIGALRM, loop.stop)
    began = loop.time()
    stop_soon(loop)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    loop.run_forever()
    assert loop.time() - began < 5


def test_a_second_handler_takes_the_place_of_the_first(loop):
    seen = []
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "first")
    loop.add_signal_handler(signal.SIGUSR1, seen.append, "second")
    loop.add_signal_handler(signal.SIGUSR2, loop.stop)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.call_later(0.01, os.kill, os.getpid(), signal.SIGUSR2)
    stop_soon(loop)
    loop.run_forever()
    assert seen == ["second"]


def test_remove_restores_the_default(loop):
    for signum, default in ((signal.SIGUSR1, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
        loop.add_signal_handler(signum, print)
        assert signal.getsignal(signum) is not default
        assert loop.remove_signal_handler(signum) is True
        assert signal.getsignal(signum) == default
        assert loop.remove_signal_handler(signum) is False


def test_the_wakeup_descriptor_is_given_back_with_the_last_handler(loop):
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGUSR2, print)
    loop.remove_signal_handler(signal.SIGUSR1)
    ours = signal.set_wakeup_fd(-1)
    assert ours == loop._csock.fileno()
    signal.set_wakeup_fd(ours)
    loop.remove_signal_handler(signal.SIGUSR2)
    assert signal.set_wakeup_fd(-1) == -1


def test_close_gives_every_signal_back(loop_factory):
    loop = loop_factory()
    loop.add_signal_handler(signal.SIGUSR1, print)
    loop.add_signal_handler(signal.SIGINT, print)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_what_cannot_be_caught(loop, signum):
    with pytest.raises(RuntimeError, match=f"sig {int(signum)} cannot be caught"):
        loop.add_signal_handler(int(signum), print)
    assert not loop._signal_handlers
    assert signal.set_wakeup_fd(-1) == -1


def test_what_is_no_signal(loop):
    for method in (lambda sig: loop.add_signal_handler(sig, print), loop.remove_signal_handler):
        with pytest.raises(TypeError, match="sig must be an int, not 'SIGHUP'"):
            method("SIGHUP")
        with pytest.raises(ValueError, match="invalid signal number"):
            method(signal.NSIG + 1)


def test_coroutines_are_refused(loop):
    async def coroutine():
        pass

    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, coroutine)
    made = coroutine()
    with pytest.raises(TypeError, match="coroutines cannot be used"):
        loop.add_signal_handler(signal.SIGUSR1, made)
    made.close()


def test_only_in_the_main_thread(loop):
    errors = []

    def other():
        try:
            loop.add_signal_handler(signal.SIGUSR1, print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert errors == ["set_wakeup_fd only works in main thread of the main interpreter"]
    assert not loop._signal_handlers


def test_a_closed_loop_takes_no_handler(loop_factory):
    loop = loop_factory()
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        loop.add_signal_handler(signal.SIGUSR1, print)


def test_an_exception_of_a_handler_goes_to_the_exception_handler(loop):
    contexts = []
    loop.set_exception_handler(lambda _, context: (contexts.append(context), loop.stop()))
    loop.add_signal_handler(signal.SIGUSR1, lambda: 1 / 0)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    stop_soon(loop)
    loop.run_forever()
    assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]


def test_many_signals_while_the_loop_is_busy(loop):
    seen = []

    def handler():
        seen.append(1)

    async def main():
        for _ in range(100):
            os.kill(os.getpid(), signal.SIGUSR1)
            await asyncio.sleep(0)
        while len(seen) < 50:
            await asyncio.sleep(0)

    loop.add_signal_handler(signal.SIGUSR1, handler)
    loop.run_until_complete(asyncio.wait_for(main(), 120))
    # Each was raised in this thread, and so handled before the next one.
    assert len(seen) >= 99


def test_keyboard_interrupt_ends_run_forever(loop):
    loop.call_soon(os.kill, os.getpid(), signal.SIGINT)
    stop_soon(loop)
    with pytest.raises(KeyboardInterrupt):
        loop.run_forever()
    assert not loop.is_running()


def test_runner_turns_the_first_sigint_into_a_cancellation(loop_factory):
    async def main():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    seen = []
    with asyncio.Runner(loop_factory=loop_factory) as runner, pytest.raises(KeyboardInterrupt):
        runner.run(main())
    assert seen == ["cancelled"]
