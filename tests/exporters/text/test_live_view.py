"""What `traceloop top` shows of a loop that is blocked."""

from tests.helpers.observed import Observed, program, start, wait_for
from traceloop.exporters.text.live_view import LiveView
from traceloop.exporters.text.tables import Style
from traceloop.reading.stalls import parts as stall_statistics

BLOCKED = """
async def main():
    await asyncio.sleep(0.01)
    holds()
def holds():
    threading.Event().wait()
run(main())
"""


def test_the_places_of_a_blocked_loop_stand_on_lines_of_their_own(tmp_path):
    folder = tmp_path / "a_folder_with_a_name_of_some_length" / "and_another_one_inside_of_it"
    path = program(folder, BLOCKED)
    process = start(tmp_path / "run", path)
    observed = Observed(tmp_path / "run")

    def blocked():
        observed.poll()
        for each in observed.statistics.processes.values():
            for loop in each.loops.values():
                info = stall_statistics.loop_stalls_of(loop).in_progress()
                if info is not None and info.stack is not None:
                    return True
        return False

    try:
        wait_for(blocked, "a stack")
        view = LiveView(observed.statistics)
        observed.poll()
        lines = view.lines(Style(False, 100))
        whole = LiveView(observed.statistics).lines(Style(False, 1000))
    finally:
        process.kill()
        process.communicate()
    (at,) = (number for number, line in enumerate(lines) if " has been blocked for " in line)
    own, called = lines[at + 1 : at + 3]
    number = path.read_text().splitlines().index("    threading.Event().wait()") + 1
    assert own.startswith("  __main__.holds (…") and own.endswith(f"/program.py:{number})")
    assert called.startswith("    in threading.") and "threading.py:" in called and "program.py" not in called
    assert f"  __main__.holds ({path}:{number})" in whole
    # No callback began since the last look: nothing was delayed by any time.
    header, row = next((lines[i], lines[i + 1]) for i, line in enumerate(lines) if "delay p99" in line)
    end = header.index("delay p99") + len("delay p99")
    assert row[:end].endswith(" -")
