/* NotingMethod: stands for a method, and notes something before it calls that: for a server's, which function answers
   the request; for those that start and end an application's span, a span of a server. The twin of ``noting`` in
   recording/request_handlers.py and server_spans.py, which have the reasons; what is not plain is asked of Python. */

#include "core.h"
#include <stddef.h>

#define MOST_MIDDLEWARE 32

/* What is noted: a span, or a handler, by which of the known ways it is found. */
enum { BY_PYTHON, OF_ASGI, OF_AIOHTTP, OF_SPAN };

/* Interned once: looking for an attribute by a new string misses the interpreter's cache of methods. */
enum { APP, DICT, TRANSPORT, GET_PROTOCOL, TYPE, SCOPE, ENDPOINT, MATCH_INFO, HANDLER, REQUEST_HANDLER, RECORDER,
       IS_RUNNING, SITES, SPAN_NAMES, BY_HANDLER, ROUTE, ROUTES_HANDLER, OWN_KIND, KIND, NAMES };
static const char *const texts[NAMES] = {
    "app", "__dict__", "transport", "get_protocol", "type", "scope", "endpoint", "_match_info", "handler",
    "_request_handler", "_recorder", "is_running", "sites", "span_names", "by_handler", "_route", "_handler",
    "_kind", "kind",
};

typedef struct {
    PyObject_HEAD
    core_state *state;
    vectorcallfunc call;
    PyObject *attributes; /* its __dict__: what was set on it */
    PyObject *weakrefs;
    PyObject *original;
    PyObject *names[NAMES];
    int way;
    PyObject *handler_of; /* in Python: the method's arguments -> the handler, or None */
    PyObject *number;     /* recorder, handler -> the handler's site */
    PyObject *note;       /* recorder, site; for a request that has a server span */
    PyObject *current;    /* the context variable with the server span */
    PyObject *running_loop;
    PyObject *beginnings; /* a frozenset: ASGI's messages with which a response begins */
    PyObject *own_code;   /* by id of an application: a weak reference to it, and whether it is the program's own */
    PyObject *server;     /* SpanKind.SERVER. A method of spans has only this and ``note``, which is given the span */
} NotingMethod;

/* -- the application without a framework */

