/* Model: from records to rows. What a record leaves to be found out, and how, stands at the head of decoder.py, whose
   model is the reference: the same records give the same rows in both (tests/reading/decoding/test_native.py).

   The rare records (rare_records.py) are taken in by Python; here is what a busy loop writes. */

#include "reader.h"

const Entry NOT_KNOWN = {INFINITY, 0.0, 0.0, 0, SOON};

/* -- the state */

void
model_enter(Model *self, int state, double when)
{
    double passed = when - self->since;
    if (0.0 < passed && passed < LATEST) {
        if (self->state == ACTIVE)
            self->active_s += passed;
        else if (self->state == IDLE)
            self->idle_s += passed;
    }
    self->state = state;
    self->since = when;
}

int
model_end_run(Model *self, double end)
{
    Runs *out = self->out;
    if (out->length == out->size && runs_reserve(out, 1) < 0)
        return -1;
    Row *row = &self->row;
    row->end = end > row->start ? end : row->start;
    row->iteration = self->iteration;
    if (!out->length)
        out->first = self->runs;
    out->rows[out->length++] = *row;
    self->running = false;
    if (self->added != 0.0)
        return queue_put(&self->queue, (Entry){row->end, row->ident, self->added - 1.0, self->runs, SOON});
    return 0;
}

int
model_end_iteration(Model *self, double end)
{
    Iterations *out = self->iterations;
    if (out->length == out->size && iterations_reserve(out, 1) < 0)
        return -1;
    double start = self->iteration_start;
    out->rows[out->length++] = (IterationRow){
        self->iteration, self->runs - self->iteration_first, start, end > start ? end : start,
        self->poll_duration, self->poll_delay,
    };
    self->iteration_start = -1.0;
    return 0;
}

static void
begin_iteration(Model *self, double start, double polled)
{
    self->iteration++;
    self->iteration_first = self->runs;
    self->iteration_start = start;
    self->poll_duration = polled;
    self->poll_delay = -1.0;
}

/* -- the queue */

/* Nothing is known of the handles in the queue but how many there are. */
int
model_forget_queue(Model *self, double length)
{
    queue_clear(&self->queue);
    if (0.0 < length && length < MAX_QUEUE) {
        Entry entry = NOT_KNOWN;
        entry.more = length - 1.0;
        return queue_put(&self->queue, entry);
    }
    return 0;
}

static int
put(Model *self, double ready, int kind, double handles)
{
    return queue_put(&self->queue, (Entry){ready, 0.0, handles - 1.0, 0, (uint8_t)kind});
}

/* The poll's harvest enters the queue: descriptors' handles behind what is there, then timers. */
static int
queue_due(Model *self, double base, double timers)
{
    double moved = self->moved > 0.0 ? self->moved : 0.0, when = self->since, place = base, pending = self->pending;
    if (!(0.0 <= pending && pending <= base)) {
        if (model_forget_queue(self, base) < 0)
            return -1;
    }
    else if (base > pending && put(self, when, THREADSAFE, base - pending) < 0)
        return -1; /* by other threads during the poll; their stamps will say when */
    writers_sort(&self->writers);
    for (size_t index = 0; index < self->writers.length; index++) {
        double position = self->writers.items[index];
        if (!(place <= position && position < base + moved))
            continue;
        if (position > place && put(self, when, READER, position - place) < 0)
            return -1;
        if (put(self, when, WRITER, 1.0) < 0)
            return -1;
        place = position + 1.0;
    }
    if (base + moved > place && put(self, when, READER, base + moved - place) < 0)
        return -1;
    self->writers.length = 0;
    if ((double)self->timers.length == timers) {
        for (size_t index = 0; index < self->timers.length; index++) {
            DueTimer *timer = &self->timers.items[index];
            if (queue_put(&self->queue, (Entry){timer->due, 0.0, 0.0, timer->setter, TIMER}) < 0)
                return -1;
        }
    }
    else if (timers > 0.0 && put(self, when, TIMER, timers) < 0)
        return -1; /* their records are lost: when they were due is not known, only that they were timers */
    self->timers.length = 0;
    self->moved = 0.0;
    self->pending = base + moved + timers;
    return 0;
}

/* -- one record */

/* A handle run begins. */
static inline int
take_run(Model *self, double a, double ident, double b)
{
    if (self->running && model_end_run(self, a) < 0)
        return -1;
    self->runs++;
    Entry *group = &self->group;
    if (group->more > 0.0)
        group->more -= 1.0;
    else if (!queue_take(&self->queue, group)) {
        /* Put in by another thread since the queue was last seen, or the queue is not known. */
        *group = NOT_KNOWN;
        self->pending += 1.0;
    }
    Row *row = &self->row;
    row->start = a;
    row->ident = ident;
    row->context = self->context;
    row->scheduler = group->creator;
    row->kind = ident >= SITE_LIMIT ? TASK : group->kind;
    row->delay = a - group->ready;
    if (row->delay < 0.0)
        row->delay = group->ready != INFINITY ? 0.0 : -1.0;
    row->outcome = 0;
    self->running = true;
    bool first_step = false;
    if (b >= OUTCOME) {
        first_step = b / OUTCOME >= FIRST_STEP;
        if (b < LARGEST) { /* the same with integers takes a tenth of the time */
            uint64_t above = (uint64_t)(b / OUTCOME);
            row->outcome = (uint8_t)(above % FIRST_STEP);
            b -= (double)above * OUTCOME;
        }
        else {
            row->outcome = (uint8_t)fmod(floor(b / OUTCOME), FIRST_STEP);
            b = fmod(b, OUTCOME);
        }
    }
    /* The queue held ``pending`` before this handle was taken from it. */
    self->added = b - self->pending + 1.0;
    if (self->added != 0.0 && !(0.0 < self->added && self->added < MAX_QUEUE)) {
        /* Not as the model has it: its place was lost, or other code took handles out of the queue. */
        self->added = group->more = 0.0;
        if (model_forget_queue(self, b) < 0)
            return -1;
    }
    self->pending = b;
    if (row->outcome && model_take_outcome(self) < 0)
        return -1;
    if (self->overridden) {
        self->overridden = false;
        row->scheduler = 0;
        row->delay = a > self->stamp ? a - self->stamp : 0.0;
        if (row->kind != TASK)
            row->kind = self->override_kind;
    }
    if (PyDict_GET_SIZE(self->new_tasks) && model_take_announced(self) < 0)
        return -1;
    return first_step ? model_take_first_step(self) : 0;
}

