/* The accelerator of the event loop: what its files share. The files, in the order in which to read them:

   module.c           the module: state, what is looked up once, helpers
   handle.c           Handle, TimerHandle: made by the million, so with a constructor and a destructor of their own
   queue.c            ReadyQueue: the ready queue, a ring of handles that looks like a deque
   timers.c           Timers: the heap of timers
   clock.c            the clock of the recorded iteration (clock.h)
   record.c           Record: the doubles that wait to be written
   batch.c            how they are written into the ring
   overrides.c        whether a program has replaced a method that C stands for, or a class that it makes
   scheduling.c       call_soon, call_later, call_at, create_task and create_future
   wakeup.c           call_soon_threadsafe, and how it ends the loop's poll
   scheduling_type.c  Scheduling, the base of EventLoop that has these methods: its attributes and its life
   identify.c         from a callback to its ident; what a C task shows of itself
   exceptions.c       the exception that is set, taken away and put back
   spans.c            the application's span in a handle's context
   runs.c             the run of one handle
   poll.c             the poll of an epoll object
   iteration.c        the recorded iteration: poll, due timers, the handles that are ready
   offload.c          a call handed to a thread pool: its steps
   requests.c         NotingMethod: which function answers a request
   stream.c           what a stream transport reads and writes
   coalesce.c         several writes of one callback leave together
   alarm.c            what the watchdog sleeps on (alarm.h)
   quiet_turns.c      its turns that find nothing
   kernel_files.c     the small files of /proc that the watchdog reads with the GIL held
   gc_notes.c         the pauses of the garbage collector
   frames.c           where the threads of this interpreter stand
   signal_action.c    what a signal does, also by C code's handler
   fault_guard.c      a guard before faulthandler's signal handler, for CPython 3.13.0

   Each type is the twin of a Python one (core/handles.py, timers.py, buffer.py; a deque) and has the same methods and
   attributes, so that the Python iteration runs on them too.

   Nothing here is static and mutable but what a signal handler needs (fault_guard.c). The rest hangs on the module's
   state, so that each interpreter has its own. The GIL is released in three places: by the poll, while the watchdog
   sleeps and asks the kernel, and for a moment in long work of the loop itself (run_show_own_work).

   Who owns which reference and which memory: docs/decisions/0005-core-in-c.md. */

#ifndef TRACELOOP_CORE_H
#define TRACELOOP_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include "checksum.h"
#include "clock.h"
#include "extension.h"
#include <stdint.h>

/* What a record's kinds and words are called in record/layout.py. test_choose.py compares them. */
#define R_POLL (-1.0)
#define R_ACTIVE (-2.0)
#define R_SPIN (-3.0)
#define R_TIMER (-4.0)
#define R_DUE (-5.0)
#define R_TASK (-6.0)
#define R_STAMP (-7.0)
#define R_WRITER (-9.0)
#define R_SKIP (-10.0)
#define R_SPAN (-11.0)
#define R_CONTEXT (-12.0)
#define R_GC (-15.0)
#define R_GC_INFO (-16.0)
#define R_START (-19.0)
#define R_FINISH (-20.0)
#define R_DELIVER (-21.0)
#define R_REQUEST (-34.0)
#define R_GC_SUM (-40.0)
#define R_FOUND (-1024.0)
#define W_HEAD 0
#define W_RUNNING 1
#define W_RECORDS 11
#define W_HEARTBEAT 12
#define W_LOOKED 29
#define W_DUE 30
#define SITE_LIMIT 65536.0
#define OUTCOME 4294967296.0
#define OUTCOME_RESULT (1.0 * OUTCOME)
#define OUTCOME_EXCEPTION (2.0 * OUTCOME)
#define FIRST (4.0 * OUTCOME)
#define GC_FULL 2
#define GC_FULL_CALLED 3

#define FREE_HANDLES 256
#define MOST_HELD 16
#define LEAST_TO_TRIM 4096 /* places of a queue or a heap; smaller ones stay as they are */
#define FEW_CODES 256 /* powers of two */
#define MOST_CODES 16384
#define LISTED_CODES 32
#define METHODS 64 /* a power of two */

