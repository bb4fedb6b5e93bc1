/* Model as a Python type: its life, and its methods, each of which fills the Decoded that it is given. */

#include "reader.h"

#include <structmember.h>

/* An attribute of ``decoded``; the reference is ``decoded``'s, which does not change meanwhile. */
static PyObject *
attribute(PyObject *decoded, PyObject *name)
{
    PyObject *found = PyObject_GetAttr(decoded, name);
    Py_XDECREF(found);
    return found;
}

static int
open_decoded(Model *self, PyObject *decoded)
{
    reader_state *st = state_of(Py_TYPE(self));
    self->decoded = decoded;
    PyObject *runs = attribute(decoded, st->text_runs);
    PyObject *iterations = runs != NULL ? attribute(decoded, st->text_iterations) : NULL;
    PyObject *tasks = iterations != NULL ? attribute(decoded, st->text_tasks) : NULL;
    PyObject *finished = tasks != NULL ? attribute(decoded, st->text_finished) : NULL;
    PyObject *requests = finished != NULL ? attribute(decoded, st->text_requests) : NULL;
    PyObject *spans = requests != NULL ? attribute(decoded, st->text_spans) : NULL;
    if (spans == NULL)
        return -1;
    if (!Py_IS_TYPE(runs, st->runs) || !Py_IS_TYPE(iterations, st->iterations) || !Py_IS_TYPE(tasks, st->tasks) ||
        !Py_IS_TYPE(finished, st->ends) || !Py_IS_TYPE(requests, st->marks) || !Py_IS_TYPE(spans, st->spans)) {
        PyErr_SetString(PyExc_TypeError, "not what Model.new_decoded made");
        return -1;
    }
    self->out = (Runs *)runs;
    self->iterations = (Iterations *)iterations;
    self->tasks = (Tasks *)tasks;
    self->finished = (Ends *)finished;
    self->requests = (Marks *)requests;
    self->spans = (Spans *)spans;
    PyObject *active = attribute(decoded, st->text_active_s), *idle = active ? attribute(decoded, st->text_idle_s) : 0;
    if (idle == NULL)
        return -1;
    self->active_s = PyFloat_AsDouble(active);
    self->idle_s = PyFloat_AsDouble(idle);
    return PyErr_Occurred() ? -1 : 0;
}

/* To be called once ``open_decoded`` was, whatever has happened since; keeps an error that is set. */
static int
close_decoded(Model *self)
{
    reader_state *st = state_of(Py_TYPE(self));
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *active = PyFloat_FromDouble(self->active_s), *idle = PyFloat_FromDouble(self->idle_s);
    int failed = active == NULL || idle == NULL || PyObject_SetAttr(self->decoded, st->text_active_s, active) < 0 ||
                 PyObject_SetAttr(self->decoded, st->text_idle_s, idle) < 0;
    Py_XDECREF(active);
    Py_XDECREF(idle);
    self->decoded = NULL;
    self->out = NULL;
    self->iterations = NULL;
    self->tasks = NULL;
    self->finished = NULL;
    self->requests = NULL;
    self->spans = NULL;
    if (type == NULL)
        return failed ? -1 : 0;
    PyErr_Restore(type, value, traceback);
    return -1;
}

