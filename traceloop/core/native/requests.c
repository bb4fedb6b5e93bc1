/* RequestNotes: notes which function answers a request, once a request. The twin of ``note_request`` in
   recording/request_handlers.py, which has the reasons; what is not plain is asked of Python. */

#include "core.h"

#define MOST_MIDDLEWARE 32

/* By which of the known ways the handler is found. */
enum { BY_PYTHON, OF_ASGI, OF_AIOHTTP };

/* Interned once: looking for an attribute by a new string misses the interpreter's cache of methods. */
enum { APP, DICT, TRANSPORT, GET_PROTOCOL, TYPE, SCOPE, ENDPOINT, MATCH_INFO, HANDLER, REQUEST_HANDLER, RECORDER,
       IS_RUNNING, SITES, SPAN_NAMES, BY_HANDLER, NAMES };
static const char *const texts[NAMES] = {
    "app", "__dict__", "transport", "get_protocol", "type", "scope", "endpoint", "_match_info", "handler",
    "_request_handler", "_recorder", "is_running", "sites", "span_names", "by_handler",
};

typedef struct {
    PyObject_HEAD
    core_state *state;
    PyObject *names[NAMES];
    int way;
    PyObject *handler_of; /* in Python: the method's arguments -> the handler, or None */
    PyObject *number;     /* recorder, handler -> the handler's site */
    PyObject *note;       /* recorder, site; for a request that has a server span */
    PyObject *current;    /* the context variable with the server span */
    PyObject *running_loop;
    PyObject *beginnings; /* a frozenset: ASGI's messages with which a response begins */
    PyObject *own_code;   /* by id of an application: a weak reference to it, and whether it is the program's own */
} RequestNotes;

/* An attribute; NULL without an exception where there is none, or None. */
static PyObject *
attribute_or_none(PyObject *object, PyObject *name)
{
    PyObject *value = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    (void)PyObject_GetOptionalAttr(object, name, &value);
#else
    (void)_PyObject_LookupAttr(object, name, &value);
#endif
    if (value == Py_None)
        Py_CLEAR(value);
    return value;
}

/* -- the application without a framework */

/* What an object keeps as its ``app``, in its own dict. A new reference; NULL without an exception: nothing. */
static PyObject *
wrapped_by(RequestNotes *self, PyObject *app)
{
    PyObject *attributes = attribute_or_none(app, self->names[DICT]);
    if (attributes == NULL)
        return NULL;
    PyObject *inner = NULL;
    if (PyDict_Check(attributes)) {
        inner = Py_XNewRef(PyDict_GetItemWithError(attributes, self->names[APP]));
        if (inner != NULL && (inner == Py_None || !PyCallable_Check(inner)))
            Py_CLEAR(inner);
    }
    Py_DECREF(attributes);
    return inner;
}

/* What the server calls. A new reference; NULL, with or without an exception. */
static PyObject *
application_of(RequestNotes *self, PyObject *owner)
{
    PyObject *app = attribute_or_none(owner, self->names[APP]);
    if (app != NULL || PyErr_Occurred())
        return app;
    PyObject *transport = PyObject_GetAttr(owner, self->names[TRANSPORT]);
    if (transport == NULL)
        return NULL;
    PyObject *protocol = stream_protocol(self->state, transport);
    if (protocol == NULL)
        protocol = PyObject_CallMethodNoArgs(transport, self->names[GET_PROTOCOL]);
    Py_DECREF(transport);
    app = protocol == NULL ? NULL : PyObject_GetAttr(protocol, self->names[APP]);
    Py_XDECREF(protocol);
    return app;
}

/* What is behind middleware: 1 and ``*handler`` (a new reference, or NULL for a framework's); 0: Python has to look;
   -1: an exception. */
static int
application_behind(RequestNotes *self, PyObject *owner, PyObject **handler)
{
    PyObject *app = application_of(self, owner);
    for (int i = 0; app != NULL && i < MOST_MIDDLEWARE; i++) {
        PyObject *inner = wrapped_by(self, app);
        if (inner == NULL)
            break;
        Py_SETREF(app, inner);
    }
    if (app == NULL || PyErr_Occurred()) {
        Py_XDECREF(app);
        return -1;
    }
    PyObject *key = PyLong_FromVoidPtr(app);
    PyObject *known = key == NULL ? NULL : PyDict_GetItemWithError(self->own_code, key);
    Py_XDECREF(key);
    int found = PyErr_Occurred() ? -1 : 0;
    if (known != NULL && PyTuple_CheckExact(known) && PyTuple_GET_SIZE(known) == 2) {
        PyObject *same = PyObject_CallNoArgs(PyTuple_GET_ITEM(known, 0));
        found = same == NULL ? -1 : same == app;
        Py_XDECREF(same);
        if (found == 1 && PyTuple_GET_ITEM(known, 1) == Py_True)
            *handler = Py_NewRef(app);
    }
    Py_DECREF(app);
    return found;
}

