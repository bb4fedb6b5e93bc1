/* One chunk: tasks begin, step and end; the twin of AliveTasks.feed in statistics/alive_tasks.py. */

#include "alive.h"

#include <limits.h>
#include <stdlib.h>

/* What Waits (statistics/waits.py) knows; all borrowed. ``step`` is called. ``of_any``: it may know any task, not only
   those whose rows say so. */
typedef struct {
    PyObject *looks, *stood, *awaited, *circles, *step;
    bool of_any;
} Looks;

/* When tasks of a coroutine began and ended in this chunk, of which more may have been alive at once than ever. */
typedef struct {
    Totals *totals;
    double *begins, *ends;
    size_t begin_count, begin_size, end_count, end_size;
} Moments;

typedef struct {
    Moments *items;
    size_t count, size;
} Peaks;

/* -- tasks begin */

static int
take_tasks(AliveTasks *self, const Tasks *tasks)
{
    for (Py_ssize_t index = 0; index < tasks->length; index++) {
        const TaskRow *task = &tasks->rows[index];
        AliveRow *row = begin_alive(self, task->ident, task->start);
        if (row == NULL)
            return -1;
        row->name = Py_XNewRef(task->name);
        row->automatic = task->automatic;
        if (task->waited_from >= 0.0) {
            row->totals->count++;
            row->since = row->last_end = task->waited_from;
        }
        if (task->creator_ident != 0.0) {
            row->creator = site_of(task->creator_ident);
            if (count_creator(row->totals, row->creator) < 0)
                return -1;
        }
    }
    return 0;
}

/* -- they were looked at */

/* The first moment of these; -1.0 with an exception. */
static double
first_look(PyObject *seen)
{
    PyObject *first = PySequence_GetItem(seen, 0);
    double when = first != NULL ? PyFloat_AsDouble(first) : -1.0;
    Py_XDECREF(first);
    return when;
}

/* ``are_looks``: the values are looks, not tasks that it waits for. */
static int
mark(AliveTasks *self, PyObject *by_ident, bool are_looks)
{
    PyObject *ident, *value;
    Py_ssize_t at = 0;
    while (PyDict_Next(by_ident, &at, &ident, &value)) {
        AliveRow *row = PyFloat_Check(ident) ? find_task(self, PyFloat_AS_DOUBLE(ident)) : NULL;
        if (row == NULL)
            continue;
        row->looked_at = true;
        if (are_looks && (row->first_look = first_look(value)) == -1.0 && PyErr_Occurred())
            return -1;
    }
    return 0;
}

/* Marks the tasks that Waits knows, unless there are so many that asking it at each step costs less. */
static int
mark_looked_at(AliveTasks *self, Looks *looks, const Runs *runs)
{
    looks->of_any = PyDict_GET_SIZE(looks->looks) + PyDict_GET_SIZE(looks->awaited) > runs->length / 4;
    if (looks->of_any)
        return 0;
    return mark(self, looks->looks, true) < 0 || mark(self, looks->awaited, false) < 0 ? -1 : 0;
}

/* -- they step */

/* Adds a task that steps and is not known: its beginning was not read, or it was forgotten among too many. */
static AliveRow *
meet(AliveTasks *self, double ident, double start)
{
    AliveRow *row = begin_alive(self, ident, start);
    if (row == NULL)
        return NULL;
    if (row->totals->forgotten) {
        row->totals->forgotten--;
        row->totals->count--; /* the step counts it once more */
    }
    row->looked_at = true;
    row->first_look = -INFINITY;
    return row;
}

static int
contains(PyObject *dict, PyObject *ident)
{
    return PyDict_GET_SIZE(dict) ? PyDict_Contains(dict, ident) : 0;
}

/* Whether Waits.step does anything with a step at ``start`` of a task that was ``seen`` at these moments. Where circles
   are sought there, all looks lie before the step, and so does one at this task. */
static int
concerns(const Looks *looks, PyObject *ident, PyObject *seen, double start)
{
    int result = look_between(seen, -INFINITY, start);
    return result ? result : contains(looks->circles, ident);
}

/* Whether Waits knows no look at the task before ``start``: most steps of a busy task need no more. */
static bool
is_before_looks(const AliveRow *row, const Looks *looks, double start)
{
    return !looks->of_any && row->first_look > start && !PyDict_GET_SIZE(looks->circles);
}

/* The task steps at ``start``, and could have since ``woken``; if a look has found it waiting, Waits.step is called.
   ``before``: the end of the step before, below 0 where there was none. */
