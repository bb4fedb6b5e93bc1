/* Marks and Spans: which runs answer a request, and the application's spans that a chunk defines. A service writes one
   or two of each for a request, and mostly nobody asks for the spans: their texts stay in the batch's until then. */

#include "reader.h"

/* -- Marks */

int
marks_append(Marks *marks, MarkRow row)
{
    if (reserve((void **)&marks->rows, &marks->size, (size_t)marks->length + 1, sizeof(MarkRow)) < 0)
        return -1;
    marks->rows[marks->length++] = row;
    return 0;
}

static Py_ssize_t
marks_length(Marks *self)
{
    return self->length;
}

static PyObject *
marks_item(Marks *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such row") < 0)
        return NULL;
    return Py_BuildValue("(LI)", (long long)self->rows[index].run, (unsigned int)self->rows[index].site);
}

static PyObject *
marks_take(Marks *self, PyObject *tuple)
{
    long long run;
    double site;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a mark is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(tuple, "Ld", &run, &site))
        return NULL;
    if (!(site >= 0.0 && site < SITE_LIMIT)) {
        PyErr_SetString(PyExc_ValueError, "no site");
        return NULL;
    }
    if (marks_append(self, (MarkRow){run, (uint32_t)site}) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void
marks_dealloc(Marks *self)
{
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef marks_methods[] = {
    {"append", (PyCFunction)marks_take, METH_O, "Adds a mark at the end."},
    {NULL},
};

static PyType_Slot marks_slots[] = {
    {Py_tp_doc, "Runs that answer a request, each with a site (Decoded.requests)."},
    {Py_sq_length, marks_length},
    {Py_sq_item, marks_item},
    {Py_tp_methods, marks_methods},
    {Py_tp_dealloc, marks_dealloc},
    {0, NULL},
};

PyType_Spec marks_spec = {"_reader.Marks", sizeof(Marks), 0, Py_TPFLAGS_DEFAULT, marks_slots};

/* -- Spans */

int
spans_append(Spans *spans, double number, double flags, Item text)
{
    if (reserve((void **)&spans->rows, &spans->size, (size_t)spans->length + 1, sizeof(SpanRow)) < 0)
        return -1;
    spans->rows[spans->length++] = (SpanRow){number, flags, (Item){Py_XNewRef(text.owner), text.start, text.length}};
    return 0;
}

static Py_ssize_t
spans_length(Spans *self)
{
    return self->length;
}

/* What stands in a text from ``*at`` to the next space, or to its end; moves ``*at`` behind that. */
static PyObject *
next_word(PyObject *text, Py_ssize_t *at)
{
    Py_ssize_t length = PyUnicode_GET_LENGTH(text), begin = *at;
    Py_ssize_t end = begin < length ? PyUnicode_FindChar(text, ' ', begin, length, 1) : length;
    if (end == -2)
        return NULL;
    if (end < 0)
        end = length;
    *at = end < length ? end + 1 : length;
    return PyUnicode_Substring(text, begin, end);
}

/* The twin of RareRecords._take. */
static PyObject *
spans_item(Spans *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such row") < 0)
        return NULL;
    const SpanRow *row = &self->rows[index];
    PyTypeObject *type = (PyTypeObject *)state_of(Py_TYPE(self))->span_context;
    PyObject *text = item_text(row->text), *context = text != NULL ? type->tp_alloc(type, 5) : NULL;
    if (context == NULL) {
        Py_XDECREF(text);
        return NULL;
    }
    Py_ssize_t at = 0;
    PyTuple_SET_ITEM(context, 0, PyLong_FromDouble(row->number));
    PyTuple_SET_ITEM(context, 1, next_word(text, &at));
    PyTuple_SET_ITEM(context, 2, next_word(text, &at));
    PyTuple_SET_ITEM(context, 3, PyLong_FromDouble(row->flags));
    PyTuple_SET_ITEM(context, 4, PyUnicode_Substring(text, at, PyUnicode_GET_LENGTH(text)));
    Py_DECREF(text);
    if (PyErr_Occurred())
        Py_CLEAR(context);
    return context;
}

/* A SpanContext, whose text is made as a record has it. */
static PyObject *
spans_take(Spans *self, PyObject *context)
{
    double number, flags;
    PyObject *trace_id, *span_id, *state;
    if (!PyTuple_Check(context)) {
        PyErr_SetString(PyExc_TypeError, "a span is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(context, "dUUdU", &number, &trace_id, &span_id, &flags, &state))
        return NULL;
    PyObject *text = PyUnicode_FromFormat("%U %U %U", trace_id, span_id, state);
    PyObject *bytes = text != NULL ? PyUnicode_AsUTF8String(text) : NULL;
    Py_XDECREF(text);
    if (bytes == NULL)
        return NULL;
    Item item = {bytes, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes)};
    int failed = spans_append(self, number, flags, item) < 0;
    Py_DECREF(bytes);
    if (failed)
        return NULL;
    Py_RETURN_NONE;
}

static void
spans_dealloc(Spans *self)
{
    for (Py_ssize_t index = 0; index < self->length; index++)
        Py_XDECREF(self->rows[index].text.owner); /* bytes: no code runs here */
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef spans_methods[] = {
    {"append", (PyCFunction)spans_take, METH_O, "Adds a span at the end."},
    {NULL},
};

static PyType_Slot spans_slots[] = {
    {Py_tp_doc, "Spans of the application that are defined, in order (SpanContext)."},
    {Py_sq_length, spans_length},
    {Py_sq_item, spans_item},
    {Py_tp_methods, spans_methods},
    {Py_tp_dealloc, spans_dealloc},
    {0, NULL},
};

PyType_Spec spans_spec = {"_reader.Spans", sizeof(Spans), 0, Py_TPFLAGS_DEFAULT, spans_slots};
