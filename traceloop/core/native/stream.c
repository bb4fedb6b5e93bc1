/* Stream: the first base of the stream transport. The usual case of reading and writing; everything else is the
   transport's own Python (loop/network/transports/stream.py), which has the contract.

   Reading has no method here. The reader's callback is the Python ``_read_ready``, under which the record knows it;
   where a handle would call that very function, the iteration calls stream_read_ready. ``write`` and ``is_closing`` are
   methods of this base, which the program may override like any others.

   Nothing lies in this base's own structure. The transport's attributes are slots of the Python class, read where they
   lie. What is read from a slot is borrowed, until Python code may run: then it is read again, or was held.

   A system call is made here only on a ``socket.socket`` whose methods are the standard library's, and with
   MSG_DONTWAIT: it cannot block, and so the GIL is kept. Its descriptor is asked for each time, since a program may
   close the socket under the transport. */

#include "core.h"
#include <errno.h>
#include <sys/socket.h>

#define OFTEN_LARGE (8 * 1024) /* bytes; after a read of that size the next one goes into a bytes object at once */

/* -- what is looked up once */

static int
find_slot(PyTypeObject *type, const char *name, Py_ssize_t *offset)
{
    *offset = core_offset_of(type, name);
    return *offset < 0 ? -1 : 0;
}

static PyMethodDef *
find_fileno(PyTypeObject *socket)
{
    PyObject *found = PyObject_GetAttrString((PyObject *)socket, "fileno");
    PyMethodDef *method = NULL;
    if (found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
        ((PyMethodDescrObject *)found)->d_method->ml_flags == METH_NOARGS)
        method = ((PyMethodDescrObject *)found)->d_method;
    else if (found != NULL)
        PyErr_SetString(PyExc_ImportError, "socket.fileno is not the method that is known");
    Py_XDECREF(found);
    return method;
}

/* set_streams(transport, counters): the Python class of stream transports, and that of its counters. */
PyObject *
core_set_streams(PyObject *module, PyObject *args)
{
    core_state *st = PyModule_GetState(module);
    Streams *streams = &st->streams;
    PyTypeObject *transport, *counters;
    if (!PyArg_ParseTuple(args, "O!O!", &PyType_Type, &transport, &PyType_Type, &counters))
        return NULL;
    PyObject *socket = attribute_of("socket", "socket");
    PyObject *plain = attribute_of("_socket", "socket");
    PyObject *read_ready = PyObject_GetAttrString((PyObject *)transport, "_read_ready");
    PyObject *methods = PyTuple_New(SOCKET_METHODS);
    int failed = socket == NULL || plain == NULL || read_ready == NULL || methods == NULL || !PyType_Check(socket) ||
                 !PyType_Check(plain);
    if (!failed)
        failed = find_slot(transport, "_sock", &streams->sock) < 0 ||
                 find_slot(transport, "_protocol", &streams->protocol) < 0 ||
                 find_slot(transport, "_io", &streams->io) < 0 ||
                 find_slot(transport, "_buffer", &streams->buffer) < 0 ||
                 find_slot(transport, "_buffered", &streams->buffered) < 0 ||
                 find_slot(transport, "_closing", &streams->closing) < 0 ||
                 find_slot(transport, "_conn_lost", &streams->conn_lost) < 0 ||
                 find_slot(transport, "_empty_waiter", &streams->empty_waiter) < 0 ||
                 find_slot(transport, "_eof", &streams->eof) < 0 ||
                 find_slot(transport, "_loop", &streams->loop) < 0 ||
                 find_slot(counters, "bytes_in", &streams->bytes_in) < 0 ||
                 find_slot(counters, "bytes_out", &streams->bytes_out) < 0 ||
                 (streams->fileno = find_fileno((PyTypeObject *)plain)) == NULL;
    PyObject *names[SOCKET_METHODS] = {st->s_fileno, st->s_recv, st->s_recv_into, st->s_send};
    for (int i = 0; !failed && i < SOCKET_METHODS; i++) {
        PyObject *method = PyObject_GetAttr(plain, names[i]);
        failed = method == NULL;
        if (!failed)
            PyTuple_SET_ITEM(methods, i, method);
    }
    if (failed) {
        Py_XDECREF(socket);
        Py_XDECREF(plain);
        Py_XDECREF(read_ready);
        Py_XDECREF(methods);
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ImportError, "sockets are not as they are known");
        return NULL;
    }
    Py_DECREF(plain);
    streams->socket_version = 0;
    Py_XSETREF(streams->socket, (PyTypeObject *)socket);
    Py_XSETREF(streams->socket_methods, methods);
    Py_XSETREF(streams->read_ready, read_ready);
    Py_XSETREF(streams->transport, (PyTypeObject *)Py_NewRef((PyObject *)transport));
    Py_XSETREF(streams->counters, (PyTypeObject *)Py_NewRef((PyObject *)counters));
    Py_RETURN_NONE;
}

