/* Timers: the heap of timers, an array of (due time, number, handle) as long as no other code works on it.

   Others take ``loop._scheduled`` for a list of handles; the Python iteration works on a list of tuples. Either of them
   asks for ``heap``, and from then on the list is the heap (``spill``). It becomes an array again when the C iteration
   comes back and nobody else has the list any more, as after ``len(loop._scheduled)``. What is rare is done by the
   Python class (core/timers.py), whose methods need nothing but these attributes. */

#include "core.h"

#define LEAST_CANCELLED_TO_SWEEP 100

static inline int
is_before(const Timer *a, const Timer *b)
{
    return a->when < b->when || (a->when == b->when && a->sequence < b->sequence);
}

static void
sift_up(Timer *heap, Py_ssize_t index)
{
    Timer timer = heap[index];
    while (index > 0) {
        Py_ssize_t parent = (index - 1) / 2;
        if (!is_before(&timer, &heap[parent]))
            break;
        heap[index] = heap[parent];
        index = parent;
    }
    heap[index] = timer;
}

static void
sift_down(Timer *heap, Py_ssize_t length, Py_ssize_t index)
{
    Timer timer = heap[index];
    for (;;) {
        Py_ssize_t child = 2 * index + 1;
        if (child >= length)
            break;
        if (child + 1 < length && is_before(&heap[child + 1], &heap[child]))
            child++;
        if (!is_before(&heap[child], &timer))
            break;
        heap[index] = heap[child];
        index = child;
    }
    heap[index] = timer;
}

