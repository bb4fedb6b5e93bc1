/* Tally: runs of one loop, counted by callback and by kind of handle: sums, the longest, and histograms.

   The histograms' bounds, and what a bucket is, are statistics/histograms.py's; a Buckets object has them in a form in
   which a value's bucket is found without a search. */

#include "reader.h"

typedef struct {
    uint64_t counts[MOST_BOUNDS + 1];
    double sum, smallest, largest;
    bool used;
} Histogram;

/* Runs of one callback and kind of handle, since they were last taken; and all of them so far by length. */
typedef struct {
    int64_t runs;
    double seconds, longest;
    bool touched;
    uint64_t *lengths; /* one for each bucket; the tally's */
} Cell;

/* Of the table from kind and site to cell; 0 is an empty place, keys are shifted by one. */
typedef struct {
    uint32_t key, cell;
} Known;

typedef struct {
    PyObject_HEAD
    Buckets *buckets;
    Cell *cells;
    size_t cells_size;
    size_t *touched;
    size_t touched_length, touched_size;
    Known *known;
    size_t known_size, known_count;
    Histogram durations[KINDS], delays[KINDS];
} Tally;

/* -- buckets and histograms */

/* Values below zero are unknown, those beyond LATEST damage. The bucket, or -1 where the value is none. */
static inline Py_ssize_t
add_value(const Buckets *buckets, Histogram *histogram, double value)
{
    if (!(0.0 <= value && value < LATEST))
        return -1;
    size_t bucket = histogram_bucket(buckets, value);
    if (!histogram->used || value < histogram->smallest)
        histogram->smallest = value;
    histogram->used = true;
    histogram->counts[bucket]++;
    histogram->sum += value;
    if (value > histogram->largest)
        histogram->largest = value;
    return (Py_ssize_t)bucket;
}

/* The counts of all buckets as a list. */
static PyObject *
counts_of(const Buckets *buckets, const uint64_t *numbers)
{
    PyObject *counts = PyList_New(buckets->count + 1);
    for (Py_ssize_t index = 0; counts != NULL && index <= buckets->count; index++) {
        PyObject *count = PyLong_FromUnsignedLongLong(numbers[index]);
        if (count == NULL)
            Py_CLEAR(counts);
        else
            PyList_SET_ITEM(counts, index, count);
    }
    return counts;
}

/* (counts, sum, smallest, largest), or None where nothing was added; empties it. */
static PyObject *
take_histogram(const Buckets *buckets, Histogram *histogram)
{
    if (!histogram->used)
        Py_RETURN_NONE;
    PyObject *counts = counts_of(buckets, histogram->counts);
    if (counts == NULL)
        return NULL;
    PyObject *result = Py_BuildValue("(Nddd)", counts, histogram->sum, histogram->smallest, histogram->largest);
    if (result != NULL)
        memset(histogram, 0, sizeof(Histogram));
    return result;
}

static PyObject *
buckets_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *bounds;
    if (!PyArg_ParseTuple(args, "O!", &PyTuple_Type, &bounds))
        return NULL;
    if (PyTuple_GET_SIZE(bounds) > MOST_BOUNDS) {
        PyErr_SetString(PyExc_ValueError, "too many bounds");
        return NULL;
    }
    Buckets *self = (Buckets *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->count = PyTuple_GET_SIZE(bounds);
    for (Py_ssize_t index = 0; index < self->count; index++)
        self->bounds[index] = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, index));
    if (PyErr_Occurred()) {
        Py_DECREF(self);
        return NULL;
    }
    uint8_t bucket = 0;
    for (uint64_t upper = 0; upper < 1 << 15; upper++) {
        uint64_t bits = upper << 48;
        double least;
        memcpy(&least, &bits, 8);
        while (bucket < self->count && self->bounds[bucket] < least)
            bucket++;
        self->first[upper] = bucket;
    }
    return (PyObject *)self;
}

static PyType_Slot buckets_slots[] = {
    {Py_tp_doc, "The bounds of a histogram, by which a value's bucket is found."},
    {Py_tp_new, buckets_new},
    {Py_tp_dealloc, free_object},
    {0, NULL},
};

PyType_Spec buckets_spec = {"_reader.Buckets", sizeof(Buckets), 0, Py_TPFLAGS_DEFAULT, buckets_slots};