/* -- sockets */

/* Whether the methods of ``socket.socket`` that the Python code would call are the standard library's. */
static int
sockets_are_plain(core_state *st)
{
    Streams *streams = &st->streams;
    if (streams->socket_version != 0 && streams->socket_version == streams->socket->tp_version_tag)
        return 1;
    PyObject *names[SOCKET_METHODS] = {st->s_fileno, st->s_recv, st->s_recv_into, st->s_send};
    int same = 1;
    for (int i = 0; same && i < SOCKET_METHODS; i++) {
        PyObject *found = PyObject_GetAttr((PyObject *)streams->socket, names[i]);
        if (found == NULL)
            PyErr_Clear();
        same = found == PyTuple_GET_ITEM(streams->socket_methods, i);
        Py_XDECREF(found);
    }
    streams->socket_version = same ? streams->socket->tp_version_tag : 0;
    return same;
}

/* The descriptor of a plain socket that is open; -1 for all else. */
static int
descriptor_of(core_state *st, PyObject *sock)
{
    if (sock == NULL || !Py_IS_TYPE(sock, st->streams.socket) || !sockets_are_plain(st))
        return -1;
    PyObject *number = st->streams.fileno->ml_meth(sock, NULL);
    long descriptor = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    if (descriptor == -1)
        PyErr_Clear();
    return (int)descriptor;
}

static int
would_block(int error)
{
    return error == EAGAIN || error == EWOULDBLOCK;
}

/* Adds to one of the loop's counters. */
static int
count_bytes(core_state *st, PyObject *self, Py_ssize_t offset, Py_ssize_t size)
{
    PyObject *io = SLOT(self, st->streams.io);
    PyObject *before = io != NULL && Py_IS_TYPE(io, st->streams.counters) ? SLOT(io, offset) : NULL;
    if (before == NULL)
        return 0; /* counters that nobody reads */
    Py_ssize_t counted = PyLong_AsSsize_t(before);
    PyObject *after = counted == -1 && PyErr_Occurred() ? NULL : PyLong_FromSsize_t(counted + size);
    if (after == NULL)
        return -1;
    Py_SETREF(SLOT(io, offset), after);
    return 0;
}

static int
is_transport(core_state *st, PyObject *self)
{
    return st->streams.transport != NULL && PyObject_TypeCheck(self, st->streams.transport);
}

PyObject *
stream_protocol(core_state *st, PyObject *transport)
{
    return is_transport(st, transport) ? Py_XNewRef(SLOT(transport, st->streams.protocol)) : NULL;
}

static int
done(PyObject *result)
{
    Py_XDECREF(result);
    return result == NULL ? -1 : 1;
}

/* The exception that is set closes the connection. 1: that was seen to; -1: it ends the loop, or is another one. */
static int
fatal(core_state *st, PyObject *self, const char *message)
{
    if (PyErr_ExceptionMatches(PyExc_SystemExit) || PyErr_ExceptionMatches(PyExc_KeyboardInterrupt))
        return -1;
    PyObject *error = take_exception();
    PyObject *before = handle_exception(error);
    PyObject *result = PyObject_CallMethod(self, "_fatal_error", "Os", error, message);
    handle_again(before);
    Py_DECREF(error);
    return done(result);
}

/* -- reading */

/* As many bytes as wait on the socket, ``most`` at most, in a bytes object; NULL with ``*error`` of the system call, or
   with -1 there and an exception. */
static PyObject *
receive(core_state *st, int descriptor, Py_ssize_t most, int *error)
{
    Streams *streams = &st->streams;
    PyObject *data = NULL;
    /* A large read is made where it is to stay: one copy less. A small one gets memory of its own size. */
    int direct = streams->last_read >= OFTEN_LARGE || most > READ_SIZE;
    char *place = streams->read_buffer;
    *error = -1;
    if (direct) {
        data = PyBytes_FromStringAndSize(NULL, most);
        if (data == NULL)
            return NULL;
        place = PyBytes_AS_STRING(data);
    }
    else if (place == NULL) {
        place = streams->read_buffer = PyMem_Malloc(READ_SIZE);
        if (place == NULL)
            return PyErr_NoMemory();
    }
    ssize_t size = recv(descriptor, place, (size_t)most, MSG_DONTWAIT);
    if (size < 0) {
        *error = errno;
        Py_XDECREF(data);
        return NULL;
    }
    streams->last_read = size;
    if (!direct)
        return PyBytes_FromStringAndSize(place, size);
    if (size < most)
        _PyBytes_Resize(&data, size);
    return data;
}

