/* The run of one handle: who it is, its callback in its context, what it leaves in the record.

   Ownership while a handle runs: run_handle owns the handle, its callback, arguments and context, and the task. The
   loop shows the handle to other threads (``run_handle``) without a reference of its own, and stops showing it
   before the handle is released; until the clock is read the run still stands there without one. */

#include "core.h"

int
run_call(PyObject *function, PyObject *a, PyObject *b)
{
    PyObject *result = PyObject_CallFunctionObjArgs(function, a, b, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* The callback raised, and the exception is set. 0: the loop's exception handler was called; -1: it ends the loop. */
static int
handle_failure(Run *run, PyObject *handle)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *error = take_exception();
    PyObject *before = handle_exception(error);
    int done = run_call(run->st->report_failure, handle, error);
    handle_again(before);
    Py_DECREF(error);
    return done;
}

static int
call_back(core_state *st, PyObject *callback, PyObject *args)
{
    if (Py_IS_TYPE(callback, &PyMethod_Type) && PyMethod_GET_FUNCTION(callback) == st->streams.read_ready &&
        PyTuple_GET_SIZE(args) == 0) {
        int read = stream_read_ready(st, callback);
        if (read != 0)
            return read < 0 ? -1 : 0;
    }
    PyObject *result = PyObject_Vectorcall(callback, &PyTuple_GET_ITEM(args, 0), (size_t)PyTuple_GET_SIZE(args), NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* Calls the callback in its context. -1 with its exception. */
static int
call_in_context(Run *run, PyObject *callback, PyObject *args, PyObject *context)
{
    if (!PyContext_CheckExact(context)) { /* a guarded one (core/handles.py), or a context of another class */
        if (run->span_variable != NULL && run_look_at_span(run, context, 0) < 0)
            return -1;
        PyObject *method = PyObject_GetAttr(context, run->st->s_run);
        PyObject *first = method == NULL ? NULL : PyTuple_Pack(1, callback);
        PyObject *all = first == NULL ? NULL : PySequence_Concat(first, args);
        PyObject *result = all == NULL ? NULL : PyObject_Call(method, all, NULL);
        Py_XDECREF(method);
        Py_XDECREF(first);
        Py_XDECREF(all);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    if (PyContext_Enter(context) < 0)
        return -1;
    int called = -1;
    if (run->span_variable == NULL || run_look_at_span(run, context, 1) == 0)
        called = call_back(run->st, callback, args);
    return PyContext_Exit(context) < 0 ? -1 : called;
}

/* An attribute of a handle: a slot, or, with a handle of another class, whatever it has. A new reference. */
static PyObject *
part_of(core_state *st, PyObject *handle, Py_ssize_t offset, const char *name)
{
    if (is_handle(st, handle)) {
        PyObject *value = SLOT(handle, offset);
        if (value == NULL)
            PyErr_SetString(PyExc_AttributeError, name);
        return Py_XNewRef(value);
    }
    return PyObject_GetAttrString(handle, name);
}

/* 1: a handle that was cancelled; 0; -1. */
int
run_is_cancelled(core_state *st, PyObject *handle)
{
    if (is_handle(st, handle)) {
        PyObject *cancelled = SLOT(handle, st->cancelled);
        return cancelled == NULL || cancelled == Py_False ? 0 : PyObject_IsTrue(cancelled);
    }
    PyObject *cancelled = PyObject_GetAttrString(handle, "_cancelled");
    int answer = cancelled == NULL ? -1 : PyObject_IsTrue(cancelled);
    Py_XDECREF(cancelled);
    return answer;
}

int
run_handle(Run *run, PyObject *handle, double *now)
{
    core_state *st = run->st;
    Scheduling *loop = run->loop;
    PyObject *callback = NULL, *args = NULL, *context = NULL, *task = NULL;
    int is_first = 0, failed = -1;
    if (PyDict_GET_SIZE(run->stamps) > 0 && run_look_at_stamps(run, handle, *now) < 0)
        goto error;
    callback = part_of(st, handle, st->callback, "_callback");
    if (callback == NULL)
        goto error;
    if (callback == Py_None) {
        int cancelled = run_is_cancelled(st, handle);
        if (cancelled < 0)
            goto error;
        if (cancelled) {
            record_add(run->record, *now, R_SKIP, (double)(loop->ready == NULL ? 0 : loop->ready->length));
            Py_DECREF(callback);
            Py_DECREF(handle);
            return 0;
        }
    }
    args = part_of(st, handle, st->args, "_args");
    context = part_of(st, handle, st->context, "_context");
    if (args == NULL || context == NULL)
        goto error;
    if (!PyTuple_CheckExact(args)) {
        Py_SETREF(args, args == Py_None ? PyTuple_New(0) : PySequence_Tuple(args));
        if (args == NULL)
            goto error;
    }
    double ident = run_identify(run, handle, callback, &task, &is_first);
    if (ident < 0.0)
        goto error;
    loop->run_start = *now;
    loop->run_ident = ident;
    loop->run_handle = handle;
    loop->run_task = task;
    loop->run_again = 0;
    failed = call_in_context(run, callback, args, context);
    if (failed < 0)
        failed = handle_failure(run, handle);
    if (loop->held_count > 0)
        coalesce_end(loop);
    loop->run_handle = loop->run_task = NULL;
    PyObject *error = failed < 0 ? take_exception() : NULL;
    /* What the run held is freed in the run's time. */
    core_release_handle(st, handle);
    Py_DECREF(callback);
    Py_DECREF(args);
    Py_DECREF(context);
    double added = 0.0;
    if (task != NULL) {
        added = run_settle_task(run, task, ident, is_first);
        Py_DECREF(task);
    }
    loop->run_again = 0; /* a step that has run the loop itself comes to its end after this one */
    if (added < 0.0) { /* an object that only looks like a task, or no memory: the application goes on */
        /* SystemExit, KeyboardInterrupt: a signal's handler has raised it while Python ran for the record. */
        if (error == NULL && PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception))
            error = take_exception();
        PyErr_Clear();
        added = is_first ? FIRST : 0.0;
    }
    record_add(run->record, *now, ident, (double)(loop->ready == NULL ? 0 : loop->ready->length) + added);
    *now = clock_read(&run->clock);
    if (error != NULL) {
        raise_again(error);
        return -1;
    }
    return 0;

error:
    Py_XDECREF(handle);
    Py_XDECREF(callback);
    Py_XDECREF(args);
    Py_XDECREF(context);
    Py_XDECREF(task);
    return -1;
}
