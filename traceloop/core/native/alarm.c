/* Alarm: a lock to sleep on, for the watchdog (recording/watchdog/quiet_turns.py). Its turns are in quiet_turns.c. */

#include "core.h"
#include "alarm.h"

static PyObject *
alarm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Alarm *self = (Alarm *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    return (PyObject *)self;
}

static void
alarm_dealloc(PyObject *object)
{
    Alarm *self = (Alarm *)object;
    if (self->lock != NULL) {
        if (!self->rung)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    free_object(object);
}

static PyObject *
alarm_ring(PyObject *object, PyObject *unused)
{
    Alarm *self = (Alarm *)object;
    if (!self->rung) {
        self->rung = 1;
        PyThread_release_lock(self->lock);
    }
    Py_RETURN_NONE;
}

static PyObject *
alarm_wait(PyObject *object, PyObject *seconds)
{
    Alarm *self = (Alarm *)object;
    double wait = PyFloat_AsDouble(seconds);
    if (wait == -1.0 && PyErr_Occurred())
        return NULL;
    core_state *st = core_state_of(object);
    /* The watchdog, from which polls keep the GIL (iteration.c). Other threads call this with no time to wait. */
    if (wait > 0.0 && st != NULL)
        st->watchdog = PyThreadState_GetID(PyThreadState_Get());
    int heard;
    Py_BEGIN_ALLOW_THREADS
    heard = alarm_sleep(self, wait);
    Py_END_ALLOW_THREADS
    if (heard)
        alarm_heard(self);
    return PyBool_FromLong(heard);
}

static PyMethodDef alarm_methods[] = {
    {"ring", alarm_ring, METH_NOARGS, "Ends a wait, or the next one. From any thread."},
    {"wait", alarm_wait, METH_O, "Waits for so many seconds; whether it rang. Silent again afterwards."},
#ifdef __linux__
    {"sleep_quietly", alarm_sleep_quietly, METH_VARARGS, "Turns that find nothing (quiet_turns.py)."},
#endif
    {NULL},
};

static PyType_Slot alarm_slots[] = {
    {Py_tp_doc, "What the watchdog sleeps on. One thread waits."},
    {Py_tp_new, alarm_new},
    {Py_tp_dealloc, alarm_dealloc},
    {Py_tp_methods, alarm_methods},
    {0, NULL},
};

PyType_Spec core_alarm_spec = {
    .name = "traceloop.core._core.Alarm",
    .basicsize = sizeof(Alarm),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = alarm_slots,
};