/* -- the handler. 1: ``*handler`` is it, a new reference, or NULL for none; 0: Python has to look; -1: an exception. */

static int
of_asgi(RequestNotes *self, PyObject *args, PyObject **handler)
{
    PyObject *owner = PyTuple_GET_ITEM(args, 0), *message = PyTuple_GET_ITEM(args, 1);
    if (message == Py_None)
        return 1;
    if (!PyDict_CheckExact(message))
        return 0;
    PyObject *type = PyDict_GetItemWithError(message, self->names[TYPE]);
    int begins = type == NULL ? 0 : PySet_Contains(self->beginnings, type);
    if (begins <= 0)
        return begins < 0 ? -1 : 1;
    PyObject *scope = PyObject_GetAttr(owner, self->names[SCOPE]);
    if (scope == NULL)
        return -1;
    int plain = PyDict_CheckExact(scope);
    PyObject *endpoint = plain ? Py_XNewRef(PyDict_GetItemWithError(scope, self->names[ENDPOINT])) : NULL;
    Py_DECREF(scope);
    if (!plain)
        return 0;
    if (endpoint != NULL && endpoint != Py_None) {
        *handler = endpoint;
        return 1;
    }
    Py_XDECREF(endpoint);
    return application_behind(self, owner, handler);
}

static int
of_aiohttp(RequestNotes *self, PyObject *args, PyObject **handler)
{
    PyObject *match = attribute_or_none(PyTuple_GET_ITEM(args, 1), self->names[MATCH_INFO]);
    if (match != NULL) {
        *handler = PyObject_GetAttr(match, self->names[HANDLER]);
        Py_DECREF(match);
    }
    else if (!PyErr_Occurred())
        *handler = PyObject_GetAttr(PyTuple_GET_ITEM(args, 0), self->names[REQUEST_HANDLER]);
    return *handler == NULL ? -1 : 1;
}

static int
find_handler(RequestNotes *self, PyObject *args, PyObject **handler)
{
    int found = 0;
    if (PyTuple_GET_SIZE(args) >= 2 && self->way == OF_ASGI)
        found = of_asgi(self, args, handler);
    else if (PyTuple_GET_SIZE(args) >= 2 && self->way == OF_AIOHTTP)
        found = of_aiohttp(self, args, handler);
    if (found == 0) {
        *handler = PyObject_Call(self->handler_of, args, NULL);
        found = *handler == NULL ? -1 : 1;
    }
    if (*handler == Py_None)
        Py_CLEAR(*handler);
    return found < 0 ? -1 : 0;
}

/* -- the note */

/* The recorder of the loop that runs here. A new reference; NULL, with or without an exception. */
static PyObject *
running_recorder(RequestNotes *self)
{
    PyObject *loop = PyObject_CallNoArgs(self->running_loop);
    if (loop == NULL)
        return NULL;
    PyObject *recorder = attribute_or_none(loop, self->names[RECORDER]);
    Py_DECREF(loop);
    PyObject *running = recorder == NULL ? NULL : PyObject_GetAttr(recorder, self->names[IS_RUNNING]);
    int runs = running == NULL ? 0 : PyObject_IsTrue(running);
    Py_XDECREF(running);
    if (runs <= 0)
        Py_CLEAR(recorder);
    return recorder;
}

/* The handler's site, a new reference. */
static PyObject *
site_of_handler(RequestNotes *self, PyObject *recorder, PyObject *handler)
{
    PyObject *site = NULL;
    if (Py_IS_TYPE(handler, &PyFunction_Type)) {
        PyObject *sites = PyObject_GetAttr(recorder, self->names[SITES]);
        PyObject *key = sites == NULL || !PyDict_Check(sites) ? NULL : PyLong_FromVoidPtr(PyFunction_GET_CODE(handler));
        site = key == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(sites, key));
        Py_XDECREF(key);
        Py_XDECREF(sites);
    }
    if (site != NULL || PyErr_Occurred())
        return site;
    return PyObject_CallFunctionObjArgs(self->number, recorder, handler, NULL);
}

/* Without a server span: 1, the request is noted; 0: Python has to do it; -1: an exception. */
static int
add_note(RequestNotes *self, PyObject *recorder, PyObject *site)
{
    PyObject *current = NULL;
    if (PyContextVar_Get(self->current, Py_None, &current) < 0)
        return -1;
    Py_XDECREF(current);
    if (current != Py_None)
        return 0;
    PyObject *names = PyObject_GetAttr(recorder, self->names[SPAN_NAMES]);
    PyObject *by_handler = names == NULL ? NULL : PyObject_GetAttr(names, self->names[BY_HANDLER]);
    int unnamed = by_handler != NULL && PyDict_Check(by_handler) && PyDict_GET_SIZE(by_handler) == 0;
    Py_XDECREF(names);
    Py_XDECREF(by_handler);
    PyObject *record = unnamed ? PyObject_GetAttr(recorder, self->state->s_record) : NULL;
    int ours = record != NULL && Py_IS_TYPE(record, self->state->record_type) && PyFloat_CheckExact(site);
    if (ours)
        record_add((Record *)record, 0.0, R_REQUEST, PyFloat_AS_DOUBLE(site));
    Py_XDECREF(record);
    return PyErr_Occurred() ? -1 : ours;
}

