/* Traces: for the latest runs, by number modulo RUN_MEMORY, the trace in which the span of each is sent. It looks like
   the list that SpanBuilder has: items are 16 bytes, or none where the span is not sent. A megabyte, of which a loop
   that ran less takes less: pages that were never written take no memory. */

#include "packing.h"

static const Trace NOT_SENT;

static Py_ssize_t
traces_length(Traces *self)
{
    return RUN_MEMORY;
}

static PyObject *
traces_item(Traces *self, Py_ssize_t index)
{
    if (index < 0 || index >= RUN_MEMORY) {
        PyErr_SetString(PyExc_IndexError, "no such run");
        return NULL;
    }
    const Trace *trace = &self->items[index];
    return PyBytes_FromStringAndSize(trace->id, memcmp(trace, &NOT_SENT, sizeof(Trace)) ? sizeof(Trace) : 0);
}

static int
traces_set_item(Traces *self, Py_ssize_t index, PyObject *value)
{
    if (index < 0 || index >= RUN_MEMORY) {
        PyErr_SetString(PyExc_IndexError, "no such run");
        return -1;
    }
    if (value == NULL || !PyBytes_Check(value) ||
        (PyBytes_GET_SIZE(value) && PyBytes_GET_SIZE(value) != sizeof(Trace))) {
        PyErr_SetString(PyExc_ValueError, "a trace has 16 bytes");
        return -1;
    }
    self->items[index] = NOT_SENT;
    memcpy(self->items[index].id, PyBytes_AS_STRING(value), (size_t)PyBytes_GET_SIZE(value));
    return 0;
}

static PyObject *
traces_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    Traces *self = (Traces *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->items = PyMem_RawCalloc(RUN_MEMORY, sizeof(Trace));
    if (self->items == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void
traces_dealloc(Traces *self)
{
    PyMem_RawFree(self->items);
    free_object((PyObject *)self);
}

static PyType_Slot traces_slots[] = {
    {Py_tp_doc, "In which trace the span of each of the latest runs is sent, by its number modulo RUN_MEMORY."},
    {Py_tp_new, traces_new},
    {Py_sq_length, traces_length},
    {Py_sq_item, traces_item},
    {Py_sq_ass_item, traces_set_item},
    {Py_tp_dealloc, traces_dealloc},
    {0, NULL},
};

PyType_Spec traces_spec = {"_packer.Traces", sizeof(Traces), 0, Py_TPFLAGS_DEFAULT, traces_slots};