typedef struct Record Record;
typedef struct Timers Timers;
typedef struct ReadyQueue ReadyQueue;
typedef struct Scheduling Scheduling;
typedef struct Writes Writes;

/* A code object and the ident of its site. The reference is owned: an address stands for one code object only as long
   as that lives. Emptied every 20 ms and before a longer wait, so that nothing is kept alive for long. */
typedef struct {
    PyObject *code;
    double ident;
} CodeSite;

/* A C method of a type that lives as long as the interpreter. Neither is owned. */
typedef struct {
    PyTypeObject *type;
    PyMethodDef *method;
    double ident;
} MethodSite;

/* What stream.c has looked up. ``fileno`` is not owned: its type lives as long as the interpreter. */
#define SOCKET_METHODS 4
#define READ_SIZE (64 * 1024)
typedef struct {
    PyTypeObject *transport, *counters; /* Python's: loop/network/transports/stream.py, loop/network/io_counters.py */
    PyObject *read_ready;               /* the function of that name of ``transport`` */
    PyTypeObject *socket;
    PyObject *socket_methods;    /* what C code stands for of it, as the standard library has them */
    unsigned int socket_version; /* the version of ``socket`` at which they were that; 0: not known */
    PyMethodDef *fileno;
    /* Slots of ``transport``, and of ``counters``. */
    Py_ssize_t sock, protocol, io, buffer, buffered, closing, conn_lost, empty_waiter, eof, loop;
    Py_ssize_t bytes_in, bytes_out;
    char *read_buffer;    /* of READ_SIZE; used between a system call and the copy of what it has read */
    Py_ssize_t last_read; /* bytes */
} Streams;

/* Where the slots of a ring lie (recording/ring.py), of the type that was seen last. */
typedef struct {
    PyTypeObject *type; /* owned; NULL: none was seen */
    Py_ssize_t pid, capacity, reserved, head, sequence, records, wake_at, data, words;
} RingSlots;

/* Where a class was found, and at which versions of the two dicts that lead to it (overrides.c). */
typedef struct {
    PyObject *dict, *found; /* owned; NULL: not found */
    uint64_t outer, inner;
} ClassPlace;

