/* Scheduling: the first base of EventLoop. call_soon, call_later, call_at and create_task (call_soon_threadsafe is in
   wakeup.c), and the attributes that the C iteration looks at; everything else is EventLoop's own Python.

   Each of the four does the plain case, and hands everything else to the Python method of the same name, which stands
   behind this class as ``_python_call_soon`` and so on: debug mode, a closed loop, a queue or a heap that was
   replaced, a ``time`` or ``call_at`` of the program's own, arguments that are wrong. */

#include "core.h"

/* What a program may put in place of ours, in a class or on the loop itself. Looked at only when the class has changed:
   its version says so. */
int
scheduling_is_clean(Scheduling *loop)
{
    PyTypeObject *type = Py_TYPE(loop);
    if (loop->patched)
        return 0;
    if (loop->clean_version != 0 && loop->clean_version == type->tp_version_tag)
        return 1;
    core_state *st = loop->state;
    PyObject *names[] = {st->s_call_at, st->s_time, st->s_run_once, st->s_process_events,
                         st->s_timer_handle_cancelled, st->s_write_to_self};
    PyObject *originals = PyObject_GetAttrString((PyObject *)type, "_originals");
    if (originals == NULL)
        return -1;
    int same = PyTuple_Check(originals) && PyTuple_GET_SIZE(originals) == 6;
    for (int i = 0; same && i < 6; i++) {
        PyObject *found = PyObject_GetAttr((PyObject *)type, names[i]);
        if (found == NULL) {
            Py_DECREF(originals);
            return -1;
        }
        same = found == PyTuple_GET_ITEM(originals, i);
        Py_DECREF(found);
    }
    Py_DECREF(originals);
    loop->clean_version = same ? type->tp_version_tag : 0;
    return same;
}

static int
record_place(Scheduling *loop, int64_t *place)
{
    if (loop->record != NULL) {
        *place = loop->record->base + loop->record->length;
        return 0;
    }
    *place = 0;
    if (loop->recorder == NULL || loop->recorder == Py_None)
        return 0;
    PyObject *record = PyObject_GetAttr(loop->recorder, loop->state->s_record);
    PyObject *position = record == NULL ? NULL : PyObject_GetAttrString(record, "position");
    Py_XDECREF(record);
    if (position == NULL)
        return -1;
    *place = PyLong_AsLongLong(position);
    Py_DECREF(position);
    return *place == -1 && PyErr_Occurred() ? -1 : 0;
}

/* The arguments behind the first ``skipped``, as a tuple; and the context, or a copy of the current one. Both new. 1: done;
   0: there are keywords that are not ours; -1: an exception. */
int
scheduling_take_arguments(core_state *st, PyObject *const *args, Py_ssize_t count, PyObject *names,
                          Py_ssize_t skipped, PyObject **tuple, PyObject **context)
{
    PyObject *given = Py_None;
    if (names != NULL && PyTuple_GET_SIZE(names) > 0) {
        PyObject *name = PyTuple_GET_ITEM(names, 0); /* asyncio's and the compiler's are interned, as ours is */
        if (PyTuple_GET_SIZE(names) != 1 || (name != st->s_context && PyUnicode_Compare(name, st->s_context) != 0))
            return PyErr_Occurred() ? -1 : 0;
        given = args[count];
    }
    *tuple = PyTuple_New(count - skipped);
    if (*tuple == NULL)
        return -1;
    for (Py_ssize_t i = skipped; i < count; i++)
        PyTuple_SET_ITEM(*tuple, i - skipped, Py_NewRef(args[i]));
    *context = given == Py_None ? PyContext_CopyCurrent() : Py_NewRef(given);
    if (*context == NULL) {
        Py_CLEAR(*tuple);
        return -1;
    }
    return 1;
}

/* The Python method, with the same arguments. */
PyObject *
scheduling_in_python(PyObject *self, PyObject *name, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    PyObject *method = PyObject_GetAttr(self, name);
    if (method == NULL)
        return NULL;
    PyObject *result = PyObject_Vectorcall(method, args, (size_t)count, names);
    Py_DECREF(method);
    return result;
}

