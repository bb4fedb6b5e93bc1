/* Scheduling: the first base of EventLoop. Its methods (scheduling.c, wakeup.c, iteration.c), the attributes that the C
   iteration looks at, and its life; everything else is EventLoop's own Python. */

#include "core.h"

/* Each future and each task that is made asks for it. */
static PyObject *
get_debug(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Scheduling *)self)->debug);
}

/* Servers ask for it at each request. A clock that the program has put in place of ours is called. */
static PyObject *
scheduling_time(PyObject *self, PyObject *unused)
{
    core_state *st = ((Scheduling *)self)->state;
    PyObject *clock = st->clock_globals == NULL ? NULL : PyDict_GetItemWithError(st->clock_globals, st->s_monotonic);
    if (clock != NULL && clock == st->clock)
        return PyFloat_FromDouble(core_now());
    if (clock == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_NameError, "monotonic");
        return NULL;
    }
    Py_INCREF(clock);
    PyObject *now = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    return now;
}

static PyObject *
scheduling_running(PyObject *self, PyObject *unused)
{
    Scheduling *loop = (Scheduling *)self;
    if (loop->run_ident == 0.0)
        Py_RETURN_NONE;
    /* Held first: up to 3.11 the tuple may begin a collection, and a finalizer lets the loop's thread run on. */
    PyObject *handle = Py_NewRef(loop->run_handle != NULL ? loop->run_handle : Py_None);
    return Py_BuildValue("(ddN)", loop->run_start, loop->run_ident, handle);
}

/* -- attributes */

static PyObject *
get_ready(PyObject *self, void *closure)
{
    PyObject *ready = ((Scheduling *)self)->ready_object;
    if (ready == NULL)
        PyErr_SetString(PyExc_AttributeError, "_ready");
    return Py_XNewRef(ready);
}

static int
set_ready(PyObject *self, PyObject *value, void *closure)
{
    Scheduling *loop = (Scheduling *)self;
    /* The pointer first: what is released with the old queue may call call_soon. */
    loop->ready = value != NULL && Py_IS_TYPE(value, loop->state->queue_type) ? (ReadyQueue *)value : NULL;
    Py_XSETREF(loop->ready_object, Py_XNewRef(value));
    return 0;
}

static PyObject *
get_timers(PyObject *self, void *closure)
{
    PyObject *timers = ((Scheduling *)self)->timers_object;
    if (timers == NULL)
        PyErr_SetString(PyExc_AttributeError, "_timer_heap");
    return Py_XNewRef(timers);
}

static int
set_timers(PyObject *self, PyObject *value, void *closure)
{
    Scheduling *loop = (Scheduling *)self;
    loop->timers = value != NULL && Py_IS_TYPE(value, loop->state->timers_type) ? (Timers *)value : NULL;
    Py_XSETREF(loop->timers_object, Py_XNewRef(value));
    return 0;
}

static PyObject *
get_recorder(PyObject *self, void *closure)
{
    PyObject *recorder = ((Scheduling *)self)->recorder;
    if (recorder == NULL)
        PyErr_SetString(PyExc_AttributeError, "_recorder");
    return Py_XNewRef(recorder);
}

static int
set_recorder(PyObject *self, PyObject *value, void *closure)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *record = NULL, *fresh = NULL;
    if (value != NULL && value != Py_None) {
        record = PyObject_GetAttr(value, st->s_record);
        PyObject *tasks = record == NULL ? NULL : PyObject_GetAttr(value, st->s_tasks);
        fresh = tasks == NULL ? NULL : PyObject_GetAttr(tasks, st->s_fresh);
        Py_XDECREF(tasks);
        if (record == NULL)
            return -1;
        if (fresh == NULL)
            PyErr_Clear();
        if (!Py_IS_TYPE(record, st->record_type))
            Py_CLEAR(record);
        if (fresh != NULL && !Py_IS_TYPE(fresh, st->queue_type))
            Py_CLEAR(fresh);
    }
    Py_XSETREF(loop->recorder, Py_XNewRef(value));
    Py_XSETREF(loop->record, (Record *)record);
    Py_XSETREF(loop->fresh, (ReadyQueue *)fresh);
    return 0;
}

static PyObject *
get_flag(PyObject *self, void *closure)
{
    return PyBool_FromLong(*((char *)self + (Py_ssize_t)closure));
}

static int
set_flag(PyObject *self, PyObject *value, void *closure)
{
    int flag = value == NULL ? 0 : PyObject_IsTrue(value);
    if (flag < 0)
        return -1;
    *((char *)self + (Py_ssize_t)closure) = (char)flag;
    return 0;
}

/* -- life */

static PyObject *
scheduling_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    /* object's: on CPython 3.11 and 3.12 it alone gives the attributes their place beside the object. In a dict of
       their own, asyncio's C code takes twice as long to find call_soon. */
    PyObject *nothing = PyTuple_New(0);
    Scheduling *self = nothing == NULL ? NULL : (Scheduling *)PyBaseObject_Type.tp_new(type, nothing, NULL);
    Py_XDECREF(nothing);
    if (self == NULL)
        return NULL;
    self->state = core_state_of((PyObject *)self);
    if (self->state == NULL)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int
