/* ReadyQueue: the ready queue, with as much of a deque's interface as others use of ``loop._ready``.

   It owns a reference to each handle in it. No method calls anything while the ring is in between two states. */

#include "core.h"

#define AT(queue, index) ((queue)->items[((queue)->head + (index)) & ((queue)->size - 1)])

/* 0; -1 without an exception: there is no memory. */
static int
resize(ReadyQueue *queue, Py_ssize_t size)
{
    PyObject **items = PyMem_New(PyObject *, (size_t)size);
    if (items == NULL)
        return -1;
    for (Py_ssize_t i = 0; i < queue->length; i++)
        items[i] = AT(queue, i);
    PyMem_Free(queue->items);
    queue->items = items;
    queue->head = 0;
    queue->size = size;
    return 0;
}

static int
grow(ReadyQueue *queue)
{
    if (resize(queue, queue->size ? queue->size * 2 : 64) == 0)
        return 0;
    PyErr_NoMemory();
    return -1;
}

/* Called where a batch ends, not for each handle: a program that fills and empties the queue by turns pays
   for one burst of growing in each. */
void
queue_trim(ReadyQueue *queue)
{
    Py_ssize_t size = queue->size;
    if (size < LEAST_TO_TRIM || queue->length > size / 8)
        return;
    while (size > 64 && queue->length < size / 4)
        size /= 2;
    resize(queue, size); /* without memory it stays as it is */
}

int
queue_append(ReadyQueue *queue, PyObject *item)
{
    if (queue->length == queue->size && grow(queue) < 0)
        return -1;
    AT(queue, queue->length) = Py_NewRef(item);
    queue->length++;
    return 0;
}

static int
push_left(ReadyQueue *queue, PyObject *item)
{
    if (queue->length == queue->size && grow(queue) < 0)
        return -1;
    queue->head = (queue->head - 1) & (queue->size - 1);
    queue->items[queue->head] = Py_NewRef(item);
    queue->length++;
    return 0;
}

PyObject *
queue_popleft(ReadyQueue *queue)
{
    if (queue->length == 0)
        return NULL;
    PyObject *item = queue->items[queue->head];
    queue->head = (queue->head + 1) & (queue->size - 1);
    queue->length--;
    return item;
}

static PyObject *
empty(void)
{
    PyErr_SetString(PyExc_IndexError, "pop from an empty queue");
    return NULL;
}

