/* Handle and TimerHandle: subclasses of asyncio's, with its slots.

   A handle owns what lies in its slots, as if Python had put it there. Handles are not made by calling their class but
   by core_new_handle, and their memory is kept for the next one: half of what call_soon costs otherwise. */

#include "core.h"

static void
fill(core_state *st, PyObject *self, PyObject *loop, PyObject *callback, PyObject *args, PyObject *context)
{
    SLOT(self, st->callback) = Py_NewRef(callback);
    SLOT(self, st->args) = args;       /* stolen */
    SLOT(self, st->context) = context; /* stolen */
    SLOT(self, st->loop) = Py_NewRef(loop);
    SLOT(self, st->cancelled) = Py_NewRef(Py_False);
    SLOT(self, st->repr) = Py_NewRef(Py_None);
    SLOT(self, st->source_traceback) = Py_NewRef(Py_None);
}

/* Steals ``args`` and ``context``, also where it fails. */
PyObject *
core_new_handle(core_state *st, PyObject *loop, PyObject *callback, PyObject *args, PyObject *context)
{
    PyObject *self;
    if (st->free_count > 0) {
        self = PyObject_Init(st->free_handles[--st->free_count], st->handle_type);
        fill(st, self, loop, callback, args, context);
        *core_noted_ident(st, self) = 0.0;
        PyObject_GC_Track(self);
        return self;
    }
    self = st->handle_type->tp_alloc(st->handle_type, 0);
    if (self == NULL) {
        Py_DECREF(args);
        Py_DECREF(context);
        return NULL;
    }
    fill(st, self, loop, callback, args, context);
    return self;
}

PyObject *
core_new_timer(core_state *st, PyObject *loop, PyObject *callback, PyObject *args, PyObject *context, double when,
               PyObject *when_object, int64_t set_at)
{
    PyObject *due = when_object != NULL ? Py_NewRef(when_object) : PyFloat_FromDouble(when);
    PyObject *self = due == NULL ? NULL : st->timer_handle_type->tp_alloc(st->timer_handle_type, 0);
    if (self == NULL) {
        Py_XDECREF(due);
        Py_DECREF(args);
        Py_DECREF(context);
        return NULL;
    }
    fill(st, self, loop, callback, args, context);
    SLOT(self, st->when) = due;
    SLOT(self, st->scheduled) = Py_NewRef(Py_True);
    *(int64_t *)((char *)self + st->set_at) = set_at;
    return self;
}

void
core_free_handles(core_state *st)
{
    while (st->free_count > 0)
        PyObject_GC_Del(st->free_handles[--st->free_count]);
}

static int
visit_slots(core_state *st, PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(SLOT(self, st->callback));
    Py_VISIT(SLOT(self, st->args));
    Py_VISIT(SLOT(self, st->context));
    Py_VISIT(SLOT(self, st->loop));
    Py_VISIT(SLOT(self, st->repr));
    Py_VISIT(SLOT(self, st->source_traceback));
    return 0;
}

static void
clear_slots(core_state *st, PyObject *self)
{
    Py_CLEAR(SLOT(self, st->callback));
    Py_CLEAR(SLOT(self, st->args));
    Py_CLEAR(SLOT(self, st->context));
    Py_CLEAR(SLOT(self, st->loop));
    Py_CLEAR(SLOT(self, st->cancelled));
    Py_CLEAR(SLOT(self, st->repr));
    Py_CLEAR(SLOT(self, st->source_traceback));
}

static int
handle_traverse(PyObject *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    core_state *st = core_state_of(self);
    return st == NULL ? 0 : visit_slots(st, self, visit, arg);
}

static int
handle_clear(PyObject *self)
{
    core_state *st = core_state_of(self);
    if (st != NULL)
        clear_slots(st, self);
    return 0;
}

static void
free_handle(core_state *st, PyObject *self, PyTypeObject *type)
{
    if (st != NULL) {
        if (SLOT(self, st->weakrefs) != NULL)
            PyObject_ClearWeakRefs(self);
        clear_slots(st, self);
    }
    if (st != NULL && type == st->handle_type && st->free_count < FREE_HANDLES)
        st->free_handles[st->free_count++] = self;
    else
        type->tp_free(self);
    Py_DECREF(type);
}

static void
handle_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    core_state *st = core_state_of(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, handle_dealloc)
    free_handle(st, self, type);
    Py_TRASHCAN_END
}

/* Py_DECREF of a handle that has run: mostly it is the last reference, and the state is at hand. */
void
core_release_handle(core_state *st, PyObject *handle)
{
#ifndef Py_REF_DEBUG
    if (Py_REFCNT(handle) == 1 && Py_IS_TYPE(handle, st->handle_type) && SLOT(handle, st->weakrefs) == NULL) {
        PyObject_GC_UnTrack(handle);
        free_handle(st, handle, st->handle_type);
        return;
    }
#endif
    Py_DECREF(handle);
}

static int
timer_traverse(PyObject *self, visitproc visit, void *arg)
{
    core_state *st = core_state_of(self);
    if (st != NULL)
        Py_VISIT(SLOT(self, st->when));
    return handle_traverse(self, visit, arg);
}

static int
timer_clear(PyObject *self)
{
    core_state *st = core_state_of(self);
    if (st != NULL) {
        Py_CLEAR(SLOT(self, st->when));
        Py_CLEAR(SLOT(self, st->scheduled));
    }
    return handle_clear(self);
}

