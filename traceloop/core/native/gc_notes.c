/* CollectionNotes: notes the pauses of the garbage collector. The twin of the callback in recording/heaps/gc_pauses.py,
   which has the reasons.

   A callback of the collector cannot raise: an exception that a signal's handler raises within it is lost. Python code
   runs such handlers wherever it runs, and C code does not. So nothing here calls Python code in the thread that runs
   signals' handlers while a collection is under way: what has to be called then is left for when it is over. */

#include "core.h"

#define PERIOD_SECONDS 0.02 /* gc_pauses.py has these three */
#define MOST_SINGLES 100
#define SHORT_SECONDS 0.001
#define GENERATIONS 4 /* GC_FULL_CALLED is the last */

/* Short collections that were too many for a record each. */
typedef struct {
    double first; /* when it began */
    double number, seconds, longest, uncollectable, collected;
} Sum;

typedef struct {
    PyObject_HEAD
    Record *pending; /* owned, as all objects here */
    PyObject *after_long, *get_count, *get_threshold;
    PyObject *generation, *uncollectable, *collected; /* what an info's items are called */
    Py_ssize_t limit;                                 /* doubles that may wait in ``pending`` */
    double long_seconds;
    unsigned long main_thread; /* the one that runs signals' handlers */
    double start;              /* of the collection under way; 0.0: it is not noted */
    double period;             /* since when ``singles`` are counted */
    int called, singles, summed;
    Sum sums[2 * GENERATIONS]; /* by generation; then those of young ones that the program called for */
} CollectionNotes;

static void
write_sums(CollectionNotes *self)
{
    self->summed = 0;
    for (int key = 0; key < 2 * GENERATIONS; key++) {
        const Sum sum = self->sums[key];
        if (sum.number == 0.0)
            continue;
        self->sums[key] = (Sum){0};
        record_add(self->pending, sum.number + OUTCOME * (key / GENERATIONS), R_GC_SUM, sum.longest);
        record_add(self->pending, sum.first, R_GC, sum.seconds);
        record_add(self->pending, key % GENERATIONS + 4.0 * sum.uncollectable, R_GC_INFO, sum.collected);
    }
}

/* -- after a long collection */

static int
call_hooks(CollectionNotes *self)
{
    int failed = 0;
    for (Py_ssize_t i = 0; !failed && i < PyList_GET_SIZE(self->after_long); i++) {
        PyObject *hook = Py_NewRef(PyList_GET_ITEM(self->after_long, i));
        failed = run_call(hook, NULL, NULL) < 0;
        Py_DECREF(hook);
    }
    return failed ? -1 : 0;
}

static int
call_hooks_later(void *notes)
{
    int result = call_hooks(notes);
    Py_DECREF((PyObject *)notes);
    return result;
}

/* A long collection leaves time for a signal, whose handler would run as soon as a hook does. */
static int
ended_long(CollectionNotes *self)
{
    int runs_handlers = PyThread_get_thread_ident() == self->main_thread &&
                        PyInterpreterState_Get() == PyInterpreterState_Main();
    if (!runs_handlers)
        return call_hooks(self);
    if (Py_AddPendingCall(call_hooks_later, Py_NewRef((PyObject *)self)) < 0)
        Py_DECREF(self); /* too many wait: the watchdog does without this look */
    return 0;
}

/* -- the collections */

static int
number_of_first(PyObject *get, long *number)
{
    PyObject *numbers = PyObject_CallNoArgs(get);
    if (numbers == NULL)
        return -1;
    int known = PyTuple_Check(numbers) && PyTuple_GET_SIZE(numbers) > 0;
    *number = known ? PyLong_AsLong(PyTuple_GET_ITEM(numbers, 0)) : 0;
    Py_DECREF(numbers);
    return PyErr_Occurred() ? -1 : 0;
}

static int
begin(CollectionNotes *self)
{
    long threshold, made;
    if (number_of_first(self->get_threshold, &threshold) < 0 || number_of_first(self->get_count, &made) < 0)
        return -1;
    self->called = !(0 < threshold && threshold < made && PyGC_IsEnabled());
    self->start = core_now();
    return 0;
}

static void
sum_up(CollectionNotes *self, int key, double began, double length, double uncollectable, double collected)
{
    Sum *sum = &self->sums[key];
    if (sum->number == 0.0)
        sum->first = began;
    sum->number += 1.0;
    sum->seconds += length;
    if (length > sum->longest)
        sum->longest = length;
    sum->uncollectable += uncollectable;
    sum->collected += collected;
    self->summed = 1;
}

