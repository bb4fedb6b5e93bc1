/* One step of a task that is followed: since when it waited, and for what. Function by function the twin of
   requests/ledger.py, which has the reasons. */

#include "ledger.h"

static bool
is_found(const Followed *task)
{
    return task->maker == NULL && !task->kind;
}

static void
set_place(Followed *task, uint32_t place)
{
    if (!task->place)
        task->place = place;
    if (task->root->kind == REQUEST && !task->root->place)
        task->root->place = place;
}

/* A run was ready, and others ran: that stretch, up to its start. */
static int
add_turn(Requests *self, double ready, double start, int64_t number, List *out)
{
    double least = (start - ready) * NAMED_SHARE;
    Turn *turn = NULL;
    if (!(least < SHARED_SECONDS * NAMED_SHARE) && longer_before(self, number, ready, least, &turn) < 0)
        return -1;
    int result = list_add(out, start, IN_READY, NO_TEXT, turn);
    turn_release(turn);
    return result;
}

/* -- why it was not ready */

/* The part of a wait, up to ``until``: with the place, where a look saw the task stand there. */
static int
add_wait(Requests *self, Followed *task, double begin, double end, int part, uint32_t detail, List *out)
{
    if (begin <= self->latest_look && PyDict_GET_SIZE(self->looks)) {
        PyObject *ident = PyFloat_FromDouble(task->ident), *answer = NULL;
        PyObject *looks = ident != NULL ? PyDict_GetItemWithError(self->looks, ident) : NULL;
        int seen = looks != NULL ? look_between(looks, begin, end) : PyErr_Occurred() ? -1 : 0;
        if (seen > 0)
            answer = PyObject_CallMethod(self->owner, "look_within", "OddO", ident, begin, end,
                                         task->place ? Py_False : Py_True);
        Py_XDECREF(ident);
        if (seen < 0 || (seen && answer == NULL))
            return -1;
        if (seen && answer != Py_None) {
            PyObject *label, *name;
            uint32_t place;
            int failed = !PyArg_ParseTuple(answer, "UU", &label, &name) ||
                         text_number(&self->names, label, &detail) < 0 ||
                         text_number(&self->names, name, &place) < 0;
            Py_DECREF(answer);
            if (failed)
                return -1;
            if (place)
                set_place(task, place);
            return list_add(out, end, part, detail, NULL);
        }
        Py_XDECREF(answer);
    }
    return list_add(out, end, part, detail, NULL);
}

static int
explain_by_task(Requests *self, Followed *task, double begin, double end, const Run *by, List *out)
{
    double ident = by->row.ident;
    Followed *other = known_task(self, ident);
    if (other != NULL && by->row.outcome && is_found(task) && other->root->kind == CONNECTION)
        set_root(task, other->root); /* made in the step of the connection's task in which this one began */
    bool awaited = other != NULL && by->row.outcome && is_found(other) && task->kind == CONNECTION;
    if (other == NULL || other == task || !(other->root == task->root || awaited)) {
        uint32_t name, detail;
        if (name_of_task(self, ident, &name) < 0 || waited_for_text(&self->names, name, &detail) < 0)
            return -1;
        return add_wait(self, task, begin, end, IN_TASK, detail, out);
    }
    double first = other->own.begin;
    if (other->maker != NULL && begin < first) {
        if (stretches_cut(&other->maker->own, begin, fmin(first, end), out) < 0)
            return -1;
        begin = first;
    }
    return begin < end ? stretches_cut(&other->own, begin, end, out) : 0;
}

/* An offload whose result was delivered, as ledger.py has it: Offloaded. Borrowed. */
static int
find_offload(Requests *self, int64_t number, PyObject **offload)
{
    PyObject *key = PyLong_FromLongLong(number);
    *offload = key != NULL ? PyDict_GetItemWithError(self->delivered, key) : NULL;
    Py_XDECREF(key);
    return *offload == NULL && PyErr_Occurred() ? -1 : 0;
}