PyObject *
count_iterations(PyObject *module, PyObject *const *args, Py_ssize_t count)
{
    reader_state *st = PyModule_GetState(module);
    if (count != 3 || !Py_IS_TYPE(args[0], st->iterations) || !Py_IS_TYPE(args[1], st->buckets) ||
        !Py_IS_TYPE(args[2], st->buckets)) {
        PyErr_SetString(PyExc_TypeError, "count_iterations(iterations, buckets of durations, buckets of counts)");
        return NULL;
    }
    Iterations *iterations = (Iterations *)args[0];
    Buckets *durations = (Buckets *)args[1], *counts = (Buckets *)args[2];
    Histogram lengths = {0}, callbacks = {0}, delays = {0};
    for (Py_ssize_t index = 0; index < iterations->length; index++) {
        const IterationRow *row = &iterations->rows[index];
        add_value(durations, &lengths, row->end - row->start);
        add_value(counts, &callbacks, (double)row->callbacks);
        add_value(durations, &delays, row->poll_delay);
    }
    return Py_BuildValue("(NNN)", take_histogram(durations, &lengths), take_histogram(counts, &callbacks),
                         take_histogram(durations, &delays));
}

/* -- the table of cells */

static inline size_t
place_of(const Tally *self, uint32_t key)
{
    size_t mask = self->known_size - 1, place = (key * 0x9E3779B1u >> 7) & mask;
    while (self->known[place].key && self->known[place].key != key)
        place = (place + 1) & mask;
    return place;
}

/* ``key`` is at most 2**19, so the table at most twice that. */
static int
remember(Tally *self, uint32_t key, uint32_t cell)
{
    if (2 * (self->known_count + 1) > self->known_size) {
        size_t before_size = self->known_size, size = before_size ? 2 * before_size : 64;
        Known *before = self->known, *grown = PyMem_Calloc(size, sizeof(Known));
        if (grown == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        self->known = grown;
        self->known_size = size;
        for (size_t index = 0; index < before_size; index++)
            if (before[index].key)
                self->known[place_of(self, before[index].key)] = before[index];
        PyMem_Free(before);
    }
    self->known[place_of(self, key)] = (Known){key, cell};
    self->known_count++;
    return 0;
}

/* The cell of a run, asked of ``find(kind, ident)`` where it is not known: (number, whether that is for good). */
static Py_ssize_t
find_cell(Tally *self, PyObject *find, const Row *row, uint32_t key)
{
    PyObject *kind = PyTuple_GET_ITEM(state_of(Py_TYPE(self))->kinds, row->kind);
    PyObject *found = PyObject_CallFunction(find, "Od", kind, row->ident);
    unsigned int number;
    int for_good;
    if (found == NULL)
        return -1;
    int parsed = PyArg_ParseTuple(found, "Ip", &number, &for_good);
    Py_DECREF(found);
    if (!parsed)
        return -1;
    if (number > 1 << 20) {
        PyErr_SetString(PyExc_ValueError, "too many cells");
        return -1;
    }
    size_t size = self->cells_size;
    if (reserve((void **)&self->cells, &self->cells_size, (size_t)number + 1, sizeof(Cell)) < 0)
        return -1;
    if (self->cells_size > size)
        memset(self->cells + size, 0, (self->cells_size - size) * sizeof(Cell));
    if (self->cells[number].lengths == NULL) {
        self->cells[number].lengths = PyMem_Calloc((size_t)self->buckets->count + 1, sizeof(uint64_t));
        if (self->cells[number].lengths == NULL) {
            PyErr_NoMemory();
            return -1;
        }
    }
    if (for_good && remember(self, key, number) < 0)
        return -1;
    return (Py_ssize_t)number;
}

static int
touch(Tally *self, size_t number)
{
    if (reserve((void **)&self->touched, &self->touched_size, self->touched_length + 1, sizeof(size_t)) < 0)
        return -1;
    self->touched[self->touched_length++] = number;
    self->cells[number].touched = true;
    return 0;
}

static PyObject *
tally_add(Tally *self, PyObject *args)
{
    Runs *runs;
    PyObject *find;
    if (!PyArg_ParseTuple(args, "O!O", state_of(Py_TYPE(self))->runs, &runs, &find))
        return NULL;
    double longest = 0.0;
    uint32_t key_now = 0;
    size_t number = 0;
    for (Py_ssize_t index = 0; index < runs->length; index++) {
        Row *row = &runs->rows[index];
        uint32_t key = ((uint32_t)row->kind << 16 | site_of(row->ident)) + 1;
        if (key != key_now) {
            size_t place = self->known_size ? place_of(self, key) : 0;
            if (self->known_size && self->known[place].key)
                number = self->known[place].cell;
            else {
                Py_ssize_t found = find_cell(self, find, row, key);
                if (found < 0)
                    return NULL;
                number = (size_t)found;
            }
            key_now = key;
            if (!self->cells[number].touched && touch(self, number) < 0)
                return NULL;
        }
        add_value(self->buckets, &self->delays[row->kind], row->delay);
        double length = row->end - row->start;
        if (!(length < LATEST)) {
            /* A damaged record: no part of the statistics shall see such lengths. */
            row->end = row->start;
            continue;
        }
        Cell *cell = &self->cells[number];
        Py_ssize_t bucket = add_value(self->buckets, &self->durations[row->kind], length);
        if (bucket >= 0)
            cell->lengths[bucket]++;
        cell->runs++;
        cell->seconds += length;
        if (length > cell->longest)
            cell->longest = length;
        if (length > longest)
            longest = length;
    }
    return PyFloat_FromDouble(longest);
}

static PyObject *
tally_take_cells(Tally *self, PyObject *ignored)
{
    PyObject *taken = PyList_New((Py_ssize_t)self->touched_length);
    for (size_t index = 0; taken != NULL && index < self->touched_length; index++) {
        size_t number = self->touched[index];
        Cell *cell = &self->cells[number];
        PyObject *item = Py_BuildValue("(nLdd)", (Py_ssize_t)number, (long long)cell->runs, cell->seconds,
                                       cell->longest);
        if (item == NULL)
            Py_CLEAR(taken);
        else
            PyList_SET_ITEM(taken, (Py_ssize_t)index, item);
        cell->runs = 0;
        cell->seconds = cell->longest = 0.0;
        cell->touched = false;
    }
    self->touched_length = 0;
    return taken;
}

static PyObject *
tally_lengths(Tally *self, PyObject *cell)
{
    size_t number = PyLong_AsSize_t(cell);
    if (number == (size_t)-1 && PyErr_Occurred())
        return NULL;
    if (number >= self->cells_size || self->cells[number].lengths == NULL) {
        PyErr_SetString(PyExc_IndexError, "no such cell");
        return NULL;
    }
    return counts_of(self->buckets, self->cells[number].lengths);
}

static PyObject *
tally_take_histograms(Tally *self, PyObject *ignored)
{
    PyObject *kinds = state_of(Py_TYPE(self))->kinds, *taken = PyList_New(0);
    for (int kind = 0; taken != NULL && kind < KINDS; kind++) {
        if (!self->durations[kind].used && !self->delays[kind].used)
            continue;
        PyObject *item = Py_BuildValue("(ONN)", PyTuple_GET_ITEM(kinds, kind),
                                       take_histogram(self->buckets, &self->durations[kind]),
                                       take_histogram(self->buckets, &self->delays[kind]));
        if (item == NULL || PyList_Append(taken, item) < 0)
            Py_CLEAR(taken);
        Py_XDECREF(item);
    }
    return taken;
}

static PyObject *
tally_forget(Tally *self, PyObject *ignored)
{
    PyMem_Free(self->known);
    self->known = NULL;
    self->known_size = self->known_count = 0;
    Py_RETURN_NONE;
}

static PyObject *
tally_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *buckets;
    if (!PyArg_ParseTuple(args, "O!", state_of(type)->buckets, &buckets))
        return NULL;
    Tally *self = (Tally *)type->tp_alloc(type, 0);
    if (self != NULL)
        self->buckets = (Buckets *)Py_NewRef(buckets);
    return (PyObject *)self;
}

