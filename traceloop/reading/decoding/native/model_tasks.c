/* What becomes of a run's record in Python: tasks that begin and end, text, and every rare record. */

#include "reader.h"

PyObject *
model_next_text(Model *self)
{
    if (self->text == NULL || self->text_at >= PyList_GET_SIZE(self->text))
        return NULL;
    return Py_NewRef(PyList_GET_ITEM(self->text, self->text_at++));
}

/* The name of a task that begins, by the text of its first step's record (see layout.py). */
static PyObject *
name_of_new_task(Model *self)
{
    PyObject *name = model_next_text(self);
    if (name == NULL || (PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) == 0)) {
        Py_XDECREF(name);
        if (self->automatic_name < 0)
            return PyUnicode_FromString("");
        return PyUnicode_FromFormat("Task-%lld", (long long)++self->automatic_name);
    }
    Py_ssize_t length;
    const char *text = PyUnicode_Check(name) ? PyUnicode_AsUTF8AndSize(name, &length) : NULL;
    if (text == NULL) {
        PyErr_Clear();
        return name;
    }
    if (length > 5 && length < 21 && strncmp(text, "Task-", 5) == 0) {
        int64_t number = 0;
        for (Py_ssize_t index = 5; index < length; index++) {
            if (text[index] < '0' || text[index] > '9')
                return name;
            number = number * 10 + (text[index] - '0');
        }
        self->automatic_name = number;
    }
    return name;
}

/* Appends a NewTask. A named tuple is made here as its class makes it, without a call of Python. */
static int
add_task(Model *self, PyObject *name, int64_t creator, double creator_ident, PyObject *made_by_loop)
{
    PyTypeObject *type = (PyTypeObject *)state_of(Py_TYPE(self))->new_task;
    PyObject *task = type->tp_alloc(type, 7);
    if (task == NULL)
        return -1;
    PyTuple_SET_ITEM(task, 0, PyFloat_FromDouble(self->row.ident));
    PyTuple_SET_ITEM(task, 1, Py_NewRef(name));
    PyTuple_SET_ITEM(task, 2, PyLong_FromLongLong(self->runs));
    PyTuple_SET_ITEM(task, 3, PyFloat_FromDouble(self->row.start));
    PyTuple_SET_ITEM(task, 4, PyLong_FromLongLong(creator));
    PyTuple_SET_ITEM(task, 5, PyFloat_FromDouble(creator_ident));
    PyTuple_SET_ITEM(task, 6, Py_NewRef(made_by_loop));
    int result = -1;
    if (!PyErr_Occurred())
        result = PyList_Append(self->tasks, task);
    Py_DECREF(task);
    return result;
}

/* The run is a task's first step: the name stands in the text. */
int
model_take_first_step(Model *self)
{
    PyObject *name = name_of_new_task(self);
    if (name == NULL)
        return -1;
    double maker = self->row.scheduler ? self->group.creator_ident : 0.0;
    int result = add_task(self, name, self->row.scheduler, maker, Py_True);
    Py_DECREF(name);
    return result;
}

/* The run may be the first step of a task that a record of its own has announced. */
int
model_take_announced(Model *self)
{
    PyObject *ident = PyFloat_FromDouble(self->row.ident);
    if (ident == NULL)
        return -1;
    int result = 0;
    PyObject *known = PyDict_GetItemWithError(self->new_tasks, ident);
    if (known != NULL) {
        Py_INCREF(known);
        PyObject *name, *made_by_loop;
        long long maker;
        double maker_ident;
        result = -1;
        if (PyDict_DelItem(self->new_tasks, ident) == 0 &&
            PyArg_ParseTuple(known, "OOLd", &name, &made_by_loop, &maker, &maker_ident)) {
            if (maker < 0) {
                maker = self->row.scheduler;
                maker_ident = maker ? self->group.creator_ident : 0.0;
            }
            result = add_task(self, name, maker, maker_ident, made_by_loop);
        }
        Py_DECREF(known);
    }
    else if (PyErr_Occurred())
        result = -1;
    Py_DECREF(ident);
    return result;
}

int
model_take_outcome(Model *self)
{
    PyObject *entry = Py_BuildValue("(didL)", self->row.ident, (int)self->row.outcome, self->row.start, self->runs);
    if (entry == NULL)
        return -1;
    int result = PyList_Append(self->finished, entry);
    Py_DECREF(entry);
    return result;
}

/* One for each request: worth a way of its own, a tenth of the other's cost. */
static int
take_request(Model *self, double site)
{
    if (!(site >= 0.0 && site < EXACT)) {
        self->damaged++;
        return 0;
    }
    PyObject *requests = PyObject_GetAttr(self->decoded, state_of(Py_TYPE(self))->text_requests);
    if (requests == NULL)
        return -1;
    long long run = self->state == ACTIVE ? self->runs + 1 : 0;
    PyObject *entry = Py_BuildValue("(LI)", run, site_of(site));
    int result = entry != NULL && PyList_Check(requests) ? PyList_Append(requests, entry) : -1;
    Py_XDECREF(entry);
    Py_DECREF(requests);
    return result;
}

/* Offloads have five records each: worth a way of their own, the twin of RareRecords._take_offload. */
typedef struct {
    PyObject *step;
    double when, number, ident;
    int64_t executor, run, context, worker, outcome;
} Step;