static int
read_bytes(core_state *st, PyObject *self)
{
    PyObject *limit = PyObject_GetAttr(self, st->s_max_size);
    Py_ssize_t most = limit != NULL && PyLong_CheckExact(limit) ? PyLong_AsSsize_t(limit) : -1;
    Py_XDECREF(limit);
    int descriptor = most < 1 ? -1 : descriptor_of(st, SLOT(self, st->streams.sock));
    if (descriptor < 0) {
        PyErr_Clear();
        return 0;
    }
    int error;
    PyObject *data = receive(st, descriptor, most, &error);
    if (data == NULL) {
        if (error > 0 && would_block(error))
            return 1;
        if (error == EINTR)
            return 0;
        if (error > 0) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
        }
        return fatal(st, self, "Fatal read error on socket transport");
    }
    if (PyBytes_GET_SIZE(data) == 0) {
        Py_DECREF(data);
        return done(PyObject_CallMethodNoArgs(self, st->s_read_eof));
    }
    PyObject *protocol = SLOT(self, st->streams.protocol), *result = NULL;
    if (count_bytes(st, self, st->streams.bytes_in, PyBytes_GET_SIZE(data)) == 0 && protocol != NULL) {
        Py_INCREF(protocol);
        result = PyObject_CallMethodOneArg(protocol, st->s_data_received, data);
        Py_DECREF(protocol);
    }
    Py_DECREF(data);
    if (result != NULL)
        return done(result);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "_protocol");
    return fatal(st, self, "Fatal error: protocol.data_received() call failed.");
}

/* The protocol's buffer, which is not empty; NULL with an exception. */
static PyObject *
get_buffer(core_state *st, PyObject *self)
{
    PyObject *protocol = SLOT(self, st->streams.protocol);
    if (protocol == NULL) {
        PyErr_SetString(PyExc_AttributeError, "_protocol");
        return NULL;
    }
    Py_INCREF(protocol);
    PyObject *buffer = PyObject_CallMethodOneArg(protocol, st->s_get_buffer, st->minus_one);
    Py_DECREF(protocol);
    Py_ssize_t length = buffer == NULL ? -1 : PyObject_Size(buffer);
    if (length == 0)
        PyErr_SetString(PyExc_RuntimeError, "get_buffer() returned an empty buffer");
    if (length <= 0)
        Py_CLEAR(buffer);
    return buffer;
}

static int
read_into_buffer(core_state *st, PyObject *self)
{
    if (descriptor_of(st, SLOT(self, st->streams.sock)) < 0)
        return 0;
    PyObject *buffer = get_buffer(st, self);
    if (buffer == NULL)
        return fatal(st, self, "Fatal error: protocol.get_buffer() call failed.");
    Py_buffer view = {0};
    int filled = PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) == 0 && view.len > 0;
    /* The protocol may have done anything meanwhile, and so may a buffer that is written in Python. */
    int descriptor = filled ? descriptor_of(st, SLOT(self, st->streams.sock)) : -1;
    if (descriptor < 0) {
        PyErr_Clear();
        if (view.obj != NULL)
            PyBuffer_Release(&view);
        PyObject *result = PyObject_CallMethodOneArg(self, st->s_receive_into, buffer);
        Py_DECREF(buffer);
        return done(result);
    }
    ssize_t size = recv(descriptor, view.buf, (size_t)view.len, MSG_DONTWAIT);
    int error = errno;
    PyBuffer_Release(&view);
    Py_DECREF(buffer);
    if (size < 0) {
        if (would_block(error) || error == EINTR) /* the socket stays readable */
            return 1;
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return fatal(st, self, "Fatal read error on socket transport");
    }
    if (size == 0)
        return done(PyObject_CallMethodNoArgs(self, st->s_read_eof));
    PyObject *number = PyLong_FromSsize_t(size), *result = NULL;
    PyObject *protocol = Py_XNewRef(SLOT(self, st->streams.protocol));
    if (number != NULL && count_bytes(st, self, st->streams.bytes_in, size) == 0 && protocol != NULL)
        result = PyObject_CallMethodOneArg(protocol, st->s_buffer_updated, number);
    Py_XDECREF(protocol);
    Py_XDECREF(number);
    if (result != NULL)
        return done(result);
    if (!PyErr_Occurred())
        PyErr_SetString(PyExc_AttributeError, "_protocol");
    return fatal(st, self, "Fatal error: protocol.buffer_updated() call failed.");
}

/* ``callback()`` where that is the Python ``_read_ready`` of a stream transport. 1: done; 0: it has to be called;
   -1: its exception. The caller holds the callback. */
