/* Output: spans as fields of ScopeSpans, one behind the other, in portions that become requests as they are.

   A portion lies in a slab, and slabs are used again: 75 MB of spans a second in memory that is new each time cost more
   in page faults than everything else about them. A portion that leaves most of its slab empty becomes bytes of its
   own size, so that what waits in a queue takes little more than its size. Where the queue is full, what is packed is
   only counted: a chunk may have 4 MB of spans. */

#include "packing.h"

int
output_open(Output *out, packer_state *st, Py_ssize_t most_spans, Py_ssize_t room)
{
    *out = (Output){.st = st, .most_spans = most_spans, .room = room};
    out->portions = PyList_New(0);
    return out->portions == NULL ? -1 : 0;
}

/* A portion that nothing is in yet. */
static Portion *
new_portion(packer_state *st, size_t size)
{
    Portion *portion = (Portion *)st->portion->tp_alloc(st->portion, 0);
    if (portion == NULL)
        return NULL;
    if (size <= SLAB) {
        size = SLAB;
        if (st->free_count)
            portion->data = st->free_slabs[--st->free_count];
    }
    if (portion->data == NULL)
        portion->data = PyMem_RawMalloc(size);
    portion->size = size;
    if (portion->data == NULL) {
        Py_DECREF(portion);
        PyErr_NoMemory();
        return NULL;
    }
    return portion;
}

/* The portion that is being filled is whole. */
int
output_end(Output *out)
{
    Portion *portion = out->portion;
    if (portion == NULL || !portion->used)
        return 0;
    if (out->room <= 0) { /* the queue that it would go to is full: the next portion takes its place */
        out->refused += out->spans;
        out->spans = 0;
        portion->used = 0;
        return 0;
    }
    out->room -= (Py_ssize_t)portion->used;
    PyObject *data;
    if (portion->used < portion->size / 2)
        data = PyBytes_FromStringAndSize(portion->data, (Py_ssize_t)portion->used);
    else {
        data = PyMemoryView_FromObject((PyObject *)portion);
        Py_CLEAR(out->portion);
    }
    PyObject *item = data != NULL ? Py_BuildValue("(Nn)", data, out->spans) : NULL;
    int failed = item == NULL || PyList_Append(out->portions, item) < 0;
    Py_XDECREF(item);
    if (out->portion != NULL)
        out->portion->used = 0;
    out->spans = 0;
    return failed ? -1 : 0;
}

void
output_close(Output *out)
{
    Py_CLEAR(out->portion);
    Py_CLEAR(out->portions);
}

char *
output_span(Output *out, size_t size)
{
    if (size > (size_t)PY_SSIZE_T_MAX / 4) {
        PyErr_NoMemory();
        return NULL;
    }
    size_t whole = 1 + varint_size(size) + size;
    Portion *portion = out->portion;
    if (out->spans && (out->spans >= out->most_spans || whole > portion->size - portion->used)) {
        if (output_end(out) < 0)
            return NULL;
        portion = out->portion;
    }
    if (portion == NULL || whole > portion->size) {
        Py_CLEAR(out->portion);
        portion = out->portion = new_portion(out->st, whole);
        if (portion == NULL)
            return NULL;
    }
    char *to = portion->data + portion->used;
    portion->used += whole;
    out->spans++;
    *to++ = 0x12; /* field 2, length-delimited */
    return put_varint(to, size);
}

char *
put_varint(char *to, uint64_t value)
{
    while (value > 0x7F) {
        *to++ = (char)(value | 0x80);
        value >>= 7;
    }
    *to++ = (char)value;
    return to;
}

size_t
varint_size(uint64_t value)
{
    size_t size = 1;
    while (value > 0x7F) {
        value >>= 7;
        size++;
    }
    return size;
}

/* -- Portion as a Python type: only its bytes are of use */

static int
portion_show(Portion *self, Py_buffer *view, int flags)
{
    return PyBuffer_FillInfo(view, (PyObject *)self, self->data, (Py_ssize_t)self->used, 1, flags);
}

static void
portion_dealloc(Portion *self)
{
    packer_state *st = PyType_GetModuleState(Py_TYPE(self));
    if (self->data != NULL && self->size == SLAB && st->free_count < FREE_SLABS)
        st->free_slabs[st->free_count++] = self->data;
    else
        PyMem_RawFree(self->data);
    free_object((PyObject *)self);
}

static PyType_Slot portion_slots[] = {
    {Py_tp_doc, "Bytes of spans."},
    {Py_bf_getbuffer, portion_show},
    {Py_tp_dealloc, portion_dealloc},
    {0, NULL},
};

PyType_Spec portion_spec = {"_packer.Portion", sizeof(Portion), 0,
                            Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION, portion_slots};
