/* Further steps of tasks that are alive already, as most steps of long-lived tasks are: added up by what has the
   totals of their coroutines, where nothing but sums follows from them. Everything else is left to
   statistics/tasks.py. */

#include "steps.h"

/* Further ones are left to Python. */
#define MAX_TOTALS 64

/* ``totals`` is owned. */
typedef struct {
    PyObject *totals;
    long long steps;
    double running, longest, ready, suspended;
} KnownSums;

typedef struct {
    KnownSums items[MAX_TOTALS];
    size_t count, latest;
} AllSums;

/* Takes over the caller's reference. NULL where there are too many. */
static KnownSums *
sums_of(AllSums *all, PyObject *totals)
{
    size_t at = all->latest;
    if (at >= all->count || all->items[at].totals != totals)
        for (at = 0; at < all->count && all->items[at].totals != totals;)
            at++;
    if (at == MAX_TOTALS) {
        Py_DECREF(totals);
        return NULL;
    }
    if (at == all->count)
        all->items[all->count++] = (KnownSums){.totals = totals};
    else
        Py_DECREF(totals);
    all->latest = at;
    return &all->items[at];
}

/* 1 where the group was added, 0 where it is left to Python. ``task``: what tasks.py knows of it. */
static int
add_group(reader_state *st, AllSums *all, const Group *group, PyObject *task)
{
    PyObject *end = PyObject_GetAttr(task, st->text_last_end);
    double before = end != NULL ? PyFloat_AsDouble(end) : -1.0;
    Py_XDECREF(end);
    if (PyErr_Occurred())
        return -1;
    if (!(before >= 0.0))
        return 0;
    PyObject *totals = PyObject_GetAttr(task, st->text_totals);
    if (totals == NULL)
        return -1;
    KnownSums *sums = sums_of(all, totals);
    if (sums == NULL)
        return 0;
    end = PyFloat_FromDouble(group->last_end);
    int failed = end == NULL || PyObject_SetAttr(task, st->text_last_end, end) < 0;
    Py_XDECREF(end);
    if (failed)
        return -1;
    sums->steps += group->steps;
    sums->running += group->running;
    sums->ready += group->ready;
    sums->suspended += group->suspended;
    if (group->first_start > before)
        sums->suspended += group->first_start - before;
    if (group->longest > sums->longest)
        sums->longest = group->longest;
    return 1;
}

static int
add_if_known(reader_state *st, AllSums *all, const Group *group, PyObject *alive, PyObject *looks)
{
    PyObject *ident = PyFloat_FromDouble(group->ident), *task = NULL;
    int result = ident == NULL ? -1 : PyDict_GET_SIZE(looks) ? PyDict_Contains(looks, ident) : 0;
    if (result == 0) {
        task = PyDict_GetItemWithError(alive, ident);
        if (task == NULL)
            result = PyErr_Occurred() ? -1 : 0;
        else {
            Py_INCREF(task);
            result = add_group(st, all, group, task);
            Py_DECREF(task);
        }
    }
    else if (result > 0)
        result = 0; /* a look has seen it wait before one of these steps */
    Py_XDECREF(ident);
    return result;
}

/* A list of (totals, steps, seconds in them, in the longest, from ready to step, suspended); the groups that are in it
   are marked as known. ``alive``: by ident, objects with ``totals`` and ``last_end``, which is set. ``looks``: has the
   tasks that a look has seen waiting. */
PyObject *
add_known(reader_state *st, Groups *groups, PyObject *alive, PyObject *looks)
{
    AllSums all = {0};
    int failed = 0;
    PyObject *list = NULL;
    if (PyDict_GET_SIZE(alive))
        for (size_t index = 0; !failed && index < groups->count; index++) {
            Group *group = &groups->groups[index];
            if (group->is_whole || group->begins || group->begun || !(group->last_end >= 0.0))
                continue;
            int added = add_if_known(st, &all, group, alive, looks);
            group->is_known = added > 0;
            failed = added < 0;
        }
    list = failed ? NULL : PyList_New(0);
    for (size_t index = 0; index < all.count; index++) {
        const KnownSums *each = &all.items[index];
        PyObject *item = list == NULL ? NULL
                                      : Py_BuildValue("(OLdddd)", each->totals, each->steps, each->running,
                                                      each->longest, each->ready, each->suspended);
        if (list != NULL && (item == NULL || PyList_Append(list, item) < 0))
            Py_CLEAR(list);
        Py_XDECREF(item);
        Py_DECREF(each->totals);
    }
    return list;
}