static int
put(Timers *timers, double when, uint64_t sequence, PyObject *handle)
{
    if (timers->length == timers->size) {
        Py_ssize_t size = timers->size ? timers->size * 2 : 64;
        /* Not PyMem_Resize, which sets the pointer to NULL where it fails: what waits stays. */
        Timer *heap = PyMem_Realloc(timers->heap, (size_t)size * sizeof(Timer));
        if (heap == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        timers->heap = heap;
        timers->size = size;
    }
    timers->heap[timers->length] = (Timer){when, sequence, Py_NewRef(handle)};
    sift_up(timers->heap, timers->length++);
    return 0;
}

int
timers_push(Timers *timers, double when, PyObject *handle)
{
    timers->sequence++;
    if (timers->list == NULL)
        return put(timers, when, timers->sequence, handle);
    PyObject *entry = timers->shared ? Py_NewRef(handle) : Py_BuildValue("(dKO)", when, timers->sequence, handle);
    if (entry == NULL)
        return -1;
    PyObject *done = PyObject_CallFunctionObjArgs(timers->state->heappush, timers->list, entry, NULL);
    Py_DECREF(entry);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Called after many were taken out, not for each. */
void
timers_trim(Timers *timers)
{
    Py_ssize_t size = timers->size;
    if (size < LEAST_TO_TRIM || timers->length > size / 8)
        return;
    while (size > 64 && timers->length < size / 4)
        size /= 2;
    Timer *heap = PyMem_Realloc(timers->heap, (size_t)size * sizeof(Timer));
    if (heap == NULL)
        return; /* it stays as it is */
    timers->heap = heap;
    timers->size = size;
}

PyObject *
timers_pop(Timers *timers)
{
    PyObject *handle = timers->heap[0].handle;
    timers->length--;
    if (timers->length > 0) {
        timers->heap[0] = timers->heap[timers->length];
        sift_down(timers->heap, timers->length, 0);
    }
    core_state *st = timers->state;
    Py_XSETREF(SLOT(handle, st->scheduled), Py_NewRef(Py_False));
    return handle;
}

int
timers_sweep(Timers *timers)
{
    core_state *st = timers->state;
    if (timers->list != NULL) {
        PyObject *done = PyObject_CallMethod(st->python_timers, "sweep", "O", timers);
        Py_XDECREF(done);
        return done == NULL ? -1 : 0;
    }
    if (timers->cancelled <= LEAST_CANCELLED_TO_SWEEP || timers->cancelled * 2 <= timers->length) {
        while (timers->length > 0 && SLOT(timers->heap[0].handle, st->cancelled) == Py_True) {
            timers->cancelled--;
            Py_DECREF(timers_pop(timers));
        }
        return 0;
    }
    /* The cancelled ones are set apart first: to release them may run code that sets timers. */
    Py_ssize_t kept = 0, dropped = 0;
    PyObject **cancelled = PyMem_New(PyObject *, (size_t)timers->length);
    if (cancelled == NULL)
        return 0; /* they go when they are due */
    for (Py_ssize_t i = 0; i < timers->length; i++) {
        PyObject *handle = timers->heap[i].handle;
        if (SLOT(handle, st->cancelled) == Py_True) {
            Py_XSETREF(SLOT(handle, st->scheduled), Py_NewRef(Py_False));
            cancelled[dropped++] = handle;
        }
        else
            timers->heap[kept++] = timers->heap[i];
    }
    timers->length = kept;
    for (Py_ssize_t i = kept / 2; i-- > 0;)
        sift_down(timers->heap, kept, i);
    timers->cancelled = 0;
    timers->compactions++;
    while (dropped > 0)
        Py_DECREF(cancelled[--dropped]);
    PyMem_Free(cancelled);
    timers_trim(timers);
    return 0;
}

static int
compare(const void *a, const void *b)
{
    return is_before(a, b) ? -1 : 1;
}

/* From an array to a sorted list of tuples, which is a heap. */
static int
spill(Timers *timers)
{
    if (timers->list != NULL)
        return 0;
    PyObject *list = PyList_New(0);
    if (list == NULL)
        return -1;
    if (timers->length > 1)
        qsort(timers->heap, (size_t)timers->length, sizeof(Timer), compare);
    /* Up to 3.11 an allocation may collect garbage, and a finalizer set a timer or do this very thing. */
    uint64_t sequence = timers->sequence;
    Py_ssize_t length = timers->length;
    for (Py_ssize_t i = 0; i < timers->length; i++) {
        Timer *timer = &timers->heap[i];
        PyObject *entry = Py_BuildValue("(dKN)", timer->when, timer->sequence, Py_NewRef(timer->handle));
        int failed = entry == NULL || PyList_Append(list, entry) < 0;
        Py_XDECREF(entry);
        if (failed || timers->list != NULL || timers->sequence != sequence || timers->length != length) {
            Py_DECREF(list);
            return failed ? -1 : spill(timers);
        }
    }
    timers->list = list;
    for (Py_ssize_t i = 0; i < timers->length; i++)
        Py_DECREF(timers->heap[i].handle); /* the tuple holds it too: nothing is released */
    timers->length = 0;
    timers_trim(timers);
    return 0;
}

#define EXACT_WHOLE (1LL << 53) /* up to here a double holds each whole number */

int
timers_exact(PyObject *number, double *when)
{
    if (PyFloat_Check(number)) {
        *when = PyFloat_AS_DOUBLE(number);
        return 1;
    }
    if (!PyLong_Check(number))
        return 0;
    int overflow;
    long long whole = PyLong_AsLongLongAndOverflow(number, &overflow);
    *when = (double)whole;
    return !overflow && whole >= -EXACT_WHOLE && whole <= EXACT_WHOLE;
}

/* An entry of the list as the array has it; the handle is borrowed. 0: it is nothing that could be there. */
static int
read_entry(Timers *timers, PyObject *entry, Timer *timer)
{
    core_state *st = timers->state;
    PyObject *when, *handle = entry;
    if (timers->shared)
        when = PyObject_TypeCheck(handle, st->asyncio_timer_handle) ? SLOT(handle, st->when) : NULL;
    else {
        if (!PyTuple_CheckExact(entry) || PyTuple_GET_SIZE(entry) != 3 || !PyLong_Check(PyTuple_GET_ITEM(entry, 1)))
            return 0;
        when = PyTuple_GET_ITEM(entry, 0);
        handle = PyTuple_GET_ITEM(entry, 2);
        timer->sequence = PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(entry, 1));
        if (PyErr_Occurred())
            return -1;
    }
    timer->handle = handle;
    return when != NULL && PyObject_TypeCheck(handle, st->asyncio_timer_handle) && timers_exact(when, &timer->when);
}

/* Only a list that nobody else may change: not where somebody keeps ``loop._scheduled``, nor where the Python iteration
   of an outer run of this very loop works on it. */
int
timers_back_to_array(Timers *timers, Py_ssize_t holders)
{
    PyObject *list = timers->list;
    Timer timer = {0};
    if (list == NULL)
        return 1;
    if (!PyList_CheckExact(list) || Py_REFCNT(list) > 1 + holders)
        return 0;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        int plain = read_entry(timers, PyList_GET_ITEM(list, i), &timer);
        if (plain != 1)
            return plain;
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); i++) {
        int plain = read_entry(timers, PyList_GET_ITEM(list, i), &timer);
        if (timers->shared)
            timer.sequence = ++timers->sequence;
        if (plain != 1 || put(timers, timer.when, timer.sequence, timer.handle) < 0) {
            while (timers->length > 0)
                Py_DECREF(timers->heap[--timers->length].handle);
            return -1;
        }
    }
    timers->shared = 0;
    Py_CLEAR(timers->list);
    return 1;
}

