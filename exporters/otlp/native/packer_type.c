/* Packer as a Python type: the builder's state, rows and limits go in, portions of bytes and the state come out. */

#include "packing.h"

/* The rows of ``each`` bytes that another object has; -1: an exception, it has none. */
static int
open_rows(PyObject *object, Py_buffer *view, size_t each, const char *format)
{
    if (PyObject_GetBuffer(object, view, PyBUF_FORMAT) < 0)
        return -1;
    if (view->itemsize != (Py_ssize_t)each || view->format == NULL || strcmp(view->format, format) != 0) {
        PyBuffer_Release(view);
        PyErr_SetString(PyExc_TypeError, "not the rows that belong to these sources");
        return -1;
    }
    return 0;
}

static int
take_state(Work *work, PyObject *state, long long first)
{
    IterationState *now = &work->now;
    const char *trace, *parent;
    Py_ssize_t trace_size, parent_size;
    int kept;
    long long runs;
    if (!PyArg_ParseTuple(state, "Ly#y#pddL", &now->number, &trace, &trace_size, &parent, &parent_size, &kept,
                          &now->first_start, &now->last_end, &runs))
        return -1;
    if ((trace_size && trace_size != sizeof(Trace)) || (parent_size && parent_size != 8)) {
        PyErr_SetString(PyExc_ValueError, "a trace has 16 bytes, a span 8");
        return -1;
    }
    now->has_trace = trace_size != 0;
    if (now->has_trace)
        memcpy(now->trace.id, trace, sizeof(Trace));
    now->kept = kept && now->has_trace;
    now->has_parent = parent_size != 0 && now->has_trace;
    if (now->has_parent)
        memcpy(&now->parent, parent, 8);
    now->first_run = first - runs;
    make_head(work);
    return 0;
}

static int
take_held(Work *work, PyObject *held)
{
    if (held == Py_None)
        return 0;
    long long number, scheduler, context, iteration;
    int outcome;
    PyObject *name;
    Row *row = &work->held;
    if (!PyTuple_Check(held)) {
        PyErr_SetString(PyExc_TypeError, "a run is a tuple");
        return -1;
    }
    if (!PyArg_ParseTuple(held, "LdddOdLLLi", &number, &row->start, &row->end, &row->ident, &name, &row->delay,
                          &scheduler, &context, &iteration, &outcome))
        return -1;
    row->scheduler = scheduler;
    row->context = context;
    row->iteration = iteration;
    row->outcome = (uint8_t)outcome;
    for (row->kind = 0; row->kind < KINDS; row->kind++) {
        int same = PyObject_RichCompareBool(PyTuple_GET_ITEM(work->packer->kinds, row->kind), name, Py_EQ);
        if (same < 0)
            return -1;
        if (same)
            break;
    }
    if (row->kind == KINDS || number != work->first - 1) {
        PyErr_SetString(PyExc_ValueError, "no kind of handle, or not the run before the first");
        return -1;
    }
    work->has_held = true;
    return 0;
}

/* (portions, spans that there was no room for, state, whether the last is held, the longest, the latest, the longest
   iteration or None) */
static PyObject *
give(Work *work, bool held)
{
    IterationState *now = &work->now;
    long long last = work->first + work->length - 1;
    if (held)
        *now = (IterationState){.number = -1, .first_start = now->first_start, .last_end = now->last_end,
                                .first_run = last + 1};
    PyObject *longest = Py_NewRef(Py_None);
    if (work->longest_iteration_s >= 0.0) {
        Py_SETREF(longest, Py_BuildValue("(y#y#dd)", work->longest_iteration_trace.id, (Py_ssize_t)sizeof(Trace),
                                         (char *)&work->longest_iteration_id, (Py_ssize_t)8,
                                         work->longest_iteration_start, work->longest_iteration_end));
        if (longest == NULL)
            return NULL;
    }
    return Py_BuildValue("(On(Ly#y#OddL)OLLN)", work->out.portions, work->out.refused, now->number, now->trace.id,
                         (Py_ssize_t)(now->has_trace ? sizeof(Trace) : 0), (char *)&now->parent,
                         (Py_ssize_t)(now->has_parent ? 8 : 0), now->kept ? Py_True : Py_False, now->first_start,
                         now->last_end, last + 1 - now->first_run, held ? Py_True : Py_False, work->longest,
                         work->latest, longest);
}

static void
close_work(Work *work)
{
    output_close(&work->out);
    Py_CLEAR(work->kind);
    for (size_t index = 0; index < KNOWN_CONTEXTS; index++)
        Py_CLEAR(work->contexts[index].head);
}

static PyObject *
pack_rows(Work *work, PyObject *state, PyObject *held, Py_ssize_t room)
{
    Packer *self = work->packer;
    forget_kinds(work);
    if (take_held(work, held) < 0 || take_state(work, state, work->first) < 0 ||
        output_open(&work->out, work->st, self->most_spans, room) < 0)
        return NULL;
    int result = take_rows(work);
    if (result < 0 || output_end(&work->out) < 0)
        return NULL;
    return give(work, result == 1);
}