scheduling_traverse(PyObject *self, visitproc visit, void *arg)
{
    Scheduling *loop = (Scheduling *)self;
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(loop->ready_object);
    Py_VISIT(loop->timers_object);
    Py_VISIT(loop->recorder);
    Py_VISIT(loop->record);
    Py_VISIT(loop->fresh);
    Py_VISIT(loop->task_factory);
    return 0;
}

static int
scheduling_clear(PyObject *self)
{
    Scheduling *loop = (Scheduling *)self;
    loop->ready = NULL;
    loop->timers = NULL;
    Py_CLEAR(loop->ready_object);
    Py_CLEAR(loop->timers_object);
    Py_CLEAR(loop->recorder);
    Py_CLEAR(loop->record);
    Py_CLEAR(loop->fresh);
    Py_CLEAR(loop->task_factory);
    return 0;
}

static void
scheduling_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    scheduling_clear(self);
    PyMem_Free(((Scheduling *)self)->writes);
    type->tp_free(self);
    Py_DECREF(type);
}

#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef scheduling_methods[] = {
    {"call_soon", METHOD(scheduling_call_soon), METH_FASTCALL | METH_KEYWORDS,
     "call_soon($self, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) in the next iteration, in context or a copy of the current one."},
    {"call_later", METHOD(scheduling_call_later), METH_FASTCALL | METH_KEYWORDS,
     "call_later($self, delay, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) once delay seconds have passed."},
    {"call_at", METHOD(scheduling_call_at), METH_FASTCALL | METH_KEYWORDS,
     "call_at($self, when, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) when the loop's clock passes when."},
    {"create_task", METHOD(scheduling_create_task), METH_FASTCALL | METH_KEYWORDS,
     "create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n"
     "Makes a task of coro; keyword arguments go to the task factory or to asyncio.Task."},
    {"create_future", scheduling_create_future, METH_NOARGS, "create_future($self)\n--\n\nA future of this loop."},
    {"get_debug", get_debug, METH_NOARGS, "get_debug($self)\n--\n\nWhether debug mode is on."},
#if PY_VERSION_HEX < 0x030E0000 /* later ones guard the handle's context: core/handles.py */
    {"call_soon_threadsafe", METHOD(scheduling_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
     "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
     "call_soon from any thread; wakes the loop."},
#endif
    {"time", scheduling_time, METH_NOARGS, "time($self)\n--\n\nThe loop's clock: seconds of time.monotonic()."},
    {"_wake_loop", scheduling_wake, METH_NOARGS, "Lets the loop look at its queue; from any thread."},
    {"_run_under_way", scheduling_running, METH_NOARGS,
     "The run under way: its start, its ident, and the handle (None while what it held is released)."},
    {"_run_native", scheduling_run, METH_VARARGS,
     "Runs iterations until stop() was called: True; False where the Python iteration is to go on."},
    {"_may_run_native", scheduling_may_run, METH_NOARGS, "Whether _run_native would go on from here."},
    {NULL},
};

#define FLAG(name, doc) {"_" #name, get_flag, set_flag, doc, (void *)offsetof(Scheduling, name)}

/* An attribute in the loop's dict takes 1 % of making a task and running it. */
static PyMemberDef scheduling_members[] = {
    {"_task_factory", T_OBJECT_EX, offsetof(Scheduling, task_factory), 0, "What makes tasks, None where asyncio does."},
    {NULL},
};

static PyGetSetDef scheduling_getset[] = {
    {"_ready", get_ready, set_ready, "The ready queue.", NULL},
    {"_timer_heap", get_timers, set_timers, "The timers.", NULL},
    {"_recorder", get_recorder, set_recorder, "What records, None where nothing does.", NULL},
    FLAG(debug, "Whether the loop is in debug mode."),
    FLAG(checks_calls, "Closed or in debug mode: every call is checked."),
    FLAG(stopping, "Whether stop() was called."),
    {"_runs_natively", get_flag, set_flag, "Whether the iteration under way is one in C (wakeup.c).",
     (void *)offsetof(Scheduling, running)},
    {NULL},
};

static PyType_Slot scheduling_slots[] = {
    {Py_tp_doc, "The part of the event loop that is written in C."},
    {Py_tp_new, scheduling_new},
    {Py_tp_dealloc, scheduling_dealloc},
    {Py_tp_traverse, scheduling_traverse},
    {Py_tp_clear, scheduling_clear},
    {Py_tp_setattro, scheduling_setattr},
    {Py_tp_methods, scheduling_methods},
    {Py_tp_members, scheduling_members},
    {Py_tp_getset, scheduling_getset},
    {0, NULL},
};

PyType_Spec core_scheduling_spec = {
    .name = "traceloop.core._core.Scheduling",
    .basicsize = sizeof(Scheduling),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = scheduling_slots,
};
