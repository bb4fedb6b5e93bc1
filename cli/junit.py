"""The result of `traceloop check` as JUnit's XML.

There is no standard. The file is valid by the schema of Ant's JUnit task, which requires the most (a timestamp, a
hostname, both outputs), and by that of Jenkins (no empty ``properties``). Surefire's schema forbids some of what Ant's
requires; readers of Surefire's files ignore that.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from traceloop.record.text import printable

if TYPE_CHECKING:
    from traceloop.reading.budgets import Judgement

#: Characters of an offender.
_LONGEST = 1000


def as_junit(judged: Sequence[Judgement], callbacks: int) -> str:
    """A suite with a test for each budget. A broken budget is a failure that names what broke it. ``callbacks``: how
    many ran.
    """
    broken = sum(not each.kept for each in judged)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuite name="traceloop check" tests="{len(judged)}" failures="{broken}" errors="0" skipped="0" time="0" '
        f'timestamp="{time.strftime("%Y-%m-%dT%H:%M:%S")}" hostname={quoteattr(os.uname().nodename or "localhost")}>',
        "  <properties>",
        f'    <property name="traceloop.callbacks" value="{callbacks}"/>',
        "  </properties>",
    ]
    for each in judged:
        case = f'  <testcase classname="traceloop.check" name={quoteattr(each.title)} time="0"'
        if each.kept:
            lines.append(f"{case}/>")
            continue
        # XML 1.0 allows every printable character.
        offenders = [printable(offender.text, _LONGEST) for offender in each.offenders]
        lines.append(f"{case}>")
        lines.append(
            f"    <failure type={quoteattr(each.budget)} message={quoteattr(offenders[0])}>"
            f"{escape(chr(10).join(offenders))}</failure>"
        )
        lines.append("  </testcase>")
    # A passed test has no text of its own in Ant's schema.
    pardoned = [f"{each.title}: not counted: {each.pardoned}" for each in judged if each.kept and each.pardoned]
    out = escape(chr(10).join(printable(line, _LONGEST) for line in pardoned))
    lines.append(f"  <system-out>{out}</system-out>" if out else "  <system-out/>")
    return "\n".join([*lines, "  <system-err/>", "</testsuite>", ""])
