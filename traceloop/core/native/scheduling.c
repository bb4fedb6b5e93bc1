/* Scheduling a callback: call_soon, call_later, call_at, create_task and create_future (call_soon_threadsafe is in
   wakeup.c).

   Each does the plain case, and hands everything else to the Python method of the same name, which stands behind this
   class as ``_python_call_soon`` and so on: debug mode, a closed loop, a queue or a heap that was replaced, a ``time``
   or ``call_at`` of the program's own (overrides.c), arguments that are wrong. */

#include "core.h"

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

/* The arguments behind the first ``skipped``, as a tuple; and the context, or a copy of the current one. Both new.
   1: done; 0: there are keywords that are not ours; -1: an exception. */
int
scheduling_take_arguments(core_state *st, PyObject *const *args, Py_ssize_t count, PyObject *names,
                          Py_ssize_t skipped, PyObject **tuple, PyObject **context)
{
    PyObject *given = Py_None;
    if (names != NULL && PyTuple_GET_SIZE(names) > 0) {
        PyObject *name = PyTuple_GET_ITEM(names, 0); /* the compiler's are interned, as ours is */
        if (names != st->context_names && (PyTuple_GET_SIZE(names) != 1 || name != st->s_context)) {
            if (PyTuple_GET_SIZE(names) != 1 || PyUnicode_Compare(name, st->s_context) != 0)
                return PyErr_Occurred() ? -1 : 0;
            Py_XSETREF(st->context_names, Py_NewRef(names));
        }
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

/* Puts a handle into the queue: into one that is not ours where a finalizer has replaced it meanwhile. */
int
scheduling_put(Scheduling *loop, PyObject *handle)
{
    if (loop->ready != NULL)
        return queue_append(loop->ready, handle);
    PyObject *ready = PyObject_GetAttrString((PyObject *)loop, "_ready");
    PyObject *done = ready == NULL ? NULL : PyObject_CallMethodOneArg(ready, loop->state->s_append, handle);
    Py_XDECREF(ready);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

PyObject *
scheduling_call_soon(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *tuple, *context;
    if (loop->checks_calls || loop->ready == NULL || count < 1)
        return scheduling_in_python(self, st->s_python_call_soon, args, count, names);
    int taken = scheduling_take_arguments(st, args, count, names, 1, &tuple, &context);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        return scheduling_in_python(self, st->s_python_call_soon, args, count, names);
    PyObject *handle = core_new_handle(st, self, args[0], tuple, context);
    if (handle == NULL)
        return NULL;
    /* A task's next step, which is scheduled in its last one: who that is needs no search then. */
    if (loop->run_task != NULL && Py_IS_TYPE(args[0], st->step_type)) {
        PyObject *task = st->step_self->get(args[0], st->step_self->closure);
        if (task == loop->run_task) {
            *core_noted_ident(st, handle) = loop->run_ident;
            loop->run_again = 1;
        }
        Py_XDECREF(task);
    }
    if (scheduling_put(loop, handle) < 0)
        Py_CLEAR(handle);
    return handle;
}

/* Whether a timer may be set here: 1, 0, or -1 with an exception. */
static int
takes_timers(Scheduling *loop)
{
    if (loop->checks_calls || loop->timers == NULL || loop->timers->list != NULL)
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
        if (done == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_Exception)) { /* a signal's handler has raised it */
                Py_DECREF(handle);
                return NULL;
            }
            PyErr_Clear();
        }
        Py_XDECREF(done);
    }
    return handle;
}

/* When a timer is due: 1; 0 where Python has to say, or a double cannot hold it; -1: an exception. ``object``: what its
   handle keeps, NULL where that is just the double; a new reference. */
static int
due_time(Scheduling *loop, PyObject *number, int is_delay, double *when, PyObject **object)
{
    *object = NULL;
    if (!is_delay) {
        *object = Py_NewRef(number);
        return timers_exact(number, when);
    }
    double now = core_now();
    if (PyFloat_CheckExact(number)) {
        *when = now + PyFloat_AS_DOUBLE(number);
        return 1;
    }
    if (PyLong_CheckExact(number) && timers_exact(number, when)) {
        *when += now;
        return 1;
    }
    if (number == Py_None)
        return 0;
    /* numpy's numbers, and whatever else makes a time of a time. */
    PyObject *start = PyFloat_FromDouble(now);
    *object = start == NULL ? NULL : PyNumber_Add(start, number);
    Py_XDECREF(start);
    if (*object == NULL)
        return -1;
    /* Asked again: the sum may be the program's own code, which may have closed the loop. */
    return timers_exact(*object, when) ? takes_timers(loop) : 0;
}

/* call_later and call_at. */
static PyObject *
new_timer(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names, int is_delay)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *tuple, *context, *object = NULL, *handle = NULL;
    double when;
    int ours = takes_timers(loop);
    if (ours > 0)
        ours = count < 2 ? 0 : due_time(loop, args[0], is_delay, &when, &object);
    if (ours > 0)
        ours = scheduling_take_arguments(st, args, count, names, 2, &tuple, &context);
    if (ours > 0)
        handle = set_timer(self, when, object, args[1], tuple, context);
    else if (ours == 0)
        handle = scheduling_in_python(self, is_delay ? st->s_python_call_later : st->s_python_call_at, args, count,
                                      names);
    Py_XDECREF(object);
    return handle;
}

PyObject *
scheduling_call_later(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return new_timer(self, args, count, names, 1);
}

PyObject *
scheduling_call_at(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    return new_timer(self, args, count, names, 0);
}

/* Task(coro, loop=self, ...), where there is no factory and the loop checks no calls. */
PyObject *
scheduling_create_task(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    Py_ssize_t named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    int ours = !loop->checks_calls && count == 1 && (loop->fresh != NULL || loop->recorder == Py_None);
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
    if (!ours || loop->task_factory != Py_None)
        return scheduling_in_python(self, st->s_python_create_task, args, count, names);
    PyObject *type = current_class(st, &st->task_class, st->s_tasks, st->s_Task);
    if (type == NULL)
        return NULL;
    PyObject *all[] = {args[0], self, name, context};
    PyObject *keywords = context == Py_None ? st->task_keywords : st->context_keywords;
    PyObject *task = PyObject_Vectorcall(type, all, 1, keywords);
    Py_DECREF(type);
    if (task != NULL && loop->fresh != NULL && queue_append(loop->fresh, task) < 0)
        Py_CLEAR(task);
    return task;
}

PyObject *
scheduling_create_future(PyObject *self, PyObject *unused)
{
    core_state *st = ((Scheduling *)self)->state;
    PyObject *type = current_class(st, &st->future_class, st->s_futures, st->s_Future);
    if (type == NULL)
        return NULL;
    PyObject *future = PyObject_Vectorcall(type, &self, 0, st->future_keywords);
    Py_DECREF(type);
    return future;
}
