"""Under a server the callback is the server's; the culprit is what the user's handler called."""

import pathlib

import pytest

from tests.helpers.observed import guilty_lines, observe

SERVICES = pathlib.Path(__file__).with_name("services.py")


@pytest.mark.parametrize("server", ["fastapi", "aiohttp"])
def test_the_users_code_is_named(tmp_path, server):
    pytest.importorskip(server)
    # Others' warnings are not ours to be strict about.
    observed = observe(tmp_path, SERVICES, server, PYTHONWARNINGS="default")
    found = [info for info in observed.slow() if info.culprit == "__main__.compute"]
    assert len(found) == 1, [info.culprit for info in observed.slow()]
    (info,) = found
    assert not info.callback.startswith("__main__")
    stacks = [stack.frames for stack in info.stacks if any(frame[0] == str(SERVICES) for frame in stack.frames)]
    assert stacks, info.stacks
    for frames in stacks:
        names = [qualname for file, _, _, qualname in frames if file == str(SERVICES)]
        assert names == [f"handle_{server}", "compute"]
        assert frames[-1][1] in guilty_lines(SERVICES)
    assert observed.metric("asyncio_slow_callbacks_total", culprit="__main__.compute") == 1