typedef struct {
    PyTypeObject *handle_type, *timer_handle_type, *queue_type, *timers_type, *record_type, *scheduling_type,
        *offload_type, *stream_type, *alarm_type, *noting_type, *gc_notes_type;

    /* asyncio.Handle, and where the slots of it and of asyncio.TimerHandle lie: public structures say so. */
    PyTypeObject *asyncio_handle, *asyncio_timer_handle;
    PyObject *handle_run; /* asyncio.Handle._run as asyncio defines it */
    unsigned int handle_version; /* the version of asyncio.Handle at which ``_run`` was that; 0: not known */
    Py_ssize_t callback, args, cancelled, context, loop, repr, source_traceback, weakrefs, when, scheduled, set_at;
    Py_ssize_t noted_at; /* of our Handle: see core_noted_ident */

    /* What C tasks show: NULL where tasks are written in Python. The getters are of types that live for good. */
    PyTypeObject *task_type, *step_type, *method_type, *partial_type;
    PyGetSetDef *step_self, *task_coro, *task_state, *task_exception, *task_waiter;
    PyMethodDef *task_name; /* get_name; NULL: it is called in the usual way */
    PyObject *coro_code;    /* the descriptor of a coroutine's cr_code */
    Py_ssize_t coro_code_at; /* where it lies; 0: it is asked for (from CPython 3.12 on) */
    PyMethodDef *wakeup; /* the method by which a future wakes a task; NULL until one is seen */
    int name_place;      /* which of the objects that tp_traverse visits is a task's name; 0: none */
    PyObject *pending, *finished; /* the texts of ``_state`` of a task that is not done, or ended by itself */

    PyObject *nothing;        /* core.handles.nothing */
    PyObject *report_failure; /* core.handles.report_failure */
    PyObject *python_timers;  /* core.timers.Timers: for the modes that are rare */
    PyObject *spelled_out;    /* core.buffer.spelled_out */
    PyObject *heappush;
    PyObject *base_events;    /* the module: what programs put there is asked for each time */
    ClassPlace task_class, future_class;
    /* What create_task, without and with a context, and create_future pass to asyncio's classes. */
    PyObject *task_keywords, *context_keywords, *future_keywords;
    PyObject *copy_state; /* asyncio's, by which a future takes the state of a concurrent one; NULL: there is none */
    PyObject *concurrent_future, *concurrent_finished; /* concurrent.futures.Future; the text of its state */
    PyObject *zero, *minus_one, *sixty_four;
    PyObject *context_names; /* the names of keywords that asyncio's C code passes: its "context" is not interned */
    PyTypeObject *selector_key; /* selectors.SelectorKey, a named tuple; its fourth item is what is registered */
    int clock_counts; /* whether the kernel's clock is the processor's counter (clock.c) */
    PyObject *clock_globals, *clock; /* the names of ``time``, and what ``monotonic`` was among them */
    uint64_t clock_version;          /* of these names, when ``monotonic`` was that */

    PyObject *s_call_at, *s_time, *s_run_once, *s_process_events, *s_timer_handle_cancelled, *s_monotonic, *s_record,
        *s_loop_ident, *s_run, *s_get, *s_get_name, *s_get_coro, *s_done, *s_append, *s_context, *s_func,
        *s_python_call_soon, *s_python_call_later, *s_python_call_at, *s_python_create_task, *s_note_timer, *s_name,
        *s_tasks, *s_fresh, *s_Task, *s_python_call_soon_threadsafe, *s_write_to_self, *s_own_selector, *s_csock,
        *s_thread_id, *s_stamps, *s_outbox, *s_pending, *s_drained, *s_drain, *s_local, *s_number, *s_until,
        *s_worker_number, *s_unrun, *s_words, *s_is_closed, *s_call_soon_threadsafe, *s_add_done_callback,
        *s_remove_done_callback, *s_create_future, *s_cancelled, *s_cancel, *s_state, *s_exception, *s_result,
        *s_set_result, *s_fileno, *s_recv, *s_recv_into, *s_send, *s_max_size, *s_read_eof, *s_receive_into,
        *s_data_received, *s_get_buffer, *s_buffer_updated, *s_python_write, *s_futures, *s_Future, *s_data,
        *s_loop_span, *s_own_context, *s_future_done, *s_source_done, *s_deliver,
        *s_slow_callback_duration, *s_code, *s_cr_code, *s_proto;

    Streams streams;
    RingSlots ring;
    Checksum checksum;
    uint64_t watchdog; /* the number of the state of the thread that sleeps on an alarm; 0: there was none */
    PyObject *free_handles[FREE_HANDLES]; /* memory of Handles, without contents */
    int free_count;
} core_state;

struct ReadyQueue {
    PyObject_HEAD
    PyObject **items; /* a ring; its size is a power of two */
    Py_ssize_t head, length, size;
};

typedef struct {
    double when;
    uint64_t sequence;
    PyObject *handle; /* owned */
} Timer;

/* In one of two shapes: an array of Timers (``list`` is NULL), or a Python list, which the Python iteration and other
   libraries work on. */
struct Timers {
    PyObject_HEAD
    core_state *state;
    Timer *heap;
    Py_ssize_t length, size;
    PyObject *list;
    int shared;
    uint64_t sequence;
    Py_ssize_t cancelled, compactions;
    uint64_t random;
};

struct Record {
    PyObject_HEAD
    core_state *state;
    double *doubles;
    Py_ssize_t length, size;
    PyObject *text; /* a list */
    int64_t base;
    Py_ssize_t lost; /* doubles for which there was no memory */
    Py_ssize_t skip; /* doubles yet to come of a record whose beginning was lost */
};