static int
explain_offload(Requests *self, Followed *task, PyObject *offload, double delivered, List *out)
{
    double submit, start, finish;
    PyObject *executor, *function;
    int names;
    if (!PyTuple_Check(offload)) {
        PyErr_SetString(PyExc_TypeError, "no offload");
        return -1;
    }
    if (!PyArg_ParseTuple(offload, "dddUUp", &submit, &start, &finish, &executor, &function, &names))
        return -1;
    uint32_t place, of_executor, of_call;
    if (names) {
        if (text_number(&self->names, function, &place) < 0)
            return -1;
        set_place(task, place);
    }
    PyObject *called = PyUnicode_FromFormat("%U %U", executor, function);
    int failed = called == NULL || text_number(&self->names, called, &of_call) < 0 ||
                 text_number(&self->names, executor, &of_executor) < 0;
    Py_XDECREF(called);
    if (failed)
        return -1;
    if (start < 0.0 || finish < 0.0)
        return list_add(out, delivered, IN_OFFLOADED, of_call, NULL);
    if (list_add(out, fmax(submit, 0.0), IN_RUNNING, NO_TEXT, NULL) < 0 ||
        list_add(out, start, IN_QUEUED, of_executor, NULL) < 0 ||
        list_add(out, finish, IN_OFFLOADED, of_call, NULL) < 0)
        return -1;
    return list_add(out, delivered, IN_RETURNING, of_executor, NULL);
}

/* Of what was added to ``out`` from ``first`` on, leaves out what ended at ``begin`` or before, and ends it all by
   ``end``. */
static void
keep_within(List *out, size_t first, double begin, double end)
{
    size_t kept = first;
    for (size_t index = first; index < out->length; index++) {
        Stretch each = out->items[index];
        if (each.end > begin) {
            each.end = fmin(each.end, end);
            out->items[kept++] = each;
        }
        else
            turn_release(each.turn);
    }
    out->length = kept;
}

/* What the task waited for from ``begin`` to ``end``, at which ``run`` became ready: added to ``out``. */
static int
explain(Requests *self, Followed *task, double begin, double end, const Run *run, int hops, List *out)
{
    static const uint8_t causes[KINDS] = {
        [TASK] = IN_OTHER,   [SOON] = IN_OTHER,   [TIMER] = IN_TIMER,       [READER] = IN_NETWORK,
        [WRITER] = IN_NETWORK, [SIGNAL] = IN_OTHER, [THREADSAFE] = IN_THREAD,
    };
    Run by;
    if (end <= begin)
        return 0;
    if (!run_of(self, run->row.scheduler, &by)) {
        if (run->row.delay >= 0.0)
            return add_wait(self, task, begin, end, IN_THREAD, NO_TEXT, out);
        return list_add(out, end, IN_UNKNOWN, NO_TEXT, NULL);
    }
    const Row *row = &by.row;
    if (row->ident >= SITE_LIMIT)
        return explain_by_task(self, task, begin, end, &by, out);
    double ready = 0.0 <= row->delay && row->delay < LATEST ? row->start - row->delay : row->start;
    size_t first = out->length;
    if (!is_outside(row->kind)) {
        if (hops >= MAX_HOPS)
            return list_add(out, end, IN_UNKNOWN, NO_TEXT, NULL);
        if (explain(self, task, begin, fmin(ready, end), &by, hops + 1, out) < 0 ||
            add_turn(self, ready, row->start, by.number, out) < 0)
            return -1;
    }
    else {
        PyObject *offload = NULL;
        if (row->kind == THREADSAFE && PyDict_GET_SIZE(self->delivered) &&
            (find_offload(self, by.number, &offload) < 0 ||
             (offload == NULL && find_offload(self, run->number, &offload) < 0)))
            return -1;
        if (offload != NULL) {
            Py_INCREF(offload);
            int failed = explain_offload(self, task, offload, row->start, out);
            Py_DECREF(offload);
            if (failed)
                return -1;
        }
        else if (add_wait(self, task, begin, ready, causes[row->kind], NO_TEXT, out) < 0 ||
                 add_turn(self, ready, row->start, by.number, out) < 0)
            return -1;
    }
    if (list_add(out, end, IN_RUNNING, NO_TEXT, NULL) < 0)
        return -1;
    keep_within(out, first, begin, end);
    return 0;
}

