/* Requests as a Python type: Requests(buckets), feed(...). requests/native_ledger.py uses it. */

#include "ledger.h"

static int
take_marks(Requests *self, const Marks *marks)
{
    for (Py_ssize_t index = 0; index < marks->length; index++)
        if (marks->rows[index].run > 0 && marks_add(self, marks->rows[index].run, marks->rows[index].site) < 0)
            return -1;
    return 0;
}

static int
take_tasks(Requests *self, const Tasks *tasks)
{
    for (Py_ssize_t index = 0; index < tasks->length; index++) {
        const TaskRow row = tasks->rows[index];
        if (begin_task(self, &row) < 0)
            return -1;
    }
    return 0;
}

static int
take_runs(Requests *self, Runs *runs)
{
    for (Py_ssize_t index = 0; self->followed.length && index < runs->length; index++) {
        if (!(runs->rows[index].ident >= SITE_LIMIT))
            continue;
        Followed *task = table_get(&self->followed, runs->rows[index].ident);
        Run run = {runs->first + index, runs->rows[index]};
        if (task != NULL && take_step(self, task, &run) < 0)
            return -1;
    }
    return 0;
}

static void
drop_followed(Requests *self)
{
    for (const Followed *task = self->followed.oldest; task != NULL; task = task->newer)
        self->incomplete += task->root == task;
    table_clear(&self->followed);
}

static PyObject *
requests_feed(Requests *self, PyObject *args)
{
    reader_state *st = state_of(Py_TYPE(self));
    PyObject *owner, *runs, *tasks, *marks, *delivered, *looks;
    Py_ssize_t dropped;
    int tell_all;
    double latest_look, least_slow;
    if (!PyArg_ParseTuple(args, "OO!O!O!O!O!dnpd", &owner, st->runs, &runs, st->tasks, &tasks, st->marks, &marks,
                          &PyDict_Type, &delivered, &PyDict_Type, &looks, &latest_look, &dropped, &tell_all,
                          &least_slow))
        return NULL;
    if (self->feeding) {
        PyErr_SetString(PyExc_RuntimeError, "requests are being fed");
        return NULL;
    }
    PyObject *singles = PyList_New(0), *sums = NULL;
    if (singles == NULL)
        return NULL;
    self->feeding = true;
    self->owner = owner;
    self->delivered = delivered;
    self->looks = looks;
    self->singles = singles;
    self->tell_all = tell_all != 0;
    self->latest_look = latest_look;
    self->least_slow = least_slow;
    self->incomplete = 0;
    if (dropped)
        drop_followed(self);
    if (runs_add(self, (Runs *)runs) == 0 && take_marks(self, (Marks *)marks) == 0 &&
        take_tasks(self, (Tasks *)tasks) == 0 && take_runs(self, (Runs *)runs) == 0)
        sums = take_sums(self);
    forget_sums(self);
    self->feeding = false;
    self->owner = self->delivered = self->looks = self->singles = NULL;
    PyObject *result = sums != NULL ? Py_BuildValue("(LOO)", self->incomplete, singles, sums) : NULL;
    Py_XDECREF(sums);
    Py_DECREF(singles);
    return result;
}

static PyObject *
requests_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *buckets;
    if (kwargs != NULL && PyDict_GET_SIZE(kwargs)) {
        PyErr_SetString(PyExc_TypeError, "Requests(buckets)");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "O!", state_of(type)->buckets, &buckets))
        return NULL;
    Requests *self = (Requests *)type->tp_alloc(type, 0); /* zeroed */
    if (self == NULL)
        return NULL;
    self->bounds = (Buckets *)Py_NewRef(buckets);
    uint64_t salt = state_of(type)->salt;
    if (names_init(&self->names) < 0 || table_init(&self->followed, salt) < 0 || table_init(&self->ended, salt) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
requests_dealloc(Requests *self)
{
    table_free(&self->followed);
    table_free(&self->ended);
    forget_runs(self);
    forget_marks(self);
    forget_sums(self);
    list_clear(&self->waited);
    list_clear(&self->turn);
    PyMem_Free(self->waited.items);
    PyMem_Free(self->turn.items);
    PyMem_Free(self->sums.items);
    stretches_clear(&self->whole);
    names_free(&self->names);
    Py_XDECREF(self->bounds);
    free_object((PyObject *)self);
}

static PyMethodDef requests_methods[] = {
    {"feed", (PyCFunction)requests_feed, METH_VARARGS,
     "feed(owner, runs, tasks, marks, delivered, looks, latest_look, dropped, tell_all, least_slow)\n\n"
     "Takes in one chunk. Returns how many requests were given up, those told one by one, and the sums of the others\n"
     "by name."},
    {NULL},
};

static PyType_Slot requests_slots[] = {
    {Py_tp_doc, "The requests of one loop (requests/native_ledger.py)."},
    {Py_tp_new, requests_new},
    {Py_tp_methods, requests_methods},
    {Py_tp_dealloc, requests_dealloc},
    {0, NULL},
};

PyType_Spec requests_spec = {"_reader.Requests", sizeof(Requests), 0, Py_TPFLAGS_DEFAULT, requests_slots};
