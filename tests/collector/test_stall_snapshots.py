"""Snapshots: taken while a stall lasts and after it, bounded, and readable as a record."""

import os

import pytest

from tests.helpers.observed import TROUBLES, Observed, observe, start, wait_for
from traceloop.collector import stall_snapshots
from traceloop.collector.stall_snapshots import StallSnapshots, make_snapshots
from traceloop.settings import Settings

# Stacks and causes are told by clocks: on a busy machine something else is to blame.
pytestmark = pytest.mark.timing


@pytest.mark.parametrize("trouble", ["never", "never_regex"])
def test_taken_while_a_stall_lasts(tmp_path, trouble):
    process = start(tmp_path / "run", TROUBLES, trouble)
    observed = Observed(tmp_path / "run")
    lines = []
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.3, lines.append)

    def taken():
        observed.turn()
        snapshots.look()
        return snapshots.taken

    try:
        (folder,) = wait_for(taken, "a snapshot")
    finally:
        process.kill()
        process.communicate()
    assert lines == [f"a stall of 0.3 s and more: the record around it is kept in {folder}"]
    kept = Observed(folder)
    kept.turn(last=True)
    (key,) = kept.index.unfinished()
    assert kept.index.lookup(*key).culprit == f"__main__.{trouble}"


def test_taken_again_when_it_is_over(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import asyncio, time\nfrom traceloop import EventLoop\n"
        "async def main():\n    await asyncio.sleep(0.05)\n    time.sleep(0.6)\n    await asyncio.sleep(2)\n"
        "with asyncio.Runner(loop_factory=EventLoop) as runner:\n    runner.run(main())\n"
    )
    process = start(tmp_path / "run", program)
    observed = Observed(tmp_path / "run")
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.3)
    while process.poll() is None:
        observed.turn()
        snapshots.look()
    process.communicate()
    (folder,) = snapshots.taken
    kept = Observed(folder)
    kept.turn(last=True)
    (key,) = kept.index.slow_runs()
    assert kept.index.lookup(*key).culprit == "__main__.main"
    assert kept.index.length_of(*key) == pytest.approx(0.6, abs=0.3)


def test_they_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(stall_snapshots, "MAX_SNAPSHOTS", 0)
    observed = observe(tmp_path, TROUBLES, "sleep")
    observed.follower.ended.clear()
    snapshots = StallSnapshots(observed.follower, str(tmp_path / "kept"), 0.1)
    snapshots.look()
    snapshots.look()
    assert snapshots.taken == []
    assert snapshots.left_out >= 1


def test_a_planted_link_gets_no_snapshot(tmp_path, monkeypatch):
    """Without --record they go to /tmp, where others can write: under a name that they cannot know, into no link."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    said = []
    names = set()
    for _ in range(2):
        settings = Settings(run_dir="/dev/shm/traceloop-0-abc", snapshot_on_stall=1.0)
        snapshots = make_snapshots(settings, None, said.append)
        names.add(snapshots._directory)
    assert len(names) == 2 and not any("traceloop-0-abc" in name for name in names)
    (tmp_path / "victim").mkdir()
    source = tmp_path / "p-1-1"
    source.mkdir()
    os.symlink(tmp_path / "victim", snapshots._directory)
    assert not snapshots._copy(str(source), os.path.join(snapshots._directory, "stall-1-1", "p-1-1"))
    assert os.listdir(tmp_path / "victim") == []
    assert len(said) == 1 and "link" in said[0]