static PyObject *
packer_pack(Packer *self, PyObject *args)
{
    PyObject *builder, *runs, *iterations, *held, *state, *kinds, *active;
    long long first;
    double scale, origin, lowest;
    Py_ssize_t room;
    if (!PyArg_ParseTuple(args, "OOOLOO!O!O!dddn:pack", &builder, &runs, &iterations, &first, &held, &PyTuple_Type,
                          &state, &PyDict_Type, &kinds, &PyDict_Type, &active, &scale, &origin, &lowest, &room))
        return NULL;
    Work *work = PyMem_Calloc(1, sizeof(Work));
    if (work == NULL)
        return PyErr_NoMemory();
    *work = (Work){
        .packer = self, .st = PyType_GetModuleState(Py_TYPE(self)), .builder = builder, .kinds = kinds,
        .active = active, .first = first, .scale = scale, .origin = origin, .lowest = lowest,
        .longest_s = lowest < 0.0 ? lowest : 0.0, .latest_s = -1.0, .longest_iteration_s = -1.0,
    };
    PyObject *result = NULL;
    Py_buffer rows, iteration_rows;
    if (open_rows(runs, &rows, sizeof(Row), ROW_FORMAT) == 0) {
        if (open_rows(iterations, &iteration_rows, sizeof(IterationRow), ITERATION_FORMAT) == 0) {
            work->rows = rows.buf;
            work->length = rows.len / (Py_ssize_t)sizeof(Row);
            work->iterations = iteration_rows.buf;
            work->iterations_length = iteration_rows.len / (Py_ssize_t)sizeof(IterationRow);
            result = pack_rows(work, state, held, room);
            PyBuffer_Release(&iteration_rows);
        }
        PyBuffer_Release(&rows);
    }
    close_work(work);
    PyMem_Free(work);
    return result;
}

/* -- its life */

/* Fields whose length must fit into one byte; the last with more behind it. */
static int
look_at_fields(const Packer *self)
{
    PyObject *fields[] = {self->delay, self->link, self->poll, self->poll_delay, self->iteration, self->callbacks};
    for (size_t index = 0; index < sizeof(fields) / sizeof(fields[0]); index++)
        if (size_of(fields[index]) > 100) {
            PyErr_SetString(PyExc_ValueError, "a field that is too long");
            return -1;
        }
    return 0;
}

static PyObject *
packer_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    packer_state *st = PyType_GetModuleState(type);
    PyObject *traces, *kinds, *delay, *link, *poll, *poll_delay, *iteration, *callbacks;
    const char *prefix;
    Py_ssize_t prefix_size, most_spans;
    double run_base, run_unit, iteration_base, iteration_unit, trace_span;
    unsigned long long trace_first, trace_stride, bound;
    int keep_all;
    if (!PyArg_ParseTuple(args, "O!O!(SSSSSS)(dd)(dd)(y#KdK)(pK)n", st->traces, &traces, &PyTuple_Type, &kinds,
                          &delay, &link, &poll, &poll_delay, &iteration, &callbacks, &run_base, &run_unit,
                          &iteration_base, &iteration_unit, &prefix, &prefix_size, &trace_first, &trace_span,
                          &trace_stride, &keep_all, &bound, &most_spans))
        return NULL;
    if (PyTuple_GET_SIZE(kinds) != KINDS || prefix_size != 8 || most_spans < 1) {
        PyErr_SetString(PyExc_ValueError, "not what packing.py passes");
        return NULL;
    }
    Packer *self = (Packer *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->traces = (Traces *)Py_NewRef(traces);
    self->kinds = Py_NewRef(kinds);
    self->delay = Py_NewRef(delay);
    self->link = Py_NewRef(link);
    self->poll = Py_NewRef(poll);
    self->poll_delay = Py_NewRef(poll_delay);
    self->iteration = Py_NewRef(iteration);
    self->callbacks = Py_NewRef(callbacks);
    self->run_base = run_base;
    self->run_unit = run_unit;
    self->iteration_base = iteration_base;
    self->iteration_unit = iteration_unit;
    memcpy(self->prefix, prefix, 8);
    self->trace_first = trace_first;
    self->trace_stride = trace_stride;
    memcpy(&self->trace_span, &trace_span, 8);
    self->keep_all = keep_all;
    self->bound = bound;
    self->most_spans = most_spans;
    if (look_at_fields(self) < 0)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void
packer_dealloc(Packer *self)
{
    Py_XDECREF(self->traces);
    Py_XDECREF(self->kinds);
    Py_XDECREF(self->delay);
    Py_XDECREF(self->link);
    Py_XDECREF(self->poll);
    Py_XDECREF(self->poll_delay);
    Py_XDECREF(self->iteration);
    Py_XDECREF(self->callbacks);
    free_object((PyObject *)self);
}

static PyMethodDef packer_methods[] = {
    {"pack", (PyCFunction)packer_pack, METH_VARARGS,
     "pack(builder, runs, iterations, first, held, state, kinds, active, scale, origin, lowest, room)"},
    {NULL},
};

static PyType_Slot packer_slots[] = {
    {Py_tp_doc, "From rows of runs to the bytes of their spans; the twin of PackingBuilder._pack_runs."},
    {Py_tp_new, packer_new},
    {Py_tp_methods, packer_methods},
    {Py_tp_dealloc, packer_dealloc},
    {0, NULL},
};

PyType_Spec packer_spec = {"_packer.Packer", sizeof(Packer), 0, Py_TPFLAGS_DEFAULT, packer_slots};
