/* Runs and Iterations: what a chunk decodes to, in rows of structures, with the methods that decoding/runs.py has. */

#include "reader.h"

#include <stddef.h>

#define LEAST 1024

int
reserve_more(void **items, size_t *size, size_t wanted, size_t each)
{
    size_t grown = *size ? *size : 64;
    while (grown < wanted) {
        if (grown > SIZE_MAX / 4 / each) {
            PyErr_NoMemory();
            return -1;
        }
        grown *= 2;
    }
    void *moved = PyMem_Realloc(*items, grown * each);
    if (moved == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    *items = moved;
    *size = grown;
    return 0;
}

static int
rows_reserve(void **rows, Py_ssize_t *size, Py_ssize_t wanted, size_t each)
{
    size_t grown = (size_t)*size;
    if (wanted < LEAST)
        wanted = LEAST;
    if (reserve(rows, &grown, (size_t)wanted, each) < 0)
        return -1;
    *size = (Py_ssize_t)grown;
    return 0;
}

static int
shown(Py_ssize_t exports)
{
    if (exports)
        PyErr_SetString(PyExc_BufferError, "a buffer of these rows is in use");
    return exports != 0;
}

int
runs_reserve(Runs *runs, Py_ssize_t more)
{
    if (shown(runs->exports))
        return -1;
    return rows_reserve((void **)&runs->rows, &runs->size, runs->length + more, sizeof(Row));
}

/* Gives back the room for rows that will not come. Rows that a buffer shows stay where they are. */
void
runs_trim(Runs *runs)
{
    if (runs->exports || !runs->length || runs->size / 2 < runs->length)
        return;
    Row *moved = PyMem_Realloc(runs->rows, (size_t)runs->length * sizeof(Row));
    if (moved == NULL)
        return;
    runs->rows = moved;
    runs->size = runs->length;
}

int
iterations_reserve(Iterations *iterations, Py_ssize_t more)
{
    if (shown(iterations->exports))
        return -1;
    return rows_reserve((void **)&iterations->rows, &iterations->size, iterations->length + more, sizeof(IterationRow));
}

/* A column as a memoryview of a copy: ``at`` is where it stands in a row, of ``stride`` bytes. */
static PyObject *
column(const void *rows, Py_ssize_t length, size_t at, size_t stride, const char *format)
{
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, length * 8);
    if (bytes == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(bytes);
    const char *from = (const char *)rows + at;
    for (Py_ssize_t index = 0; index < length; index++)
        memcpy(to + 8 * index, from + stride * (size_t)index, 8);
    PyObject *view = PyMemoryView_FromObject(bytes);
    Py_DECREF(bytes);
    if (view == NULL)
        return NULL;
    PyObject *cast = PyObject_CallMethod(view, "cast", "s", format);
    Py_DECREF(view);
    return cast;
}

/* The rows as a buffer of items of this format; read-only. */
static int
show(PyObject *self, Py_buffer *view, int flags, void *rows, Py_ssize_t length, size_t each, char *format)
{
    Py_ssize_t size = length * (Py_ssize_t)each;
    if (PyBuffer_FillInfo(view, self, rows != NULL ? rows : (void *)"", size, 1, flags) < 0)
        return -1;
    view->itemsize = (Py_ssize_t)each;
    if (view->shape != NULL) { /* it counts items, and has to stay when rows are added: it lies in the view itself */
        memcpy(&view->internal, &length, sizeof(length));
        view->shape = (Py_ssize_t *)&view->internal;
    }
    if (flags & PyBUF_FORMAT)
        view->format = format;
    return 0;
}

/* -- Runs */

static int
runs_show(Runs *self, Py_buffer *view, int flags)
{
    if (show((PyObject *)self, view, flags, self->rows, self->length, sizeof(Row), ROW_FORMAT) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void
runs_hide(Runs *self, Py_buffer *view)
{
    self->exports--;
}

static Py_ssize_t
runs_length(Runs *self)
{
    return self->length;
}

static PyObject *
runs_item(Runs *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such run") < 0)
        return NULL;
    const Row *row = &self->rows[index];
    PyObject *kind = PyTuple_GET_ITEM(state_of(Py_TYPE(self))->kinds, row->kind);
    return Py_BuildValue("(LdddOdLLLi)", (long long)(self->first + index), row->start, row->end, row->ident, kind,
                         row->delay, (long long)row->scheduler, (long long)row->context, (long long)row->iteration,
                         (int)row->outcome);
}

static int
kind_of(PyObject *kinds, PyObject *name)
{
    for (int kind = 0; kind < KINDS; kind++) {
        int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(kinds, kind), name, Py_EQ);
        if (same)
            return same < 0 ? -1 : kind;
    }
    PyErr_SetString(PyExc_ValueError, "no kind of handle");
    return -1;
}

static PyObject *
runs_append(Runs *self, PyObject *tuple)
{
    long long number, scheduler, context, iteration;
    double start, end, ident, delay;
    int outcome;
    PyObject *name;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "a run is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(tuple, "LdddOdLLLi", &number, &start, &end, &ident, &name, &delay, &scheduler, &context,
                          &iteration, &outcome))
        return NULL;
    int kind = kind_of(state_of(Py_TYPE(self))->kinds, name);
    if (kind < 0)
        return NULL;
    if (outcome < 0 || outcome >= FIRST_STEP || (self->length && number != self->first + self->length)) {
        PyErr_SetString(PyExc_ValueError, "not the number that follows, or no outcome");
        return NULL;
    }
    if (self->length == self->size && runs_reserve(self, 1) < 0)
        return NULL;
    if (!self->length)
        self->first = number;
    self->rows[self->length++] =
        (Row){start, end, ident, delay, scheduler, context, iteration, (uint8_t)kind, (uint8_t)outcome};
    Py_RETURN_NONE;
}