static int
end_wait(AliveRow *row, const Looks *looks, double before, double start, double woken)
{
    PyObject *ident = PyFloat_FromDouble(row->ident), *done = NULL;
    PyObject *seen = ident != NULL ? PyDict_GetItemWithError(looks->looks, ident) : NULL;
    int result = seen != NULL ? concerns(looks, ident, seen, start) : PyErr_Occurred() ? -1 : 0;
    if (seen == NULL)
        row->first_look = INFINITY; /* until ``mark`` finds one */
    if (result > 0 && before < 0.0) {
        /* The time before the look is not known, or was forgotten. */
        before = first_look(seen);
        result = before == -1.0 && PyErr_Occurred() ? -1 : before < start;
    }
    if (result > 0) {
        done = PyObject_CallFunction(looks->step, "OddNd", ident, before, start, task_name(row->name, row->automatic),
                                     woken);
        row->first_look = -INFINITY; /* the looks before this step are gone */
        result = done == NULL ? -1 : 0;
    }
    Py_XDECREF(done);
    Py_XDECREF(ident);
    return result;
}

/* Since when what made a step ready at ``ready`` could have run: see _woken in statistics/alive_tasks.py. */
static double
woken_at(const Runs *runs, int64_t scheduler, double ready)
{
    for (int hops = 0; hops < MAX_HOPS_BACK && scheduler > 0; hops++) {
        int64_t index = scheduler - runs->first;
        if (index < 0 || index >= runs->length)
            break;
        const Row *by = &runs->rows[index];
        if (by->ident >= SITE_LIMIT || !(0.0 <= by->delay && by->delay < LATEST))
            break;
        if (by->start - by->delay < ready)
            ready = by->start - by->delay;
        if (is_outside(by->kind))
            break;
        scheduler = by->scheduler;
    }
    return ready;
}

static int
take_step(AliveTasks *self, const Looks *looks, const Runs *runs, const Row *run)
{
    AliveRow *row = find_task(self, run->ident);
    if (row == NULL && (row = meet(self, run->ident, run->start)) == NULL)
        return -1;
    Totals *totals = row->totals;
    double took = run->end - run->start, start = run->start, before = row->last_end, woken;
    totals->steps++;
    totals->running += took;
    if (took > totals->longest_step)
        totals->longest_step = took;
    if (0.0 < run->delay && run->delay < LATEST) {
        totals->ready += run->delay;
        start -= run->delay;
    }
    row->last_end = run->end;
    row->looked_at = row->looked_at || looks->of_any;
    if (before < 0.0) {
        totals->count++;
        row->since = woken = start;
    }
    else if (start > before) {
        woken = fmax(before, woken_at(runs, run->scheduler, start));
        totals->ready += start - woken;
        totals->suspended += woken - before;
    }
    else
        return 0;
    if (!row->looked_at || !PyDict_GET_SIZE(looks->looks) || is_before_looks(row, looks, start))
        return 0;
    return end_wait(row, looks, before, start, woken);
}

static int
take_steps(AliveTasks *self, const Looks *looks, const Runs *runs)
{
    for (Py_ssize_t index = 0; index < runs->length; index++)
        if (runs->rows[index].ident >= SITE_LIMIT && take_step(self, looks, runs, &runs->rows[index]) < 0)
            return -1;
    return 0;
}

/* -- how many were alive at once */

static int
compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

/* They are nearly always in order already. */
static void
sort(double *times, size_t count)
{
    for (size_t at = 1; at < count; at++)
        if (times[at] < times[at - 1]) {
            qsort(times, count, sizeof(double), compare);
            return;
        }
}

/* How many there were at most after one of these changes. What ends when another begins ends first. */
static long long
most_at_once(const Moments *each)
{
    long long now = each->totals->alive - (long long)each->begin_count, most = LLONG_MIN;
    sort(each->begins, each->begin_count);
    sort(each->ends, each->end_count);
    for (size_t begun = 0, ended = 0; begun < each->begin_count || ended < each->end_count;) {
        if (begun == each->begin_count || (ended < each->end_count && each->ends[ended] <= each->begins[begun])) {
            ended++;
            now--;
        }
        else {
            begun++;
            now++;
        }
        if (now > most)
            most = now;
    }
    return most;
}

static int
note_changes(AliveTasks *self, const Peaks *peaks, const Tasks *tasks, const Ends *ends)
{
    for (Py_ssize_t index = 0; index < ends->length; index++) {
        const AliveRow *row = find_task(self, ends->rows[index].ident);
        if (row == NULL || row->state != ALIVE || !row->totals->moments)
            continue;
        Moments *each = &peaks->items[row->totals->moments - 1];
        if (reserve((void **)&each->ends, &each->end_size, each->end_count + 1, sizeof(double)) < 0)
            return -1;
        each->ends[each->end_count++] = ends->rows[index].when;
    }
    for (Py_ssize_t index = 0; index < tasks->length; index++) {
        const AliveRow *row = find_task(self, tasks->rows[index].ident);
        if (row == NULL || row->state != ALIVE || !row->totals->moments)
            continue;
        Moments *each = &peaks->items[row->totals->moments - 1];
        if (!each->end_count)
            continue;
        if (reserve((void **)&each->begins, &each->begin_size, each->begin_count + 1, sizeof(double)) < 0)
            return -1;
        each->begins[each->begin_count++] = row->since;
    }
    return 0;
}

