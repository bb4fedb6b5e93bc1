/* Batches of records for fuzz_reader.py, each the one before it with something changed. A batch lies in memory of just
   its size, so that AddressSanitizer sees what reads beyond it. Never shipped: fuzz_reader.py builds it. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MOST 1024 /* records */
#define FIRST_DRAWN 24 /* a short batch does not grow beyond this */

typedef struct {
    PyObject_HEAD
    double *records;
    Py_ssize_t length;
} Batch;

typedef struct {
    PyObject_HEAD
    uint64_t state;
    Py_ssize_t count;
    double records[3 * MOST];
    double *edges, *kinds;
    Py_ssize_t edge_count, kind_count;
} Source;

/* Not static and mutable in what is shipped; here there is one interpreter. */
static PyTypeObject *batch_type, *source_type;

static uint64_t
draw(Source *self)
{
    uint64_t x = self->state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    self->state = x;
    return x * UINT64_C(0x2545F4914F6CDD1D) >> 16;
}

static Py_ssize_t
below(Source *self, Py_ssize_t limit)
{
    return (Py_ssize_t)(draw(self) % (uint64_t)limit);
}

static double
flipped(Source *self, double value)
{
    uint64_t bits;
    memcpy(&bits, &value, 8);
    bits ^= UINT64_C(1) << below(self, 64);
    memcpy(&value, &bits, 8);
    return value - value == 0.0 ? value : 1.0;
}

static void
change(Source *self)
{
    static const double tasks[] = {1.0, 2.0, 5.0, 65537.0, 65538.0, 131073.0, 131074.0, 196608.0};
    Py_ssize_t at = below(self, 3 * self->count), record = at / 3 * 3, other = below(self, self->count) * 3;
    double kept[3];
    switch (below(self, 12)) {
    case 0: case 1: case 2:
        self->records[at] = self->edges[below(self, self->edge_count)];
        return;
    case 3: case 4: case 5:
        self->records[record + 1] = self->kinds[below(self, self->kind_count)];
        return;
    case 6:
        self->records[at] = flipped(self, self->records[at]);
        return;
    case 7: case 8:
        if (self->count < FIRST_DRAWN) {
            double added[] = {(double)below(self, 100) / 8.0, tasks[below(self, 8)], (double)below(self, 4)};
            memcpy(self->records + 3 * self->count++, added, sizeof(added));
        }
        return;
    case 9: /* two change places */
        memcpy(kept, self->records + record, sizeof(kept));
        memcpy(self->records + record, self->records + other, sizeof(kept));
        memcpy(self->records + other, kept, sizeof(kept));
        return;
    case 10: /* one stands twice */
        memcpy(self->records + record, self->records + other, sizeof(kept));
        return;
    default:
        if (self->count > 2) {
            self->count--;
            memmove(self->records + record, self->records + record + 3,
                    (size_t)(3 * self->count - record) * sizeof(double));
        }
    }
}

static PyObject *
next_batch(Source *self, Py_ssize_t changes)
{
    while (changes-- > 0)
        change(self);
    Batch *batch = (Batch *)batch_type->tp_alloc(batch_type, 0);
    if (batch == NULL)
        return NULL;
    batch->length = 3 * self->count;
    batch->records = malloc((size_t)batch->length * sizeof(double));
    if (batch->records == NULL) {
        Py_DECREF(batch);
        return PyErr_NoMemory();
    }
    memcpy(batch->records, self->records, (size_t)batch->length * sizeof(double));
    return (PyObject *)batch;
}

/* next(changes): a new batch. */
static PyObject *
source_next(Source *self, PyObject *argument)
{
    long changes = PyLong_AsLong(argument);
    if (changes == -1 && PyErr_Occurred())
        return NULL;
    return next_batch(self, changes);
}

