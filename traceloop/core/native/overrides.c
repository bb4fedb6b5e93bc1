/* What a program may put in place of ours, in a class or on the loop itself. The code in C stands for the originals, so
   it asks here first; what was replaced is run by the Python core. */

#include "core.h"

#define REPLACEABLE 6

/* In the order of EventLoop._originals. Borrowed from the state. */
static void
replaceable_names(core_state *st, PyObject *names[REPLACEABLE])
{
    names[0] = st->s_call_at;
    names[1] = st->s_time;
    names[2] = st->s_run_once;
    names[3] = st->s_process_events;
    names[4] = st->s_timer_handle_cancelled;
    names[5] = st->s_write_to_self;
}

/* The class is looked at only when it has changed: its version says so. */
int
scheduling_is_clean(Scheduling *loop)
{
    PyTypeObject *type = Py_TYPE(loop);
    if (loop->patched)
        return 0;
    if (loop->clean_version != 0 && loop->clean_version == type->tp_version_tag)
        return 1;
    PyObject *names[REPLACEABLE];
    replaceable_names(loop->state, names);
    PyObject *originals = PyObject_GetAttrString((PyObject *)type, "_originals");
    if (originals == NULL)
        return -1;
    int same = PyTuple_Check(originals) && PyTuple_GET_SIZE(originals) == REPLACEABLE;
    for (int i = 0; same && i < REPLACEABLE; i++) {
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

/* loop.name = value. A loop on which one of the names was set is Python's from then on. */
int
scheduling_setattr(PyObject *self, PyObject *name, PyObject *value)
{
    Scheduling *loop = (Scheduling *)self;
    PyObject *names[REPLACEABLE];
    replaceable_names(loop->state, names);
    for (int i = 0; i < REPLACEABLE; i++)
        if (name == names[i])
            loop->patched = 1;
    return PyObject_GenericSetAttr(self, name, value);
}
