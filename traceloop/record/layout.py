"""The layout of a ring: what the recorder writes and the readers read.

The facts that shape it:

* One writer, any number of readers, no lock between them. Python promises no order of stores to another process, so
  nothing is believed because it was written "first": every batch carries a sequence number, its length and a checksum,
  and a reader copies before it checks.
* ``struct.pack`` of many doubles at once costs about 10 ns an item, one store into a mapped file 50 to 150 ns. So
  a handle's record is three doubles that wait in a list, and a batch of them is packed in one call. Integers up to
  2**53 are exact in a double; every integer of a record is kept below that.
* Times are seconds of ``time.monotonic()`` (CLOCK_MONOTONIC), which all processes of one machine share. The header
  holds one pair of monotonic and wall clock readings to translate them.

File::

    0      header (HEADER), padded to WORDS_OFFSET
    1024   words: 64 doubles, each stored singly and always current (see the W_* names)
    2048   owner: the loop that took the ring last (OWNER), for readers of a record whose beginning is overwritten
    4096   data: ``capacity`` bytes of batches, each contiguous and 16-byte aligned

A batch that would cross the end of the data starts again at offset 0; what lies between is not a batch. The word
W_HEAD counts all bytes ever advanced, so ``W_HEAD - capacity`` is the oldest position that can still be whole, and
W_HEAD itself is always the start of the next batch. Batch::

    BATCH header | count doubles | text_bytes bytes of UTF-8, each item followed by "\\x1f" (see ``pack_text``)

Records are triples of doubles ``(a, ident, b)``. ``ident`` above zero is a handle run, below zero one of the R_*
kinds. For a handle run ``a`` is its start; its end is the next clock reading in the stream (the start of the next
run, or the R_POLL, R_SPIN, R_SKIP, R_END that follows).

``ident`` = site + SITE_LIMIT * task_number (see sites.py). The site is a line of the process's site log; the task
number (0: no task) is unique in its process. ``b`` = len(ready) after the run + OUTCOME * (outcome + FIRST_STEP),
where the outcome is not 0 when this was the task's last step, and FIRST_STEP is there when it was the first one of a
task that ``create_task`` made: the run that scheduled it is the one that made it, and the record owns an item of text,
the task's name. An empty item stands for the automatic name one higher than the automatic name before it (``Task-7``
after ``Task-6``).
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = b"TLOOPRNG"
VERSION: Final = 3

KIND_LOOP: Final = 1
KIND_PROCESS: Final = 2

# magic, version, kind, capacity, pid, ring number, process start (clock ticks since boot, as /proc/PID/stat has it),
# monotonic ns and wall clock ns read together when the ring was made
HEADER: Final = struct.Struct("<8sIIQQQQQQ")
WORDS_OFFSET: Final = 1024
WORDS: Final = 64
# number of the loop (R_LOOP's; 0: none yet), when it took the ring (monotonic s), its thread's name as UTF-8
OWNER: Final = struct.Struct("<dd256s")
OWNER_OFFSET: Final = 2048
DATA_OFFSET: Final = 4096
MIN_CAPACITY: Final = 64 * 1024
DEFAULT_CAPACITY: Final = 8 * 1024 * 1024

# Words, each a double.
W_HEAD: Final = 0  # bytes ever advanced in the data
W_RUNNING: Final = 1  # when the loop last left its poll (monotonic s); 0 while it polls or does not run
W_OPEN: Final = 2  # 1 while a loop owns the ring, 0 when it is free for the next one
W_THRESHOLD: Final = 3  # slow-callback threshold in force, s
W_TIMERS: Final = 4  # entries in the timer heap, cancelled ones included
W_TIMERS_CANCELLED: Final = 5
W_COMPACTIONS: Final = 6  # times cancelled timers were swept, ever
W_TASKS_CREATED: Final = 7  # by create_task, and made directly once their first step ran, ever
W_BYTES_IN: Final = 8
W_BYTES_OUT: Final = 9
W_TRANSPORTS: Final = 10  # open transports
W_RECORDS: Final = 11  # records ever written
W_HEARTBEAT: Final = 12  # the watchdog's last look, monotonic s (process ring)
W_THREAD: Final = 13  # native thread id of the loop's thread; of the watchdog's (process ring)
# 14 was the number of tasks that ended inside create_task, which older readers add to those in the record.
W_TASKS_ABANDONED: Final = 15  # tasks destroyed pending or left at the loop's close, ever
W_ACCEPTED: Final = 16
W_REFUSED: Final = 17
W_PAUSED_SECONDS: Final = 18  # transports' time paused by backpressure, in pauses that are over
W_TLS_SECONDS: Final = 19  # of TLS handshakes
W_STREAMS: Final = 20  # open transports by kind
W_DATAGRAMS: Final = 21
W_PIPES: Final = 22
W_TLS: Final = 23
W_PTHREAD: Final = 24  # the loop's thread as pthreads and faulthandler name it
W_LOOP: Final = 25  # number (R_LOOP's) of the loop that the counters below are of; 0 none, or not known
W_TLS_HANDSHAKES: Final = 26
W_PAUSED: Final = 27  # transports paused now, and the sum of the moments at which they were: up to any moment ``now``
W_PAUSED_SINCE: Final = 28  # they have been paused for W_PAUSED * now - W_PAUSED_SINCE s, besides W_PAUSED_SECONDS
W_LOOKED: Final = 29  # when the watchdog's last completed look began: what it found is in the record (process ring)
W_DUE: Final = 30  # when the watchdog will look next (process ring); 0: not at all
W_TASKS_RESULT: Final = 31  # tasks by how they ended, ever, those included that ended inside create_task
W_TASKS_EXCEPTION: Final = 32
W_TASKS_CANCELLED: Final = 33
# Bytes of the data that have memory behind them, 0 for all of it. A ring grows as it fills; where it may not, the
# writer starts over at this place instead of at the end, and readers touch nothing beyond it.
W_RESERVED: Final = 34
W_DEBUG: Final = 37  # 1 while asyncio's debug mode is on
W_STOPPED: Final = 36  # 1 while no run of the loop is under way: all that it did is in the record
W_SAID: Final = 38  # start of the last run of which the process itself has said that it blocks the loop, monotonic s
W_ENDED: Final = 35  # 1 once the process has said that it writes nothing more, as the file ``ended`` does

# The words that only grow while a loop has the ring. Rings are reused, and a loop may come and go between two looks of
# a reader: their last values also go into the ring as R_WORD records when a loop is closed.
COUNTER_WORDS: Final = (
    W_COMPACTIONS,
    W_TASKS_CREATED,
    W_BYTES_IN,
    W_BYTES_OUT,
    W_TASKS_RESULT,
    W_TASKS_EXCEPTION,
    W_TASKS_CANCELLED,
    W_TASKS_ABANDONED,
    W_ACCEPTED,
    W_REFUSED,
    W_PAUSED_SECONDS,
    W_TLS_SECONDS,
    W_TLS_HANDSHAKES,
)

# magic, crc32 of everything after it, sequence number, count of doubles, bytes of text, records written before this
# batch, clock reading when it was written
BATCH: Final = struct.Struct("<IIQIIQd")
BATCH_MAGIC: Final = 0x7E10A7B5
BATCH_ALIGN: Final = 16
BATCH_CRC_START: Final = 8  # the checksum covers the batch from here on

# A site is a line of the site log. Site 0 stands for callbacks that could not be named.
SITE_LIMIT: Final = 65536
OUTCOME: Final = 4294967296.0
OUTCOME_RESULT: Final = 1
OUTCOME_EXCEPTION: Final = 2
OUTCOME_CANCELLED: Final = 3
GC_FULL: Final = 2  # the oldest generation: a full collection
GC_FULL_CALLED: Final = 3  # the same, by a call of gc.collect()
FIRST_STEP: Final = 4
FIRST: Final = OUTCOME * FIRST_STEP

# Record kinds below zero. (a, kind, b)
R_POLL: Final = -1.0  # a: poll began; b: its timeout in s, -1 for none
R_ACTIVE: Final = -2.0  # a: poll returned; b: handles appended for ready descriptors
R_SPIN: Final = -3.0  # a poll without waiting that found nothing. a: it began; b: it returned
# A timer moved, before R_DUE. a: when it was due; b: doubles written to the ring when it was set, the waiting ones
# included: the next run's record is that of the run that set it. 0 or less: none, or not known.
R_TIMER: Final = -4.0
R_DUE: Final = -5.0  # a: len(ready) before the descriptors' handles were appended; b: timers moved after them
# A task whose first step does not define it. a: its ident. Text: its name. b: below 0 made by a task factory in the run
# before, which had ended at -b (1: the same, in older records); 0 made directly, 2 by create_task: its first recorded
# step follows.
R_TASK: Final = -6.0
R_STAMP: Final = -7.0  # the next run was put in by another thread. a: when; b: 0
R_SIGNAL: Final = -8.0  # the next run is a signal's. a: when it was queued; b: signal number
R_WRITER: Final = -9.0  # a: position (as in R_DUE's a) of a handle that is a writer's; b: 0
R_SKIP: Final = -10.0  # a cancelled handle was taken from the ready queue. a: when; b: len(ready)
R_SPAN: Final = -11.0  # a: span number; b: trace flags. Text: trace id, span id (hex), trace state, separated by spaces
R_CONTEXT: Final = -12.0  # from the next run on, a: number of the span current in the handle's context, 0 none
R_LOOP: Final = -13.0  # a loop takes the ring. a: when; b: loop number in its process. Text: thread name
R_END: Final = -14.0  # the loop stopped running. a: when; b: 1 if it was closed and gave the ring back
R_RUN: Final = -28.0  # run_forever began. a: when; b: len(ready); what is known of the queue starts anew
R_GC: Final = -15.0  # a collection in the loop's thread or another. a: start; b: duration s. R_GC_INFO follows
R_GC_INFO: Final = -16.0  # a: generation (GC_*) + 4 * uncollectable; b: collected
R_SUBMIT: Final = -17.0  # offload handed to an executor. a: when; b: offload number. R_SUBMIT_INFO follows
R_SUBMIT_INFO: Final = -18.0  # a: executor number; b: ident of the function's site
R_START: Final = -19.0  # offload started in a worker. a: when; b: offload number + OUTCOME * worker number (0: unknown)
R_FINISH: Final = -20.0  # offload ended in a worker. a: when; b: offload number + OUTCOME * outcome
R_DELIVER: Final = -21.0  # its result reached the loop. a: when; b: offload number
R_EXECUTOR: Final = -22.0  # a: executor number; b: max workers (0 unknown). Text: its label
R_WORKERS: Final = -23.0  # a: executor number; b: threads started, -1 when the executor is gone
R_THREAD: Final = -24.0  # a worker, before its first R_START. a: its number; b: native thread id. Text: its name
R_EVENT: Final = -25.0  # anything rare. a: when; b: its number in the process. Text: a JSON object
R_ABANDONED: Final = -26.0  # a task destroyed while pending. a: its ident; b: when, negative while no loop ran
R_WORD: Final = -29.0  # the last value of a counter word, before a loop's R_END. a: its index; b: its value
R_MEMORY: Final = -27.0  # a: when; b: sys.getallocatedblocks()
# The R_GC that follows sums up short collections of one generation that were too many for a record each. a: how many +
# OUTCOME where the program called for them, by gc.collect(0) or gc.collect(1); b: duration of the longest, s.
R_GC_SUM: Final = -40.0
# A look at tasks that are suspended, in the process ring. a: when; b: time between two looks at one task, s. The
# R_AWAIT and R_AWAITED that follow are of this moment.
R_LOOK: Final = -30.0
R_AWAIT: Final = -31.0  # a suspended task. a: its ident; b: number of its chain of coroutines
R_AWAITED: Final = -32.0  # a task waits for another one. a: its ident; b: the other's
# a: number of a chain; b: 0. Text: JSON, [[[file, line, module, qualname], ...], type awaited]; where it waits for a
# call in an executor with a third item, [label of the executor, file, line, module, qualname]
R_CHAIN: Final = -33.0
# The run under way answers a request. a: number of its server span in the application (R_SPAN), 0 none; b: ident of the
# function that handles it, or of a site whose name is that of the server span.
R_REQUEST: Final = -34.0
# The profile, in the process ring. A node of the tree of stacks: a: its number, from 1; b: its parent's (0: the
# outermost frame) + OUTCOME * (its site, which has the line that ran, + SITE_LIMIT if it awaits what is below it).
R_NODE: Final = -35.0
R_SAMPLE: Final = -36.0  # a: when it was taken; b: the time that it stands for, s. R_SAMPLE_OF follows
# a: ident of the run that it met; b: node of its innermost frame + OUTCOME * (number of its loop's ring + 1; 0: it met
# a worker thread)
R_SAMPLE_OF: Final = -37.0
R_PROFILE: Final = -38.0  # from now on the nodes are defined anew. a: when; b: samples a second
# The timers that wait (those cancelled left out), in the process ring, about once a second where they have changed.
# a: when; b: their number + OUTCOME * number of the loop's ring
R_TIMERS: Final = -39.0
# R_FOUND - n is R_POLL, R_ACTIVE and R_DUE in one, for what is usual in a service: the queue was empty, the poll
# waited, and n descriptors' handles were appended, no timers. a: it began; b: it returned
R_FOUND: Final = -1024.0

# The kinds that own one item of the batch's text, as a run does that is a task's first step (FIRST_STEP).
TEXT_KINDS: Final = frozenset((R_TASK, R_SPAN, R_LOOP, R_EXECUTOR, R_THREAD, R_EVENT, R_CHAIN))

TEXT_SEPARATOR: Final = "\x1f"


def pack_text(items: list[str]) -> bytes:
    """One block of UTF-8 from ``items``; separators inside an item are replaced, lone surrogates escaped."""
    if not items:
        return b""
    block = TEXT_SEPARATOR.join(items)
    if block.count(TEXT_SEPARATOR) != len(items) - 1:
        block = TEXT_SEPARATOR.join([item.replace(TEXT_SEPARATOR, "?") for item in items])
    return (block + TEXT_SEPARATOR).encode("utf-8", "backslashreplace")


def unpack_text(block: bytes) -> list[str]:
    """The items that ``pack_text`` joined; bytes that are not UTF-8 become replacement characters."""
    return block.decode("utf-8", "replace").split(TEXT_SEPARATOR)[:-1]
