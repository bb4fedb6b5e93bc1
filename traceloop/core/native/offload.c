/* Offload: one call handed to a plain thread pool. The twin of recording/offloads/offload.py for that case: it is
   called in the worker in place of the function, and carries the result to the loop's future as asyncio.wrap_future
   does.

   It owns what it is made of for as long as it lives, and both futures until the result has reached the loop. The
   concurrent future and the loop's own hold it by their callbacks: a cycle while the call is under way, as on the
   standard loop. What the recording cannot do is dropped: the call goes on. */

#include "core.h"

#define UNATTENDED_SECONDS 0.02
#define LIMIT (3 * 8192)

typedef struct {
    PyObject_HEAD
    vectorcallfunc vectorcall;
    core_state *state;
    PyObject *workers, *recorder, *loop, *outbox;
    Record *pending; /* the outbox's */
    PyObject *future, *source;
    PyObject *entry; /* of its executor; with site, for who asks what the future stands for */
    double number, site;
    char started, finished;
} Offload;

static double
number_of(PyObject *object, PyObject *name)
{
    PyObject *value = PyObject_GetAttr(object, name);
    double number = value == NULL ? -1.0 : PyFloat_AsDouble(value);
    Py_XDECREF(value);
    return number;
}

/* -- in the worker */

/* Whether the loop waits in its poll, and so will not write what is left for it. */
static int
loop_waits(Offload *self)
{
    PyObject *words = PyObject_GetAttr(self->recorder, self->state->s_words);
    Py_buffer view;
    if (words == NULL || PyObject_GetBuffer(words, &view, PyBUF_FORMAT | PyBUF_STRIDES) < 0) {
        Py_XDECREF(words);
        return -1;
    }
    int waits = view.len > (Py_ssize_t)(W_RUNNING * sizeof(double)) && ((double *)view.buf)[W_RUNNING] == 0.0;
    PyBuffer_Release(&view);
    Py_DECREF(words);
    return waits;
}

