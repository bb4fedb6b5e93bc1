"""Callbacks that fail, and turns of a loop that run them."""


class Stop(BaseException):
    pass


def fail(error=None):
    raise error or ValueError("on purpose")


def spin(loop, times=3):
    for _ in range(times):
        loop.call_soon(loop.stop)
        loop.run_forever()