static PyObject *
call_soon(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *tuple, *context;
    if (loop->guarded || loop->ready == NULL || count < 1)
        return scheduling_in_python(self, st->s_python_call_soon, args, count, names);
    int taken = scheduling_take_arguments(st, args, count, names, 1, &tuple, &context);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        return scheduling_in_python(self, st->s_python_call_soon, args, count, names);
    PyObject *handle = core_new_handle(st, self, args[0], tuple, context);
    if (handle == NULL)
        return NULL;
    if (queue_append(loop->ready, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

/* Whether a timer may be set here: 1, 0, or -1 with an exception. */
static int
takes_timers(Scheduling *loop)
{
    if (loop->guarded || loop->timers == NULL || loop->timers->list != NULL)
        return 0;
    int clean = scheduling_is_clean(loop);
    return clean == 1 ? core_clock_is_ours(loop->state) : clean;
}

static PyObject *
set_timer(PyObject *self, double when, PyObject *when_object, PyObject *callback, PyObject *tuple, PyObject *context)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    int64_t place;
    if (record_place(loop, &place) < 0) {
        Py_DECREF(tuple);
        Py_DECREF(context);
        return NULL;
    }
    PyObject *handle = core_new_timer(st, self, callback, tuple, context, when, when_object, place);
    if (handle == NULL)
        return NULL;
    if (timers_push(loop->timers, when, handle) < 0) {
        Py_DECREF(handle);
        return NULL;
    }
    /* One of some 128 is noted, as core/timers.py does it: NOTED_TIMERS is 255. */
    if ((loop->timers->sequence & 255) == 0) {
        PyObject *done = PyObject_CallMethodOneArg(self, st->s_note_timer, handle);
        if (done == NULL)
            PyErr_Clear();
        Py_XDECREF(done);
    }
    return handle;
}

/* call_later, with a delay of any number, and call_at, with a float, as which its handle keeps what it was given. */
static PyObject *
new_timer(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names, int is_delay)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *tuple, *context;
    int ours = takes_timers(loop);
    if (ours < 0)
        return NULL;
    if (count < 2 || !(PyFloat_CheckExact(args[0]) || (is_delay && PyLong_CheckExact(args[0]))))
        ours = 0;
    double when = ours ? PyFloat_AsDouble(args[0]) : 0.0;
    if (when == -1.0 && PyErr_Occurred())
        return NULL;
    if (ours)
        ours = scheduling_take_arguments(st, args, count, names, 2, &tuple, &context);
    if (ours < 0)
        return NULL;
    if (!ours)
        return scheduling_in_python(self, is_delay ? st->s_python_call_later : st->s_python_call_at, args, count, names);
    if (is_delay)
        return set_timer(self, core_now() + when, NULL, args[1], tuple, context);
    return set_timer(self, when, args[0], args[1], tuple, context);
}

static PyObject *
call_later(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return new_timer(self, args, count, names, 1);
}

static PyObject *
call_at(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return new_timer(self, args, count, names, 0);
}

/* A class as a program may have replaced it: ``base_events.MODULE.NAME``. A new reference. */
static PyObject *
current_class(core_state *st, PyObject *module_name, PyObject *name)
{
    /* From the modules' dicts: they are asked for each future and each task that is made. */
    PyObject *module = PyDict_GetItemWithError(PyModule_GetDict(st->base_events), module_name);
    if (module != NULL && PyModule_CheckExact(module)) {
        PyObject *found = PyDict_GetItemWithError(PyModule_GetDict(module), name);
        if (found != NULL)
            return Py_NewRef(found);
    }
    if (PyErr_Occurred())
        return NULL;
    module = PyObject_GetAttr(st->base_events, module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttr(module, name);
    Py_XDECREF(module);
    return found;
}

/* Task(coro, loop=self, ...), where there is no factory and the loop is not guarded. */
static PyObject *
create_task(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    int ours = !loop->guarded && count == 1 && (loop->fresh != NULL || loop->recorder == Py_None);
    PyObject *name = Py_None, *context = Py_None;
    for (Py_ssize_t i = 0; ours && i < named; i++) {
        PyObject *each = PyTuple_GET_ITEM(names, i);
        if (PyUnicode_Compare(each, st->s_name) == 0)
            name = args[1 + i];
        else if (PyUnicode_Compare(each, st->s_context) == 0)
            context = args[1 + i];
        else
            ours = 0;
    }
#if PY_VERSION_HEX >= 0x030E0000
    ours = ours && named == 0; /* it passes on what it was given, no more */
#endif
    if (ours) {
        PyObject *factory = PyObject_GetAttr(self, st->s_task_factory);
        if (factory == NULL)
            return NULL;
        ours = factory == Py_None;
        Py_DECREF(factory);
    }
    if (!ours)
        return scheduling_in_python(self, st->s_python_create_task, args, count, names);
    PyObject *type = current_class(st, st->s_tasks, st->s_Task);
    if (type == NULL)
        return NULL;
    PyObject *all[] = {args[0], self, name, context};
    PyObject *task = PyObject_Vectorcall(type, all, 1, st->task_keywords);
    Py_DECREF(type);
    if (task != NULL && loop->fresh != NULL && queue_append(loop->fresh, task) < 0)
        Py_CLEAR(task);
    return task;
}

static PyObject *
create_future(PyObject *self, PyObject *unused)
{
    core_state *st = ((Scheduling *)self)->state;
    PyObject *type = current_class(st, st->s_futures, st->s_Future);
    if (type == NULL)
        return NULL;
    PyObject *future = PyObject_Vectorcall(type, &self, 0, st->future_keywords);
    Py_DECREF(type);
    return future;
}

/* Each future and each task that is made asks for it. */
static PyObject *
get_debug(PyObject *self, PyObject *unused)
{
    return PyBool_FromLong(((Scheduling *)self)->debug);
}

static PyObject *
scheduling_running(PyObject *self, PyObject *unused)
{
    Scheduling *loop = (Scheduling *)self;
    if (loop->run_ident == 0.0)
        Py_RETURN_NONE;
    return Py_BuildValue("(ddO)", loop->run_start, loop->run_ident,
                         loop->run_handle != NULL ? loop->run_handle : Py_None);
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
        PyErr_SetString(PyExc_AttributeError, "_timers");
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

static int
scheduling_setattr(PyObject *self, PyObject *name, PyObject *value)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    if (name == st->s_time || name == st->s_call_at || name == st->s_run_once || name == st->s_process_events ||
        name == st->s_timer_handle_cancelled || name == st->s_write_to_self)
        loop->patched = 1; /* for good: that loop is Python's */
    return PyObject_GenericSetAttr(self, name, value);
}

/* -- life */

static PyObject *
scheduling_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Scheduling *self = (Scheduling *)type->tp_alloc(type, 0);
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
    return 0;
}

static void
scheduling_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    scheduling_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

#define METHOD(function) ((PyCFunction)(void (*)(void))(function))

static PyMethodDef scheduling_methods[] = {
    {"call_soon", METHOD(call_soon), METH_FASTCALL | METH_KEYWORDS,
     "call_soon($self, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) in the next iteration, in context or a copy of the current one."},
    {"call_later", METHOD(call_later), METH_FASTCALL | METH_KEYWORDS,
     "call_later($self, delay, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) once delay seconds have passed."},
    {"call_at", METHOD(call_at), METH_FASTCALL | METH_KEYWORDS,
     "call_at($self, when, callback, *args, context=None)\n--\n\n"
     "Runs callback(*args) when the loop's clock passes when."},
    {"create_task", METHOD(create_task), METH_FASTCALL | METH_KEYWORDS,
     "create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n"
     "Makes a task of coro; keyword arguments go to the task factory or to asyncio.Task."},
    {"create_future", create_future, METH_NOARGS, "create_future($self)\n--\n\nA future of this loop."},
    {"get_debug", get_debug, METH_NOARGS, "get_debug($self)\n--\n\nWhether debug mode is on."},
#if PY_VERSION_HEX < 0x030E0000 /* later ones guard the handle's context: core/handles.py */
    {"call_soon_threadsafe", METHOD(scheduling_call_soon_threadsafe), METH_FASTCALL | METH_KEYWORDS,
     "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n"
     "call_soon from any thread; wakes the loop."},
#endif
    {"_wake", scheduling_wake, METH_NOARGS, "Lets the loop look at its queue; from any thread."},
    {"_running", scheduling_running, METH_NOARGS,
     "The run under way: its start, its ident, and the handle (None while what it held is released)."},
    {"_run_native", scheduling_run, METH_VARARGS,
     "Runs iterations until stop() was called: True; False where the Python iteration is to go on."},
    {NULL},
};

#define FLAG(name, doc) {"_" #name, get_flag, set_flag, doc, (void *)offsetof(Scheduling, name)}

static PyGetSetDef scheduling_getset[] = {
    {"_ready", get_ready, set_ready, "The ready queue.", NULL},
    {"_timers", get_timers, set_timers, "The timers.", NULL},
    {"_recorder", get_recorder, set_recorder, "What records, None where nothing does.", NULL},
    FLAG(debug, "Whether the loop is in debug mode."),
    FLAG(guarded, "Closed or in debug mode: every call is checked."),
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
    {Py_tp_getset, scheduling_getset},
    {0, NULL},
};

PyType_Spec core_scheduling_spec = {
    .name = "traceloop.core._core.Scheduling",
    .basicsize = sizeof(Scheduling),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = scheduling_slots,
};
