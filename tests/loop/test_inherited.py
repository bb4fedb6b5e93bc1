"""What our loop still takes from the standard one's implementation: nothing that is ever called.

The class is one of the bases so that ``isinstance`` checks of other libraries hold, and comes last in the order of
resolution. Whatever the standard loop of a coming version adds shows up here first.
"""

import asyncio
import re
from asyncio import base_events, selector_events, unix_events
from pathlib import Path

from traceloop.loop.event_loop import EventLoop

STANDARD = (
    unix_events._UnixSelectorEventLoop,
    selector_events.BaseSelectorEventLoop,
    base_events.BaseEventLoop,
)

# A method that is still the standard loop's: the reason why. All of these are steps of the standard loop's own
# implementation of a method that is ours: nothing calls them, and nothing but the base class makes them be there.
INHERITED: dict[str, str] = {
    "_sock_accept": "a step of the standard sock_accept",
    "_sock_connect": "a step of the standard sock_connect",
    "_sock_connect_cb": "a step of the standard sock_connect",
    "_sock_recv": "a step of the standard sock_recv",
    "_sock_recv_into": "a step of the standard sock_recv_into",
    "_sock_recvfrom": "a step of the standard sock_recvfrom",
    "_sock_recvfrom_into": "a step of the standard sock_recvfrom_into",
    "_sock_sendall": "a step of the standard sock_sendall",
    "_sock_sendto": "a step of the standard sock_sendto",
    "_sock_sendfile_update_filepos": "a step of the standard sock_sendfile",
}

# What every class has.
OF_ALL_CLASSES = {"__doc__", "__module__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}


def owner(name: str) -> type:
    return next(cls for cls in EventLoop.__mro__ if name in cls.__dict__)


def test_nothing_is_inherited():
    inherited = {name for name in dir(EventLoop) if owner(name) in STANDARD} - OF_ALL_CLASSES
    assert inherited == set(INHERITED)


def test_what_is_inherited_is_never_called():
    import traceloop.loop

    sources = [path.read_text() for path in Path(traceloop.loop.__path__[0]).rglob("*.py")]
    for name in INHERITED:
        assert not any(re.search(rf"\b{name}\b", source) for source in sources), name


def test_everything_is_there():
    """Also the private methods: other libraries and CPython's own streams call them."""
    for cls in STANDARD:
        for name in set(vars(cls)) - OF_ALL_CLASSES:
            assert hasattr(EventLoop, name), f"{cls.__name__}.{name}"


def test_every_attribute_of_an_instance_is_there():
    ours, theirs = EventLoop(), asyncio.SelectorEventLoop()
    try:
        missing = {name for name in vars(theirs) if not hasattr(ours, name)}
    finally:
        ours.close()
        theirs.close()
    assert missing == set()


def test_nothing_abstract_is_left():
    """What AbstractEventLoop only announces raises NotImplementedError when it is called."""
    abstract = asyncio.AbstractEventLoop
    names = [name for name, value in vars(abstract).items() if callable(value) and owner(name) is abstract]
    assert names == []


def test_it_is_a_loop_to_others():
    assert issubclass(EventLoop, asyncio.SelectorEventLoop)
    assert issubclass(EventLoop, (selector_events.BaseSelectorEventLoop, base_events.BaseEventLoop))
    assert EventLoop.__mro__[-len(STANDARD) - 2 :] == (*STANDARD, asyncio.AbstractEventLoop, object)
