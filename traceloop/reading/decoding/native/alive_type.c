/* AliveTasks as a Python type: its life, and what Python asks it. */

#include "alive.h"

#include <stddef.h>
#include <structmember.h>

/* -1 with an error set while ``feed`` calls Python, which may look at the tasks then, but not change them. */
static int
may_change(const AliveTasks *self)
{
    if (self->feeding)
        PyErr_SetString(PyExc_RuntimeError, "a chunk is being taken in");
    return self->feeding ? -1 : 0;
}

/* A KnownTask: ident, name, since, last_end, creator. */
static PyObject *
known_task(const AliveTasks *self, const AliveRow *row)
{
    return PyObject_CallFunction(state_of(Py_TYPE(self))->known_task, "dNddI", row->ident,
                                 task_name(row->name, row->automatic), row->since, row->last_end, row->creator);
}

static PyObject *
alive_totals(AliveTasks *self, PyObject *argument)
{
    unsigned long site = PyLong_AsUnsignedLong(argument);
    if (PyErr_Occurred())
        return NULL;
    if (site >= (unsigned long)SITE_LIMIT) {
        PyErr_SetString(PyExc_ValueError, "no site");
        return NULL;
    }
    return Py_XNewRef((PyObject *)totals_of(self, (uint32_t)site));
}

