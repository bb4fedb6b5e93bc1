/* What a program may put in place of ours, in a class or on the loop itself. The code in C stands for the originals, so
   it asks here first; what was replaced is run by the Python core. And what it may put in place of asyncio's classes of
   tasks and futures, of which the loop makes whatever stands there. */

#include "core.h"

/* Changes whenever anything in the dict does; 0 where the interpreter has no such number, from CPython 3.14 on. */
static uint64_t
version_of(PyObject *dict)
{
#if PY_VERSION_HEX < 0x030E0000
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations" /* since 3.12, for dicts in general */
    return ((PyDictObject *)dict)->ma_version_tag;
#pragma GCC diagnostic pop
#else
    return 0;
#endif
}

/* The class where it has its usual place, in the dict of a module that is in the dict of base_events. 0; -1. */
static int
find_class(ClassPlace *place, PyObject *outer, PyObject *module_name, PyObject *name)
{
    Py_CLEAR(place->found);
    PyObject *module = PyDict_GetItemWithError(outer, module_name);
    if (module != NULL && PyModule_CheckExact(module)) {
        Py_XSETREF(place->dict, Py_NewRef(PyModule_GetDict(module)));
        place->found = Py_XNewRef(PyDict_GetItemWithError(place->dict, name));
        place->outer = version_of(outer);
        place->inner = version_of(place->dict);
    }
    return PyErr_Occurred() ? -1 : 0;
}

/* A class as a program may have replaced it: ``base_events.MODULE.NAME``. A new reference. Each future and each task
   that is made asks for it, so ``place`` says where it was last. */
PyObject *
current_class(core_state *st, ClassPlace *place, PyObject *module_name, PyObject *name)
{
    PyObject *outer = PyModule_GetDict(st->base_events);
    if (place->found == NULL || place->outer == 0 || place->outer != version_of(outer) ||
        place->inner != version_of(place->dict)) {
        if (find_class(place, outer, module_name, name) < 0)
            return NULL;
    }
    if (place->found != NULL)
        return Py_NewRef(place->found);
    PyObject *module = PyObject_GetAttr(st->base_events, module_name);
    PyObject *found = module == NULL ? NULL : PyObject_GetAttr(module, name);
    Py_XDECREF(module);
    return found;
}

/* Whether ``time.monotonic`` is what it was: freezegun and tests replace it, and our Python methods go by that. 1, 0,
   or -1 with an exception. */
int
core_clock_is_ours(core_state *st)
{
    if (st->clock_globals == NULL)
        return 0;
    uint64_t version = version_of(st->clock_globals);
    if (version != 0 && version == st->clock_version)
        return 1;
    PyObject *found = PyDict_GetItemWithError(st->clock_globals, st->s_monotonic);
    if (found == NULL && PyErr_Occurred())
        return -1;
    st->clock_version = found == st->clock ? version : 0;
    return found == st->clock;
}

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

/* Whether ``value`` is what the loop has under the name anyway: who replaces a method for a while may put back what it
   got. 1, 0, or -1 with an exception. */
static int
is_own_method(PyObject *self, PyObject *value, int place)
{
    PyObject *originals = PyObject_GetAttrString((PyObject *)Py_TYPE(self), "_originals");
    if (originals == NULL)
        return -1;
    int same = 0;
    if (PyTuple_Check(originals) && PyTuple_GET_SIZE(originals) == REPLACEABLE) {
        PyObject *original = PyTuple_GET_ITEM(originals, place);
        if (PyMethod_Check(value))
            same = PyMethod_GET_SELF(value) == self && PyMethod_GET_FUNCTION(value) == original;
        else if (PyCFunction_Check(value) && Py_IS_TYPE(original, &PyMethodDescr_Type))
            same = PyCFunction_GET_SELF(value) == self &&
                   PyCFunction_GET_FUNCTION(value) == ((PyMethodDescrObject *)original)->d_method->ml_meth;
    }
    Py_DECREF(originals);
    return same;
}

/* loop.name = value, or del loop.name. While one of the names stands on a loop, the Python core runs it. */
int
scheduling_setattr(PyObject *self, PyObject *name, PyObject *value)
{
    Scheduling *loop = (Scheduling *)self;
    PyObject *names[REPLACEABLE];
    replaceable_names(loop->state, names);
    if (name == loop->state->s_own_selector)
        loop->new_selector = 1;
    int place = 0;
    while (place < REPLACEABLE && name != names[place])
        place++;
    if (place == REPLACEABLE)
        return PyObject_GenericSetAttr(self, name, value);
    int own = value == NULL ? 1 : is_own_method(self, value, place);
    if (own < 0 || PyObject_GenericSetAttr(self, name, value) < 0)
        return -1;
    loop->patched = (unsigned char)(own ? loop->patched & ~(1 << place) : loop->patched | 1 << place);
    return 0;
}
