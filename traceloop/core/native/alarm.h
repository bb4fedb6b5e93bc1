/* What alarm.c and quiet_turns.c share. */

#ifndef TRACELOOP_ALARM_H
#define TRACELOOP_ALARM_H

#include <Python.h>
#include <pythread.h>

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock; /* taken while nobody has rung */
    int rung;                /* read and written with the GIL held */
} Alarm;

/* Sleeps until it rings, so many seconds at most; returns whether it rang. Called without the GIL. Where it rang,
   alarm_heard follows, with the GIL: the next sleep begins anew. What each thread has heard is its own: another may
   wait for no time at all (Watchdog.stop) while one sleeps. */
static inline int
alarm_sleep(Alarm *self, double seconds)
{
    PY_TIMEOUT_T us = seconds <= 0.0 ? 0 : seconds > 1e6 ? (PY_TIMEOUT_T)1e12 : (PY_TIMEOUT_T)(seconds * 1e6 + 0.999);
    return PyThread_acquire_lock_timed(self->lock, us, 0) == PY_LOCK_ACQUIRED;
}

static inline void
alarm_heard(Alarm *self)
{
    self->rung = 0;
}

/* quiet_turns.c */
PyObject *alarm_sleep_quietly(PyObject *alarm, PyObject *args);

#endif