/* -- one step */

/* From when on the request counts that a task begins, into ``begin``; what happened until the task was ready is added
   to ``out``: its bytes came by a descriptor, and a chain of runs handed them on, up to run number ``scheduler``. */
static int
find_arrival(Requests *self, int64_t scheduler, double ready, double *begin, List *out)
{
    Run chain[MAX_HOPS];
    int length = 0;
    *begin = ready;
    for (;; length++) {
        if (length == MAX_HOPS || !run_of(self, scheduler, &chain[length]))
            return 0;
        const Row *row = &chain[length].row;
        if (row->kind == READER)
            break;
        if (is_outside(row->kind) || row->outcome)
            return 0;
        scheduler = row->scheduler;
    }
    const Row *first = &chain[length].row;
    double at = *begin = 0.0 <= first->delay && first->delay < LATEST ? first->start - first->delay : first->start;
    for (; length >= 0; length--) {
        const Row *row = &chain[length].row;
        if (add_turn(self, at, row->start, chain[length].number, out) < 0 ||
            list_add(out, row->end, IN_RUNNING, NO_TEXT, NULL) < 0)
            return -1;
        at = row->end;
    }
    return 0;
}

/* The task whose end made a connection's task ready. */
static Followed *
find_awaited(Requests *self, int64_t scheduler)
{
    Run run;
    for (int hops = 0; hops < MAX_HOPS && run_of(self, scheduler, &run); hops++) {
        if (run.row.ident >= SITE_LIMIT)
            return run.row.outcome ? table_get(&self->ended, run.row.ident) : NULL;
        scheduler = run.row.scheduler;
    }
    return NULL;
}

static int
add_all(Requests *self, Stretches *own, const List *list)
{
    for (size_t index = 0; index < list->length; index++)
        if (stretches_add(self, own, &list->items[index]) < 0)
            return -1;
    return 0;
}

/* A task factory made the task: what it did in the run that made it has no record of its own. */
int
take_beginning(Requests *self, Followed *task, const TaskRow *begun)
{
    Stretches *own = &task->own;
    double begin;
    own->begin = task->last_end = begun->waited_from;
    list_clear(&self->waited);
    if (find_arrival(self, begun->creator, begun->waited_from, &begin, &self->waited) < 0)
        return -1;
    if (task->kind == CONNECTION) {
        task->arrival_begin = begin;
        return list_extend(&task->arrival, &self->waited);
    }
    if (task->kind != REQUEST)
        return 0;
    own->begin = begin;
    return add_all(self, own, &self->waited);
}

/* A request of a connection's task is answered: what it was spent on stands in ``spent`` and, behind it, ``more``. */
static int
answer_of_connection(Requests *self, double task, uint32_t name, double begin, const List *spent, const List *more)
{
    Stretches *whole = &self->whole;
    list_clear(&whole->list);
    whole->begin = begin;
    whole->summed_until = 0.0;
    if (add_all(self, whole, spent) < 0 || (more != NULL && add_all(self, whole, more) < 0) ||
        stretches_sum(self, whole, &self->sums) < 0)
        return -1;
    return answer(self, task, name, begin, stretches_end(whole) - begin, &self->sums, whole);
}

/* A request that was answered within one step, soon after its bytes were read: 1 where it is one. */
static int
answer_at_once(Requests *self, const Run *run)
{
    Run by;
    const Row *row = &run->row;
    if (!run_of(self, row->scheduler, &by) || by.row.kind != READER)
        return 0;
    double waited = row->start - by.row.end, delay = by.row.delay;
    if (!(0.0 <= delay && delay < SHARED_SECONDS && 0.0 <= waited && waited < SHARED_SECONDS))
        return 0;
    uint32_t name;
    size_t mark = mark_of(self, run->number);
    bool marked = mark < self->first_mark + self->mark_count && self->marks[mark].run == run->number;
    if (label_of(self, marked ? (double)self->marks[mark].site : row->ident, &name) < 0)
        return -1;
    double begin = by.row.start - delay, read = by.row.end - by.row.start;
    self->sums.length = 0;
    if (sums_add(&self->sums, IN_RUNNING, NO_TEXT, read + row->end - row->start) < 0 ||
        sums_add(&self->sums, IN_READY, NO_TEXT, delay + waited) < 0)
        return -1;
    return answer(self, row->ident, name, begin, row->end - begin, &self->sums, NULL) < 0 ? -1 : 1;
}