/* What is rare, in the Python class's words. */
static PyObject *
in_python(PyObject *self, const char *method, PyObject *argument)
{
    Timers *timers = (Timers *)self;
    if (spill(timers) < 0)
        return NULL;
    PyObject *name = PyUnicode_FromString(method);
    if (name == NULL)
        return NULL;
    PyObject *result =
        PyObject_CallMethodObjArgs(timers->state->python_timers, name, self, argument, NULL);
    Py_DECREF(name);
    return result;
}

static PyObject *
m_push(PyObject *self, PyObject *handle)
{
    Timers *timers = (Timers *)self;
    PyObject *due = PyObject_GetAttrString(handle, "_when");
    double when = due == NULL ? -1.0 : PyFloat_AsDouble(due);
    Py_XDECREF(due);
    if ((when == -1.0 && PyErr_Occurred()) || timers_push(timers, when, handle) < 0)
        return NULL;
    return PyLong_FromUnsignedLongLong(timers->sequence);
}

static PyObject *
m_next_due(PyObject *self, PyObject *unused)
{
    Timers *timers = (Timers *)self;
    if (timers->list != NULL)
        return in_python(self, "next_due", NULL);
    if (timers->length == 0)
        Py_RETURN_NONE;
    return PyFloat_FromDouble(timers->heap[0].when);
}

static PyObject *
m_pop(PyObject *self, PyObject *unused)
{
    Timers *timers = (Timers *)self;
    if (timers->list != NULL)
        return in_python(self, "pop", NULL);
    if (timers->length == 0) {
        PyErr_SetString(PyExc_IndexError, "no timer waits");
        return NULL;
    }
    PyObject *handle = timers_pop(timers);
    timers_trim(timers);
    return handle;
}

static PyObject *
m_as_list(PyObject *self, PyObject *unused)
{
    return in_python(self, "as_list", NULL);
}

static PyObject *
m_replace(PyObject *self, PyObject *handles)
{
    return in_python(self, "replace", handles);
}

static PyObject *
m_note_cancelled(PyObject *self, PyObject *handle)
{
    PyObject *scheduled = PyObject_GetAttrString(handle, "_scheduled");
    int waits = scheduled == NULL ? -1 : PyObject_IsTrue(scheduled);
    Py_XDECREF(scheduled);
    if (waits < 0)
        return NULL;
    ((Timers *)self)->cancelled += waits;
    Py_RETURN_NONE;
}

