/* What the builder in Python is asked for (otlp/packing.py): it is rare, and what it answers is kept for a while. */

#include "packing.h"

/* The bytes that all spans of this callback have in common; borrowed, until Python code runs. */
PyObject *
common_of(Work *work, const Row *row)
{
    uint64_t bits;
    memcpy(&bits, &row->ident, 8);
    size_t place = ((bits ^ (bits >> 32) ^ row->kind) * UINT64_C(0x9E3779B97F4A7C15)) >> 55;
    KnownKind *known = &work->st->known[place];
    if (known->generation == work->st->generation && known->ident == row->ident && known->kind == row->kind)
        return known->common;
    PyObject *name = PyTuple_GET_ITEM(work->packer->kinds, row->kind);
    PyObject *kinds = PyDict_GetItemWithError(work->kinds, name), *kind = NULL;
    if (kinds != NULL && PyDict_Check(kinds)) {
        PyObject *ident = PyFloat_FromDouble(row->ident);
        if (ident == NULL)
            return NULL;
        kind = Py_XNewRef(PyDict_GetItemWithError(kinds, ident));
        Py_DECREF(ident);
    }
    if (kind == NULL) {
        if (PyErr_Occurred())
            return NULL;
        PyObject *ident = PyFloat_FromDouble(row->ident);
        if (ident == NULL)
            return NULL;
        kind = PyObject_CallMethodObjArgs(work->builder, work->st->text_kind, ident, name, NULL);
        Py_DECREF(ident);
        forget_kinds(work);
        if (kind == NULL)
            return NULL;
    }
    PyObject *common = PyObject_GetAttr(kind, work->st->text_common);
    Py_XSETREF(work->kind, kind);
    if (common == NULL)
        return NULL;
    Py_DECREF(common); /* the kind has it */
    if (!PyBytes_Check(common)) {
        PyErr_SetString(PyExc_TypeError, "common fields are bytes");
        return NULL;
    }
    *known = (KnownKind){work->st->generation, row->ident, common, row->kind};
    return common;
}

/* What an application's span puts before the spans of its runs; borrowed from ``work``. */
const KnownContext *
context_of(Work *work, int64_t number)
{
    KnownContext *known = &work->contexts[(uint64_t)number % KNOWN_CONTEXTS];
    if (known->number == number)
        return known;
    PyObject *argument = PyLong_FromLongLong(number);
    if (argument == NULL)
        return NULL;
    PyObject *found = PyObject_CallMethodOneArg(work->builder, work->st->text_context_head, argument);
    Py_DECREF(argument);
    forget_kinds(work);
    if (found == NULL)
        return NULL;
    PyObject *head, *trace;
    if (!PyArg_ParseTuple(found, "SS", &head, &trace) ||
        (size_of(trace) && size_of(trace) != sizeof(Trace))) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a trace has 16 bytes");
        Py_DECREF(found);
        return NULL;
    }
    Py_XSETREF(known->head, Py_NewRef(head));
    known->number = number;
    known->sent = size_of(trace) != 0;
    known->not_sent = !known->sent && size_of(head);
    if (known->sent)
        memcpy(known->trace.id, PyBytes_AS_STRING(trace), sizeof(Trace));
    Py_DECREF(found);
    return known;
}

/* Whether the run is one of the slow ones; its span waits for what is still to be learnt, so Python makes it. */
int
take_slow_run(Work *work, const Row *row, long long number)
{
    PyObject *key = PyLong_FromLongLong(number);
    if (key == NULL)
        return -1;
    int slow = PyDict_Contains(work->active, key);
    Py_DECREF(key);
    if (slow <= 0)
        return slow;
    PyObject *run = Py_BuildValue("(LdddOdLLLi)", number, row->start, row->end, row->ident,
                                  PyTuple_GET_ITEM(work->packer->kinds, row->kind), row->delay,
                                  (long long)row->scheduler, (long long)row->context, (long long)row->iteration,
                                  (int)row->outcome);
    PyObject *trace = PyBytes_FromStringAndSize(work->now.trace.id, sizeof(Trace));
    PyObject *parent = PyBytes_FromStringAndSize((char *)&work->now.parent, work->now.has_parent ? 8 : 0);
    PyObject *done = NULL;
    if (run != NULL && trace != NULL && parent != NULL)
        done = PyObject_CallMethodObjArgs(work->builder, work->st->text_take_slow_run, run, trace, parent, NULL);
    forget_kinds(work);
    Py_XDECREF(run);
    Py_XDECREF(trace);
    Py_XDECREF(parent);
    Py_XDECREF(done);
    return done == NULL ? -1 : 1;
}

/* The span of an iteration whose end was lost. ``runs``: how many it had. */
int
end_lost_iteration(Work *work, long long runs)
{
    PyObject *done = PyObject_CallMethod(work->builder, "_end_lost_iteration", "Ly#y#ddL", work->now.number,
                                         work->now.trace.id, (Py_ssize_t)sizeof(Trace), (char *)&work->now.parent,
                                         (Py_ssize_t)8, work->now.first_start, work->now.last_end, runs);
    forget_kinds(work);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}