/* Appends an OffloadStep, or counts a record that makes no sense. */
static int
add_step(Model *self, const Step *step)
{
    reader_state *st = state_of(Py_TYPE(self));
    bool makes_sense = step->when >= 0.0 && step->when < LATEST && step->number >= 0.0 && step->number < EXACT;
    if (!makes_sense || step->executor < 0) {
        self->damaged++;
        return 0;
    }
    PyTypeObject *type = (PyTypeObject *)st->offload_step;
    PyObject *item = type->tp_alloc(type, 9);
    if (item == NULL)
        return -1;
    PyTuple_SET_ITEM(item, 0, Py_NewRef(step->step));
    PyTuple_SET_ITEM(item, 1, PyFloat_FromDouble(step->when));
    PyTuple_SET_ITEM(item, 2, PyLong_FromLongLong((long long)step->number));
    PyTuple_SET_ITEM(item, 3, PyLong_FromLongLong(step->executor));
    PyTuple_SET_ITEM(item, 4, PyFloat_FromDouble(step->ident));
    PyTuple_SET_ITEM(item, 5, PyLong_FromLongLong(step->run));
    PyTuple_SET_ITEM(item, 6, PyLong_FromLongLong(step->context));
    PyTuple_SET_ITEM(item, 7, PyLong_FromLongLong(step->worker));
    PyTuple_SET_ITEM(item, 8, PyLong_FromLongLong(step->outcome));
    PyObject *offloads = PyErr_Occurred() ? NULL : PyObject_GetAttr(self->decoded, st->text_offloads);
    int result = offloads != NULL && PyList_Check(offloads) ? PyList_Append(offloads, item) : -1;
    Py_XDECREF(offloads);
    Py_DECREF(item);
    return result;
}

/* The number below OUTCOME, and in ``above`` what stands above it; -1 for what is no count. */
static double
split(double value, int64_t *above)
{
    if (!(value >= 0.0 && value < EXACT))
        return -1.0;
    *above = (int64_t)(value / OUTCOME);
    return value - (double)*above * OUTCOME;
}

/* Takes a record that belongs to an offload; 1 where RareRecords is to have it. */
static int
take_offload(Model *self, double a, double ident, double b)
{
    reader_state *st = state_of(Py_TYPE(self));
    long long writer = self->state == ACTIVE ? self->runs + 1 : 0;
    Step step = {.when = a, .number = b};
    if (ident == R_SUBMIT && !self->rare_waits) {
        self->submitted = true;
        self->submitted_at = a;
        self->submitted_number = b;
        return 0;
    }
    if (ident == R_SUBMIT_INFO && self->submitted) {
        self->submitted = false;
        step.step = st->text_submit;
        step.when = self->submitted_at;
        step.number = self->submitted_number;
        step.executor = a >= 0.0 && a < EXACT ? (int64_t)a : -1;
        step.ident = b >= 0.0 && b < EXACT ? b : 0.0;
        step.run = writer;
        step.context = self->context;
    }
    else if (ident == R_START) {
        step.step = st->text_start;
        step.number = split(b, &step.worker);
    }
    else if (ident == R_FINISH) {
        step.step = st->text_finish;
        step.number = split(b, &step.outcome);
    }
    else if (ident == R_DELIVER) {
        step.step = st->text_deliver;
        step.run = writer;
    }
    else {
        /* RareRecords remembers the first of two records in one place, whatever they are of. */
        bool is_first = ident == R_GC || ident == R_SAMPLE || ident == R_SUBMIT;
        if (is_first || ident == R_GC_INFO || ident == R_SAMPLE_OF || ident == R_SUBMIT_INFO) {
            self->rare_waits = is_first;
            self->submitted = false;
        }
        return 1;
    }
    return add_step(self, &step);
}

/* Every other kind of record. ``take`` of RareRecords never raises for what a record says. */
int
model_take_rare(Model *self, double a, double ident, double b)
{
    if (ident == R_REQUEST && a == 0.0)
        return take_request(self, b);
    int rest = take_offload(self, a, ident, b);
    if (rest <= 0)
        return rest;
    long long writer = self->state == ACTIVE ? self->runs + 1 : 0;
    long long before = self->running ? self->runs : 0;
    PyObject *taken = PyObject_CallMethod(self->rare, "take", "dddOO(Ld)LL", a, ident, b, (PyObject *)self,
                                          self->decoded, before, self->running ? self->row.ident : 0.0, writer,
                                          (long long)self->context);
    if (taken == NULL)
        return -1;
    self->damaged += taken != Py_True;
    Py_DECREF(taken);
    return 0;
}

/* The sites of new tasks, each once. A task is a tuple of which the ident is the first item; others are passed over. */
PyObject *
sites_of_tasks(PyObject *module, PyObject *tasks)
{
    if (!PyList_Check(tasks)) {
        PyErr_SetString(PyExc_TypeError, "a list of tasks");
        return NULL;
    }
    PyObject *sites = PyList_New(0);
    uint8_t *seen = sites == NULL ? NULL : PyMem_Calloc((size_t)SITE_LIMIT, 1);
    if (seen == NULL) {
        Py_XDECREF(sites);
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(tasks); i++) {
        PyObject *task = PyList_GET_ITEM(tasks, i);
        PyObject *ident = PyTuple_Check(task) && PyTuple_GET_SIZE(task) ? PyTuple_GET_ITEM(task, 0) : NULL;
        if (ident == NULL || !PyFloat_Check(ident) || !(PyFloat_AS_DOUBLE(ident) >= 0.0) ||
            PyFloat_AS_DOUBLE(ident) >= LARGEST)
            continue;
        unsigned site = (unsigned)((unsigned long long)PyFloat_AS_DOUBLE(ident) % (unsigned long long)SITE_LIMIT);
        if (!seen[site]) {
            seen[site] = 1;
            PyObject *number = PyLong_FromUnsignedLong(site);
            if (number == NULL || PyList_Append(sites, number) < 0) {
                Py_XDECREF(number);
                Py_CLEAR(sites);
                break;
            }
            Py_DECREF(number);
        }
    }
    PyMem_Free(seen);
    return sites;
}
