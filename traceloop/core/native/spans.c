/* The application's span in a handle's context: whether it is another one than before, and its number. The plain cases
   of ApplicationSpans.changed (recording/application_spans.py): the span has its number, of this generation, or it is
   new and of the API's class. The state stays where it is, in the slots of the Python object. */

#include "core.h"

#define REMOTE 0x200 /* application_spans.py has these three */
#define GENERATION 16384
#define GENERATION_BITS 20
#define KNOWN_BITS 10
#define KNOWN_CONTEXTS (1 << KNOWN_BITS)

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

/* The number by which a span was defined in an earlier generation, a new reference; NULL: not by this loop. */
static PyObject *
earlier_number(PyObject *known, PyObject *generation)
{
    if (known == NULL)
        return NULL;
    long long then = PyLong_AsLongLong(PyTuple_GET_ITEM(known, 0));
    long long now = PyErr_Occurred() ? 0 : PyLong_AsLongLong(generation);
    PyObject *number = PyTuple_GET_ITEM(known, 1);
    int is_ours = !PyErr_Occurred() && then >> GENERATION_BITS == now >> GENERATION_BITS;
    return is_ours && PyObject_IsTrue(number) > 0 ? Py_NewRef(number) : NULL;
}

/* Defines a span in this generation, by its plain context. ``known``: its last definition, which may be another
   loop's; NULL: it has none. Its number, a new reference; NULL where Python has to, or an exception. */
static PyObject *
define(Run *run, PyObject *context, PyObject *known)
{
    PyObject **next = &SLOT(run->spans, run->span.next), **defined = &SLOT(run->spans, run->span.defined);
    PyObject *generation = SLOT(run->spans, run->span.generation);
    if (*next == NULL || *defined == NULL || generation == NULL)
        return NULL;
    PyObject *number = earlier_number(known, generation);
    if (PyErr_Occurred())
        return NULL;
    int is_new = number == NULL;
    if (is_new)
        number = Py_NewRef(*next);
    long long value = PyLong_AsLongLong(number), count = PyLong_AsLongLong(*defined) + 1;
    /* The last one of a generation is Python's, which begins the next. */
    if (PyErr_Occurred() || count >= GENERATION || record_span(run, context, value) <= 0) {
        Py_DECREF(number);
        return NULL;
    }
    Py_XSETREF(*defined, PyLong_FromLongLong(count));
    if (is_new)
        Py_XSETREF(*next, PyLong_FromLongLong(value + 1));
    PyObject *pair = PyTuple_Pack(2, generation, number);
    if (pair == NULL || PyObject_GenericSetAttr(context, run->st->s_loop_span, pair) < 0)
        forget_exception(); /* it gets a number each time it is met */
    Py_XDECREF(pair);
    return number;
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
    int is_pair = known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2 &&
                  PyLong_CheckExact(PyTuple_GET_ITEM(known, 0)) && PyLong_CheckExact(PyTuple_GET_ITEM(known, 1));
    if (is_pair && PyTuple_GET_ITEM(known, 0) == SLOT(run->spans, run->span.generation))
        number = Py_NewRef(PyTuple_GET_ITEM(known, 1));
    else if (plain && (is_pair || known == NULL) && !PyErr_Occurred())
        number = define(run, context, known);
    Py_XDECREF(known);
    Py_XDECREF(context);
    return number;
}

/* -- contexts that were met before. A weak reference keeps none of them alive, and tells one that is gone from another
   at its address. */

void
run_forget_contexts(Run *run)
{
    for (size_t i = 0; run->known_contexts != NULL && i < KNOWN_CONTEXTS; i++) {
        Py_XDECREF(run->known_contexts[i].weak);
        Py_XDECREF(run->known_contexts[i].number);
    }
    PyMem_Free(run->known_contexts);
    run->known_contexts = NULL;
    Py_CLEAR(run->known_in);
}

/* Whether it may be known by its address. It has to stay as it is, as those of OpenTelemetry do, which refuse items. */
static int
refuses_items(PyObject *held)
{
    PyTypeObject *type = Py_TYPE(held);
    return PyType_SUPPORTS_WEAKREFS(type) && type->tp_as_mapping != NULL &&
           type->tp_as_mapping->mp_ass_subscript != PyDict_Type.tp_as_mapping->mp_ass_subscript;
}

static KnownContext *
place_of(const Run *run, PyObject *held)
{
    uint64_t mixed = ((uint64_t)(uintptr_t)held >> 4) * UINT64_C(0x9E3779B97F4A7C15);
    return &run->known_contexts[mixed >> (64 - KNOWN_BITS)];
}

static int
refers_to(PyObject *weak, PyObject *object)
{
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *referent = NULL;
    if (PyWeakref_GetRef(weak, &referent) < 0)
        PyErr_Clear();
    Py_XDECREF(referent);
    return referent == object;
#else
    return PyWeakref_GET_OBJECT(weak) == object;
#endif
}

/* Its number, borrowed; NULL: not known. */
static PyObject *
known_number(Run *run, PyObject *held)
{
    if (run->known_contexts == NULL)
        return NULL;
    if (run->known_in != SLOT(run->spans, run->span.generation)) {
        run_forget_contexts(run);
        return NULL;
    }
    const KnownContext *known = place_of(run, held);
    return known->weak != NULL && refers_to(known->weak, held) ? known->number : NULL;
}

/* It was looked up. From the second time on it is known: most of a service's contexts are met once or twice. */
static void
note_context(Run *run, PyObject *held, PyObject *number)
{
    if (!refuses_items(held))
        return;
    if (run->known_contexts == NULL) {
        run->known_contexts = PyMem_Calloc(KNOWN_CONTEXTS, sizeof(KnownContext));
        if (run->known_contexts == NULL)
            return;
        run->known_in = Py_XNewRef(SLOT(run->spans, run->span.generation));
    }
    KnownContext *known = place_of(run, held);
    int overflow;
    long long value = PyLong_AsLongLongAndOverflow(number, &overflow);
    if (known->met != held || known->met_number != value) {
        known->met = held;
        known->met_number = value;
        return;
    }
    PyObject *weak = PyWeakref_NewRef(held, NULL);
    if (weak == NULL) {
        PyErr_Clear();
        return;
    }
    Py_XSETREF(known->weak, weak);
    Py_XSETREF(known->number, Py_NewRef(number));
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
    if (number != NULL)
        note_context(run, held, number);
    return number;
}

/* The same; NULL with an exception only where that is the program's. */
static PyObject *
number_of(Run *run, PyObject *held)
{
    if (held == Py_None)
        return Py_NewRef(run->st->zero);
    PyObject *number = known_number(run, held);
    if (number != NULL)
        return Py_NewRef(number);
    number = look_up(run, held);
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