struct Scheduling {
    PyObject_HEAD
    core_state *state;
    PyObject *ready_object;  /* what ``_ready`` gives; owned */
    PyObject *timers_object; /* what ``_timer_heap`` gives; owned */
    ReadyQueue *ready;       /* the same, where it is of our type; else NULL */
    Timers *timers;
    PyObject *recorder; /* owned; None where nothing is recorded */
    Record *record;     /* the recorder's, where it is of our type; owned */
    ReadyQueue *fresh;  /* the recorder's tasks before their first step, where it is of our type; owned */
    PyObject *task_factory; /* owned; None where asyncio makes tasks; NULL before the loop has been initialized */
    unsigned int clean_version; /* the version of the loop's class at which nothing of ours was replaced */
    char debug, checks_calls, stopping;
    unsigned char patched; /* overrides.c: a bit for each of its names that the program has put on the loop itself */
    char new_selector;     /* the program has put another selector on the loop */
    char running, polling, woken; /* wakeup.c: in _run_native; in its poll; a byte was written for that poll */
    const struct Run *run;        /* what _run_native has at hand, while it runs; borrowed */
    /* The run under way, for other threads. The handle is borrowed from the iteration. */
    double run_start, run_ident;
    PyObject *run_handle;
    PyObject *run_task; /* whose step it is; borrowed, for comparison only */
    int run_again;      /* its next step has been scheduled: it is not done */
    /* coalesce.c: by descriptor, and those of which the kernel may hold back a write of this run. */
    Writes *writes;
    int writes_size, held_count, held[MOST_HELD];
};

/* module.c */
extern struct PyModuleDef core_module;
core_state *core_state_of(PyObject *object); /* of an object whose type, or a base of it, is of this module; or NULL */
Py_ssize_t core_offset_of(PyTypeObject *type, const char *name); /* of a slot of a Python class; -1: an exception */

#define SLOT(object, offset) (*(PyObject **)((char *)(object) + (offset)))

/* An attribute; NULL without an exception where there is none, or None. */
static inline PyObject *
attribute_or_none(PyObject *object, PyObject *name)
{
    PyObject *value = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyObject_GetOptionalAttr(object, name, &value);
#else
    (void)_PyObject_LookupAttr(object, name, &value);
#endif
    if (value == Py_None)
        Py_CLEAR(value);
    return value;
}

/* handle.c */
/* One of asyncio's, ours or of another class: its slots can be read. */
static inline int
is_handle(core_state *st, PyObject *handle)
{
    PyTypeObject *type = Py_TYPE(handle);
    return type == st->handle_type || type == st->timer_handle_type || PyType_IsSubtype(type, st->asyncio_handle);
}
extern PyType_Spec core_handle_spec, core_timer_handle_spec;
PyObject *core_new_handle(core_state *st, PyObject *loop, PyObject *callback, PyObject *args, PyObject *context);
PyObject *core_new_timer(core_state *st, PyObject *loop, PyObject *callback, PyObject *args, PyObject *context,
                         double when, PyObject *when_object, int64_t set_at);
void core_free_handles(core_state *st);
/* The ident of the task whose step it is, where call_soon knew that; else 0.0. Of a handle of exactly our type. */
static inline double *
core_noted_ident(core_state *st, PyObject *handle)
{
    return (double *)((char *)handle + st->noted_at);
}
void core_release_handle(core_state *st, PyObject *handle); /* Py_DECREF, of one that has run */

/* queue.c */
extern PyType_Spec core_queue_spec;
int queue_append(ReadyQueue *queue, PyObject *item); /* takes a reference of its own */
PyObject *queue_popleft(ReadyQueue *queue);          /* NULL without an exception where there is none */
void queue_trim(ReadyQueue *queue);                  /* gives back what a burst took */

/* timers.c */
extern PyType_Spec core_timers_spec;
int timers_push(Timers *timers, double when, PyObject *handle);
PyObject *timers_pop(Timers *timers); /* of the native shape, not empty; a new reference */
int timers_sweep(Timers *timers);
void timers_trim(Timers *timers); /* gives back what a burst took */
/* Whether a due time is a number that a double holds exactly: a float, or a whole number up to 2**53. */
int timers_exact(PyObject *number, double *when);
/* Makes an array of the list. 1: it is one now; 0: it cannot be; -1: an exception. ``holders``: the callers' own
   references to the list, beside the timers'. */
int timers_back_to_array(Timers *timers, Py_ssize_t holders);

