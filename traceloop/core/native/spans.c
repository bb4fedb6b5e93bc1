/* The application's span in a handle's context: whether it is another one than before, and its number. The plain case
   of ApplicationSpans.changed (recording/application_spans.py): the span has its number, of this generation. Its state
   stays where it is, in the slots of the Python object. */

#include "core.h"

void
run_find_spans(Run *run)
{
    PyTypeObject *type = Py_TYPE(run->spans);
    run->span_generation = core_offset_of(type, "_generation");
    run->span_key = run->span_generation < 0 ? -1 : core_offset_of(type, "_span_key");
    run->span_current = run->span_key < 0 ? -1 : core_offset_of(type, "current");
    PyErr_Clear(); /* another class's: it is asked each time */
}

/* Whether a context's ``get`` is a dict's. */
static int
is_plain(Run *run, PyObject *held)
{
    PyTypeObject *type = Py_TYPE(held);
    if (type == run->context_type)
        return 1;
    if (!PyDict_Check(held))
        return 0;
    PyObject *get = PyObject_GetAttr((PyObject *)type, run->st->s_get);
    PyObject *usual = get == NULL ? NULL : PyObject_GetAttr((PyObject *)&PyDict_Type, run->st->s_get);
    int plain = usual != NULL && get == usual;
    Py_XDECREF(get);
    Py_XDECREF(usual);
    if (plain)
        Py_XSETREF(run->context_type, (PyTypeObject *)Py_NewRef((PyObject *)type));
    return plain;
}

/* What goes wrong is found again by who asks; KeyboardInterrupt and SystemExit come once, and are the program's. */
static void
forget_exception(void)
{
    if (PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_Exception))
        PyErr_Clear();
}

/* The number of the span in ``held``, a new reference; NULL where that has to be asked, or with the program's
   exception. */
static PyObject *
number_of(Run *run, PyObject *held)
{
    core_state *st = run->st;
    if (held == Py_None)
        return Py_NewRef(st->zero);
    PyObject *key = SLOT(run->spans, run->span_key), *number = NULL;
    if (key == NULL || !is_plain(run, held)) {
        forget_exception();
        return NULL;
    }
    PyObject *span = Py_XNewRef(PyDict_GetItemWithError(held, key));
    if (span == NULL && !PyErr_Occurred())
        return Py_NewRef(st->zero);
    PyObject *known = span == NULL || span == Py_None ? NULL : PyObject_GetAttr(span, st->s_loop_span);
    if (known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2 &&
        PyTuple_GET_ITEM(known, 0) == SLOT(run->spans, run->span_generation) &&
        PyLong_CheckExact(PyTuple_GET_ITEM(known, 1)))
        number = Py_NewRef(PyTuple_GET_ITEM(known, 1));
    forget_exception();
    Py_XDECREF(known);
    Py_XDECREF(span);
    return number;
}

/* The handle that runs next has another context of OpenTelemetry's than the one before it. */
static int
changed(Run *run, PyObject *held)
{
    PyObject *number = run->span_current < 0 ? NULL : number_of(run, held);
    if (number == NULL && PyErr_Occurred())
        return -1;
    PyObject *current = number == NULL ? NULL : SLOT(run->spans, run->span_current);
    if (current == NULL || !PyLong_CheckExact(current)) {
        Py_XDECREF(number);
        return run_call(run->changed, held, NULL);
    }
    int overflow; /* what is no number of ours differs from the one before it: -1 stands for it */
    long long now = PyLong_AsLongLongAndOverflow(number, &overflow);
    long long before = PyLong_AsLongLongAndOverflow(current, &overflow);
    if (now == before)
        Py_DECREF(number);
    else {
        SLOT(run->spans, run->span_current) = number;
        Py_DECREF(current);
        record_add(run->record, (double)now, R_CONTEXT, 0.0);
    }
    return 0;
}

int
run_look_at_span(Run *run, PyObject *context, int entered)
{
    PyObject *held = NULL;
    if (entered) {
        if (PyContextVar_Get(run->span_variable, NULL, &held) < 0)
            return -1;
        if (held == NULL)
            held = Py_NewRef(Py_None);
    }
    else {
        held = PyObject_CallMethodOneArg(context, run->st->s_get, run->span_variable);
        if (held == NULL)
            return -1;
    }
    if (held == run->seen) {
        Py_DECREF(held);
        return 0;
    }
    Py_XSETREF(run->seen, held);
    return changed(run, held);
}