static PyObject *
alive_begin(AliveTasks *self, PyObject *args)
{
    double ident, since;
    if (!PyArg_ParseTuple(args, "dd", &ident, &since) || may_change(self) < 0 ||
        begin_alive(self, ident, since) == NULL)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
alive_remove(AliveTasks *self, PyObject *argument)
{
    double ident = PyFloat_AsDouble(argument);
    if (PyErr_Occurred() || may_change(self) < 0)
        return NULL;
    AliveRow *row = find_task(self, ident);
    if (row == NULL || row->state != ALIVE)
        Py_RETURN_NONE;
    PyObject *known = known_task(self, row);
    row = known != NULL ? find_task(self, ident) : NULL; /* anew: a named tuple is made by Python code */
    if (row != NULL && row->state == ALIVE) {
        row->totals->alive--;
        remove_task(self, row);
    }
    return known;
}

static PyObject *
alive_get(AliveTasks *self, PyObject *argument)
{
    double ident = PyFloat_AsDouble(argument);
    if (PyErr_Occurred())
        return NULL;
    const AliveRow *row = find_task(self, ident);
    if (row == NULL || row->state != ALIVE)
        Py_RETURN_NONE;
    return known_task(self, row);
}

/* idents(): of the tasks that are alive, in the order in which they began. */
static PyObject *
alive_idents(AliveTasks *self, PyObject *ignored)
{
    PyObject *list = PyList_New(0);
    for (size_t at = 0; list != NULL && at < self->length; at++) {
        if (self->rows[at].state != ALIVE)
            continue;
        PyObject *ident = PyFloat_FromDouble(self->rows[at].ident);
        if (ident == NULL || PyList_Append(list, ident) < 0)
            Py_CLEAR(list);
        Py_XDECREF(ident);
    }
    return list;
}

/* oldest(): of each coroutine, the task that is alive for longest; oldest first. */
static PyObject *
alive_oldest(AliveTasks *self, PyObject *ignored)
{
    PyObject *list = PyList_New(0);
    uint8_t *seen = list != NULL ? PyMem_Calloc((size_t)SITE_LIMIT, 1) : NULL;
    if (list != NULL && seen == NULL)
        PyErr_NoMemory();
    for (size_t at = 0; seen != NULL && list != NULL && at < self->length; at++) {
        const AliveRow *row = &self->rows[at];
        uint32_t site = site_of(row->ident);
        if (row->state != ALIVE || seen[site])
            continue;
        seen[site] = 1;
        PyObject *known = known_task(self, row);
        if (known == NULL || PyList_Append(list, known) < 0)
            Py_CLEAR(list);
        Py_XDECREF(known);
    }
    if (seen == NULL)
        Py_CLEAR(list);
    PyMem_Free(seen);
    return list;
}

/* by_site(): how many tasks are alive of each coroutine that has any. */
static PyObject *
alive_by_site(AliveTasks *self, PyObject *ignored)
{
    long long *counts = PyMem_Calloc((size_t)SITE_LIMIT, sizeof(long long));
    if (counts == NULL)
        return PyErr_NoMemory();
    for (size_t at = 0; at < self->length; at++)
        counts[site_of(self->rows[at].ident)] += self->rows[at].state == ALIVE;
    PyObject *found = PyDict_New();
    for (unsigned long site = 0; found != NULL && site < (unsigned long)SITE_LIMIT; site++) {
        if (!counts[site])
            continue;
        PyObject *key = PyLong_FromUnsignedLong(site), *count = PyLong_FromLongLong(counts[site]);
        if (key == NULL || count == NULL || PyDict_SetItem(found, key, count) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    PyMem_Free(counts);
    return found;
}

/* clear(): another loop has the label. */
static PyObject *
alive_clear(AliveTasks *self, PyObject *ignored)
{
    if (may_change(self) < 0)
        return NULL;
    forget_tasks(self);
    for (size_t site = 0; site < self->site_count; site++)
        if (self->by_site[site] != NULL)
            self->by_site[site]->alive = self->by_site[site]->forgotten = 0;
    Py_RETURN_NONE;
}

static Py_ssize_t
alive_length(AliveTasks *self)
{
    return (Py_ssize_t)self->alive;
}

static PyObject *
alive_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *coroutines;
    Py_ssize_t most;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "AliveTasks(coroutines, most)");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!n", &PyDict_Type, &coroutines, &most))
        return NULL;
    if (most < 16 || most > 1 << 24) {
        PyErr_SetString(PyExc_ValueError, "not so many tasks");
        return NULL;
    }
    AliveTasks *self = (AliveTasks *)type->tp_alloc(type, 0); /* zeroed */
    if (self == NULL)
        return NULL;
    self->coroutines = Py_NewRef(coroutines);
    self->most = (size_t)most;
    self->salt = state_of(type)->salt;
    return (PyObject *)self;
}

static void
alive_dealloc(AliveTasks *self)
{
    for (size_t at = 0; at < self->length; at++)
        Py_XDECREF(self->rows[at].name);
    for (size_t site = 0; site < self->site_count; site++)
        Py_XDECREF(self->by_site[site]);
    Py_XDECREF(self->coroutines);
    PyMem_Free(self->rows);
    PyMem_Free(self->by_site);
    PyMem_Free(self->buckets);
    PyMem_Free(self->ended);
    free_object((PyObject *)self);
}

static PyMethodDef alive_methods[] = {
    {"feed", (PyCFunction)alive_feed, METH_VARARGS,
     "feed(runs, tasks, ends, looks, stood, awaited, circles, step): takes in one chunk."},
    {"begin", (PyCFunction)alive_begin, METH_VARARGS, "begin(ident, since): adds a task."},
    {"by_site", (PyCFunction)alive_by_site, METH_NOARGS, "How many tasks are alive, by the site of their coroutine."},
    {"clear", (PyCFunction)alive_clear, METH_NOARGS, "Forgets all tasks; the totals of coroutines stay."},
    {"get", (PyCFunction)alive_get, METH_O, "A task that is alive; None where there is none with this ident."},
    {"idents", (PyCFunction)alive_idents, METH_NOARGS, "The idents of the tasks that are alive, in order."},
    {"oldest", (PyCFunction)alive_oldest, METH_NOARGS, "The oldest task of each coroutine that has tasks alive."},
    {"remove", (PyCFunction)alive_remove, METH_O, "Removes a task that was destroyed, and returns it."},
    {"totals", (PyCFunction)alive_totals, METH_O, "The totals of the coroutine at a site."},
    {NULL},
};

static PyMemberDef alive_members[] = {
    {"forgotten", T_PYSSIZET, offsetof(AliveTasks, forgotten), READONLY, "Tasks that there was no room for."},
    {NULL},
};

static PyType_Slot alive_slots[] = {
    {Py_tp_doc, "The tasks of one loop that are alive (statistics/alive_tasks.py)."},
    {Py_tp_new, alive_new},
    {Py_sq_length, alive_length},
    {Py_tp_methods, alive_methods},
    {Py_tp_members, alive_members},
    {Py_tp_dealloc, alive_dealloc},
    {0, NULL},
};

PyType_Spec alive_spec = {"_reader.AliveTasks", sizeof(AliveTasks), 0, Py_TPFLAGS_DEFAULT, alive_slots};