static void
note(CollectionNotes *self, int generation, double began, double length, double uncollectable, double collected)
{
    int of_young = self->called && generation != GC_FULL;
    if (self->called && !of_young)
        generation = GC_FULL_CALLED;
    if (began - self->period > PERIOD_SECONDS) {
        self->period = began;
        self->singles = 0;
    }
    self->singles++;
    if (self->pending->length >= self->limit || (self->singles > MOST_SINGLES && length < SHORT_SECONDS)) {
        sum_up(self, generation + (of_young ? GENERATIONS : 0), began, length, uncollectable, collected);
        return;
    }
    if (self->summed)
        write_sums(self);
    if (of_young)
        record_add(self->pending, 1.0 + OUTCOME, R_GC_SUM, length);
    record_add(self->pending, began, R_GC, length);
    record_add(self->pending, generation + 4.0 * uncollectable, R_GC_INFO, collected);
}

static double
item_of(PyObject *info, PyObject *name)
{
    PyObject *item = PyDict_GetItemWithError(info, name);
    if (item == NULL && !PyErr_Occurred())
        PyErr_SetObject(PyExc_KeyError, name);
    return item == NULL ? -1.0 : PyLong_AsDouble(item);
}

static int
end(CollectionNotes *self, PyObject *info)
{
    double began = self->start;
    self->start = 0.0;
    if (began == 0.0)
        return 0; /* it began while none were noted */
    double length = core_now() - began;
    double generation = item_of(info, self->generation);
    double uncollectable = PyErr_Occurred() ? 0.0 : item_of(info, self->uncollectable);
    double collected = PyErr_Occurred() ? 0.0 : item_of(info, self->collected);
    if (PyErr_Occurred())
        return -1;
    if (generation < 0.0 || generation > GC_FULL) {
        PyErr_SetString(PyExc_ValueError, "no generation of the garbage collector's");
        return -1;
    }
    note(self, (int)generation, began, length, uncollectable, collected);
    return length >= self->long_seconds ? ended_long(self) : 0;
}

static PyObject *
m_note(PyObject *object, PyObject *const *args, Py_ssize_t count)
{
    CollectionNotes *self = (CollectionNotes *)object;
    if (count != 2 || !PyUnicode_Check(args[0]) || !PyDict_Check(args[1])) {
        PyErr_SetString(PyExc_TypeError, "note() takes a phase and a dict");
        return NULL;
    }
    int begins = PyUnicode_CompareWithASCIIString(args[0], "start") == 0;
    if ((begins ? begin(self) : end(self, args[1])) < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_write_sums(PyObject *self, PyObject *unused)
{
    write_sums((CollectionNotes *)self);
    Py_RETURN_NONE;
}

/* -- the type */

/* CollectionNotes(pending, limit, long_seconds, after_long, main_thread, get_count, get_threshold) */
static PyObject *
notes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pending, *after_long, *get_count, *get_threshold;
    Py_ssize_t limit;
    double long_seconds;
    unsigned long main_thread;
    const core_state *st = PyType_GetModuleState(type);
    if (st == NULL ||
        !PyArg_ParseTuple(args, "O!ndO!kOO", st->record_type, &pending, &limit, &long_seconds, &PyList_Type,
                          &after_long, &main_thread, &get_count, &get_threshold))
        return NULL;
    CollectionNotes *self = (CollectionNotes *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->pending = (Record *)Py_NewRef(pending);
    self->after_long = Py_NewRef(after_long);
    self->get_count = Py_NewRef(get_count);
    self->get_threshold = Py_NewRef(get_threshold);
    self->limit = limit;
    self->long_seconds = long_seconds;
    self->main_thread = main_thread;
    self->generation = PyUnicode_InternFromString("generation");
    self->uncollectable = PyUnicode_InternFromString("uncollectable");
    self->collected = PyUnicode_InternFromString("collected");
    if (PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
notes_traverse(PyObject *object, visitproc visit, void *arg)
{
    CollectionNotes *self = (CollectionNotes *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->pending);
    Py_VISIT(self->after_long);
    return 0;
}

static void
notes_dealloc(PyObject *object)
{
    CollectionNotes *self = (CollectionNotes *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->after_long);
    Py_CLEAR(self->get_count);
    Py_CLEAR(self->get_threshold);
    Py_CLEAR(self->generation);
    Py_CLEAR(self->uncollectable);
    Py_CLEAR(self->collected);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef notes_methods[] = {
    {"note", (PyCFunction)(void (*)(void))m_note, METH_FASTCALL, "What gc.callbacks are called for."},
    {"write_sums", m_write_sums, METH_NOARGS, "Adds what was summed up to the records that wait."},
    {NULL},
};

static PyType_Slot notes_slots[] = {
    {Py_tp_new, notes_new},
    {Py_tp_dealloc, notes_dealloc},
    {Py_tp_traverse, notes_traverse},
    {Py_tp_methods, notes_methods},
    {0, NULL},
};

PyType_Spec core_gc_notes_spec = {
    .name = "traceloop.core._core.CollectionNotes",
    .basicsize = sizeof(CollectionNotes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = notes_slots,
};