static PyObject *
m_append(PyObject *self, PyObject *item)
{
    if (queue_append((ReadyQueue *)self, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_appendleft(PyObject *self, PyObject *item)
{
    if (push_left((ReadyQueue *)self, item) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_popleft(PyObject *self, PyObject *unused)
{
    PyObject *item = queue_popleft((ReadyQueue *)self);
    queue_trim((ReadyQueue *)self);
    return item != NULL ? item : empty();
}

static PyObject *
m_pop(PyObject *self, PyObject *unused)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    if (queue->length == 0)
        return empty();
    queue->length--;
    return AT(queue, queue->length);
}

static PyObject *
as_list(ReadyQueue *queue)
{
    PyObject *list = PyList_New(queue->length); /* may collect garbage, whose finalizers may schedule */
    if (list == NULL)
        return NULL;
    Py_ssize_t there = PyList_GET_SIZE(list);
    for (Py_ssize_t i = 0; i < there; i++)
        PyList_SET_ITEM(list, i, Py_NewRef(i < queue->length ? AT(queue, i) : Py_None));
    if (there > queue->length && PyList_SetSlice(list, queue->length, there, NULL) < 0)
        Py_CLEAR(list);
    return list;
}

/* Over the handles that are there now. A deque raises where it changes on the way; by index alone, who schedules for
   each handle that he finds would find what he has scheduled, for ever. */
static PyObject *
queue_iterate(PyObject *self)
{
    PyObject *list = as_list((ReadyQueue *)self);
    PyObject *iterator = list == NULL ? NULL : PyObject_GetIter(list);
    Py_XDECREF(list);
    return iterator;
}

static int
add_each(ReadyQueue *queue, PyObject *items, int (*add)(ReadyQueue *, PyObject *))
{
    PyObject *list = PySequence_List(items); /* it may be this queue */
    int failed = list == NULL ? -1 : 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(list); i++)
        failed = add(queue, PyList_GET_ITEM(list, i));
    Py_XDECREF(list);
    return failed;
}

static PyObject *
m_extend(PyObject *self, PyObject *items)
{
    if (add_each((ReadyQueue *)self, items, queue_append) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_extendleft(PyObject *self, PyObject *items)
{
    if (add_each((ReadyQueue *)self, items, push_left) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
queue_extended(PyObject *self, PyObject *items)
{
    return add_each((ReadyQueue *)self, items, queue_append) < 0 ? NULL : Py_NewRef(self);
}

static PyObject *
m_insert(PyObject *self, PyObject *args)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    Py_ssize_t index;
    PyObject *item;
    if (!PyArg_ParseTuple(args, "nO", &index, &item) || queue_append(queue, item) < 0)
        return NULL;
    Py_ssize_t last = queue->length - 1;
    if (index < 0)
        index = index + last < 0 ? 0 : index + last;
    for (Py_ssize_t i = last; i > index; i--) {
        PyObject *before = AT(queue, i - 1);
        AT(queue, i - 1) = AT(queue, i);
        AT(queue, i) = before;
    }
    Py_RETURN_NONE;
}

static PyObject *
m_reverse(PyObject *self, PyObject *unused)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    for (Py_ssize_t i = 0, j = queue->length - 1; i < j; i++, j--) {
        PyObject *first = AT(queue, i);
        AT(queue, i) = AT(queue, j);
        AT(queue, j) = first;
    }
    Py_RETURN_NONE;
}

/* index and count compare, and so may run anything: they look at the handles that are there now. */
static PyObject *
m_index(PyObject *self, PyObject *args)
{
    PyObject *list = as_list((ReadyQueue *)self);
    PyObject *method = list == NULL ? NULL : PyObject_GetAttrString(list, "index");
    PyObject *found = method == NULL ? NULL : PyObject_CallObject(method, args);
    Py_XDECREF(list);
    Py_XDECREF(method);
    return found;
}

static PyObject *
m_count(PyObject *self, PyObject *item)
{
    PyObject *list = as_list((ReadyQueue *)self);
    Py_ssize_t found = list == NULL ? -1 : PySequence_Count(list, item);
    Py_XDECREF(list);
    return found < 0 ? NULL : PyLong_FromSsize_t(found);
}

static PyObject *
get_maxlen(PyObject *self, void *closure)
{
    Py_RETURN_NONE;
}

static int
queue_clear(PyObject *self)
{
    /* Empty first, as a deque: what is released may schedule, and what that has scheduled stays. */
    ReadyQueue *queue = (ReadyQueue *)self, gone = *queue;
    queue->items = NULL;
    queue->head = queue->length = queue->size = 0;
    for (Py_ssize_t i = 0; i < gone.length; i++)
        Py_DECREF(AT(&gone, i));
    PyMem_Free(gone.items);
    return 0;
}

static PyObject *
m_clear(PyObject *self, PyObject *unused)
{
    queue_clear(self);
    Py_RETURN_NONE;
}

static PyObject *
m_rotate(PyObject *self, PyObject *args)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    Py_ssize_t steps = 1;
    if (!PyArg_ParseTuple(args, "|n", &steps))
        return NULL;
    if (queue->length < 2)
        Py_RETURN_NONE;
    steps %= queue->length;
    if (steps < 0)
        steps += queue->length;
    for (; steps > 0; steps--) { /* to the right: the last one becomes the first */
        PyObject *item = AT(queue, queue->length - 1);
        queue->head = (queue->head - 1) & (queue->size - 1);
        queue->items[queue->head] = item;
    }
    Py_RETURN_NONE;
}

static void
take_out(ReadyQueue *queue, Py_ssize_t index)
{
    PyObject *item = AT(queue, index);
    for (Py_ssize_t i = index; i + 1 < queue->length; i++)
        AT(queue, i) = AT(queue, i + 1);
    queue->length--;
    Py_DECREF(item);
}

static PyObject *
m_remove(PyObject *self, PyObject *item)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    for (Py_ssize_t i = 0; i < queue->length; i++) {
        PyObject *each = Py_NewRef(AT(queue, i));
        int same = each == item ? 1 : PyObject_RichCompareBool(each, item, Py_EQ);
        int still = i < queue->length && AT(queue, i) == each;
        Py_DECREF(each);
        if (same < 0)
            return NULL;
        if (same && still) {
            take_out(queue, i);
            Py_RETURN_NONE;
        }
    }
    PyErr_SetString(PyExc_ValueError, "queue.remove(x): x not in queue");
    return NULL;
}

static Py_ssize_t
queue_length(PyObject *self)
{
    return ((ReadyQueue *)self)->length;
}

static PyObject *
queue_item(PyObject *self, Py_ssize_t index)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    if (index < 0 || index >= queue->length) {
        PyErr_SetString(PyExc_IndexError, "queue index out of range");
        return NULL;
    }
    return Py_NewRef(AT(queue, index));
}

static int
queue_set_item(PyObject *self, Py_ssize_t index, PyObject *value)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    if (index < 0 || index >= queue->length) {
        PyErr_SetString(PyExc_IndexError, "queue index out of range");
        return -1;
    }
    if (value == NULL) {
        take_out(queue, index);
        return 0;
    }
    PyObject *before = AT(queue, index);
    AT(queue, index) = Py_NewRef(value);
    Py_DECREF(before);
    return 0;
}

static PyObject *
queue_repr(PyObject *self)
{
    PyObject *list = as_list((ReadyQueue *)self);
    if (list == NULL)
        return NULL;
    PyObject *text = PyUnicode_FromFormat("ReadyQueue(%R)", list);
    Py_DECREF(list);
    return text;
}

static PyObject *
m_copy(PyObject *self, PyObject *unused)
{
    PyObject *copy = PyObject_CallNoArgs((PyObject *)Py_TYPE(self));
    PyObject *done = copy == NULL ? NULL : m_extend(copy, self);
    if (done == NULL)
        Py_CLEAR(copy);
    Py_XDECREF(done);
    return copy;
}

static int
queue_traverse(PyObject *self, visitproc visit, void *arg)
{
    ReadyQueue *queue = (ReadyQueue *)self;
    Py_VISIT(Py_TYPE(self));
    for (Py_ssize_t i = 0; i < queue->length; i++)
        Py_VISIT(AT(queue, i));
    return 0;
}

static void
queue_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    queue_clear(self);
    PyMem_Free(((ReadyQueue *)self)->items);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef queue_methods[] = {
    {"append", m_append, METH_O, "Adds a handle at the end."},
    {"appendleft", m_appendleft, METH_O, "Adds a handle at the beginning."},
    {"popleft", m_popleft, METH_NOARGS, "Takes the first handle."},
    {"pop", m_pop, METH_NOARGS, "Takes the last handle."},
    {"extend", m_extend, METH_O, "Adds several handles."},
    {"extendleft", m_extendleft, METH_O, "Adds several handles at the beginning, one before the other."},
    {"insert", m_insert, METH_VARARGS, "Adds a handle before the one at an index."},
    {"index", m_index, METH_VARARGS, "Where a handle is, between two indices where they are given."},
    {"count", m_count, METH_O, "How often a handle is there."},
    {"reverse", m_reverse, METH_NOARGS, "Turns the order round."},
    {"remove", m_remove, METH_O, "Takes a handle out."},
    {"rotate", m_rotate, METH_VARARGS, "Moves handles from the end to the beginning."},
    {"clear", m_clear, METH_NOARGS, "Takes all handles out."},
    {"copy", m_copy, METH_NOARGS, "Another queue with the same handles."},
    {"__copy__", m_copy, METH_NOARGS, "Another queue with the same handles."},
    {NULL},
};

static PyGetSetDef queue_getset[] = {
    {"maxlen", get_maxlen, NULL, "None: it has no bound.", NULL},
    {NULL},
};

static PyType_Slot queue_slots[] = {
    {Py_tp_doc, "The ready queue of a loop; for what others do with it, a deque."},
    {Py_tp_new, PyType_GenericNew},
    {Py_tp_dealloc, queue_dealloc},
    {Py_tp_traverse, queue_traverse},
    {Py_tp_clear, queue_clear},
    {Py_tp_repr, queue_repr},
    {Py_tp_iter, queue_iterate},
    {Py_tp_methods, queue_methods},
    {Py_tp_getset, queue_getset},
    {Py_sq_inplace_concat, queue_extended},
    {Py_sq_length, queue_length},
    {Py_sq_item, queue_item},
    {Py_sq_ass_item, queue_set_item},
    {0, NULL},
};

PyType_Spec core_queue_spec = {
    .name = "traceloop.core._core.ReadyQueue",
    .basicsize = sizeof(ReadyQueue),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = queue_slots,
};
