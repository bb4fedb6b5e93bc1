/* The accelerator of the reader: what its files share. The files, in the order in which to read them:

   rows.h            the rows themselves, which other extensions read too
   module.c          the module: state, what is looked up once
   runs.c            Runs and Iterations: decoded rows in structures, made into objects when they are asked for
   task_rows.c       Tasks and Ends: the same of tasks that begin, and of those that end
   rare_rows.c       Marks and Spans: the same of requests, and of the application's spans
   model.c           Model: from records to rows; the twin of the Python model in decoder.py
   model_tasks.c     what of it are Python objects: tasks, texts, rare records
   model_type.c      Model as a Python type
   queue.c           the model's ready queue, its timers and writers
   places.c          which run a place in the record belongs to; the twin of timer_setters.py
   tally.c           sums by callback and histograms
   looks.c           what looks at suspended tasks tell
   alive.h           tasks that are alive, and their coroutines, in files of its own
   rest.c            the collector's rest, while nobody writes
   ledger.h          the ledger of requests, in files of its own

   Input is not trusted: a record may be forged. A double becomes an integer only through the functions below. Nothing
   is indexed by what a record says without a look at the bounds. Everything that grows with the record has a limit.
   No double here is NaN or infinite: ring_reader.py and Model.begin see to that; a difference of two may be infinite.

   Every function that returns an object returns a new reference. Structures own the references that they hold. Nothing
   is static and mutable, and nothing but rest.c releases the GIL. */

#ifndef TRACELOOP_READER_H
#define TRACELOOP_READER_H

#include "checksum.h"
#include "extension.h"

#include <math.h>
#include <stddef.h>
#include <stdbool.h>
#include <stdint.h>

#include "rows.h"

/* What record/layout.py calls them. tests/reading/decoding/test_native.py compares them. */
#define W_HEAD 0
#define W_RUNNING 1
#define R_POLL (-1.0)
#define R_ACTIVE (-2.0)
#define R_SPIN (-3.0)
#define R_TIMER (-4.0)
#define R_DUE (-5.0)
#define R_TASK (-6.0)
#define R_STAMP (-7.0)
#define R_SIGNAL (-8.0)
#define R_WRITER (-9.0)
#define R_SKIP (-10.0)
#define R_SPAN (-11.0)
#define R_CONTEXT (-12.0)
#define R_LOOP (-13.0)
#define R_END (-14.0)
#define R_GC (-15.0)
#define R_GC_INFO (-16.0)
#define R_SUBMIT (-17.0)
#define R_SUBMIT_INFO (-18.0)
#define R_START (-19.0)
#define R_FINISH (-20.0)
#define R_DELIVER (-21.0)
#define R_RUN (-28.0)
#define R_REQUEST (-34.0)
#define R_SAMPLE (-36.0)
#define R_SAMPLE_OF (-37.0)
#define R_FOUND (-1024.0)
#define SITE_LIMIT 65536.0
#define OUTCOME 4294967296.0
#define FIRST_STEP 4
#define TEXT_SEPARATOR 31
#define EXACT 9007199254740992.0      /* 2**53 */
#define MOST_NEW_TASKS 200000         /* _MAX_NEW_TASKS in rare_records.py */
#define LARGEST 9223372036854775808.0 /* 2**63, as in ring_reader.py */
#define LATEST 8589934592.0           /* 2**33 s, as in decoded.py */

/* As in decoded.py: State. */
enum { STOPPED, ACTIVE, IDLE, UNKNOWN };

/* As in decoder.py and rare_records.py. */
#define MAX_QUEUE 1e9
#define MAX_ENTRIES (1 << 20)
#define MAX_TIMERS (1 << 18)
#define MAX_WRITERS 200000

typedef struct {
    PyObject_HEAD
    Row *rows;
    Py_ssize_t length, size;
    int64_t first; /* number of the first row */
    Py_ssize_t exports; /* buffers that show the rows: they stay where they are */
} Runs;

typedef struct {
    PyObject_HEAD
    IterationRow *rows;
    Py_ssize_t length, size;
    Py_ssize_t exports;
} Iterations;

/* A task that begins: NewTask (decoding/task_rows.py). Its name is owned; NULL where it is automatic, and then
   ``automatic`` has its number, or -1 where it is not known. */
typedef struct {
    double ident, start, creator_ident, waited_from;
    int64_t first_run, creator, automatic;
    PyObject *name;
    bool made_by_loop;
} TaskRow;

typedef struct {
    PyObject_HEAD
    TaskRow *rows;
    Py_ssize_t length;
    size_t size;
} Tasks;

/* A task that ends: when its last step began, and the number of that run. */
typedef struct {
    double ident, when;
    int64_t run;
    uint8_t outcome;
} EndRow;

typedef struct {
    PyObject_HEAD
    EndRow *rows;
    Py_ssize_t length;
    size_t size;
} Ends;