/* record.c */
extern PyType_Spec core_record_spec;
void record_add(Record *record, double a, double kind, double b);
int record_emptied(Record *record); /* what waited was written. 0; -1: an exception */

/* batch.c */
PyObject *record_write_to(PyObject *self, PyObject *const *args, Py_ssize_t count);

/* scheduling.c */
PyObject *scheduling_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *scheduling_call_later(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *scheduling_call_at(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *scheduling_create_task(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);
PyObject *scheduling_create_future(PyObject *self, PyObject *unused);
PyObject *scheduling_in_python(PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t count,
                               PyObject *names);
int scheduling_put(Scheduling *loop, PyObject *handle);
int scheduling_take_arguments(core_state *st, PyObject *const *args, Py_ssize_t count, PyObject *names,
                              Py_ssize_t skipped, PyObject **tuple, PyObject **context);

/* overrides.c */
PyObject *current_class(core_state *st, ClassPlace *place, PyObject *module_name, PyObject *name);
int core_clock_is_ours(core_state *st);    /* ``time.monotonic`` was not replaced; -1: an exception */
int scheduling_is_clean(Scheduling *loop); /* nothing that our code stands for was replaced; -1: an exception */
int scheduling_setattr(PyObject *self, PyObject *name, PyObject *value);

/* scheduling_type.c */
extern PyType_Spec core_scheduling_spec;

/* wakeup.c */
PyObject *scheduling_wake(PyObject *self, PyObject *unused);
PyObject *scheduling_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names);

/* offload.c */
extern PyType_Spec core_offload_spec;

/* Slots of ApplicationSpans; ``key`` is -1 where it is another class. */
typedef struct {
    Py_ssize_t generation, key, current, next, defined, plain, stateless;
} SpanSlots;

/* A context of OpenTelemetry's that was met again, by a weak reference (NULL: none yet), and the number of its span.
   ``met``: the address of the context that was looked up here last, to be compared and never followed, and the number
   of its span: mostly another context has that address by then. */
typedef struct {
    PyObject *weak, *number;
    const void *met;
    long long met_number;
} KnownContext;

/* identify.c: what one run of the loop has at hand. Everything is owned but ``loop`` and ``recorder``. */
typedef struct Run {
    core_state *st;
    Scheduling *loop;
    PyObject *recorder;
    Record *record;
    ReadyQueue *fresh;
    PyObject *tasks, *spans, *created, *stamps, *sites, *builtin_sites;
    PyObject *by_handler; /* the names of requests (recording/server_spans.py) */
    PyObject *numbers; /* the iterator whose ``__next__`` is tasks.next_number */
    PyObject *identify, *define, *first_step_done, *outcome_of, *coroutine_site, *define_created,
        *stamped, *flush, *write, *changed;
    PyObject *span_variable; /* NULL while the application has no spans */
    PyObject *seen;          /* what the last run's context holds there; NULL: not known */
    PyTypeObject *context_type; /* the class of such a thing, a dict's ``get`` being its own; NULL: none was seen */
    SpanSlots span; /* where they lie in ``spans`` */
    KnownContext *known_contexts; /* KNOWN_CONTEXTS places, owned; NULL: none was met twice */
    PyObject *known_in;           /* the generation of their numbers */
    long made, finished;     /* not yet added to ``tasks`` */
    Clock clock;
    CodeSite few_codes[FEW_CODES];
    CodeSite *codes; /* those, or more: owned */
    size_t code_places, codes_evicted, codes_held;
    CodeSite *listed[LISTED_CODES]; /* the places that hold codes, where these are not more */
    MethodSite methods[METHODS];
    Py_buffer words;
} Run;

int run_open(Run *run, Scheduling *loop, PyObject *recorder); /* 1; 0: the recorder is not ours to use; -1 */
void run_close(Run *run);
void run_forget_codes(Run *run);
int run_settle_counts(Run *run);
int run_refresh_spans(Run *run);
/* Who runs: the ident, with the task (a new reference, or NULL), whether this is its first step. -1.0: exception. */
double run_identify(Run *run, PyObject *handle, PyObject *callback, PyObject **task, int *is_first);
/* wakeup.c: says of a handle that runs next, and has a stamp, that another thread put it in (recorder.stamped). */
int run_look_at_stamps(Run *run, PyObject *handle, double now);
int run_define_created(Run *run, double now); /* wakeup.c: tasks that a task factory made in the run that ended now */
/* What the end of a task's step adds to the length in the run's record. -1.0: an exception. */
double run_settle_task(Run *run, PyObject *task, double ident, int is_first);
/* The loop's own work, as interface.py has it: which, of how many, from when until when. Short work is passed over. */
enum { DUE_TIMERS, CANCELLED_TIMERS, POLL_RESULTS };
int run_tell_own_work(Run *run, int which, Py_ssize_t count, double start, double end);
/* Shows other threads that it lasts, and lets them have the GIL for a moment. */
int run_show_own_work(Run *run, int which, double start);

/* spans.c */
void run_find_spans(Run *run);
void run_forget_contexts(Run *run);
/* Before a run: the context is the handle's, and the current one if ``entered``. 0; -1: an exception. */
int run_look_at_span(Run *run, PyObject *context, int entered);

/* runs.c */
/* Runs one handle, which it takes, and records it. ``*now``: its start, and then its end. -1: an exception that ends
   the loop. */
int run_handle(Run *run, PyObject *handle, double *now);
int run_is_cancelled(core_state *st, PyObject *handle); /* 1; 0; -1: an exception */
int run_call(PyObject *function, PyObject *a, PyObject *b); /* with the arguments that are not NULL. 0; -1 */

/* exceptions.c */
PyObject *take_exception(void);     /* a new reference; NULL where none is set */
void raise_again(PyObject *error); /* steals it; drops what has come up since */
PyObject *handle_exception(PyObject *error); /* it is being handled from now on. What was before, for handle_again */
void handle_again(PyObject *before);         /* steals it */

/* signal_action.c */
PyObject *core_signal_action(PyObject *module, PyObject *argument); /* a signal's number */

/* fault_guard.c */
PyObject *core_guard_dump(PyObject *module, PyObject *argument); /* the number of a signal that faulthandler handles */

/* frames.c */
PyObject *core_current_frames(PyObject *module, PyObject *unused); /* by thread, its innermost frame */

/* kernel_files.c */
PyObject *core_read_kernel_file(PyObject *module, PyObject *path); /* at most 4,096 bytes, with the GIL held */
PyObject *core_list_threads(PyObject *module, PyObject *unused);   /* the kernel's numbers of this process's threads */

/* iteration.c */
PyObject *scheduling_run(PyObject *self, PyObject *args);
PyObject *scheduling_may_run(PyObject *self, PyObject *unused);

/* stream.c */
extern PyType_Spec core_stream_spec;
PyObject *core_set_streams(PyObject *module, PyObject *args);
int stream_read_ready(core_state *st, PyObject *callback);
PyObject *stream_protocol(core_state *st, PyObject *transport); /* a new reference; NULL without an exception: ask it */

/* coalesce.c */
/* MSG_MORE for a write that another one will follow; or 0. ``sock``: a plain socket, whose number is ``descriptor``. */
int coalesce_flag(Scheduling *loop, PyObject *sock, int descriptor);
void coalesce_end(Scheduling *loop); /* at the end of a run: sends what was held back in it */

/* requests.c */
extern PyType_Spec core_noting_spec;

/* gc_notes.c */
extern PyType_Spec core_gc_notes_spec;

/* alarm.c */
extern PyType_Spec core_alarm_spec;

/* poll.c */
typedef struct {
    int epoll, wanted;
    void *events; /* struct epoll_event */
    int size, found;
} Poll;
int poll_open(Poll *poll, PyObject *epoll);
void poll_close(Poll *poll);
/* timeout: s; below 0: for ever. keep_gil: with a timeout of 0 only. -1: an exception. */
int poll_wait(Poll *poll, double timeout, Py_ssize_t wanted, int keep_gil);
int poll_descriptor(Poll *poll, int index);
int poll_readable(Poll *poll, int index);
int poll_writable(Poll *poll, int index);

#endif