static int
note_request(RequestNotes *self, PyObject *args)
{
    PyObject *handler = NULL, *recorder = NULL, *site = NULL;
    int failed = find_handler(self, args, &handler);
    if (!failed && handler != NULL) {
        recorder = running_recorder(self);
        failed = recorder == NULL && PyErr_Occurred();
    }
    if (!failed && recorder != NULL) {
        site = site_of_handler(self, recorder, handler);
        int noted = site == NULL ? -1 : add_note(self, recorder, site);
        failed = noted < 0 || (noted == 0 && run_call(self->note, recorder, site) < 0);
    }
    Py_XDECREF(handler);
    Py_XDECREF(recorder);
    Py_XDECREF(site);
    return failed ? -1 : 0;
}

static PyObject *
notes_note(PyObject *object, PyObject *args)
{
    if (!PyTuple_CheckExact(args)) {
        PyErr_SetString(PyExc_TypeError, "note() takes the tuple of a method's arguments");
        return NULL;
    }
    if (note_request((RequestNotes *)object, args) < 0) {
        /* The record's fault, never the application's. */
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
    }
    Py_RETURN_NONE;
}

/* -- the type */

/* RequestNotes(way, handler_of, number, note, current, running_loop, beginnings, own_code) */
static PyObject *
notes_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    const char *way;
    PyObject *handler_of, *number, *note, *current, *running_loop, *beginnings, *own_code;
    if (!PyArg_ParseTuple(args, "sOOOOOO!O!", &way, &handler_of, &number, &note, &current, &running_loop,
                          &PyFrozenSet_Type, &beginnings, &PyDict_Type, &own_code))
        return NULL;
    if (!PyContextVar_CheckExact(current)) {
        PyErr_SetString(PyExc_TypeError, "current is not a context variable");
        return NULL;
    }
    RequestNotes *self = (RequestNotes *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    for (int i = 0; i < NAMES; i++)
        self->names[i] = PyUnicode_InternFromString(texts[i]);
    self->way = strcmp(way, "asgi") == 0 ? OF_ASGI : strcmp(way, "aiohttp") == 0 ? OF_AIOHTTP : BY_PYTHON;
    self->handler_of = Py_NewRef(handler_of);
    self->number = Py_NewRef(number);
    self->note = Py_NewRef(note);
    self->current = Py_NewRef(current);
    self->running_loop = Py_NewRef(running_loop);
    self->beginnings = Py_NewRef(beginnings);
    self->own_code = Py_NewRef(own_code);
    self->state = core_state_of((PyObject *)self);
    if (self->state == NULL || PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

#define EACH_PART(DO)                                                                                                  \
    DO(self->handler_of) DO(self->number) DO(self->note) DO(self->current) DO(self->running_loop)                      \
    DO(self->beginnings) DO(self->own_code)

#define VISIT_PART(part) Py_VISIT(part);
#define CLEAR_PART(part) Py_CLEAR(part);

static int
notes_traverse(PyObject *object, visitproc visit, void *arg)
{
    RequestNotes *self = (RequestNotes *)object;
    Py_VISIT(Py_TYPE(object));
    EACH_PART(VISIT_PART)
    return 0;
}

static int
notes_clear(PyObject *object)
{
    RequestNotes *self = (RequestNotes *)object;
    EACH_PART(CLEAR_PART)
    return 0;
}

static void
notes_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    notes_clear(object);
    for (int i = 0; i < NAMES; i++)
        Py_CLEAR(((RequestNotes *)object)->names[i]);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMethodDef notes_methods[] = {
    {"note", notes_note, METH_O, "Notes who answers the request of a method that was called with these arguments."},
    {NULL},
};

static PyType_Slot notes_slots[] = {
    {Py_tp_doc, "Notes which function answers each request (recording/request_handlers.py)."},
    {Py_tp_new, notes_new},
    {Py_tp_dealloc, notes_dealloc},
    {Py_tp_traverse, notes_traverse},
    {Py_tp_clear, notes_clear},
    {Py_tp_methods, notes_methods},
    {0, NULL},
};

PyType_Spec core_notes_spec = {
    .name = "traceloop.core._core.RequestNotes",
    .basicsize = sizeof(RequestNotes),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = notes_slots,
};
