/* The application's span in a handle's context: whether it is another one than before, and its number. The plain cases
   of ApplicationSpans.changed (recording/application_spans.py): the span has its number, of this generation, or it is
   new and of the API's class. The state stays where it is, in the slots of the Python object. */

#include "core.h"

#define REMOTE 0x200 /* application_spans.py has these two */
#define GENERATION 16384

void
run_find_spans(Run *run)
{
    SpanSlots *slots = &run->span;
    const struct {
        const char *name;
        Py_ssize_t *place;
    } each[] = {
        {"_generation", &slots->generation}, {"current", &slots->current}, {"_next", &slots->next},
        {"_defined", &slots->defined}, {"_plain", &slots->plain}, {"_stateless", &slots->stateless},
        {"_span_key", &slots->key},
    };
    for (size_t i = 0; i < sizeof(each) / sizeof(each[0]); i++)
        if ((*each[i].place = core_offset_of(Py_TYPE(run->spans), each[i].name)) < 0) {
            slots->key = -1; /* another class's: it is asked each time */
            PyErr_Clear();
            return;
        }
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

/* -- a span that was not met before */

static char *
put_hex(char *place, unsigned long long number)
{
    for (int bits = 60; bits >= 0; bits -= 4)
        *place++ = "0123456789abcdef"[number >> bits & 15];
    return place;
}

/* Its ids as the record has them, before an empty state. NULL: an exception, or no ids. */
static PyObject *
text_of(core_state *st, PyObject *trace_id, PyObject *span_id)
{
    PyObject *upper = PyNumber_Rshift(trace_id, st->sixty_four);
    unsigned long long high = upper == NULL ? 0 : PyLong_AsUnsignedLongLong(upper);
    Py_XDECREF(upper);
    unsigned long long low = PyLong_AsUnsignedLongLongMask(trace_id);
    unsigned long long span = PyErr_Occurred() ? 0 : PyLong_AsUnsignedLongLong(span_id);
    if (PyErr_Occurred())
        return NULL;
    char text[50], *end = put_hex(put_hex(text, high), low);
    *end++ = ' ';
    end = put_hex(end, span);
    *end++ = ' ';
    return PyUnicode_FromStringAndSize(text, end - text);
}

/* 1: it is in the record, with its text; 0: its context is not plain; -1: an exception. */
static int
record_span(Run *run, PyObject *context, long long number)
{
    PyObject *const *items = &PyTuple_GET_ITEM(context, 0);
    PyObject *trace_id = items[0], *span_id = items[1], *is_remote = items[2], *flags = items[3];
    if (!PyLong_CheckExact(trace_id) || !PyLong_CheckExact(span_id) || !PyBool_Check(is_remote) ||
        !PyLong_Check(flags) || items[4] != SLOT(run->spans, run->span.stateless) || items[5] != Py_True)
        return 0;
    PyObject *text = text_of(run->st, trace_id, span_id);
    int added = text == NULL ? -1 : PyList_Append(run->record->text, text);
    Py_XDECREF(text);
    if (added < 0)
        return -1;
    unsigned long plain = PyLong_AsUnsignedLongMask(flags) & 0xFF;
    record_add(run->record, (double)number, R_SPAN, (double)(plain | (is_remote == Py_True ? REMOTE : 0)));
    return 1;
}

/* Gives a span, by its plain context, the next number. The number, a new reference; NULL where Python has to, or an
   exception. */
static PyObject *
define(Run *run, PyObject *context)
{
    PyObject **next = &SLOT(run->spans, run->span.next), **defined = &SLOT(run->spans, run->span.defined);
    PyObject *generation = SLOT(run->spans, run->span.generation);
    if (*next == NULL || *defined == NULL || generation == NULL)
        return NULL;
    long long number = PyLong_AsLongLong(*next), count = PyLong_AsLongLong(*defined) + 1;
    /* The last one of a generation is Python's, which begins the next. */
    if (PyErr_Occurred() || count >= GENERATION || record_span(run, context, number) <= 0)
        return NULL;
    Py_XSETREF(*defined, PyLong_FromLongLong(count));
    PyObject *defining = *next;
    *next = PyLong_FromLongLong(number + 1);
    PyObject *pair = PyTuple_Pack(2, generation, defining);
    if (pair == NULL || PyObject_GenericSetAttr(context, run->st->s_loop_span, pair) < 0)
        forget_exception(); /* it gets a number each time it is met */
    Py_XDECREF(pair);
    return defining;
}

/* -- the span of a context */

static int
is_plain_context(Run *run, PyObject *context)
{
    return (PyObject *)Py_TYPE(context) == SLOT(run->spans, run->span.plain) && PyTuple_Check(context) &&
           PyTuple_GET_SIZE(context) == 6;
}

/* A span's number, a new reference; NULL where Python has to be asked, or an exception. */
static PyObject *
number_of_span(Run *run, PyObject *span)
{
    PyObject *context = attribute_or_none(span, run->st->s_own_context), *number = NULL;
    if (context == NULL && PyErr_Occurred())
        return NULL;
    int plain = context != NULL && is_plain_context(run, context);
    PyObject *known = attribute_or_none(plain ? context : span, run->st->s_loop_span);
    if (known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2 &&
        PyTuple_GET_ITEM(known, 0) == SLOT(run->spans, run->span.generation) &&
        PyLong_CheckExact(PyTuple_GET_ITEM(known, 1)))
        number = Py_NewRef(PyTuple_GET_ITEM(known, 1));
    else if (known == NULL && plain && !PyErr_Occurred())
        number = define(run, context);
    Py_XDECREF(known);
    Py_XDECREF(context);
    return number;
}

/* The number of the span in ``held``, a new reference; NULL where that has to be asked, or an exception. */
static PyObject *
look_up(Run *run, PyObject *held)
{
    PyObject *key = SLOT(run->spans, run->span.key);
    if (key == NULL || !is_plain(run, held))
        return NULL;
    PyObject *span = Py_XNewRef(PyDict_GetItemWithError(held, key));
    if (span == NULL)
        return PyErr_Occurred() ? NULL : Py_NewRef(run->st->zero);
    PyObject *number = span == Py_None ? NULL : number_of_span(run, span);
    Py_DECREF(span);
    return number;
}

/* The same; NULL with an exception only where that is the program's. */
static PyObject *
number_of(Run *run, PyObject *held)
{
    if (held == Py_None)
        return Py_NewRef(run->st->zero);
    PyObject *number = look_up(run, held);
    forget_exception();
    if (PyErr_Occurred())
        Py_CLEAR(number);
    return number;
}

/* The handle that runs next has another context of OpenTelemetry's than the one before it. */
static int
changed(Run *run, PyObject *held)
{
    PyObject *number = run->span.key < 0 ? NULL : number_of(run, held);
    if (number == NULL && PyErr_Occurred())
        return -1;
    PyObject *current = number == NULL ? NULL : SLOT(run->spans, run->span.current);
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
        SLOT(run->spans, run->span.current) = number;
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