/* A record that is no run, and no clock reading or after one: 1 where another loop takes the ring. */
static int
take_other(Model *self, double a, double ident, double b)
{
    if (ident <= R_FOUND) {
        if (!isfinite(ident)) {
            PyErr_SetString(PyExc_ValueError, "not a number of handles");
            return -1;
        }
        if (self->iteration_start >= 0.0 && model_end_iteration(self, a) < 0)
            return -1;
        model_enter(self, IDLE, a);
        begin_iteration(self, b, b - a > 0.0 ? b - a : 0.0);
        self->moved = trunc(R_FOUND - ident);
        model_enter(self, ACTIVE, b);
        if (self->pending != 0.0)
            self->group.more = 0.0;
        return queue_due(self, 0.0, 0.0);
    }
    if (ident == R_POLL) {
        if (self->iteration_start >= 0.0 && model_end_iteration(self, a) < 0)
            return -1;
        self->poll_start = a;
        self->poll_timeout = b;
        model_enter(self, b != 0.0 ? IDLE : ACTIVE, a);
    }
    else if (ident == R_ACTIVE) {
        if (self->state == UNKNOWN) {
            self->poll_start = a;
            self->poll_timeout = 0.0;
        }
        double polled = a - self->poll_start > 0.0 ? a - self->poll_start : 0.0;
        double late = polled - self->poll_timeout;
        begin_iteration(self, a, polled);
        self->moved = trunc(b);
        if (b == 0.0 && self->poll_timeout > 0.0 && late >= 0.0)
            self->poll_delay = late;
        model_enter(self, ACTIVE, a);
    }
    else if (ident == R_DUE) {
        if (!(0.0 <= self->pending && self->pending <= a))
            self->group.more = 0.0;
        return queue_due(self, a, b);
    }
    else if (ident == R_TIMER)
        return timers_add(&self->timers, a, places_run_at(&self->places, b));
    else if (ident == R_SKIP) {
        if (self->group.more > 0.0) {
            self->group.more -= 1.0;
            self->pending -= 1.0;
        }
        else if (queue_take(&self->queue, &self->group))
            self->pending -= 1.0;
        self->overridden = false;
        double pending = self->pending;
        self->pending = b;
        if (b < pending) {
            self->group.more = 0.0;
            return model_forget_queue(self, b);
        }
        if (b > pending) {
            Entry entry = NOT_KNOWN;
            entry.more = b - pending - 1.0;
            return queue_put(&self->queue, entry);
        }
    }
    else if (ident == R_CONTEXT)
        self->context = a >= 0.0 ? exact(a) : 0;
    else if (ident == R_STAMP || ident == R_SIGNAL) {
        self->overridden = true;
        self->stamp = a;
        self->override_kind = ident == R_STAMP ? THREADSAFE : SIGNAL;
    }
    else if (ident == R_WRITER)
        return writers_add(&self->writers, a);
    else if (ident == R_LOOP) {
        model_enter(self, STOPPED, a);
        return 1;
    }
    else if (ident == R_RUN) {
        queue_clear(&self->queue);
        self->group.more = 0.0;
        self->pending = b;
        if (b > 0.0 && put(self, a, SOON, b) < 0)
            return -1;
        model_enter(self, ACTIVE, a);
    }
    else if (ident == R_END) {
        if (self->iteration_start >= 0.0 && model_end_iteration(self, a) < 0)
            return -1;
        model_enter(self, STOPPED, a);
        if (b != 0.0) {
            reader_state *st = state_of(Py_TYPE(self));
            PyObject *end = PyFloat_FromDouble(a);
            int failed = end == NULL || PyObject_SetAttr(self->decoded, st->text_closed, Py_True) < 0 ||
                         PyObject_SetAttr(self->decoded, st->text_end, end) < 0;
            Py_XDECREF(end);
            return failed ? -1 : 0;
        }
    }
    else
        return model_take_rare(self, a, ident, b);
    return 0;
}

int
model_take_records(Model *self, const double **stopped_at)
{
    const double *records = self->records.buf;
    while (self->at < self->count) {
        const double *record = records + 3 * self->at++;
        double a = record[0], ident = record[1], b = record[2];
        int result;
        if (ident > 0.0)
            result = take_run(self, a, ident, b);
        else {
            bool clocked = ident == R_SPIN || ident == R_POLL || ident == R_SKIP || ident == R_END ||
                           ident == R_RUN || ident <= R_FOUND;
            if (clocked && self->running && model_end_run(self, a) < 0)
                return -1;
            if (ident == R_SPIN) {
                /* A busy loop with little to do has one of these for each run. */
                if (self->iteration_start >= 0.0 && model_end_iteration(self, a) < 0)
                    return -1;
                begin_iteration(self, b, b - a);
                if (self->state != ACTIVE)
                    model_enter(self, ACTIVE, a);
                continue;
            }
            result = take_other(self, a, ident, b);
        }
        if (result) {
            *stopped_at = record;
            return result;
        }
    }
    return 0;
}