/* What an object keeps as its ``app``, in its own dict. A new reference; NULL without an exception: nothing. */
static PyObject *
wrapped_by(NotingMethod *self, PyObject *app)
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
application_of(NotingMethod *self, PyObject *owner)
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
application_behind(NotingMethod *self, PyObject *owner, PyObject **handler)
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
of_asgi(NotingMethod *self, PyObject *owner, PyObject *message, PyObject **handler)
{
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

/* The handler of a matched request. aiohttp gives it by two properties, each of which is a Python call. */
static PyObject *
handler_of_match(NotingMethod *self, PyObject *match)
{
    PyObject *route = attribute_or_none(match, self->names[ROUTE]);
    PyObject *handler = route == NULL ? NULL : attribute_or_none(route, self->names[ROUTES_HANDLER]);
    Py_XDECREF(route);
    return handler != NULL || PyErr_Occurred() ? handler : PyObject_GetAttr(match, self->names[HANDLER]);
}

static int
of_aiohttp(NotingMethod *self, PyObject *protocol, PyObject *request, PyObject **handler)
{
    PyObject *match = attribute_or_none(request, self->names[MATCH_INFO]);
    if (match != NULL) {
        *handler = handler_of_match(self, match);
        Py_DECREF(match);
    }
    else if (!PyErr_Occurred())
        *handler = PyObject_GetAttr(protocol, self->names[REQUEST_HANDLER]);
    return *handler == NULL ? -1 : 1;
}

static int
find_handler(NotingMethod *self, PyObject *const *args, size_t count, PyObject **handler)
{
    int found = 0;
    if (count >= 2 && self->way == OF_ASGI)
        found = of_asgi(self, args[0], args[1], handler);
    else if (count >= 2 && self->way == OF_AIOHTTP)
        found = of_aiohttp(self, args[0], args[1], handler);
    if (found == 0) {
        *handler = PyObject_Vectorcall(self->handler_of, args, count, NULL);
        found = *handler == NULL ? -1 : 1;
    }
    if (*handler == Py_None)
        Py_CLEAR(*handler);
    return found < 0 ? -1 : 0;
}

/* -- the note */

/* What the loop that runs here records with; all owned. recorder: NULL where no loop does. */
typedef struct {
    PyObject *recorder, *sites, *by_handler, *record;
} Recording;

static void
forget(Recording *recording)
{
    Py_CLEAR(recording->recorder);
    Py_CLEAR(recording->sites);
    Py_CLEAR(recording->by_handler);
    Py_CLEAR(recording->record);
}

static int
is_running(NotingMethod *self, PyObject *recorder)
{
    PyObject *running = PyObject_GetAttr(recorder, self->names[IS_RUNNING]);
    int runs = running == NULL ? -1 : PyObject_IsTrue(running);
    Py_XDECREF(running);
    return runs;
}

/* By the recorder's attributes; -1: an exception. */
static int
find_by_attributes(NotingMethod *self, PyObject *loop, Recording *found)
{
    PyObject *recorder = attribute_or_none(loop, self->names[RECORDER]);
    if (recorder != NULL && is_running(self, recorder) > 0) {
        PyObject *names = PyObject_GetAttr(recorder, self->names[SPAN_NAMES]);
        found->by_handler = names == NULL ? NULL : PyObject_GetAttr(names, self->names[BY_HANDLER]);
        Py_XDECREF(names);
        found->sites = PyErr_Occurred() ? NULL : PyObject_GetAttr(recorder, self->names[SITES]);
        found->record = PyErr_Occurred() ? NULL : PyObject_GetAttr(recorder, self->state->s_record);
        found->recorder = Py_NewRef(recorder);
    }
    Py_XDECREF(recorder);
    return PyErr_Occurred() ? -1 : 0;
}

/* A service asks for this with each request: where the loop runs in C, hardly anything has to be looked up. */
static int
find_recording(NotingMethod *self, Recording *found)
{
    PyObject *loop = PyObject_CallNoArgs(self->running_loop);
    if (loop == NULL)
        return -1;
    const Run *run = PyObject_TypeCheck(loop, self->state->scheduling_type) ? ((Scheduling *)loop)->run : NULL;
    int result = run != NULL ? is_running(self, run->recorder) : find_by_attributes(self, loop, found);
    if (run != NULL && result > 0)
        *found = (Recording){Py_NewRef(run->recorder), Py_NewRef(run->sites), Py_NewRef(run->by_handler),
                             Py_NewRef((PyObject *)run->record)};
    Py_DECREF(loop);
    return result < 0 ? -1 : 0;
}

/* The handler's site, a new reference. */
static PyObject *
site_of_handler(NotingMethod *self, const Recording *to, PyObject *handler)
{
    PyObject *function = Py_IS_TYPE(handler, &PyMethod_Type) ? PyMethod_GET_FUNCTION(handler) : handler, *site = NULL;
    if (Py_IS_TYPE(function, &PyFunction_Type) && PyDict_Check(to->sites)) {
        PyObject *key = PyLong_FromVoidPtr(PyFunction_GET_CODE(function));
        site = key == NULL ? NULL : Py_XNewRef(PyDict_GetItemWithError(to->sites, key));
        Py_XDECREF(key);
    }
    if (site != NULL || PyErr_Occurred())
        return site;
    return PyObject_CallFunctionObjArgs(self->number, to->recorder, handler, NULL);
}

/* Without a server span: 1, the request is noted; 0: Python has to do it; -1: an exception. */
static int
add_note(NotingMethod *self, const Recording *to, PyObject *site)
{
    PyObject *current = NULL;
    if (PyContextVar_Get(self->current, Py_None, &current) < 0)
        return -1;
    Py_XDECREF(current);
    int unnamed = PyDict_Check(to->by_handler) && PyDict_GET_SIZE(to->by_handler) == 0;
    if (current != Py_None || !unnamed || !Py_IS_TYPE(to->record, self->state->record_type) ||
        !PyFloat_CheckExact(site))
        return 0;
    record_add((Record *)to->record, 0.0, R_REQUEST, PyFloat_AS_DOUBLE(site));
    return 1;
}

static int
note_request(NotingMethod *self, PyObject *const *args, size_t count)
{
    PyObject *handler = NULL, *site = NULL;
    Recording to = {0};
    int failed = find_handler(self, args, count, &handler);
    if (!failed && handler != NULL)
        failed = find_recording(self, &to) < 0;
    if (!failed && to.recorder != NULL) {
        site = site_of_handler(self, &to, handler);
        int noted = site == NULL ? -1 : add_note(self, &to, site);
        failed = noted < 0 || (noted == 0 && run_call(self->note, to.recorder, site) < 0);
    }
    Py_XDECREF(handler);
    Py_XDECREF(site);
    forget(&to);
    return failed ? -1 : 0;
}

/* ``kind`` is a property of the SDK's spans, and so a Python call. */
static int
note_span(NotingMethod *self, PyObject *span)
{
    PyObject *kind = attribute_or_none(span, self->names[OWN_KIND]);
    if (kind == NULL && !PyErr_Occurred())
        kind = PyObject_GetAttr(span, self->names[KIND]);
    if (kind == NULL)
        return -1;
    int noted = kind == self->server ? run_call(self->note, span, NULL) : 0;
    Py_DECREF(kind);
    return noted;
}

static int
note(NotingMethod *self, PyObject *const *args, size_t count)
{
    if (self->way == OF_SPAN)
        return count == 0 ? 0 : note_span(self, args[0]);
    return note_request(self, args, count);
}

static PyObject *
noting_call(PyObject *object, PyObject *const *args, size_t flagged, PyObject *names)
{
    NotingMethod *self = (NotingMethod *)object;
    if (note(self, args, (size_t)PyVectorcall_NARGS(flagged)) < 0) {
        /* The record's fault, never the application's. */
        if (!PyErr_ExceptionMatches(PyExc_Exception))
            return NULL;
        PyErr_Clear();
    }
    return PyObject_Vectorcall(self->original, args, flagged, names);
}

/* -- the type */

static int
way_of(const char *name)
{
    const char *const ways[] = {[OF_ASGI] = "asgi", [OF_AIOHTTP] = "aiohttp", [OF_SPAN] = "span"};
    for (int way = OF_ASGI; way <= OF_SPAN; way++)
        if (strcmp(name, ways[way]) == 0)
            return way;
    return BY_PYTHON;
}

/* NotingMethod(original, way, handler_of, number, note, current, running_loop, beginnings, own_code), or
   NotingMethod(original, "span", note, server) */
static PyObject *
noting_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    const char *way;
    PyObject *original, *note, *handler_of = NULL, *number = NULL, *current = NULL, *running_loop = NULL,
                               *beginnings = NULL, *own_code = NULL, *server = NULL;
    int parsed = PyTuple_GET_SIZE(args) == 4
                     ? PyArg_ParseTuple(args, "OsOO", &original, &way, &note, &server)
                     : PyArg_ParseTuple(args, "OsOOOO!OO!O!", &original, &way, &handler_of, &number, &note,
                                        &PyContextVar_Type, &current, &running_loop, &PyFrozenSet_Type, &beginnings,
                                        &PyDict_Type, &own_code);
    if (!parsed)
        return NULL;
    if ((way_of(way) == OF_SPAN) != (server != NULL)) {
        PyErr_Format(PyExc_TypeError, "way '%s' takes other arguments", way);
        return NULL;
    }
    NotingMethod *self = (NotingMethod *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    for (int i = 0; i < NAMES; i++)
        self->names[i] = PyUnicode_InternFromString(texts[i]);
    self->call = noting_call;
    self->way = way_of(way);
    self->original = Py_NewRef(original);
    self->handler_of = Py_XNewRef(handler_of);
    self->number = Py_XNewRef(number);
    self->note = Py_NewRef(note);
    self->current = Py_XNewRef(current);
    self->running_loop = Py_XNewRef(running_loop);
    self->beginnings = Py_XNewRef(beginnings);
    self->own_code = Py_XNewRef(own_code);
    self->server = Py_XNewRef(server);
    self->state = core_state_of((PyObject *)self);
    if (self->state == NULL || PyErr_Occurred())
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* As a function in a class: object.method is bound to the object. */
static PyObject *
noting_get(PyObject *self, PyObject *object, PyObject *type)
{
    return object == NULL || object == Py_None ? Py_NewRef(self) : PyMethod_New(self, object);
}

/* Attributes that it does not have come from the original: name, code, defaults. */
static PyObject *
noting_attribute(PyObject *self, PyObject *name)
{
    PyObject *found = PyObject_GenericGetAttr(self, name);
    if (found != NULL || !PyErr_ExceptionMatches(PyExc_AttributeError))
        return found;
    PyErr_Clear();
    return PyObject_GetAttr(((NotingMethod *)self)->original, name);
}

/* A function's own attributes (code, defaults, doc) are set where they are read from. */
static int
noting_set_attribute(PyObject *self, PyObject *name, PyObject *value)
{
    PyObject *original = ((NotingMethod *)self)->original;
    int of_function = PyFunction_Check(original) && PyUnicode_Check(name) && PyUnicode_GET_LENGTH(name) > 2 &&
                      PyUnicode_READ_CHAR(name, 0) == '_' && PyUnicode_READ_CHAR(name, 1) == '_' &&
                      PyUnicode_CompareWithASCIIString(name, "__dict__") != 0;
    return of_function ? PyObject_SetAttr(original, name, value) : PyObject_GenericSetAttr(self, name, value);
}

/* ``inspect`` and mocks with a specification treat as methods only what says that it is a function. */
static PyObject *
noting_class(PyObject *self, void *closure)
{
    int is_function = PyFunction_Check(((NotingMethod *)self)->original);
    return Py_NewRef(is_function ? (PyObject *)&PyFunction_Type : (PyObject *)Py_TYPE(self));
}

/* Functions are pickled and copied by name, and so is this. */
static PyObject *
noting_reduce(PyObject *self, PyObject *unused)
{
    return PyObject_GetAttrString(self, "__qualname__");
}

/* An attribute that the type has as well: the original's. */
static PyObject *
noting_originals(PyObject *self, void *name)
{
    return PyObject_GetAttrString(((NotingMethod *)self)->original, name);
}

static PyObject *
noting_repr(PyObject *self)
{
    return PyObject_Repr(((NotingMethod *)self)->original);
}

#define EACH_PART(DO)                                                                                                  \
    DO(self->attributes) DO(self->original) DO(self->handler_of) DO(self->number) DO(self->note) DO(self->current)     \
    DO(self->running_loop) DO(self->beginnings) DO(self->own_code) DO(self->server)

#define VISIT_PART(part) Py_VISIT(part);
#define CLEAR_PART(part) Py_CLEAR(part);

static int
noting_traverse(PyObject *object, visitproc visit, void *arg)
{
    NotingMethod *self = (NotingMethod *)object;
    Py_VISIT(Py_TYPE(object));
    EACH_PART(VISIT_PART)
    return 0;
}

static int
noting_clear(PyObject *object)
{
    NotingMethod *self = (NotingMethod *)object;
    EACH_PART(CLEAR_PART)
    return 0;
}

static void
noting_dealloc(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    PyObject_GC_UnTrack(object);
    if (((NotingMethod *)object)->weakrefs != NULL)
        PyObject_ClearWeakRefs(object);
    noting_clear(object);
    for (int i = 0; i < NAMES; i++)
        Py_CLEAR(((NotingMethod *)object)->names[i]);
    type->tp_free(object);
    Py_DECREF(type);
}

static PyMemberDef noting_members[] = {
    {"__vectorcalloffset__", T_PYSSIZET, offsetof(NotingMethod, call), READONLY, NULL},
    {"__dictoffset__", T_PYSSIZET, offsetof(NotingMethod, attributes), READONLY, NULL},
    {"__weaklistoffset__", T_PYSSIZET, offsetof(NotingMethod, weakrefs), READONLY, NULL},
    {"__wrapped__", T_OBJECT, offsetof(NotingMethod, original), READONLY, NULL},
    {NULL},
};

static PyMethodDef noting_methods[] = {
    {"__reduce__", noting_reduce, METH_NOARGS, NULL},
    {NULL},
};

static PyGetSetDef noting_getset[] = {
    {"__dict__", PyObject_GenericGetDict, PyObject_GenericSetDict, NULL, NULL},
    {"__class__", noting_class, NULL, NULL, NULL},
    {"__doc__", noting_originals, NULL, NULL, "__doc__"},
    {"__module__", noting_originals, NULL, NULL, "__module__"},
    {NULL},
};

static PyType_Slot noting_slots[] = {
    {Py_tp_new, noting_new},
    {Py_tp_call, PyVectorcall_Call},
    {Py_tp_descr_get, noting_get},
    {Py_tp_repr, noting_repr},
    {Py_tp_getattro, noting_attribute},
    {Py_tp_setattro, noting_set_attribute},
    {Py_tp_dealloc, noting_dealloc},
    {Py_tp_traverse, noting_traverse},
    {Py_tp_clear, noting_clear},
    {Py_tp_methods, noting_methods},
    {Py_tp_members, noting_members},
    {Py_tp_getset, noting_getset},
    {0, NULL},
};

/* A method descriptor: the interpreter calls it with the object before the arguments, and makes no bound method. */
PyType_Spec core_noting_spec = {
    .name = "traceloop.core._core.NotingMethod",
    .basicsize = sizeof(NotingMethod),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_METHOD_DESCRIPTOR,
    .slots = noting_slots,
};