static PyObject *
model_begin(Model *self, PyObject *const *args, Py_ssize_t count)
{
    if (count != 4 || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "begin(records, text, records_before, written_at)");
        return NULL;
    }
    double before = PyFloat_AsDouble(args[2]);
    if (before == -1.0 && PyErr_Occurred())
        return NULL;
    if (self->decoded != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "begin within decode");
        return NULL;
    }
    if (self->has_records)
        PyBuffer_Release(&self->records);
    self->has_records = false;
    self->at = self->count = 0;
    Py_XSETREF(self->text, Py_NewRef(args[1]));
    self->text_at = 0;
    if (PyObject_GetBuffer(args[0], &self->records, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    self->has_records = true;
    if (self->records.itemsize != sizeof(double) || strcmp(self->records.format, "d") != 0 ||
        (self->records.len && (uintptr_t)self->records.buf % _Alignof(double))) {
        PyErr_SetString(PyExc_TypeError, "records are doubles");
        return NULL;
    }
    self->count = (size_t)self->records.len / (3 * sizeof(double));
    uint64_t first = before >= 0.0 && before < EXACT ? (uint64_t)before : 0;
    if (places_add(&self->places, first, self->runs, self->records.buf, self->count) < 0)
        return NULL;
    if (self->queue.length > MAX_ENTRIES && model_forget_queue(self, self->pending) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static int
lose_place(Model *self)
{
    if (self->running && model_end_run(self, self->written_at) < 0) {
        PyErr_Clear(); /* no memory */
        self->running = false;
    }
    queue_clear(&self->queue);
    self->group = NOT_KNOWN;
    self->pending = INFINITY; /* not known: whatever is read next is less */
    self->iteration_start = -1.0;
    self->overridden = false;
    self->writers.length = self->timers.length = 0;
    self->context = 0;
    self->automatic_name = -1;
    self->submitted = self->rare_waits = false;
    self->state = UNKNOWN;
    PyObject *result = PyObject_CallMethodNoArgs(self->rare, state_of(Py_TYPE(self))->text_lose_place);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static PyObject *
model_lose_place(Model *self, PyObject *decoded)
{
    if (open_decoded(self, decoded) < 0)
        return NULL;
    lose_place(self);
    if (close_decoded(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
model_decode(Model *self, PyObject *decoded)
{
    if (!self->has_records) {
        PyErr_SetString(PyExc_ValueError, "no batch");
        return NULL;
    }
    if (self->decoded != NULL) {
        PyErr_SetString(PyExc_RuntimeError, "decode within decode");
        return NULL;
    }
    const double *stopped_at = NULL;
    if (open_decoded(self, decoded) < 0)
        return NULL;
    int result = model_take_records(self, &stopped_at);
    if (close_decoded(self) < 0)
        return NULL;
    if (result == 1)
        return Py_BuildValue("(dd)", stopped_at[0], trunc(stopped_at[2]));
    Py_RETURN_NONE;
}

static PyObject *
model_catch_up(Model *self, PyObject *decoded)
{
    if (open_decoded(self, decoded) < 0)
        return NULL;
    if (self->state == ACTIVE) {
        /* Up to where the record goes, so that a loop that never waits is seen to be active. */
        double start = self->running ? self->row.start : self->iteration_start;
        if (start > self->since)
            model_enter(self, ACTIVE, start);
    }
    if (close_decoded(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
model_finish(Model *self, PyObject *args)
{
    PyObject *decoded;
    double end, running_since;
    if (!PyArg_ParseTuple(args, "Odd", &decoded, &end, &running_since) || open_decoded(self, decoded) < 0)
        return NULL;
    double written_at = self->written_at;
    int failed = self->running && model_end_run(self, written_at) < 0;
    if (!failed && self->iteration_start >= 0.0 && self->state == ACTIVE)
        failed = model_end_iteration(self, written_at) < 0;
    if (self->state == ACTIVE)
        model_enter(self, STOPPED, written_at > end ? written_at : end);
    else if (self->state == IDLE) {
        if (running_since > self->since)
            model_enter(self, ACTIVE, running_since);
        model_enter(self, STOPPED, running_since > end ? running_since : end);
    }
    self->state = STOPPED;
    if (close_decoded(self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
model_next(Model *self)
{
    Item item = model_next_item(self);
    return item.owner != NULL ? item_text(item) : NULL;
}

/* -- its life */

static PyObject *
model_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *rare;
    if (!PyArg_ParseTuple(args, "O", &rare))
        return NULL;
    PyObject *new_tasks = PyObject_GetAttr(rare, state_of(type)->text_new_tasks);
    if (new_tasks == NULL)
        return NULL;
    if (!PyDict_Check(new_tasks)) {
        Py_DECREF(new_tasks);
        PyErr_SetString(PyExc_TypeError, "RareRecords, whose new_tasks is a dictionary");
        return NULL;
    }
    Model *self = (Model *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_DECREF(new_tasks);
        return NULL;
    }
    self->rare = Py_NewRef(rare);
    self->new_tasks = new_tasks;
    self->state = STOPPED;
    self->iteration_start = self->poll_delay = -1.0;
    self->group = NOT_KNOWN;
    self->automatic_name = -1;
    return (PyObject *)self;
}

static int
model_traverse(Model *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->rare);
    Py_VISIT(self->new_tasks);
    Py_VISIT(self->text);
    return 0;
}

static int
model_clear(Model *self)
{
    Py_CLEAR(self->text);
    return 0;
}

static void
model_dealloc(Model *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    if (self->has_records)
        PyBuffer_Release(&self->records);
    Py_CLEAR(self->text);
    Py_CLEAR(self->rare);
    Py_CLEAR(self->new_tasks);
    PyMem_Free(self->queue.entries);
    PyMem_Free(self->timers.items);
    PyMem_Free(self->writers.items);
    places_free(&self->places);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyMethodDef model_methods[] = {
    {"begin", (PyCFunction)(void (*)(void))model_begin, METH_FASTCALL, "Takes a batch to be decoded."},
    {"decode", (PyCFunction)model_decode, METH_O, "Decodes the batch, or up to a loop that takes the ring."},
    {"lose_place", (PyCFunction)model_lose_place, METH_O, "Records are missing here."},
    {"catch_up", (PyCFunction)model_catch_up, METH_O, "Counts the time up to where the record goes."},
    {"finish", (PyCFunction)model_finish, METH_VARARGS, "The writer has gone."},
    {NULL},
};

static PyMemberDef model_members[] = {
    {"state", T_INT, offsetof(Model, state), READONLY, NULL},
    {"since", T_DOUBLE, offsetof(Model, since), READONLY, NULL},
    {"runs", T_LONGLONG, offsetof(Model, runs), READONLY, NULL},
    {"damaged", T_LONGLONG, offsetof(Model, damaged), READONLY, NULL},
    {"written_at", T_DOUBLE, offsetof(Model, written_at), 0, NULL},
    {NULL},
};

static PyType_Slot model_slots[] = {
    {Py_tp_doc, "From records to rows; the twin of decoder.PythonModel."},
    {Py_tp_new, model_new},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, model_next},
    {Py_tp_methods, model_methods},
    {Py_tp_members, model_members},
    {Py_tp_traverse, model_traverse},
    {Py_tp_clear, model_clear},
    {Py_tp_dealloc, model_dealloc},
    {0, NULL},
};

PyType_Spec model_spec = {"_reader.Model", sizeof(Model), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, model_slots};
