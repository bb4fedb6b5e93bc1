/* What alarm.c and quiet_turns.c share. */

#ifndef TRACELOOP_ALARM_H
#define TRACELOOP_ALARM_H

#include <Python.h>
#include <pythread.h>

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock; /* taken while nobody has rung */
    int rung;                /* read and written with the GIL held */
    int heard;               /* the last sleep ended because it rang */
} Alarm;

/* Sleeps until it rings, so many seconds at most. Called without the GIL; alarm_heard tells, with the GIL, whether it
   rang. The next sleep begins anew. */
static inline void
alarm_sleep(Alarm *self, double seconds)
{
    PY_TIMEOUT_T us = seconds <= 0.0 ? 0 : seconds > 1e6 ? (PY_TIMEOUT_T)1e12 : (PY_TIMEOUT_T)(seconds * 1e6 + 0.999);
    self->heard = PyThread_acquire_lock_timed(self->lock, us, 0) == PY_LOCK_ACQUIRED;
}

static inline int
alarm_heard(Alarm *self)
{
    if (self->heard)
        self->rung = 0;
    return self->heard;
}

/* quiet_turns.c */
PyObject *alarm_sleep_quietly(PyObject *alarm, PyObject *args);

#endif
