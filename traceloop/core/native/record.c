/* Record: the records that wait to be written, as doubles in memory of our own: the garbage collector sees none of it.

   Where there is no memory for more, what waits is dropped and counted: the application goes on. */

#include "core.h"

#define LEAST 4096
#define USUAL 65536
#define MOST (64 * 1024 * 1024) /* doubles; a loop writes at 3,072 and a thousand more are rare */

static int
reserve(Record *record, Py_ssize_t more)
{
    Py_ssize_t wanted = record->length + more;
    if (wanted <= record->size)
        return 0;
    Py_ssize_t size = record->size ? record->size : LEAST;
    while (size < wanted)
        size *= 2;
    double *doubles = size > MOST ? NULL : PyMem_Realloc(record->doubles, (size_t)size * sizeof(double));
    if (doubles == NULL) {
        record->lost += record->length;
        record->length = 0;
        return more <= record->size ? 0 : -1;
    }
    record->doubles = doubles;
    record->size = size;
    return 0;
}

void
record_add(Record *record, double a, double kind, double b)
{
    if (record->length + 3 > record->size && reserve(record, 3) < 0) {
        record->lost += 3;
        return;
    }
    double *place = record->doubles + record->length;
    place[0] = a;
    place[1] = kind;
    place[2] = b;
    record->length += 3;
}

static PyObject *
m_add(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    double triple[3];
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "add() takes three numbers");
        return NULL;
    }
    for (int i = 0; i < 3; i++) {
        triple[i] = PyFloat_AsDouble(args[i]);
        if (triple[i] == -1.0 && PyErr_Occurred())
            return NULL;
    }
    record_add((Record *)self, triple[0], triple[1], triple[2]);
    Py_RETURN_NONE;
}

/* One double: the Python iteration appends them singly. */
static PyObject *
m_append(PyObject *self, PyObject *value)
{
    Record *record = (Record *)self;
    double number = PyFloat_AsDouble(value);
    if (number == -1.0 && PyErr_Occurred())
        return NULL;
    if (record->skip > 0) {
        record->skip--;
        record->lost++;
        Py_RETURN_NONE;
    }
    if (record->length == record->size) {
        Py_ssize_t place = record->length % 3, lost = record->lost;
        int failed = reserve(record, 1) < 0;
        if (failed || (record->lost != lost && place > 0)) {
            /* The beginning of this record is gone: its rest goes too, or all that follow would be shifted. */
            record->skip = 2 - place;
            record->lost++;
            Py_RETURN_NONE;
        }
    }
    record->doubles[record->length++] = number;
    Py_RETURN_NONE;
}

static PyObject *
record_inplace_concat(PyObject *self, PyObject *items)
{
    PyObject *fast = PySequence_Fast(items, "numbers are added");
    if (fast == NULL)
        return NULL;
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(fast); i++) {
        PyObject *done = m_append(self, PySequence_Fast_GET_ITEM(fast, i));
        if (done == NULL) {
            Py_DECREF(fast);
            return NULL;
        }
        Py_DECREF(done);
    }
    Py_DECREF(fast);
    return Py_NewRef(self);
}

static PyObject *
m_extend(PyObject *self, PyObject *items)
{
    PyObject *same = record_inplace_concat(self, items);
    if (same == NULL)
        return NULL;
    Py_DECREF(same);
    Py_RETURN_NONE;
}

