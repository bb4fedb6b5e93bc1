"""The copy of a run's record in the directory of `--record`."""

from __future__ import annotations

import os
import shutil

from traceloop.record import files

#: What is of no use in a copy of a record.
_NOT_COPIED = (
    files.COUNTERS,
    files.WAKE,
    files.COLLECTOR,
    files.LOCK,
    files.LEFT,
    files.OVER,
    files.RECORDED,
    files.STAYS,
    files.UNHEARD,
)


def copy_record(run_dir: str, directory: str) -> str:
    """Copies the run directory into ``directory``, in place of an earlier copy. Returns "", or why it failed.

    A copy has its name only once it is complete.
    """
    target = os.path.join(directory, os.path.basename(os.path.normpath(run_dir)))
    unfinished = f"{target}.unfinished"
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        own = shutil.ignore_patterns(*_NOT_COPIED, f"{files.SAID_PREFIX}*")
        shutil.copytree(run_dir, unfinished, ignore=own)
        shutil.rmtree(target, ignore_errors=True)  # of an earlier end, after which more has come
        os.rename(unfinished, target)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(unfinished, ignore_errors=True)
        return _reason_of(error)
    return ""


def _reason_of(error: OSError) -> str:
    """Why a copy failed. shutil.Error has a list of (source, target, text) for its text."""
    problems = error.args[0] if error.args else None
    if isinstance(problems, list) and problems:
        return str(problems[0][-1])
    return error.strerror or str(error)