int
stream_read_ready(core_state *st, PyObject *callback)
{
    PyObject *self = PyMethod_GET_SELF(callback);
    if (!is_transport(st, self) || SLOT(self, st->streams.conn_lost) != st->zero)
        return 0;
    PyObject *buffered = SLOT(self, st->streams.buffered);
    if (buffered == Py_False)
        return read_bytes(st, self);
    return buffered == Py_True ? read_into_buffer(st, self) : 0;
}

/* -- writing */

/* Whether nothing waits to be sent, and nothing forbids it. */
static int
may_send(core_state *st, PyObject *self)
{
    Streams *streams = &st->streams;
    PyObject *buffer = SLOT(self, streams->buffer);
    if (SLOT(self, streams->eof) != Py_False || SLOT(self, streams->empty_waiter) != Py_None ||
        SLOT(self, streams->conn_lost) != st->zero || buffer == NULL)
        return 0;
    Py_ssize_t waiting = PyObject_Size(buffer);
    if (waiting < 0)
        PyErr_Clear();
    return waiting == 0;
}

/* Sends what the kernel takes of ``data``. 1: all of it; 0: nothing was done; -1: an exception. */
static int
send_at_once(core_state *st, PyObject *self, PyObject *data)
{
    Py_buffer view;
    /* A view without dimensions has no length: TypeError. */
    if (!may_send(st, self) || (PyMemoryView_Check(data) && PyMemoryView_GET_BUFFER(data)->ndim == 0))
        return 0;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return 0;
    }
    int descriptor = view.len == 0 ? -1 : descriptor_of(st, SLOT(self, st->streams.sock));
    if (descriptor < 0) {
        PyBuffer_Release(&view);
        return 0;
    }
    PyObject *loop = SLOT(self, st->streams.loop);
    int more = loop != NULL && PyObject_TypeCheck(loop, st->scheduling_type)
                   ? coalesce_flag((Scheduling *)loop, SLOT(self, st->streams.sock), descriptor)
                   : 0;
    ssize_t sent = send(descriptor, view.buf, (size_t)view.len, MSG_DONTWAIT | more);
    int error = errno, all = sent == view.len;
    PyBuffer_Release(&view);
    if (sent < 0 && !would_block(error)) {
        if (error == EINTR)
            return 0;
        errno = error;
        PyErr_SetFromErrno(PyExc_OSError);
        return fatal(st, self, "Fatal write error on socket transport");
    }
    if (sent > 0 && count_bytes(st, self, st->streams.bytes_out, sent) < 0)
        return -1;
    if (all)
        return 1;
    return done(PyObject_CallMethod(self, "_queue", "On", data, (Py_ssize_t)(sent < 0 ? 0 : sent)));
}

static PyObject *
stream_write(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names)
{
    core_state *st = core_state_of(self);
    if (st == NULL || !is_transport(st, self)) {
        PyErr_SetString(PyExc_TypeError, "not a stream transport");
        return NULL;
    }
    if (count == 1 && (names == NULL || PyTuple_GET_SIZE(names) == 0) &&
        (PyBytes_CheckExact(args[0]) || PyByteArray_CheckExact(args[0]) || PyMemoryView_Check(args[0]))) {
        int sent = send_at_once(st, self, args[0]);
        if (sent < 0)
            return NULL;
        if (sent == 1)
            Py_RETURN_NONE;
    }
    return scheduling_in_python(self, st->s_python_write, args, count, names);
}

static PyObject *
stream_is_closing(PyObject *self, PyObject *unused)
{
    core_state *st = core_state_of(self);
    PyObject *closing = st == NULL || !is_transport(st, self) ? NULL : SLOT(self, st->streams.closing);
    if (closing == NULL)
        PyErr_SetString(PyExc_AttributeError, "_closing");
    return Py_XNewRef(closing);
}

static PyMethodDef stream_methods[] = {
    {"write", (PyCFunction)(void (*)(void))stream_write, METH_FASTCALL | METH_KEYWORDS,
     "write($self, data)\n--\n\nSends data, or queues what the kernel does not take now. Never blocks."},
    {"is_closing", stream_is_closing, METH_NOARGS, "is_closing($self)\n--\n\nWhether the transport is being closed."},
    {NULL},
};

static PyType_Slot stream_slots[] = {
    {Py_tp_doc, "The stream transport's methods that are in C (core/accelerated.py)."},
    {Py_tp_methods, stream_methods},
    {0, NULL},
};

PyType_Spec core_stream_spec = {
    .name = "traceloop.core._core.Stream",
    .basicsize = 0, /* its base's: the class that is made of it and the Python one has the latter's layout */
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = stream_slots,
};
