/* call_soon_threadsafe, and what ends the loop's poll for it.

   Everything here runs with the GIL, in any thread. The loop sets ``polling`` before its poll gives the GIL away, and
   clears it when it has the GIL again. It decides the poll's timeout before, and keeps the GIL from then on. So a
   thread that finds ``polling`` clear has put its handle where the loop looks before it polls, and writes nothing.
   ``woken`` is set once a byte was written for the poll under way: one byte wakes the loop as well as many. */

#include "core.h"
#include <errno.h>
#include <pythread.h>
#include <sys/socket.h>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

static int
write_in_python(Scheduling *loop)
{
    PyObject *done = PyObject_CallMethodNoArgs((PyObject *)loop, loop->state->s_write_to_self);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* Without giving the GIL away: the socket does not block, and the loop could not go on before it has the GIL. */
static int
write_byte(Scheduling *loop)
{
    PyObject *socket = PyObject_GetAttr((PyObject *)loop, loop->state->s_csock);
    int descriptor = socket == NULL || socket == Py_None ? -1 : PyObject_AsFileDescriptor(socket);
    Py_XDECREF(socket);
    if (descriptor < 0) { /* being closed, or no socket of ours */
        PyErr_Clear();
        return write_in_python(loop);
    }
    ssize_t sent;
    do
        sent = send(descriptor, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    while (sent < 0 && errno == EINTR);
    if (sent < 0) /* full, which wakes the loop as well; or closed meanwhile */
        return 0;
    loop->woken = 1;
    return 0;
}

/* 1, 0, or -1 with an exception. */
static int
is_own_thread(Scheduling *loop)
{
    PyObject *ident = PyObject_GetAttr((PyObject *)loop, loop->state->s_thread_id);
    if (ident == NULL)
        return -1;
    unsigned long thread = ident == Py_None ? 0 : PyLong_AsUnsignedLong(ident);
    Py_DECREF(ident);
    if (thread == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    return thread == PyThread_get_thread_ident();
}

/* Lets the loop look at its queue, into which something was put. In its own thread it writes always, as asyncio does:
   programs that put something into the queue there get the iterations that they have on every loop. */
static int
wake(Scheduling *loop, int own)
{
    if (own || !loop->running || loop->debug)
        return write_in_python(loop);
    int clean = scheduling_is_clean(loop);
    if (clean != 1)
        return clean < 0 ? -1 : write_in_python(loop);
    return loop->polling && !loop->woken ? write_byte(loop) : 0;
}

PyObject *
scheduling_wake(PyObject *self, PyObject *unused)
{
    int own = is_own_thread((Scheduling *)self);
    if (own < 0 || wake((Scheduling *)self, own) < 0)
        return NULL;
    Py_RETURN_NONE;
}

#if PY_VERSION_HEX < 0x030E0000

/* Its place in the queue would credit it to whatever runs just now. Noted before it can be run (recorder.stamps). */
static int
stamp(Scheduling *loop, PyObject *handle)
{
    if (loop->recorder == NULL || loop->recorder == Py_None)
        return 0;
    PyObject *stamps = PyObject_GetAttr(loop->recorder, loop->state->s_stamps);
    PyObject *key = stamps == NULL ? NULL : PyLong_FromVoidPtr(handle);
    PyObject *waiting = key == NULL ? NULL : Py_BuildValue("[(di)]", core_now(), 0);
    int done = waiting == NULL ? -1 : PyObject_SetItem(stamps, key, waiting);
    Py_XDECREF(stamps);
    Py_XDECREF(key);
    Py_XDECREF(waiting);
    return done;
}

PyObject *
scheduling_call_soon_threadsafe(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    Scheduling *loop = (Scheduling *)self;
    core_state *st = loop->state;
    PyObject *tuple, *context;
    int taken = 0;
    if (!loop->checks_calls && loop->ready != NULL && count > 0)
        taken = scheduling_take_arguments(st, args, count, names, 1, &tuple, &context);
    if (taken < 0)
        return NULL;
    if (taken == 0)
        return scheduling_in_python(self, st->s_python_call_soon_threadsafe, args, count, names);
    PyObject *handle = core_new_handle(st, self, args[0], tuple, context);
    if (handle == NULL)
        return NULL;
    int own = is_own_thread(loop), failed = own < 0 || (own == 0 && stamp(loop, handle) < 0);
    if (!failed)
        failed = scheduling_put(loop, handle) < 0;
    if (failed || wake(loop, own) < 0)
        Py_CLEAR(handle);
    return handle;
}

#endif

/* -- in the loop's thread, before a handle runs */

static int
ask_recorder(PyObject *method, PyObject *argument)
{
    PyObject *result = PyObject_CallFunctionObjArgs(method, argument, NULL);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

/* What recorder.stamped does, for a handle that one other thread has put in; 0: it is not as simple as that. */
static int
take_stamp(Run *run, PyObject *key, PyObject *waiting)
{
    PyObject *first = PyList_CheckExact(waiting) && PyList_GET_SIZE(waiting) == 1 ? PyList_GET_ITEM(waiting, 0) : NULL;
    if (first == NULL || !PyTuple_CheckExact(first) || PyTuple_GET_SIZE(first) != 2 ||
        !PyFloat_CheckExact(PyTuple_GET_ITEM(first, 0)) || !PyLong_CheckExact(PyTuple_GET_ITEM(first, 1)) ||
        PyLong_AsLong(PyTuple_GET_ITEM(first, 1)) != 0)
        return 0;
    double when = PyFloat_AS_DOUBLE(PyTuple_GET_ITEM(first, 0));
    if (PyDict_DelItem(run->stamps, key) < 0)
        return -1;
    record_add(run->record, when, R_STAMP, 0.0);
    return 1;
}

/* Announces the tasks that a task factory made in the run that ended at ``now``. */
int
run_define_created(Run *run, double now)
{
    if (PyList_GET_SIZE(run->created) == 0)
        return 0;
    PyObject *when = PyFloat_FromDouble(now);
    int failed = when == NULL ? -1 : ask_recorder(run->define_created, when);
    Py_XDECREF(when);
    return failed;
}

int
run_look_at_stamps(Run *run, PyObject *handle, double now)
{
    if (run_define_created(run, now) < 0)
        return -1;
    PyObject *key = PyLong_FromVoidPtr(handle);
    PyObject *waiting = key == NULL ? NULL : PyDict_GetItemWithError(run->stamps, key);
    int taken = waiting == NULL ? -1 : take_stamp(run, key, waiting);
    Py_XDECREF(key);
    if (waiting == NULL)
        return PyErr_Occurred() ? -1 : 0;
    return taken != 0 ? (taken < 0 ? -1 : 0) : ask_recorder(run->stamped, handle);
}