static PyObject *
m_sweep(PyObject *self, PyObject *unused)
{
    if (timers_sweep((Timers *)self) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static void
empty(Timers *timers)
{
    /* Empty first: what is released may set timers. */
    Timer *heap = timers->heap;
    Py_ssize_t length = timers->length;
    timers->heap = NULL;
    timers->length = timers->size = 0;
    while (length > 0)
        Py_DECREF(heap[--length].handle);
    PyMem_Free(heap);
}

static PyObject *
m_clear(PyObject *self, PyObject *unused)
{
    Timers *timers = (Timers *)self;
    if (timers->list != NULL)
        return in_python(self, "clear", NULL);
    empty(timers);
    Py_RETURN_NONE;
}

static PyObject *
m_sample(PyObject *self, PyObject *size)
{
    Timers *timers = (Timers *)self;
    if (timers->list != NULL)
        return in_python(self, "sample", size);
    Py_ssize_t wanted = PyLong_AsSsize_t(size), count = timers->length;
    if (wanted < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "a sample has no size below 0");
        return NULL;
    }
    Py_ssize_t taken = count <= wanted ? count : wanted;
    PyObject *list = PyList_New(taken);
    if (list == NULL)
        return NULL;
    if (timers->list != NULL || timers->length != count) { /* up to 3.11 it may collect garbage: see spill */
        Py_DECREF(list);
        return m_sample(self, size);
    }
    for (Py_ssize_t i = 0; i < taken; i++) {
        Py_ssize_t index = i;
        if (count > wanted) { /* one of each of ``wanted`` equal parts, by a linear congruential generator */
            Py_ssize_t part = count / wanted;
            timers->random = timers->random * 6364136223846793005u + 1442695040888963407u;
            index = i * part + (Py_ssize_t)((timers->random >> 33) % (uint64_t)part);
        }
        PyList_SET_ITEM(list, i, Py_NewRef(timers->heap[index].handle));
    }
    return Py_BuildValue("(Nn)", list, count);
}

static Py_ssize_t
timers_length(PyObject *self)
{
    Timers *timers = (Timers *)self;
    return timers->list != NULL ? PyObject_Size(timers->list) : timers->length;
}

static PyObject *
get_heap(PyObject *self, void *closure)
{
    return spill((Timers *)self) < 0 ? NULL : Py_NewRef(((Timers *)self)->list);
}

static int
set_heap(PyObject *self, PyObject *value, void *closure)
{
    Timers *timers = (Timers *)self;
    if (value == NULL || spill(timers) < 0)
        return -1;
    Py_SETREF(timers->list, Py_NewRef(value));
    return 0;
}

static PyObject *
timers_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Timers *self = (Timers *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->state = core_state_of((PyObject *)self);
    self->random = (uint64_t)(uintptr_t)self;
    if (self->state == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
timers_traverse(PyObject *self, visitproc visit, void *arg)
{
    Timers *timers = (Timers *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(timers->list);
    for (Py_ssize_t i = 0; i < timers->length; i++)
        Py_VISIT(timers->heap[i].handle);
    return 0;
}

static int
timers_clear(PyObject *self)
{
    empty((Timers *)self);
    Py_CLEAR(((Timers *)self)->list);
    return 0;
}

static void
timers_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    timers_clear(self);
    PyMem_Free(((Timers *)self)->heap);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMethodDef timers_methods[] = {
    {"push", m_push, METH_O, "Adds a handle; returns its number."},
    {"next_due", m_next_due, METH_NOARGS, "When the next timer falls due; None where there is none."},
    {"pop", m_pop, METH_NOARGS, "Takes out the handle that falls due next."},
    {"as_list", m_as_list, METH_NOARGS, "The heap as others know it: a list of handles that they may change."},
    {"replace", m_replace, METH_O, "Puts a heap of handles in place of what was there."},
    {"note_cancelled", m_note_cancelled, METH_O, "A handle was cancelled."},
    {"sweep", m_sweep, METH_NOARGS, "Takes cancelled timers out."},
    {"clear", m_clear, METH_NOARGS, "Drops all timers."},
    {"sample", m_sample, METH_O, "So many handles at random, and how many there are."},
    {NULL},
};

static PyMemberDef timers_members[] = {
    {"sequence", T_ULONGLONG, offsetof(Timers, sequence), 0, "Numbers handed out."},
    {"cancelled", T_PYSSIZET, offsetof(Timers, cancelled), 0, "Entries whose handle is cancelled."},
    {"compactions", T_PYSSIZET, offsetof(Timers, compactions), 0, "Times that all cancelled ones were taken out."},
    {"shared", T_INT, offsetof(Timers, shared), 0, "The heap is one of handles."},
    {NULL},
};

static PyGetSetDef timers_getset[] = {
    {"heap", get_heap, set_heap, "The entries, as a list from now on.", NULL},
    {NULL},
};

static PyType_Slot timers_slots[] = {
    {Py_tp_doc, "The timers of one loop (core/timers.py)."},
    {Py_tp_new, timers_new},
    {Py_tp_dealloc, timers_dealloc},
    {Py_tp_traverse, timers_traverse},
    {Py_tp_clear, timers_clear},
    {Py_tp_methods, timers_methods},
    {Py_tp_members, timers_members},
    {Py_tp_getset, timers_getset},
    {Py_sq_length, timers_length},
    {0, NULL},
};

PyType_Spec core_timers_spec = {
    .name = "traceloop.core._core.Timers",
    .basicsize = sizeof(Timers),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = timers_slots,
};