static void
forget_peaks(Peaks *peaks)
{
    for (size_t index = 0; index < peaks->count; index++) {
        peaks->items[index].totals->moments = 0;
        PyMem_Free(peaks->items[index].begins);
        PyMem_Free(peaks->items[index].ends);
    }
    PyMem_Free(peaks->items);
}

/* Called before the tasks that ended in the chunk are subtracted. */
static int
find_peaks(AliveTasks *self, const Tasks *tasks, const Ends *ends)
{
    Peaks peaks = {0};
    int result = 0;
    for (size_t site = 0; result == 0 && site < self->site_count; site++) {
        Totals *totals = self->by_site[site];
        if (totals == NULL || totals->alive <= totals->most_alive || totals->moments)
            continue;
        result = reserve((void **)&peaks.items, &peaks.size, peaks.count + 1, sizeof(Moments));
        if (result == 0) {
            peaks.items[peaks.count++] = (Moments){.totals = totals};
            totals->moments = peaks.count;
        }
    }
    if (result == 0 && peaks.count)
        result = note_changes(self, &peaks, tasks, ends);
    for (size_t index = 0; result == 0 && index < peaks.count; index++) {
        const Moments *each = &peaks.items[index];
        long long most = each->end_count ? most_at_once(each) : each->totals->alive;
        if (most > each->totals->most_alive)
            each->totals->most_alive = most;
    }
    forget_peaks(&peaks);
    return result;
}

/* -- they end */

static int
forget(PyObject *dict, PyObject *ident)
{
    int known = contains(dict, ident);
    return known > 0 ? PyDict_DelItem(dict, ident) : known;
}

/* Waits.forget. */
static int
forget_waits(const Looks *looks, double ident)
{
    if (!PyDict_GET_SIZE(looks->looks) && !PyDict_GET_SIZE(looks->stood) && !PyDict_GET_SIZE(looks->awaited))
        return 0;
    PyObject *key = PyFloat_FromDouble(ident);
    int failed = key == NULL || forget(looks->looks, key) < 0 || forget(looks->stood, key) < 0 ||
                 forget(looks->awaited, key) < 0;
    Py_XDECREF(key);
    return failed ? -1 : 0;
}

static int
take_ends(AliveTasks *self, const Looks *looks, const Ends *ends)
{
    forget_ended(self);
    for (Py_ssize_t index = 0; index < ends->length; index++) {
        const EndRow *end = &ends->rows[index];
        AliveRow *row = find_task(self, end->ident);
        bool is_alive = row != NULL && row->state == ALIVE;
        Totals *totals = is_alive ? row->totals : totals_of(self, site_of(end->ident));
        bool looked_at = !is_alive || row->looked_at || looks->of_any;
        if (totals == NULL || (is_alive && end_alive(self, row) < 0))
            return -1;
        totals->results += end->outcome == 1;
        totals->exceptions += end->outcome == 2;
        totals->cancelled += end->outcome == 3;
        if (looked_at && forget_waits(looks, end->ident) < 0)
            return -1;
    }
    return 0;
}

/* feed(runs, tasks, ends, looks, stood, awaited, circles, step): takes in a chunk; the last five are of Waits. */
PyObject *
alive_feed(AliveTasks *self, PyObject *args)
{
    reader_state *st = state_of(Py_TYPE(self));
    PyObject *runs, *tasks, *ends;
    Looks looks;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!O!O!O", st->runs, &runs, st->tasks, &tasks, st->ends, &ends, &PyDict_Type,
                          &looks.looks, &PyDict_Type, &looks.stood, &PyDict_Type, &looks.awaited, &PyDict_Type,
                          &looks.circles, &looks.step))
        return NULL;
    if (self->feeding) {
        PyErr_SetString(PyExc_RuntimeError, "a chunk is being taken in");
        return NULL;
    }
    self->feeding = true;
    int failed = take_tasks(self, (Tasks *)tasks) < 0;
    failed = failed || mark_looked_at(self, &looks, (Runs *)runs) < 0 || take_steps(self, &looks, (Runs *)runs) < 0 ||
             find_peaks(self, (Tasks *)tasks, (Ends *)ends) < 0 || take_ends(self, &looks, (Ends *)ends) < 0;
    tidy_rows(self);
    self->feeding = false;
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}