static PyObject *
runs_forget_lengths(Runs *self, PyObject *argument)
{
    double limit = PyFloat_AsDouble(argument);
    if (limit == -1.0 && PyErr_Occurred())
        return NULL;
    for (Py_ssize_t index = 0; index < self->length; index++) {
        Row *row = &self->rows[index];
        if (!(row->end - row->start < limit))
            row->end = row->start;
    }
    Py_RETURN_NONE;
}

/* of_tasks(followed): the runs whose ident is a key of this dictionary, in order. */
static PyObject *
runs_of_tasks(Runs *self, PyObject *followed)
{
    if (!PyDict_Check(followed)) {
        PyErr_SetString(PyExc_TypeError, "of_tasks(dict)");
        return NULL;
    }
    PyObject *found = PyList_New(0);
    for (Py_ssize_t index = 0; found != NULL && index < self->length; index++) {
        if (!(self->rows[index].ident >= SITE_LIMIT))
            continue;
        PyObject *ident = PyFloat_FromDouble(self->rows[index].ident), *row = NULL;
        int contained = ident != NULL ? PyDict_Contains(followed, ident) : -1;
        if (contained > 0)
            row = runs_item(self, index);
        if (contained < 0 || (contained && (row == NULL || PyList_Append(found, row) < 0)))
            Py_CLEAR(found);
        Py_XDECREF(ident);
        Py_XDECREF(row);
    }
    return found;
}

/* longer_before(index, ready, least, most): see runs.py. */
static PyObject *
runs_longer_before(Runs *self, PyObject *args)
{
    Py_ssize_t index, most, passed = 0;
    double ready, least;
    if (!PyArg_ParseTuple(args, "nddn", &index, &ready, &least, &most))
        return NULL;
    PyObject *found = PyList_New(0);
    if (index > self->length)
        index = self->length;
    bool over = false;
    while (found != NULL && index > 0 && passed < most) {
        const Row *row = &self->rows[--index];
        if (row->end <= ready) {
            over = true;
            break;
        }
        passed++;
        if (row->end - row->start < least)
            continue;
        PyObject *item =
            Py_BuildValue("(Lddd)", (long long)(self->first + index), row->start, row->end, row->ident);
        if (item == NULL || PyList_Append(found, item) < 0)
            Py_CLEAR(found);
        Py_XDECREF(item);
    }
    return found != NULL ? Py_BuildValue("(Nn)", found, over ? most : passed) : NULL;
}

