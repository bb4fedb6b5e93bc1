/* Tasks and Ends: tasks that begin in a chunk, and tasks that end in it, in rows of structures. decoding/task_rows.py
   has the plain form. */

#include "reader.h"

/* sites(first, last): how many of these rows are of which site, as a dictionary in their order. ``ident`` is where a
   row of ``each`` bytes has its ident. */
static PyObject *
sites_among(PyObject *args, const void *rows, Py_ssize_t length, size_t ident_at, size_t each)
{
    Py_ssize_t first, last;
    if (!PyArg_ParseTuple(args, "nn", &first, &last))
        return NULL;
    if (first < 0 || last > length) {
        PyErr_SetString(PyExc_IndexError, "no such tasks");
        return NULL;
    }
    PyObject *found = PyDict_New();
    while (found != NULL && first < last) {
        /* Mostly many of one site follow each other. */
        uint32_t site = 0;
        Py_ssize_t begun = first;
        for (; first < last; first++) {
            double ident;
            memcpy(&ident, (const char *)rows + (size_t)first * each + ident_at, sizeof(ident));
            uint32_t next = site_of(ident);
            if (first > begun && next != site)
                break;
            site = next;
        }
        PyObject *key = PyLong_FromUnsignedLong(site), *count = NULL;
        PyObject *before = key != NULL ? PyDict_GetItemWithError(found, key) : NULL;
        if (key != NULL && !PyErr_Occurred())
            count = PyLong_FromSsize_t(first - begun + (before != NULL ? PyLong_AsSsize_t(before) : 0));
        if (count == NULL || PyDict_SetItem(found, key, count) < 0)
            Py_CLEAR(found);
        Py_XDECREF(key);
        Py_XDECREF(count);
    }
    return found;
}

/* -- Tasks */

TaskRow *
tasks_add(Tasks *tasks)
{
    if (reserve((void **)&tasks->rows, &tasks->size, (size_t)tasks->length + 1, sizeof(TaskRow)) < 0)
        return NULL;
    return &tasks->rows[tasks->length++];
}

PyObject *
task_name(PyObject *name, int64_t automatic)
{
    if (name != NULL)
        return Py_NewRef(name);
    return automatic < 0 ? PyUnicode_FromString("") : PyUnicode_FromFormat("Task-%lld", (long long)automatic);
}

static Py_ssize_t
tasks_length(Tasks *self)
{
    return self->length;
}

static PyObject *
tasks_item(Tasks *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such task") < 0)
        return NULL;
    const TaskRow *row = &self->rows[index];
    return PyObject_CallFunction(state_of(Py_TYPE(self))->new_task, "dNLdLdOd", row->ident,
                                 task_name(row->name, row->automatic), (long long)row->first_run, row->start,
                                 (long long)row->creator, row->creator_ident, row->made_by_loop ? Py_True : Py_False,
                                 row->waited_from);
}

static PyObject *
tasks_append(Tasks *self, PyObject *tuple)
{
    double ident, start, creator_ident, waited_from = -1.0;
    long long first_run, creator;
    PyObject *name;
    int made_by_loop;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a new task is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(tuple, "dOLdLdp|d", &ident, &name, &first_run, &start, &creator, &creator_ident,
                          &made_by_loop, &waited_from))
        return NULL;
    TaskRow *row = tasks_add(self);
    if (row == NULL)
        return NULL;
    *row = (TaskRow){ident,   start, creator_ident,   waited_from,      first_run,
                     creator, -1,    Py_NewRef(name), made_by_loop != 0};
    Py_RETURN_NONE;
}

static PyObject *
tasks_sites(Tasks *self, PyObject *args)
{
    return sites_among(args, self->rows, self->length, offsetof(TaskRow, ident), sizeof(TaskRow));
}

static void
tasks_dealloc(Tasks *self)
{
    /* Names are texts: no code runs here. */
    for (Py_ssize_t index = 0; index < self->length; index++)
        Py_XDECREF(self->rows[index].name);
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef tasks_methods[] = {
    {"append", (PyCFunction)tasks_append, METH_O, "Adds a task at the end."},
    {"sites", (PyCFunction)tasks_sites, METH_VARARGS, "How many tasks from one index to another are of which site."},
    {NULL},
};

static PyType_Slot tasks_slots[] = {
    {Py_tp_doc, "Tasks that begin, in order (decoding/task_rows.py)."},
    {Py_sq_length, tasks_length},
    {Py_sq_item, tasks_item},
    {Py_tp_methods, tasks_methods},
    {Py_tp_dealloc, tasks_dealloc},
    {0, NULL},
};

PyType_Spec tasks_spec = {"_reader.Tasks", sizeof(Tasks), 0, Py_TPFLAGS_DEFAULT, tasks_slots};

/* -- Ends */

int
ends_add(Ends *ends, EndRow row)
{
    if (reserve((void **)&ends->rows, &ends->size, (size_t)ends->length + 1, sizeof(EndRow)) < 0)
        return -1;
    ends->rows[ends->length++] = row;
    return 0;
}

static Py_ssize_t
ends_length(Ends *self)
{
    return self->length;
}

static PyObject *
ends_item(Ends *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such task") < 0)
        return NULL;
    const EndRow *row = &self->rows[index];
    return Py_BuildValue("(didL)", row->ident, (int)row->outcome, row->when, (long long)row->run);
}

static PyObject *
ends_append(Ends *self, PyObject *tuple)
{
    double ident, when;
    int outcome;
    long long run;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a task's end is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(tuple, "didL", &ident, &outcome, &when, &run))
        return NULL;
    if (outcome < 0 || outcome >= FIRST_STEP) {
        PyErr_SetString(PyExc_ValueError, "no outcome");
        return NULL;
    }
    if (ends_add(self, (EndRow){ident, when, run, (uint8_t)outcome}) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
ends_sites(Ends *self, PyObject *args)
{
    return sites_among(args, self->rows, self->length, offsetof(EndRow, ident), sizeof(EndRow));
}

/* outcomes(): how many ended how, by outcome. */
static PyObject *
ends_outcomes(Ends *self, PyObject *ignored)
{
    long long counts[FIRST_STEP] = {0};
    for (Py_ssize_t index = 0; index < self->length; index++)
        counts[self->rows[index].outcome]++;
    return Py_BuildValue("(LLLL)", counts[0], counts[1], counts[2], counts[3]);
}

static void
ends_dealloc(Ends *self)
{
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef ends_methods[] = {
    {"append", (PyCFunction)ends_append, METH_O, "Adds an end at the end."},
    {"outcomes", (PyCFunction)ends_outcomes, METH_NOARGS, "How many tasks ended how, by outcome."},
    {"sites", (PyCFunction)ends_sites, METH_VARARGS, "How many tasks from one index to another are of which site."},
    {NULL},
};

static PyType_Slot ends_slots[] = {
    {Py_tp_doc, "Tasks that end, in order (decoding/task_rows.py)."},
    {Py_sq_length, ends_length},
    {Py_sq_item, ends_item},
    {Py_tp_methods, ends_methods},
    {Py_tp_dealloc, ends_dealloc},
    {0, NULL},
};

PyType_Spec ends_spec = {"_reader.Ends", sizeof(Ends), 0, Py_TPFLAGS_DEFAULT, ends_slots};
