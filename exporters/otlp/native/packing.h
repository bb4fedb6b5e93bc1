/* The accelerator of otlp/packing.py: what its files share. The files, in the order in which to read them:

   module.c       the module: its state
   traces.c       Traces: in which trace the span of each of the latest runs is sent
   output.c       Output: bytes of spans, in portions of limited size, whose memory is used again
   packer.c       from rows of runs to the bytes of their spans; the twin of PackingBuilder._pack_runs
   asking.c       what of it the builder is asked for: the bytes of a callback, contexts, slow runs
   packer_type.c  Packer as a Python type: what goes in, and what comes out

   The rows are those of the reader's extension, taken by the buffer protocol (rows.h). Whatever is rare is asked of the
   builder in Python: slow runs, what an application's span puts before a span, the bytes of a new callback.

   A function that returns an object returns a new reference. Nothing releases the GIL: a chunk of 8,192 runs is packed
   within a millisecond. */

#ifndef TRACELOOP_PACKING_H
#define TRACELOOP_PACKING_H

#include "extension.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rows.h"

/* spans/builder.py has it as RUN_MEMORY; a power of two. tests/exporters/otlp/test_native_packing.py compares them. */
#define RUN_MEMORY 65536
#define KNOWN_KINDS 512   /* a power of two */
#define KNOWN_CONTEXTS 64
#define SLAB (256 << 10) /* bytes */
#define FREE_SLABS 32
#define OWN_HEAD (2 + 16 + 6 + 2 + 8 + 2) /* trace, flags, parent, and the tag of the id */

/* All zero: the span is not sent. */
typedef struct {
    char id[16];
} Trace;

typedef struct {
    PyObject_HEAD
    Trace *items; /* by number of the run, modulo RUN_MEMORY */
} Traces;

/* What the spans of one callback have in common. Borrowed, and good for one generation: until Python code runs. */
typedef struct {
    uint64_t generation;
    double ident;
    PyObject *common;
    uint8_t kind;
} KnownKind;

typedef struct {
    PyTypeObject *traces, *packer, *portion;
    PyObject *text_kind, *text_common, *text_context_head, *text_take_slow_run;
    KnownKind known[KNOWN_KINDS];
    uint64_t generation;
    char *free_slabs[FREE_SLABS];
    int free_count;
} packer_state;

#define EACH_OBJECT(DO)                                                                                                \
    DO(traces) DO(packer) DO(portion) DO(text_kind) DO(text_common) DO(text_context_head) DO(text_take_slow_run)


/* Spans as they are sent. ``size``: of the memory. */
typedef struct {
    PyObject_HEAD
    char *data;
    size_t used, size;
} Portion;

/* ``portions``: a list of (what is like bytes, number of spans). ``portion``: the one that is being filled, or NULL.
   ``room``: of how many further bytes portions are kept; ``refused``: how many spans were in those after them. */
typedef struct {
    packer_state *st;
    PyObject *portions;
    Portion *portion;
    Py_ssize_t spans, most_spans, room, refused;
} Output;

typedef struct {
    PyObject_HEAD
    Traces *traces;
    PyObject *kinds; /* the tuple KINDS */
    /* Fields up to their values, as encoder.py makes them. */
    PyObject *delay, *link, *poll, *poll_delay, *iteration, *callbacks;
    double run_base, run_unit, iteration_base, iteration_unit;
    char prefix[8];
    uint64_t trace_first, trace_stride, trace_span; /* see ids.py; ``trace_span``: the bits of that double */
    unsigned long long bound;
    int keep_all;
    Py_ssize_t most_spans;
} Packer;

/* The iteration that the latest run belongs to, as SpanBuilder has it. */
typedef struct {
    long long number;
    Trace trace;
    double parent; /* the id of its span, where it has one that is not packed yet */
    bool has_trace, has_parent, kept;
    double first_start, last_end;
    long long first_run; /* number of its first run */
} IterationState;

/* What spans begin with that have an application's span before them. */
typedef struct {
    int64_t number; /* 0: an empty place */
    PyObject *head;
    Trace trace;
    bool sent, not_sent;
} KnownContext;

typedef struct {
    Packer *packer;
    packer_state *st;
    PyObject *builder, *kinds, *active;
    const Row *rows;
    const IterationRow *iterations;
    Py_ssize_t length, iterations_length, iterations_at;
    Row held; /* the run before the first row */
    bool has_held;
    int64_t first;
    double scale, origin, lowest;
    IterationState now;
    char head[OWN_HEAD]; /* of the iteration's runs */
    size_t head_size;
    Output out;
    PyObject *kind; /* keeps alive what ``common_of`` has returned */
    KnownContext contexts[KNOWN_CONTEXTS];
    /* Those that are offered as exemplars, by number; 0: none. */
    long long longest, latest;
    double longest_s, latest_s, longest_iteration_s, longest_iteration_start, longest_iteration_end;
    Trace longest_iteration_trace;
    double longest_iteration_id;
} Work;

/* output.c */
int output_open(Output *out, packer_state *st, Py_ssize_t most_spans, Py_ssize_t room);
char *output_span(Output *out, size_t size); /* where the span's fields go: ``size`` bytes; NULL: an exception */
int output_end(Output *out);
void output_close(Output *out);
char *put_varint(char *to, uint64_t value);
size_t varint_size(uint64_t value);

/* asking.c */
PyObject *common_of(Work *work, const Row *row);
const KnownContext *context_of(Work *work, int64_t number);
int take_slow_run(Work *work, const Row *row, long long number);
int end_lost_iteration(Work *work, long long runs);

/* packer.c */
void make_head(Work *work);
int take_rows(Work *work);

/* traces.c, packer_type.c, output.c */
extern PyType_Spec traces_spec, packer_spec, portion_spec;

static inline size_t
size_of(PyObject *bytes)
{
    return (size_t)PyBytes_GET_SIZE(bytes);
}

/* Python code runs now, or has run: what was borrowed of the builder may be gone. */
static inline void
forget_kinds(Work *work)
{
    work->st->generation++;
}

#endif