static void
timer_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    core_state *st = core_state_of(self);
    PyObject_GC_UnTrack(self);
    Py_TRASHCAN_BEGIN(self, timer_dealloc)
    if (st != NULL) {
        if (SLOT(self, st->weakrefs) != NULL)
            PyObject_ClearWeakRefs(self);
        Py_CLEAR(SLOT(self, st->when));
        Py_CLEAR(SLOT(self, st->scheduled));
        clear_slots(st, self);
    }
    type->tp_free(self);
    Py_DECREF(type);
    Py_TRASHCAN_END
}

/* Called with arguments, the class is asyncio's: who makes a handle of the type that he finds gets what he expects.
   Without any it makes an empty one. */
static int
handle_init(PyObject *self, PyObject *args, PyObject *kwargs)
{
    core_state *st = core_state_of(self);
    if (st == NULL)
        return -1;
    if (PyTuple_GET_SIZE(args) > 0 || (kwargs != NULL && PyDict_GET_SIZE(kwargs) > 0)) {
        PyTypeObject *base =
            PyObject_TypeCheck(self, st->timer_handle_type) ? st->asyncio_timer_handle : st->asyncio_handle;
        /* By name: a Python class's tp_init would look the method up again, and find this one. */
        PyObject *init = PyObject_GetAttrString((PyObject *)base, "__init__");
        PyObject *bound = init == NULL ? NULL : PyMethod_New(init, self);
        PyObject *result = bound == NULL ? NULL : PyObject_Call(bound, args, kwargs);
        Py_XDECREF(init);
        Py_XDECREF(bound);
        Py_XDECREF(result);
        return result == NULL ? -1 : 0;
    }
    if (SLOT(self, st->cancelled) != NULL)
        return 0;
    SLOT(self, st->cancelled) = Py_NewRef(Py_False);
    SLOT(self, st->repr) = Py_NewRef(Py_None);
    SLOT(self, st->source_traceback) = Py_NewRef(Py_None);
    return 0;
}

static PyObject *
timer_get_set_at(PyObject *self, void *closure)
{
    core_state *st = core_state_of(self);
    return st == NULL ? NULL : PyLong_FromLongLong(*(int64_t *)((char *)self + st->set_at));
}

static int
timer_set_set_at(PyObject *self, PyObject *value, void *closure)
{
    core_state *st = core_state_of(self);
    long long place = value == NULL ? 0 : PyLong_AsLongLong(value);
    if (st == NULL || (place == -1 && PyErr_Occurred()))
        return -1;
    *(int64_t *)((char *)self + st->set_at) = place;
    return 0;
}

static PyObject *
timer_cancel(PyObject *self, PyObject *unused)
{
    core_state *st = core_state_of(self);
    if (st == NULL)
        return NULL;
    if (SLOT(self, st->cancelled) == Py_True)
        Py_RETURN_NONE;
    PyObject *loop = SLOT(self, st->loop);
    if (loop != NULL && PyObject_TypeCheck(loop, st->scheduling_type)) {
        Scheduling *ours = (Scheduling *)loop;
        int clean = scheduling_is_clean(ours);
        if (clean < 0)
            return NULL;
        if (clean && !ours->debug && ours->timers != NULL) {
            if (SLOT(self, st->scheduled) == Py_True)
                ours->timers->cancelled++;
            Py_SETREF(SLOT(self, st->cancelled), Py_NewRef(Py_True));
            PyObject *callback = SLOT(self, st->callback), *args = SLOT(self, st->args);
            SLOT(self, st->callback) = Py_NewRef(Py_None);
            SLOT(self, st->args) = Py_NewRef(Py_None);
            Py_XDECREF(callback);
            Py_XDECREF(args);
            Py_RETURN_NONE;
        }
    }
    PyObject *cancel = PyObject_GetAttrString((PyObject *)st->asyncio_timer_handle, "cancel");
    if (cancel == NULL)
        return NULL;
    PyObject *result = PyObject_CallOneArg(cancel, self);
    Py_DECREF(cancel);
    return result;
}

static PyMethodDef timer_methods[] = {
    {"cancel", timer_cancel, METH_NOARGS,
     "cancel($self)\n--\n\nCancels the call; its entry stays in the heap until it is due or swept."},
    {NULL},
};

static PyGetSetDef timer_getset[] = {
    {"_set_at", timer_get_set_at, timer_set_set_at, "Where the record stood when the timer was set.", NULL},
    {NULL},
};

static PyType_Slot handle_slots[] = {
    {Py_tp_doc, "What call_soon returns."},
    {Py_tp_init, handle_init},
    {Py_tp_dealloc, handle_dealloc},
    {Py_tp_traverse, handle_traverse},
    {Py_tp_clear, handle_clear},
    {0, NULL},
};

static PyType_Slot timer_slots[] = {
    {Py_tp_doc, "What call_later and call_at return."},
    {Py_tp_init, handle_init},
    {Py_tp_dealloc, timer_dealloc},
    {Py_tp_traverse, timer_traverse},
    {Py_tp_clear, timer_clear},
    {Py_tp_methods, timer_methods},
    {Py_tp_getset, timer_getset},
    {0, NULL},
};

/* The sizes are their bases', which module.c fills in. */
PyType_Spec core_handle_spec = {
    .name = "traceloop.core._core.Handle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = handle_slots,
};

PyType_Spec core_timer_handle_spec = {
    .name = "traceloop.core._core.TimerHandle",
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .slots = timer_slots,
};