/* One item of a batch's text. ``owner``: the text, bytes, where ``start`` points into; NULL: there is no such item. */
typedef struct {
    PyObject *owner;
    const char *start;
    Py_ssize_t length;
} Item;

/* A run that answers a request, and the site of Decoded.requests. */
typedef struct {
    int64_t run;
    uint32_t site;
} MarkRow;

typedef struct {
    PyObject_HEAD
    MarkRow *rows;
    Py_ssize_t length;
    size_t size;
} Marks;

/* A span of the application's: SpanContext. The owner of its text is owned. */
typedef struct {
    double number, flags;
    Item text;
} SpanRow;

typedef struct {
    PyObject_HEAD
    SpanRow *rows;
    Py_ssize_t length;
    size_t size;
} Spans;

/* Handles that one run put into the ready queue, or one poll: how many there are besides the first. */
typedef struct {
    double ready, creator_ident, more;
    int64_t creator;
    uint8_t kind;
} Entry;

typedef struct {
    double due;
    int64_t setter;
} DueTimer;

/* A ring of entries; ``size`` is a power of two. */
typedef struct {
    Entry *entries;
    size_t head, length, size;
} Queue;

typedef struct {
    DueTimer *items;
    size_t length, size;
    bool too_many;
} Timers;

typedef struct {
    double *items;
    size_t length, size;
} Writers;

/* A batch: its first record, and for each of its records, how many runs stand before it in the batch. */
typedef struct {
    uint64_t first;
    int64_t runs;
    size_t records;
    uint32_t *before;
} Place;

typedef struct {
    Place *items;
    size_t length, size;
    uint64_t end;
} Places;

typedef struct {
    PyObject_HEAD
    /* What its owner looks at. */
    int state;
    double since;
    long long runs, damaged;
    /* The iteration, and its poll. */
    int64_t iteration, iteration_first;
    double iteration_start, poll_start, poll_timeout, poll_duration, poll_delay, moved;
    /* The ready queue. ``group``: the entry that handles are being taken from, ``more`` is what is left of it. */
    Queue queue;
    Entry group;
    double pending;
    int64_t context;
    /* The run whose end was not read yet, and how many handles it added. */
    bool running;
    Row row;
    double added;
    /* What the records before a run said of it: who put it in. */
    bool overridden;
    double stamp;
    uint8_t override_kind;
    Timers timers;
    Writers writers;
    Places places;
    /* An offload's first record, whose second comes next; and whether ``rare`` has the first of another two. */
    bool submitted, rare_waits;
    double submitted_at, submitted_number;
    int64_t automatic_name; /* the number in the automatic name read last, -1: none */
    double written_at;
    /* The batch: its records, how many were decoded, its text. */
    Py_buffer records;
    bool has_records;
    size_t at, count;
    PyObject *text; /* bytes */
    Py_ssize_t text_at;
    PyObject *rare; /* RareRecords, which has the tasks that were announced */
    PyObject *new_tasks;
    /* While decode runs: where to. Borrowed from ``decoded``, whose attributes hold them. */
    Runs *out;
    Iterations *iterations;
    Tasks *tasks;
    Ends *finished;
    Marks *requests;
    Spans *spans;
    PyObject *decoded;
    double active_s, idle_s;
} Model;

#define MOST_BOUNDS 254

/* The bounds of a histogram. first: by the upper 16 bits of a double (sign, exponent, 4 bits of mantissa), the first
   bucket that may have it. */
typedef struct {
    PyObject_HEAD
    double bounds[MOST_BOUNDS + 1];
    uint8_t first[1 << 15];
    Py_ssize_t count;
} Buckets;

typedef struct {
    PyTypeObject *runs, *iterations, *tasks, *ends, *marks, *spans, *model, *buckets, *tally, *requests, *totals;
    PyTypeObject *alive;
    PyObject *iteration, *new_task, *known_task, *offload_step, *span_context; /* the classes of these rows */
    PyObject *kinds;                                                           /* the tuple KINDS */
    PyObject *text_active_s, *text_idle_s, *text_runs, *text_iterations, *text_tasks, *text_finished, *text_closed,
        *text_end, *text_lose_place, *text_new_tasks, *text_requests, *text_offloads, *text_submit, *text_start,
        *text_finish, *text_deliver, *text_spans;
    Checksum checksum; /* its tables */
    uint64_t salt;     /* of tables by ident: who forges a record must not know which idents share a bucket */
} reader_state;

#define EACH_OBJECT(DO)                                                                                                \
    DO(runs) DO(iterations) DO(tasks) DO(ends) DO(marks) DO(spans) DO(model) DO(buckets) DO(tally) DO(requests)        \
    DO(totals) DO(alive) DO(iteration) DO(new_task) DO(known_task) DO(offload_step) DO(span_context) DO(kinds)         \
    DO(text_active_s) DO(text_idle_s) DO(text_runs) DO(text_iterations) DO(text_tasks) DO(text_finished)               \
    DO(text_closed) DO(text_end) DO(text_lose_place) DO(text_new_tasks) DO(text_requests) DO(text_offloads)            \
    DO(text_submit) DO(text_start) DO(text_finish) DO(text_deliver) DO(text_spans)

