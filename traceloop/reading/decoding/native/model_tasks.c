/* What becomes of a run's record in Python: tasks that begin and end, text, and every rare record. */

#include "reader.h"

/* The next item of the batch's text. */
Item
model_next_item(Model *self)
{
    Item item = {0};
    if (self->text == NULL)
        return item;
    const char *start = PyBytes_AS_STRING(self->text) + self->text_at;
    const char *end = memchr(start, TEXT_SEPARATOR, (size_t)(PyBytes_GET_SIZE(self->text) - self->text_at));
    if (end == NULL) {
        self->text_at = PyBytes_GET_SIZE(self->text); /* a forged one: searched once, not for each record */
        return item;
    }
    self->text_at += end + 1 - start;
    return (Item){self->text, start, end - start};
}

PyObject *
item_text(Item item)
{
    return PyUnicode_DecodeUTF8(item.length ? item.start : "", item.length, "replace");
}

/* The name of a task that begins, by the text of its first step's record (see layout.py); NULL where it is an automatic
   one, which has this number, or with an exception. */
static PyObject *
name_of_new_task(Model *self, int64_t *automatic)
{
    Item item = model_next_item(self);
    *automatic = -1;
    if (item.length == 0) {
        if (self->automatic_name >= 0)
            self->automatic_name++;
        *automatic = self->automatic_name;
        return NULL;
    }
    if (item.length > 5 && item.length < 21 && memcmp(item.start, "Task-", 5) == 0) {
        int64_t number = 0;
        Py_ssize_t index = 5;
        for (; index < item.length && item.start[index] >= '0' && item.start[index] <= '9'; index++)
            number = number * 10 + (item.start[index] - '0');
        if (index == item.length)
            self->automatic_name = number;
    }
    return item_text(item);
}

/* Takes over the reference to the name. */
static int
add_task(Model *self, PyObject *name, int64_t automatic, int64_t creator, double creator_ident, bool made_by_loop,
         double waited_from)
{
    TaskRow *row = tasks_add(self->tasks);
    if (row == NULL) {
        Py_XDECREF(name);
        return -1;
    }
    *row = (TaskRow){self->row.ident, self->row.start, creator_ident, waited_from, self->runs,
                     creator,         automatic,       name,          made_by_loop};
    return 0;
}

/* The run is a task's first step: the name stands in the text. */
int
model_take_first_step(Model *self)
{
    int64_t automatic;
    PyObject *name = name_of_new_task(self, &automatic);
    if (name == NULL && PyErr_Occurred())
        return -1;
    double maker = self->row.scheduler ? self->group.creator_ident : 0.0;
    return add_task(self, name, automatic, self->row.scheduler, maker, true, -1.0);
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
        PyObject *name;
        long long maker;
        double maker_ident, waited_from;
        int made_by_loop;
        result = -1;
        if (PyDict_DelItem(self->new_tasks, ident) == 0 &&
            PyArg_ParseTuple(known, "OpLdd", &name, &made_by_loop, &maker, &maker_ident, &waited_from)) {
            if (maker < 0) {
                maker = self->row.scheduler;
                maker_ident = maker ? self->group.creator_ident : 0.0;
            }
            result = add_task(self, Py_NewRef(name), -1, maker, maker_ident, made_by_loop != 0, waited_from);
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
    return ends_add(self->finished, (EndRow){self->row.ident, self->row.start, self->runs, self->row.outcome});
}

static bool
is_count(double value)
{
    return value >= 0.0 && value < EXACT;
}

/* One for each request: worth a way of its own, a tenth of the other's cost. */
static int
take_request(Model *self, double site)
{
    if (!is_count(site)) {
        self->damaged++;
        return 0;
    }
    return marks_append(self->requests, (MarkRow){self->state == ACTIVE ? self->runs + 1 : 0, site_of(site)});
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
    if (!(step->when >= 0.0 && step->when < LATEST) || !is_count(step->number) || step->executor < 0) {
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
    if (!is_count(value))
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
        step.executor = is_count(a) ? (int64_t)a : -1;
        step.ident = is_count(b) ? b : 0.0;
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

/* A service may announce a span and a task for each request, so these, too, are twins of what RareRecords does. */

static int
take_task(Model *self, double ident, PyObject *name, double made_by)
{
    if (PyDict_GET_SIZE(self->new_tasks) >= MOST_NEW_TASKS)
        PyDict_Clear(self->new_tasks);
    /* Those of a task factory follow the run that made them. */
    bool follows = made_by == 1.0 || made_by < 0.0;
    long long maker = !follows ? -1 : self->running ? self->runs : 0;
    double maker_ident = follows && self->running ? self->row.ident : 0.0;
    PyObject *key = PyLong_FromDouble(ident);
    PyObject *value = Py_BuildValue("(OOLdd)", name, made_by != 0.0 ? Py_True : Py_False, maker, maker_ident,
                                    made_by < 0.0 ? -made_by : -1.0);
    int result = key == NULL || value == NULL ? -1 : PyDict_SetItem(self->new_tasks, key, value);
    Py_XDECREF(key);
    Py_XDECREF(value);
    return result;
}

/* Takes a record of either kind, with its text. */
static int
take_announced(Model *self, double a, double ident, double b)
{
    Item text = model_next_item(self);
    if (!is_count(a) || (ident == R_SPAN ? !is_count(b) : b <= -LATEST)) {
        self->damaged++;
        return 0;
    }
    if (ident == R_SPAN)
        return spans_append(self->spans, a, b, text);
    PyObject *name = item_text(text);
    int result = name != NULL ? take_task(self, a, name, b) : -1;
    Py_XDECREF(name);
    return result;
}

/* Every other kind of record. ``take`` of RareRecords never raises for what a record says. */
int
model_take_rare(Model *self, double a, double ident, double b)
{
    if (ident == R_REQUEST && a == 0.0)
        return take_request(self, b);
    if (ident == R_SPAN || ident == R_TASK)
        return take_announced(self, a, ident, b);
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