static int
feed_one(Source *self, PyObject *model, PyObject *decoded, PyObject *texts, double before)
{
    PyObject *batch = next_batch(self, 1 + below(self, 4));
    if (batch == NULL)
        return -1;
    PyObject *text = PyList_GET_ITEM(texts, below(self, PyList_GET_SIZE(texts)));
    double edge = self->edges[below(self, self->edge_count)];
    PyObject *done = PyObject_CallMethod(model, "begin", "OOdd", batch, text, before, edge);
    Py_DECREF(batch);
    while (done != NULL) { /* until it returns None: the batch is over */
        Py_DECREF(done);
        done = PyObject_CallMethod(model, "decode", "O", decoded);
        if (done == Py_None)
            break;
    }
    if (done != NULL && !below(self, 200))
        Py_SETREF(done, PyObject_CallMethod(model, "lose_place", "O", decoded));
    if (done != NULL && !below(self, 10)) {
        Py_SETREF(done, PyFloat_FromDouble(edge));
        if (done != NULL && PyObject_SetAttrString(model, "written_at", done) < 0)
            Py_CLEAR(done);
    }
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* feed(model, decoded, texts, batches, before): decodes so many, of which the first follows so many records. Returns how
   many records there were then. In C, since Python would take longer than the decoder. */
static PyObject *
source_feed(Source *self, PyObject *args)
{
    PyObject *model, *decoded, *texts;
    Py_ssize_t batches;
    double before;
    if (!PyArg_ParseTuple(args, "OOO!nd", &model, &decoded, &PyList_Type, &texts, &batches, &before))
        return NULL;
    while (batches-- > 0) {
        double at = below(self, 20) ? before : (double)below(self, 100);
        if (feed_one(self, model, decoded, texts, at) < 0)
            return NULL;
        before += (double)self->count;
    }
    return PyFloat_FromDouble(before);
}

/* load(records): goes on from these, bytes of doubles. */
static PyObject *
source_load(Source *self, PyObject *argument)
{
    Py_buffer records;
    if (PyObject_GetBuffer(argument, &records, PyBUF_SIMPLE) < 0)
        return NULL;
    self->count = records.len / 24 < MOST ? records.len / 24 : MOST;
    memcpy(self->records, records.buf, (size_t)self->count * 24);
    PyBuffer_Release(&records);
    if (self->count == 0)
        self->records[0] = self->records[1] = self->records[2] = (double)(self->count = 1);
    Py_RETURN_NONE;
}

static double *
doubles(PyObject *bytes, Py_ssize_t *count)
{
    *count = PyBytes_GET_SIZE(bytes) / 8;
    double *copy = malloc((size_t)PyBytes_GET_SIZE(bytes) + 8);
    if (copy != NULL)
        memcpy(copy, PyBytes_AS_STRING(bytes), (size_t)PyBytes_GET_SIZE(bytes));
    return copy;
}

/* Source(seed, edges, kinds): numbers to put anywhere, and kinds of records, as bytes of doubles. */
static PyObject *
source_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    unsigned long long seed;
    PyObject *edges, *kinds;
    if (!PyArg_ParseTuple(args, "KSS", &seed, &edges, &kinds))
        return NULL;
    Source *self = (Source *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = seed * 2 + 1;
    self->edges = doubles(edges, &self->edge_count);
    self->kinds = doubles(kinds, &self->kind_count);
    self->count = 1;
    if (self->edges == NULL || self->kinds == NULL || !self->edge_count || !self->kind_count) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void
source_dealloc(Source *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(self->edges);
    free(self->kinds);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static int
batch_show(Batch *self, Py_buffer *view, int flags)
{
    if (PyBuffer_FillInfo(view, (PyObject *)self, self->records, self->length * 8, 1, flags) < 0)
        return -1;
    view->itemsize = 8;
    if (view->shape != NULL)
        view->shape = &self->length;
    view->format = "d";
    return 0;
}

static void
batch_dealloc(Batch *self)
{
    PyTypeObject *type = Py_TYPE(self);
    free(self->records);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyType_Slot batch_slots[] = {
    {Py_bf_getbuffer, batch_show},
    {Py_tp_dealloc, batch_dealloc},
    {0, NULL},
};

static PyMethodDef source_methods[] = {
    {"next", (PyCFunction)source_next, METH_O, NULL},
    {"feed", (PyCFunction)source_feed, METH_VARARGS, NULL},
    {"load", (PyCFunction)source_load, METH_O, NULL},
    {NULL},
};

static PyType_Slot source_slots[] = {
    {Py_tp_new, source_new},
    {Py_tp_methods, source_methods},
    {Py_tp_dealloc, source_dealloc},
    {0, NULL},
};

static PyType_Spec batch_spec = {"mutations.Batch", sizeof(Batch), 0, Py_TPFLAGS_DEFAULT, batch_slots};
static PyType_Spec source_spec = {"mutations.Source", sizeof(Source), 0, Py_TPFLAGS_DEFAULT, source_slots};

static struct PyModuleDef mutations_module = {PyModuleDef_HEAD_INIT, "mutations", NULL, -1, NULL};

PyMODINIT_FUNC
PyInit_mutations(void)
{
    PyObject *module = PyModule_Create(&mutations_module);
    batch_type = (PyTypeObject *)PyType_FromSpec(&batch_spec);
    source_type = (PyTypeObject *)PyType_FromSpec(&source_spec);
    if (module == NULL || batch_type == NULL || source_type == NULL || PyModule_AddType(module, source_type) < 0)
        return NULL;
    return module;
}
