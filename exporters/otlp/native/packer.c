/* Packer: from rows of runs to the bytes of their spans. The twin of PackingBuilder._pack_runs in otlp/packing.py,
   which explains ids and times: the same rows give the same bytes in both
   (tests/exporters/otlp/test_native_packing.py).

   Doubles are added and multiplied as Python does, each operation rounded by itself (-ffp-contract=off). */

#include "packing.h"

#define TAG "\x12\x08" /* span id, 8 bytes */
#define TRACE "\x0a\x10"
#define PARENT "\x22\x08"
#define FLAGS "\x85\x01\x00\x01\x00\x00"
#define START '\x39'
#define END '\x41'
#define MANTISSA ((UINT64_C(1) << 52) - 1)
#define TIMES (1 + 8 + 1 + 8)

static inline char *
put(char *to, const void *from, size_t size)
{
    memcpy(to, from, size);
    return to + size;
}

static inline char *
put_bytes(char *to, PyObject *bytes)
{
    return put(to, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
}

static inline char *
put_double(char *to, double value)
{
    return put(to, &value, sizeof(value));
}

/* -- ids */

static Trace
trace_of(const Packer *self, long long iteration)
{
    uint64_t end = self->trace_span + ((self->trace_first + (uint64_t)iteration * self->trace_stride) & MANTISSA);
    Trace trace;
    memcpy(trace.id, self->prefix, 8);
    memcpy(trace.id + 8, &end, 8);
    return trace;
}

static bool
keeps(const Packer *self, const Trace *trace)
{
    if (self->keep_all)
        return true;
    uint64_t value = 0;
    for (int index = 8; index < 16; index++)
        value = value << 8 | (unsigned char)trace->id[index];
    return value < self->bound;
}

/* What the spans of the iteration's runs begin with. */
void
make_head(Work *work)
{
    char *to = put(put(work->head, TRACE, 2), work->now.trace.id, 16);
    to = put(to, FLAGS, 6);
    if (work->now.has_parent)
        to = put_double(put(to, PARENT, 2), work->now.parent);
    to = put(to, TAG, 2);
    work->head_size = (size_t)(to - work->head);
}

/* -- iterations */

/* The iteration, where its end is known. Those that are asked for are in order, as the rows are. */
static const IterationRow *
find_iteration(Work *work, long long number)
{
    if (work->iterations_at && work->iterations[work->iterations_at - 1].number >= number)
        work->iterations_at = 0;
    while (work->iterations_at < work->iterations_length && work->iterations[work->iterations_at].number < number)
        work->iterations_at++;
    if (work->iterations_at == work->iterations_length || work->iterations[work->iterations_at].number != number)
        return NULL;
    return &work->iterations[work->iterations_at];
}

static int
pack_iteration(Work *work, const IterationRow *row)
{
    const Packer *self = work->packer;
    double end = work->now.last_end > row->end ? work->now.last_end : row->end;
    uint64_t callbacks = (uint64_t)row->callbacks;
    size_t callbacks_size = varint_size(callbacks), pair = size_of(self->callbacks) + 3 + callbacks_size;
    size_t size = 2 + 16 + 6 + 2 + 8 + TIMES + size_of(self->poll) + 8 + size_of(self->iteration) + 2 + pair;
    if (row->poll_delay >= 0.0)
        size += size_of(self->poll_delay) + 8;
    char *to = output_span(&work->out, size);
    if (to == NULL)
        return -1;
    to = put(put(to, TRACE, 2), work->now.trace.id, 16);
    to = put(put(to, FLAGS, 6), TAG, 2);
    to = put_double(to, work->now.parent);
    *to++ = START;
    to = put_double(to, row->start * work->scale + work->origin);
    *to++ = END;
    to = put_double(to, end * work->scale + work->origin);
    to = put_double(put_bytes(to, self->poll), row->poll_duration);
    to = put_bytes(to, self->iteration);
    *to++ = 9 << 3 | 2; /* an attribute of a span: a key and an integer */
    *to++ = (char)pair;
    to = put_bytes(to, self->callbacks);
    *to++ = 2 << 3 | 2;
    *to++ = (char)(1 + callbacks_size);
    *to++ = 3 << 3;
    to = put_varint(to, callbacks);
    if (row->poll_delay >= 0.0)
        put_double(put_bytes(to, self->poll_delay), row->poll_delay);
    if (end - row->start > work->longest_iteration_s) {
        work->longest_iteration_s = end - row->start;
        work->longest_iteration_start = row->start;
        work->longest_iteration_end = end;
        work->longest_iteration_trace = work->now.trace;
        work->longest_iteration_id = work->now.parent;
    }
    return 0;
}

/* The span of the iteration that is over, where its runs name one. ``runs``: how many it had. */
static int
end_iteration(Work *work, long long runs)
{
    if (!work->now.has_parent)
        return 0;
    work->now.has_parent = false;
    const IterationRow *known = find_iteration(work, work->now.number);
    if (known != NULL)
        return pack_iteration(work, known);
    return end_lost_iteration(work, runs);
}

/* A run of another iteration than the one before it. 1: whether that has a span is not known yet. */
static int
begin_iteration(Work *work, const Row *row, const Row *next, long long number)
{
    const Packer *self = work->packer;
    const IterationRow *known = find_iteration(work, row->iteration);
    bool has_span;
    if (known != NULL)
        has_span = known->callbacks > 1;
    else if (next != NULL)
        has_span = next->iteration == row->iteration;
    else
        return 1;
    IterationState *now = &work->now;
    now->number = row->iteration;
    now->trace = trace_of(self, row->iteration);
    now->has_trace = true;
    now->kept = keeps(self, &now->trace);
    now->has_parent = has_span && now->kept;
    now->parent = self->iteration_base + (double)row->iteration * self->iteration_unit;
    now->first_start = row->start;
    now->first_run = number;
    make_head(work);
    return 0;
}

/* -- runs */

static inline int
pack_run(Work *work, const Row *row, long long number, const char *head, size_t head_size, const Trace *link)
{
    const Packer *self = work->packer;
    PyObject *common = common_of(work, row);
    if (common == NULL)
        return -1;
    bool delay_known = row->delay >= 0.0;
    size_t size = size_of(common) + head_size + 8 + TIMES;
    if (delay_known)
        size += size_of(self->delay) + 8;
    if (link != NULL)
        size += size_of(self->link) + 16 + 2 + 8;
    char *to = output_span(&work->out, size);
    if (to == NULL)
        return -1;
    if (delay_known)
        to = put_bytes(to, common);
    to = put(to, head, head_size);
    to = put_double(to, self->run_base + (double)number * self->run_unit);
    *to++ = START;
    to = put_double(to, row->start * work->scale + work->origin);
    *to++ = END;
    to = put_double(to, row->end * work->scale + work->origin);
    if (delay_known)
        to = put_double(put_bytes(to, self->delay), row->delay);
    if (link != NULL) {
        to = put(put_bytes(to, self->link), link->id, 16);
        to = put_double(put(to, TAG, 2), self->run_base + (double)row->scheduler * self->run_unit);
    }
    if (!delay_known)
        put_bytes(to, common);
    return 0;
}

static inline bool
is_sent(const Trace *trace)
{
    uint64_t halves[2];
    memcpy(halves, trace, 16);
    return (halves[0] | halves[1]) != 0;
}

static int
take_run(Work *work, const Row *row, long long number, long long horizon)
{
    const Trace not_sent = {{0}};
    Trace *traces = work->packer->traces->items, *own = &traces[(uint64_t)number % RUN_MEMORY];
    double length = row->end - row->start;
    if (length >= work->lowest) {
        int slow = take_slow_run(work, row, number);
        if (slow)
            return slow < 0 ? -1 : 0;
    }
    bool kept = work->now.kept;
    const char *head = work->head;
    size_t head_size = work->head_size;
    const Trace *trace = &work->now.trace;
    if (row->context) {
        const KnownContext *context = context_of(work, row->context);
        if (context == NULL)
            return -1;
        if (context->sent) {
            kept = true;
            head = PyBytes_AS_STRING(context->head);
            head_size = size_of(context->head);
            trace = &context->trace;
        }
        else if (context->not_sent)
            kept = false;
    }
    if (!kept) {
        *own = not_sent;
        return 0;
    }
    if (work->longest_s <= length && length < work->lowest) {
        work->longest_s = length;
        work->longest = number;
    }
    if (row->delay >= 0.0 && row->delay > work->latest_s) {
        work->latest_s = row->delay;
        work->latest = number;
    }
    *own = *trace;
    const Trace *link = NULL;
    if (row->scheduler > horizon) {
        link = &traces[(uint64_t)row->scheduler % RUN_MEMORY];
        if (!is_sent(link))
            link = NULL;
    }
    return pack_run(work, row, number, head, head_size, link);
}

/* All rows. 1: the last is held back. */
int
take_rows(Work *work)
{
    Py_ssize_t begin = work->has_held ? -1 : 0;
    long long last = work->first + work->length - 1, horizon = last - (RUN_MEMORY - 1), number = work->first + begin;
    if (horizon < 0)
        horizon = 0;
    for (Py_ssize_t index = begin; index < work->length; index++, number++) {
        const Row *row = index < 0 ? &work->held : &work->rows[index];
        if (row->kind >= KINDS) {
            PyErr_SetString(PyExc_ValueError, "no kind of handle");
            return -1;
        }
        if (row->iteration != work->now.number) {
            if (end_iteration(work, number - work->now.first_run) < 0)
                return -1;
            int held = begin_iteration(work, row, index + 1 < work->length ? &work->rows[index + 1] : NULL, number);
            if (held)
                return held;
        }
        work->now.last_end = row->end;
        if (take_run(work, row, number, horizon) < 0)
            return -1;
    }
    if (work->now.has_parent && find_iteration(work, work->now.number) != NULL)
        return end_iteration(work, last + 1 - work->now.first_run);
    return 0;
}