#define MAX_VICTIMS 64
#define ROUNDING 1e-6 /* as in stalls/who_waited.py */

/* What waited for a slow run, of one site: as in Bill, stalls/who_waited.py. */
typedef struct {
    uint32_t site;
    double first_ident, exact, own_most;
    long long handles, own_handles;
} Victim;

/* waited(index, upto, number, begin, end, iteration): of the runs from one on, who waited for the slow run with this
   number; the twin of WhoWaited._charge. Returns the index of the first that it did not look at, and of each site an
   ident, handles, seconds, own handles, seconds at most. It ends early where there are many sites, and where the
   iterations are over in which handles waited. */
static PyObject *
runs_waited(Runs *self, PyObject *args)
{
    Py_ssize_t index, upto;
    long long number, iteration;
    double begin, end;
    if (!PyArg_ParseTuple(args, "nnLddL", &index, &upto, &number, &begin, &end, &iteration))
        return NULL;
    if (index < 0 || upto > self->length || iteration > INT64_MAX - 2)
        return PyErr_Format(PyExc_ValueError, "no such runs");
    Victim victims[MAX_VICTIMS];
    int count = 0, at = 0;
    for (; index < upto; index++) {
        const Row *row = &self->rows[index];
        if (row->iteration > iteration + 2)
            break;
        if (row->iteration > iteration + 1 || row->delay < 0.0)
            continue;
        double ready = row->start - row->delay;
        /* A timer that the run set is due later. What it put in with call_soon is ready at its end. */
        bool is_own = row->scheduler == number && ready > end - ROUNDING && ready <= end + ROUNDING;
        if (!is_own && !(ready < end))
            continue;
        uint32_t site = site_of(row->ident);
        if (at >= count || victims[at].site != site) {
            for (at = 0; at < count && victims[at].site != site;)
                at++;
            if (at == MAX_VICTIMS)
                break;
            if (at == count)
                victims[count++] = (Victim){.site = site, .first_ident = row->ident};
        }
        Victim *victim = &victims[at];
        if (is_own) {
            victim->own_handles++;
            victim->own_most += end - begin;
        }
        else {
            victim->handles++;
            victim->exact += end - (ready > begin ? ready : begin);
        }
    }
    PyObject *found = PyList_New(0);
    for (at = 0; found != NULL && at < count; at++) {
        const Victim *each = &victims[at];
        PyObject *item = Py_BuildValue("(dLdLd)", each->first_ident, each->handles, each->exact, each->own_handles,
                                       each->own_most);
        if (item == NULL || PyList_Append(found, item) < 0)
            Py_CLEAR(found);
        Py_XDECREF(item);
    }
    return found != NULL ? Py_BuildValue("(nN)", index, found) : NULL;
}

static PyObject *
runs_column(Runs *self, void *at)
{
    return column(self->rows, self->length, (size_t)at, sizeof(Row), "d");
}