static void
tally_dealloc(Tally *self)
{
    Py_XDECREF(self->buckets);
    for (size_t number = 0; number < self->cells_size; number++)
        PyMem_Free(self->cells[number].lengths);
    PyMem_Free(self->cells);
    PyMem_Free(self->touched);
    PyMem_Free(self->known);
    free_object((PyObject *)self);
}

static PyMethodDef tally_methods[] = {
    {"add", (PyCFunction)tally_add, METH_VARARGS, "Counts runs; returns the length of the longest."},
    {"take_cells", (PyCFunction)tally_take_cells, METH_NOARGS, "(cell, runs, seconds, longest) of what was counted."},
    {"lengths", (PyCFunction)tally_lengths, METH_O, "How many runs of a cell lie in each bucket, of all so far."},
    {"take_histograms", (PyCFunction)tally_take_histograms, METH_NOARGS, "(kind, durations, delays), counted anew."},
    {"forget", (PyCFunction)tally_forget, METH_NOARGS, "Which cell a run belongs to is asked anew."},
    {NULL},
};

static PyType_Slot tally_slots[] = {
    {Py_tp_doc, "Runs counted by callback and kind; what is counted waits to be taken."},
    {Py_tp_new, tally_new},
    {Py_tp_methods, tally_methods},
    {Py_tp_dealloc, tally_dealloc},
    {0, NULL},
};

PyType_Spec tally_spec = {"_reader.Tally", sizeof(Tally), 0, Py_TPFLAGS_DEFAULT, tally_slots};