static int
drain_if_due(Offload *self, double now, int is_start)
{
    double drained = number_of(self->outbox, self->state->s_drained);
    if (drained == -1.0 && PyErr_Occurred())
        return -1;
    int due = now - drained > UNATTENDED_SECONDS || self->pending->length > LIMIT;
    if (!due && is_start && (due = loop_waits(self)) < 0)
        return -1;
    if (!due)
        return 0;
    PyObject *when = PyFloat_FromDouble(now);
    PyObject *done = when == NULL ? NULL : PyObject_CallMethodOneArg(self->outbox, self->state->s_drain, when);
    Py_XDECREF(when);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* This thread's number times OUTCOME; it is announced first where it has to be. */
static double
worker_number(Offload *self, double now)
{
    core_state *st = self->state;
    PyObject *local = PyObject_GetAttr(self->workers, st->s_local);
    if (local == NULL)
        return -1.0;
    double until = number_of(local, st->s_until), number = -1.0;
    if (now < until)
        number = number_of(local, st->s_number);
    else {
        PyErr_Clear(); /* it has none yet */
        PyObject *announced = PyObject_CallMethodNoArgs(self->workers, st->s_worker_number);
        if (announced != NULL)
            number = PyFloat_AsDouble(announced);
        Py_XDECREF(announced);
    }
    Py_DECREF(local);
    return number;
}

static void
note_start(Offload *self)
{
    double now = core_now(), worker = worker_number(self, now);
    if (PyErr_Occurred()) {
        PyErr_Clear();
        worker = 0.0;
    }
    self->started = 1;
    record_add(self->pending, now, R_START, self->number + worker);
    if (drain_if_due(self, now, 1) < 0)
        PyErr_Clear();
}

static void
note_finish(Offload *self, double outcome)
{
    double now = core_now();
    self->finished = 1;
    record_add(self->pending, now, R_FINISH, self->number + outcome);
    if (drain_if_due(self, now, 0) < 0)
        PyErr_Clear();
}

/* offload(function, *args) */
static PyObject *
offload_call(PyObject *callable, PyObject *const *args, size_t flags, PyObject *names)
{
    Offload *self = (Offload *)callable;
    Py_ssize_t count = PyVectorcall_NARGS(flags);
    if (count < 1) {
        PyErr_SetString(PyExc_TypeError, "a function to run is expected");
        return NULL;
    }
    note_start(self);
    PyObject *result = PyObject_Vectorcall(args[0], args + 1, (size_t)(count - 1), names);
    PyObject *error = result == NULL ? take_exception() : NULL;
    note_finish(self, error == NULL ? OUTCOME_RESULT : OUTCOME_EXCEPTION);
    if (error != NULL)
        raise_again(error);
    return result;
}

/* -- the two futures */

/* What a method of no arguments answers: 1, 0, or -1 with an exception. */
static int
says(PyObject *object, PyObject *method)
{
    PyObject *answer = PyObject_CallMethodNoArgs(object, method);
    int value = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return value;
}

/* future.METHOD(self.CALLBACK) */
static int
give_callback(Offload *self, PyObject *future, PyObject *method, PyObject *callback)
{
    PyObject *bound = PyObject_GetAttr((PyObject *)self, callback);
    PyObject *done = bound == NULL ? NULL : PyObject_CallMethodOneArg(future, method, bound);
    Py_XDECREF(bound);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
m_connect(PyObject *object, PyObject *source)
{
    Offload *self = (Offload *)object;
    core_state *st = self->state;
    PyObject *future = PyObject_CallMethodNoArgs(self->loop, st->s_create_future);
    if (future == NULL)
        return NULL;
    Py_XSETREF(self->future, Py_NewRef(future));
    Py_XSETREF(self->source, Py_NewRef(source));
    if (give_callback(self, future, st->s_add_done_callback, st->s_future_done) < 0 ||
        give_callback(self, source, st->s_add_done_callback, st->s_source_done) < 0)
        Py_CLEAR(future);
    return future;
}

static PyObject *
m_future_done(PyObject *object, PyObject *future)
{
    Offload *self = (Offload *)object;
    PyObject *source = self->source;
    self->source = NULL;
    if (source == NULL)
        Py_RETURN_NONE;
    int cancelled = says(future, self->state->s_cancelled);
    if (cancelled > 0 && says(source, self->state->s_cancel) < 0)
        cancelled = -1;
    Py_DECREF(source);
    if (cancelled < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *
m_source_done(PyObject *object, PyObject *source)
{
    Offload *self = (Offload *)object;
    core_state *st = self->state;
    if (!self->finished) { /* cancelled before it began, or the pool could not run it */
        self->finished = 1;
        PyObject *number = PyFloat_FromDouble(self->number);
        PyObject *done = number == NULL ? NULL
                                        : PyObject_CallMethodObjArgs(self->workers, st->s_unrun, number,
                                                                     self->started ? Py_True : Py_False, source, NULL);
        Py_XDECREF(number);
        if (done == NULL)
            PyErr_Clear();
        Py_XDECREF(done);
    }
    int closed = says(self->loop, st->s_is_closed);
    if (closed != 0)
        return closed < 0 ? NULL : Py_NewRef(Py_None);
    PyObject *deliver = PyObject_GetAttr(object, st->s_deliver);
    PyObject *handle = deliver == NULL ? NULL
                                       : PyObject_CallMethodObjArgs(self->loop, st->s_call_soon_threadsafe, deliver,
                                                                    source, NULL);
    Py_XDECREF(deliver);
    Py_XDECREF(handle);
    return handle == NULL ? NULL : Py_NewRef(Py_None);
}

/* The value of a concurrent future of the plain kind that ended well, a new reference; else NULL, perhaps with an
   exception. Its state does not change any more, so its lock is not needed. */
static PyObject *
plain_result(core_state *st, PyObject *source)
{
    if ((PyObject *)Py_TYPE(source) != st->concurrent_future)
        return NULL;
    PyObject *state = PyObject_GetAttr(source, st->s_state);
    PyObject *error = state == NULL ? NULL : PyObject_GetAttr(source, st->s_exception);
    int plain = error == Py_None && state == st->concurrent_finished;
    Py_XDECREF(state);
    Py_XDECREF(error);
    return plain ? PyObject_GetAttr(source, st->s_result) : NULL;
}

static PyObject *
give_result(Offload *self, PyObject *future, PyObject *source)
{
    core_state *st = self->state;
    int cancelled = says(future, st->s_cancelled);
    if (cancelled != 0)
        return cancelled < 0 ? NULL : Py_NewRef(Py_None);
    /* It has nothing to pass on any more: one handle less to run than the standard chain has. */
    if (give_callback(self, future, st->s_remove_done_callback, st->s_future_done) < 0)
        return NULL;
    int done = says(future, st->s_done);
    PyObject *value = done == 0 ? plain_result(st, source) : NULL;
    if (PyErr_Occurred())
        return NULL;
    if (value == NULL)
        return PyObject_CallFunctionObjArgs(st->copy_state, source, future, NULL);
    PyObject *result = PyObject_CallMethodOneArg(future, st->s_set_result, value);
    Py_DECREF(value);
    return result;
}

static int
note_deliver(Offload *self)
{
    core_state *st = self->state;
    Record *record = PyObject_TypeCheck(self->loop, st->scheduling_type) ? ((Scheduling *)self->loop)->record : NULL;
    if (record != NULL) {
        record_add(record, core_now(), R_DELIVER, self->number);
        return 0;
    }
    /* A loop that records in Python. */
    PyObject *its = PyObject_GetAttr(self->recorder, st->s_record);
    PyObject *done = its == NULL ? NULL : PyObject_CallMethod(its, "add", "ddd", core_now(), R_DELIVER, self->number);
    Py_XDECREF(its);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

static PyObject *
m_deliver(PyObject *object, PyObject *source)
{
    Offload *self = (Offload *)object;
    if (note_deliver(self) < 0)
        PyErr_Clear();
    PyObject *future = self->future;
    self->future = NULL;
    Py_CLEAR(self->source);
    PyObject *result = future == NULL ? Py_NewRef(Py_None) : give_result(self, future, source);
    Py_XDECREF(future);
    return result;
}

/* -- life */

/* Offload(workers, recorder, loop, number, entry, site) */
static PyObject *
offload_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *workers, *recorder, *loop, *entry;
    double number, site;
    if (!PyArg_ParseTuple(args, "OOOdOd", &workers, &recorder, &loop, &number, &entry, &site))
        return NULL;
    core_state *st = PyModule_GetState(PyType_GetModule(type));
    PyObject *outbox = PyObject_GetAttr(workers, st->s_outbox);
    PyObject *pending = outbox == NULL ? NULL : PyObject_GetAttr(outbox, st->s_pending);
    if (pending != NULL && (!Py_IS_TYPE(pending, st->record_type) || st->copy_state == NULL)) {
        PyErr_SetString(PyExc_TypeError, "these are steps for the core in Python");
        Py_CLEAR(pending);
    }
    Offload *self = pending == NULL ? NULL : (Offload *)type->tp_alloc(type, 0);
    if (self == NULL) {
        Py_XDECREF(outbox);
        Py_XDECREF(pending);
        return NULL;
    }
    self->vectorcall = offload_call;
    self->state = st;
    self->workers = Py_NewRef(workers);
    self->recorder = Py_NewRef(recorder);
    self->loop = Py_NewRef(loop);
    self->outbox = outbox;
    self->pending = (Record *)pending;
    self->number = number;
    self->entry = Py_NewRef(entry);
    self->site = site;
    return (PyObject *)self;
}

static int
offload_traverse(PyObject *object, visitproc visit, void *arg)
{
    Offload *self = (Offload *)object;
    Py_VISIT(Py_TYPE(object));
    Py_VISIT(self->workers);
    Py_VISIT(self->recorder);
    Py_VISIT(self->loop);
    Py_VISIT(self->outbox);
    Py_VISIT(self->pending);
    Py_VISIT(self->entry);
    Py_VISIT(self->future);
    Py_VISIT(self->source);
    return 0;
}

/* Only what can be part of a cycle: the rest is needed as long as a worker may call it. */
static int
offload_clear(PyObject *object)
{
    Py_CLEAR(((Offload *)object)->future);
    Py_CLEAR(((Offload *)object)->source);
    return 0;
}

static void
offload_dealloc(PyObject *object)
{
    Offload *self = (Offload *)object;
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    offload_clear(object);
    Py_CLEAR(self->workers);
    Py_CLEAR(self->recorder);
    Py_CLEAR(self->loop);
    Py_CLEAR(self->outbox);
    Py_CLEAR(self->pending);
    Py_CLEAR(self->entry);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef offload_methods[] = {
    {"connect", m_connect, METH_O, "The loop's future of a concurrent one, as wrap_future makes it."},
    {"future_done", m_future_done, METH_O, "The loop's future is done, in its thread: a cancellation is passed on."},
    {"source_done", m_source_done, METH_O, "The concurrent future is done, in the thread that did it."},
    {"deliver", m_deliver, METH_O, "Gives the loop's future the state of the concurrent one, in the loop's thread."},
    {NULL},
};

static PyMemberDef offload_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(Offload, vectorcall), READONLY, NULL},
    {"entry", T_OBJECT, offsetof(Offload, entry), READONLY, NULL},
    {"site", T_DOUBLE, offsetof(Offload, site), READONLY, NULL},
    {NULL},
};

static PyType_Slot offload_slots[] = {
    {Py_tp_doc, "One call handed to a plain thread pool; called there with the function and its arguments."},
    {Py_tp_new, offload_new},
    {Py_tp_dealloc, offload_dealloc},
    {Py_tp_traverse, offload_traverse},
    {Py_tp_clear, offload_clear},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_methods, offload_methods},
    {Py_tp_members, offload_members},
    {0, NULL},
};

/* Named after its twin: the label of its handles is the same on both cores. */
PyType_Spec core_offload_spec = {
    .name = "traceloop.recording.offloads.offload.Offload",
    .basicsize = sizeof(Offload),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL,
    .slots = offload_slots,
};