static void
runs_dealloc(Runs *self)
{
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef runs_methods[] = {
    {"append", (PyCFunction)runs_append, METH_O, "Adds a run at the end."},
    {"forget_lengths", (PyCFunction)runs_forget_lengths, METH_O, "Runs of this length or more end where they began."},
    {"longer_before", (PyCFunction)runs_longer_before, METH_VARARGS, "Long runs before one, latest first."},
    {"of_tasks", (PyCFunction)runs_of_tasks, METH_O, "The runs of these tasks, in order."},
    {"waited", (PyCFunction)runs_waited, METH_VARARGS, "Who waited for a slow run."},
    {NULL},
};

static PyGetSetDef runs_getset[] = {
    {"starts", (getter)runs_column, NULL, "When they began.", (void *)offsetof(Row, start)},
    {"ends", (getter)runs_column, NULL, "When they ended.", (void *)offsetof(Row, end)},
    {NULL},
};

static PyType_Slot runs_slots[] = {
    {Py_tp_doc, "Handle runs in order (decoding/runs.py)."},
    {Py_bf_getbuffer, runs_show},
    {Py_bf_releasebuffer, runs_hide},
    {Py_sq_length, runs_length},
    {Py_sq_item, runs_item},
    {Py_tp_methods, runs_methods},
    {Py_tp_getset, runs_getset},
    {Py_tp_dealloc, runs_dealloc},
    {0, NULL},
};

PyType_Spec runs_spec = {"_reader.Runs", sizeof(Runs), 0, Py_TPFLAGS_DEFAULT, runs_slots};

/* -- Iterations */

static int
iterations_show(Iterations *self, Py_buffer *view, int flags)
{
    if (show((PyObject *)self, view, flags, self->rows, self->length, sizeof(IterationRow), ITERATION_FORMAT) < 0)
        return -1;
    self->exports++;
    return 0;
}

static void
iterations_hide(Iterations *self, Py_buffer *view)
{
    self->exports--;
}

static Py_ssize_t
iterations_length(Iterations *self)
{
    return self->length;
}

static PyObject *
iterations_item(Iterations *self, Py_ssize_t index)
{
    if (checked_index(index, self->length, "no such iteration") < 0)
        return NULL;
    const IterationRow *row = &self->rows[index];
    return PyObject_CallFunction(state_of(Py_TYPE(self))->iteration, "LddLdd", (long long)row->number, row->start,
                                 row->end, (long long)row->callbacks, row->poll_duration, row->poll_delay);
}

static PyObject *
iterations_append(Iterations *self, PyObject *tuple)
{
    long long number, callbacks;
    double start, end, poll_duration, poll_delay;
    if (!PyTuple_Check(tuple)) {
        PyErr_SetString(PyExc_TypeError, "an iteration is a tuple");
        return NULL;
    }
    if (!PyArg_ParseTuple(tuple, "LddLdd", &number, &start, &end, &callbacks, &poll_duration, &poll_delay))
        return NULL;
    if (self->length == self->size && iterations_reserve(self, 1) < 0)
        return NULL;
    self->rows[self->length++] = (IterationRow){number, callbacks, start, end, poll_duration, poll_delay};
    Py_RETURN_NONE;
}

static PyObject *
iterations_column(Iterations *self, void *at)
{
    const char *format = (size_t)at == offsetof(IterationRow, callbacks) ? "q" : "d";
    return column(self->rows, self->length, (size_t)at, sizeof(IterationRow), format);
}

static void
iterations_dealloc(Iterations *self)
{
    PyMem_Free(self->rows);
    free_object((PyObject *)self);
}

static PyMethodDef iterations_methods[] = {
    {"append", (PyCFunction)iterations_append, METH_O, "Adds an iteration at the end."},
    {NULL},
};

static PyGetSetDef iterations_getset[] = {
    {"starts", (getter)iterations_column, NULL, "When they began.", (void *)offsetof(IterationRow, start)},
    {"ends", (getter)iterations_column, NULL, "When they ended.", (void *)offsetof(IterationRow, end)},
    {"callbacks", (getter)iterations_column, NULL, "How many handles ran.", (void *)offsetof(IterationRow, callbacks)},
    {"poll_delays", (getter)iterations_column, NULL, "How late their polls returned; -1 not known.",
     (void *)offsetof(IterationRow, poll_delay)},
    {NULL},
};

static PyType_Slot iterations_slots[] = {
    {Py_tp_doc, "Iterations in order (decoding/runs.py)."},
    {Py_bf_getbuffer, iterations_show},
    {Py_bf_releasebuffer, iterations_hide},
    {Py_sq_length, iterations_length},
    {Py_sq_item, iterations_item},
    {Py_tp_methods, iterations_methods},
    {Py_tp_getset, iterations_getset},
    {Py_tp_dealloc, iterations_dealloc},
    {0, NULL},
};

PyType_Spec iterations_spec = {"_reader.Iterations", sizeof(Iterations), 0, Py_TPFLAGS_DEFAULT, iterations_slots};
