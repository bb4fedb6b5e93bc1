"""Programs whose threads gevent has replaced by greenlets: what of ours has to be a thread is one."""

import subprocess

import pytest

pytest.importorskip("gevent")

PATCH = "from gevent import monkey; monkey.patch_all()\n"
LOOP = """
import asyncio, time

def hold():
    end = time.perf_counter() + 0.4
    while time.perf_counter() < end:
        pass

async def main():
    await asyncio.sleep(0.01)
    await asyncio.get_running_loop().run_in_executor(None, sum, [1, 2])
    hold()

"""
RUN = "asyncio.run(main())\n"
PROGRAMS = {
    "patched first": PATCH + LOOP + RUN,
    "patched after the import of asyncio": LOOP + PATCH + RUN,
    "patched after a loop": LOOP + "asyncio.run(asyncio.sleep(0))\n" + PATCH + RUN,
    "in a greenlet": PATCH + LOOP + "import gevent\ngevent.joinall([gevent.spawn(asyncio.run, main())])\n",
}


@pytest.mark.parametrize("text", PROGRAMS.values(), ids=PROGRAMS)
def test_a_loop_beside_greenlets_is_recorded(traced, tmp_path, text):
    path = tmp_path / "program.py"
    path.write_text(text + 'print("end")\n')
    command = [*traced.command, "--no-metrics", "--slow-threshold", "0.2", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert "program.py:6 in hold" in done.stderr or "program.py:7 in hold" in done.stderr, done.stderr
    assert "recording failed" not in done.stderr
