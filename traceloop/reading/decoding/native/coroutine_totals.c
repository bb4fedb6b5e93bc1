/* CoroutineTotals of statistics/alive_tasks.py, with the same attributes. */

#include "alive.h"

#include <structmember.h>

/* One more task that a run of this site made. */
int
count_creator(Totals *totals, uint32_t site)
{
    size_t at = 0;
    while (at < totals->creator_count && totals->creators[at].site != site)
        at++;
    if (at == MAX_CREATORS)
        return 0;
    if (at == totals->creator_count) {
        if (reserve((void **)&totals->creators, &totals->creator_size, at + 1, sizeof(Creator)) < 0)
            return -1;
        totals->creators[totals->creator_count++] = (Creator){site, 0};
    }
    totals->creators[at].tasks++;
    return 0;
}

static PyObject *
creators_of(Totals *self, void *ignored)
{
    PyObject *found = PyDict_New();
    for (size_t at = 0; found != NULL && at < self->creator_count; at++) {
        PyObject *site = PyLong_FromUnsignedLong(self->creators[at].site);
        PyObject *tasks = PyLong_FromLongLong(self->creators[at].tasks);
        if (site == NULL || tasks == NULL || PyDict_SetItem(found, site, tasks) < 0)
            Py_CLEAR(found);
        Py_XDECREF(site);
        Py_XDECREF(tasks);
    }
    return found;
}

static void
totals_dealloc(Totals *self)
{
    PyMem_Free(self->creators);
    free_object((PyObject *)self);
}

static PyMemberDef totals_members[] = {
    {"abandoned", T_LONGLONG, offsetof(Totals, abandoned), 0, NULL},
    {"alive", T_LONGLONG, offsetof(Totals, alive), 0, NULL},
    {"cancelled", T_LONGLONG, offsetof(Totals, cancelled), 0, NULL},
    {"count", T_LONGLONG, offsetof(Totals, count), 0, NULL},
    {"exceptions", T_LONGLONG, offsetof(Totals, exceptions), 0, NULL},
    {"forgotten", T_LONGLONG, offsetof(Totals, forgotten), 0, NULL},
    {"left", T_LONGLONG, offsetof(Totals, left), 0, NULL},
    {"longest_step", T_DOUBLE, offsetof(Totals, longest_step), 0, NULL},
    {"most_alive", T_LONGLONG, offsetof(Totals, most_alive), 0, NULL},
    {"ready", T_DOUBLE, offsetof(Totals, ready), 0, NULL},
    {"results", T_LONGLONG, offsetof(Totals, results), 0, NULL},
    {"running", T_DOUBLE, offsetof(Totals, running), 0, NULL},
    {"steps", T_LONGLONG, offsetof(Totals, steps), 0, NULL},
    {"suspended", T_DOUBLE, offsetof(Totals, suspended), 0, NULL},
    {NULL},
};

static PyGetSetDef totals_getset[] = {
    {"creators", (getter)creators_of, NULL, "Tasks by the site of what made them.", NULL},
    {NULL},
};

static PyType_Slot totals_slots[] = {
    {Py_tp_doc, "Tasks of one coroutine function (statistics/alive_tasks.py)."},
    {Py_tp_members, totals_members},
    {Py_tp_getset, totals_getset},
    {Py_tp_dealloc, totals_dealloc},
    {0, NULL},
};

PyType_Spec totals_spec = {"_reader.CoroutineTotals", sizeof(Totals), 0, Py_TPFLAGS_DEFAULT, totals_slots};