extern struct PyModuleDef reader_module;

static inline reader_state *
state_of(PyTypeObject *type)
{
    return PyType_GetModuleState(type);
}

/* An integer that a double holds exactly, else 0. */
static inline int64_t
exact(double value)
{
    return value > -EXACT && value < EXACT ? (int64_t)value : 0;
}

/* As record/sites.py: the number of an ident's site, 0 for what is no ident. */
static inline uint32_t
site_of(double ident)
{
    return ident >= 0.0 && ident < EXACT ? (uint32_t)((uint64_t)ident & 0xFFFF) : 0;
}

/* Of an ident, for a table that is a power of two large. Adds zero first: of two zeros, one. */
static inline uint64_t
mixed_ident(double ident, uint64_t salt)
{
    uint64_t bits;
    ident += 0.0;
    memcpy(&bits, &ident, 8);
    bits ^= salt;
    bits = (bits ^ bits >> 32) * 0x9E3779B97F4A7C15u;
    bits = (bits ^ bits >> 29) * (salt | 1);
    return bits >> 40;
}

/* ``value``: 0 or more. */
static inline size_t
histogram_bucket(const Buckets *buckets, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    size_t bucket = buckets->first[(bits >> 48) & 0x7FFF];
    while (bucket < (size_t)buckets->count && buckets->bounds[bucket] < value)
        bucket++;
    return bucket;
}

/* As in decoded.py: OUTSIDE. */
static inline bool
is_outside(int kind)
{
    return kind == READER || kind == WRITER || kind == TIMER || kind == THREADSAFE || kind == SIGNAL;
}

/* -1 with IndexError set where there is no row of this index. */
static inline int
checked_index(Py_ssize_t index, Py_ssize_t length, const char *message)
{
    if (index >= 0 && index < length)
        return 0;
    PyErr_SetString(PyExc_IndexError, message);
    return -1;
}

int reserve_more(void **items, size_t *size, size_t wanted, size_t each);

/* Makes room for ``wanted`` items of ``each`` bytes; -1 with MemoryError set where there is none. */
static inline int
reserve(void **items, size_t *size, size_t wanted, size_t each)
{
    return wanted <= *size ? 0 : reserve_more(items, size, wanted, each);
}

/* runs.c */
int runs_reserve(Runs *runs, Py_ssize_t more);
void runs_trim(Runs *runs);
int iterations_reserve(Iterations *iterations, Py_ssize_t more);
extern PyType_Spec runs_spec, iterations_spec;

/* task_rows.c */
TaskRow *tasks_add(Tasks *tasks); /* a row to be filled; borrowed, until the next is added */
PyObject *task_name(PyObject *name, int64_t automatic);
int ends_add(Ends *ends, EndRow row);
extern PyType_Spec tasks_spec, ends_spec;

/* rare_rows.c */
int marks_append(Marks *marks, MarkRow row);
int spans_append(Spans *spans, double number, double flags, Item text); /* keeps the owner of the text */
extern PyType_Spec marks_spec, spans_spec;

/* queue.c */
int queue_put(Queue *queue, Entry entry);
bool queue_take(Queue *queue, Entry *entry);
void queue_clear(Queue *queue);
int timers_add(Timers *timers, double due, int64_t setter);
int writers_add(Writers *writers, double place);
void writers_sort(Writers *writers);

/* places.c */
int places_add(Places *places, uint64_t first, int64_t runs, const double *records, size_t count);
int64_t places_run_at(const Places *places, double doubles);
void places_free(Places *places);

/* model.c */
extern const Entry NOT_KNOWN;
void model_enter(Model *self, int state, double when);
int model_end_run(Model *self, double end);
int model_end_iteration(Model *self, double end);
int model_forget_queue(Model *self, double length);
int model_take_records(Model *self, const double **stopped_at);

/* model_tasks.c */
Item model_next_item(Model *self); /* borrowed, while the batch is decoded */
PyObject *item_text(Item item);
int model_take_first_step(Model *self);
int model_take_announced(Model *self);
int model_take_outcome(Model *self);
int model_take_rare(Model *self, double a, double ident, double b);

/* model_type.c, tally.c */
extern PyType_Spec model_spec, buckets_spec, tally_spec;
PyObject *count_iterations(PyObject *module, PyObject *const *args, Py_ssize_t count);

/* looks.c */
int look_between(PyObject *seen, double begin, double end);

/* rest.c */
PyObject *rest_until(PyObject *module, PyObject *args);

#endif