/* The step's run has named the functions that answer its requests. */
static int
take_marks(Requests *self, Followed *task, int64_t number)
{
    size_t mark = mark_of(self, number);
    for (; mark < self->first_mark + self->mark_count && self->marks[mark].run == number; mark++) {
        uint32_t name;
        if (label_of(self, (double)self->marks[mark].site, &name) < 0)
            return -1;
        if (task->kind == CONNECTION) {
            if (answer_of_connection(self, task->ident, name, task->arrival_begin, &task->arrival, NULL) < 0)
                return -1;
            continue;
        }
        task->name = name;
        if (task->root->kind == REQUEST)
            task->root->name = name;
        break;
    }
    return 0;
}

/* A task of a request's own has ended. */
static int
answer_of_task(Requests *self, Followed *task)
{
    uint32_t name = task->name ? task->name : task->place;
    if ((!name && label_of(self, task->ident, &name) < 0) || stretches_sum(self, &task->own, &self->sums) < 0)
        return -1;
    double seconds = 0.0;
    for (size_t index = 0; index < self->sums.length; index++)
        seconds += self->sums.items[index].seconds;
    return answer(self, task->ident, name, stretches_end(&task->own) - seconds, seconds, &self->sums, &task->own);
}

int
take_step(Requests *self, Followed *task, const Run *run)
{
    const Row *row = &run->row;
    bool is_first = task->last_end < 0.0;
    if (row->outcome && is_first && task->kind == REQUEST) {
        int answered = answer_at_once(self, run);
        if (answered > 0)
            drop_task(self, task);
        if (answered)
            return answered < 0 ? -1 : 0;
    }
    double ready = 0.0 < row->delay && row->delay < LATEST ? row->start - row->delay : row->start, begin;
    Stretches *own = &task->own;
    list_clear(&self->waited);
    list_clear(&self->turn);
    if (!is_first || is_found(task)) {
        if (explain(self, task, is_first ? -INFINITY : task->last_end, ready, run, 0, &self->waited) < 0)
            return -1;
    }
    else if (task->kind == REQUEST) {
        if (find_arrival(self, row->scheduler, ready, &begin, &self->waited) < 0)
            return -1;
        own->begin = begin;
    }
    else
        own->begin = ready;
    const Followed *awaited = task->kind == CONNECTION ? find_awaited(self, row->scheduler) : NULL;
    if (awaited != NULL && awaited->name &&
        answer_of_connection(self, awaited->ident, awaited->name, task->arrival_begin, &task->arrival,
                             &self->waited) < 0)
        return -1;
    if (add_turn(self, ready, row->start, run->number, &self->turn) < 0 ||
        list_add(&self->turn, row->end, IN_RUNNING, NO_TEXT, NULL) < 0 || add_all(self, own, &self->waited) < 0 ||
        add_all(self, own, &self->turn) < 0)
        return -1;
    task->last_end = row->end;
    if (task->kind == CONNECTION) {
        list_clear(&task->arrival);
        if (find_arrival(self, row->scheduler, ready, &begin, &task->arrival) < 0 ||
            list_extend(&task->arrival, &self->turn) < 0)
            return -1;
        task->arrival_begin = begin;
        stretches_forget_before(own, begin);
    }
    if (take_marks(self, task, run->number) < 0)
        return -1;
    if (!row->outcome)
        return 0;
    end_task(self, task);
    return task->kind == REQUEST ? answer_of_task(self, task) : 0;
}