static PyObject *
m_add_text(PyObject *self, PyObject *item)
{
    if (PyList_Append(((Record *)self)->text, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_drop_partial(PyObject *self, PyObject *unused)
{
    Record *record = (Record *)self;
    record->length -= record->length % 3;
    record->skip = 0;
    Py_RETURN_NONE;
}

static PyObject *
m_drop(PyObject *self, PyObject *unused)
{
    Record *record = (Record *)self;
    record->lost += record->length;
    record->length = record->skip = 0;
    if (PyList_SetSlice(record->text, 0, PyList_GET_SIZE(record->text), NULL) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Gives back what a burst took. */
static void
trim(Record *record)
{
    if (record->size > USUAL && record->length == 0) {
        PyMem_Free(record->doubles);
        record->doubles = NULL;
        record->size = 0;
    }
}

int
record_emptied(Record *record)
{
    record->length = 0;
    trim(record);
    return PyList_SetSlice(record->text, 0, PyList_GET_SIZE(record->text), NULL);
}

static PyObject *
m_take(PyObject *self, PyObject *unused)
{
    Record *record = (Record *)self;
    PyObject *bytes = NULL, *view = NULL, *doubles = NULL, *text = NULL, *spelled = NULL, *result = NULL;
    bytes = PyBytes_FromStringAndSize((char *)record->doubles, record->length * (Py_ssize_t)sizeof(double));
    if (bytes == NULL)
        goto done;
    /* At once: what makes objects may collect garbage, which is recorded too. */
    record->length = 0;
    /* Emptied in place: the Python iteration holds this very list. */
    text = PyList_GetSlice(record->text, 0, PyList_GET_SIZE(record->text));
    if (text == NULL || PyList_SetSlice(record->text, 0, PyList_GET_SIZE(text), NULL) < 0)
        goto done;
    trim(record);
    view = PyMemoryView_FromObject(bytes);
    if (view == NULL)
        goto done;
    doubles = PyObject_CallMethod(view, "cast", "s", "d");
    if (doubles == NULL)
        goto done;
    spelled = PyList_GET_SIZE(text) == 0 ? Py_NewRef(text) : PyObject_CallOneArg(record->state->spelled_out, text);
    if (spelled != NULL)
        result = PyTuple_Pack(2, doubles, spelled);
done:
    Py_XDECREF(bytes);
    Py_XDECREF(view);
    Py_XDECREF(doubles);
    Py_XDECREF(text);
    Py_XDECREF(spelled);
    return result;
}

static Py_ssize_t
record_length(PyObject *self)
{
    return ((Record *)self)->length;
}

static PyObject *
get_position(PyObject *self, void *closure)
{
    Record *record = (Record *)self;
    return PyLong_FromLongLong(record->base + record->length);
}

static PyObject *
get_doubles(PyObject *self, void *closure)
{
    return Py_NewRef(self);
}

static PyObject *
record_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Record *self = (Record *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = core_state_of((PyObject *)self);
    self->text = PyList_New(0);
    self->base = -((int64_t)1 << 52);
    if (self->text == NULL || self->state == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
record_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    return 0; /* the text is numbers and names: no cycle, nothing to traverse */
}

static void
record_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(((Record *)self)->text);
    PyMem_Free(((Record *)self)->doubles);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef record_methods[] = {
    {"add", (PyCFunction)(void (*)(void))m_add, METH_FASTCALL, "Adds one record."},
    {"append", m_append, METH_O, "Adds one double."},
    {"extend", m_extend, METH_O, "Adds several doubles, of whole records; from any thread."},
    {"add_text", m_add_text, METH_O, "Adds an item of text."},
    {"drop_partial", m_drop_partial, METH_NOARGS, "Removes a record that was appended only in part."},
    {"drop", m_drop, METH_NOARGS, "Drops what waits."},
    {"clear", m_drop, METH_NOARGS, "The same: what waits is a list elsewhere."},
    {"take", m_take, METH_NOARGS, "What waits: the doubles as a memoryview, and their text."},
    {"write_to", (PyCFunction)(void (*)(void))record_write_to, METH_FASTCALL,
     "Writes what waits into a ring; False where that is not the plain case."},
    {NULL},
};

static PyMemberDef record_members[] = {
    {"base", T_LONGLONG, offsetof(Record, base), 0, "Doubles written to the ring before these."},
    {"text", T_OBJECT, offsetof(Record, text), READONLY, "The items of text."},
    {"lost", T_PYSSIZET, offsetof(Record, lost), READONLY, "Doubles for which there was no memory."},
    {NULL},
};

static PyGetSetDef record_getset[] = {
    {"position", get_position, NULL, "Doubles recorded so far.", NULL},
    {"doubles", get_doubles, NULL, "What the Python iteration appends to.", NULL},
    {NULL},
};

static PyType_Slot record_slots[] = {
    {Py_tp_doc, "The waiting records of one loop (core/buffer.py)."},
    {Py_tp_new, record_new},
    {Py_tp_dealloc, record_dealloc},
    {Py_tp_traverse, record_traverse},
    {Py_tp_methods, record_methods},
    {Py_tp_members, record_members},
    {Py_tp_getset, record_getset},
    {Py_sq_length, record_length},
    {Py_sq_inplace_concat, record_inplace_concat},
    {0, NULL},
};

PyType_Spec core_record_spec = {
    .name = "traceloop.core._core.Record",
    .basicsize = sizeof(Record),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = record_slots,
};
