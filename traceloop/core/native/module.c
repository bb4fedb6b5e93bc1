/* The module: its state, and everything that is looked up once. */

#include "core.h"

core_state *
core_state_of(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    if (type->tp_flags & Py_TPFLAGS_HEAPTYPE) {
        PyObject *module = PyType_GetModuleByDef(type, &core_module);
        if (module != NULL)
            return PyModule_GetState(module);
        PyErr_Clear(); /* at the interpreter's end a class may have lost its module */
    }
    return NULL;
}

/* Where a slot of a Python class lies; -1 with an exception where it has no such slot. */
Py_ssize_t
core_offset_of(PyTypeObject *type, const char *name)
{
    PyObject *slot = PyObject_GetAttrString((PyObject *)type, name);
    if (slot == NULL)
        return -1;
    Py_ssize_t offset = -1;
    if (Py_IS_TYPE(slot, &PyMemberDescr_Type) && ((PyMemberDescrObject *)slot)->d_member->type == T_OBJECT_EX)
        offset = ((PyMemberDescrObject *)slot)->d_member->offset;
    else
        PyErr_Format(PyExc_ImportError, "%s.%s is no slot", type->tp_name, name);
    Py_DECREF(slot);
    return offset;
}

static int
find_slots(core_state *st)
{
    static const struct {
        const char *name;
        size_t place;
        int timer;
    } slots[] = {
        {"_callback", offsetof(core_state, callback), 0}, {"_args", offsetof(core_state, args), 0},
        {"_cancelled", offsetof(core_state, cancelled), 0}, {"_context", offsetof(core_state, context), 0},
        {"_loop", offsetof(core_state, loop), 0}, {"_repr", offsetof(core_state, repr), 0},
        {"_source_traceback", offsetof(core_state, source_traceback), 0}, {"_when", offsetof(core_state, when), 1},
        {"_scheduled", offsetof(core_state, scheduled), 1},
    };
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        Py_ssize_t offset =
            core_offset_of(slots[i].timer ? st->asyncio_timer_handle : st->asyncio_handle, slots[i].name);
        if (offset < 0)
            return -1;
        *(Py_ssize_t *)((char *)st + slots[i].place) = offset;
    }
    return 0;
}

static PyGetSetDef *
find_getter(PyTypeObject *type, const char *name)
{
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL)
        return NULL;
    PyGetSetDef *result = Py_IS_TYPE(found, &PyGetSetDescr_Type) ? ((PyGetSetDescrObject *)found)->d_getset : NULL;
    Py_DECREF(found);
    if (result == NULL)
        PyErr_Format(PyExc_ImportError, "%s.%s is no getter", type->tp_name, name);
    return result;
}

static PyTypeObject *
import_type(const char *module, const char *name)
{
    PyObject *type = attribute_of(module, name);
    if (type != NULL && !PyType_Check(type)) {
        PyErr_Format(PyExc_ImportError, "%s.%s is no class", module, name);
        Py_CLEAR(type);
    }
    return (PyTypeObject *)type;
}

/* core/task_types.py has looked at tasks: without C tasks there is no C core. */
static int
find_tasks(core_state *st)
{
    PyObject *task = attribute_of("traceloop.core.task_types", "PLAIN_TASK");
    if (task == NULL)
        return -1;
    if (!PyType_Check(task)) {
        Py_DECREF(task);
        PyErr_SetString(PyExc_ImportError, "asyncio's tasks are not written in C");
        return -1;
    }
    st->task_type = (PyTypeObject *)task;
    st->step_type = import_type("traceloop.core.task_types", "STEP_TYPE");
    st->method_type = import_type("traceloop.core.task_types", "C_METHOD_TYPE");
    st->partial_type = import_type("functools", "partial");
    PyObject *place = attribute_of("traceloop.core.task_types", "NAME_PLACE");
    if (place == NULL || st->step_type == NULL || st->method_type == NULL || st->partial_type == NULL)
        return -1;
    st->name_place = (int)PyLong_AsLong(place);
    Py_DECREF(place);
    if ((st->step_self = find_getter(st->step_type, "__self__")) == NULL ||
        (st->task_coro = find_getter(st->task_type, "_coro")) == NULL ||
        (st->task_state = find_getter(st->task_type, "_state")) == NULL ||
        (st->task_exception = find_getter(st->task_type, "_exception")) == NULL ||
        (st->task_waiter = find_getter(st->task_type, "_fut_waiter")) == NULL)
        return -1;
    PyObject *name = PyObject_GetAttrString(task, "get_name");
    if (name == NULL)
        return -1;
    if (Py_IS_TYPE(name, &PyMethodDescr_Type) && ((PyMethodDescrObject *)name)->d_method->ml_flags == METH_NOARGS)
        st->task_name = ((PyMethodDescrObject *)name)->d_method;
    Py_DECREF(name);
    st->coro_code = PyObject_GetAttrString((PyObject *)&PyCoro_Type, "cr_code");
    if (st->coro_code == NULL || Py_TYPE(st->coro_code)->tp_descr_get == NULL) {
        PyErr_SetString(PyExc_ImportError, "coroutines have no code that is known");
        return -1;
    }
    if (Py_IS_TYPE(st->coro_code, &PyMemberDescr_Type) &&
        ((PyMemberDescrObject *)st->coro_code)->d_member->type == T_OBJECT)
        st->coro_code_at = ((PyMemberDescrObject *)st->coro_code)->d_member->offset;
    st->pending = attribute_of("asyncio.base_futures", "_PENDING");
    st->finished = attribute_of("asyncio.base_futures", "_FINISHED");
    return st->pending == NULL || st->finished == NULL ? -1 : 0;
}

static int
make_types(PyObject *module, core_state *st)
{
    PyType_Spec spec = core_handle_spec;
    st->noted_at = st->asyncio_handle->tp_basicsize;
    spec.basicsize = (int)(st->noted_at + (Py_ssize_t)sizeof(double));
    st->handle_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, (PyObject *)st->asyncio_handle);
    spec = core_timer_handle_spec;
    st->set_at = st->asyncio_timer_handle->tp_basicsize;
    spec.basicsize = (int)(st->set_at + (Py_ssize_t)sizeof(int64_t));
    st->timer_handle_type =
        (PyTypeObject *)PyType_FromModuleAndSpec(module, &spec, (PyObject *)st->asyncio_timer_handle);
    st->queue_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_queue_spec, NULL);
    st->timers_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_timers_spec, NULL);
    st->record_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_record_spec, NULL);
    st->scheduling_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_scheduling_spec, NULL);
    st->offload_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_offload_spec, NULL);
    st->stream_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_stream_spec, NULL);
    st->alarm_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_alarm_spec, NULL);
    st->noting_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_noting_spec, NULL);
    st->gc_notes_type = (PyTypeObject *)PyType_FromModuleAndSpec(module, &core_gc_notes_spec, NULL);
    PyTypeObject *types[] = {st->handle_type,     st->timer_handle_type, st->queue_type,  st->timers_type,
                             st->record_type,     st->scheduling_type,   st->offload_type, st->stream_type,
                             st->alarm_type,      st->noting_type,       st->gc_notes_type};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (types[i] == NULL || PyModule_AddType(module, types[i]) < 0)
            return -1;
    }
    /* From 3.12 on the list of weak references lies before the object, at an offset below 0. */
    st->weakrefs = st->asyncio_handle->tp_weaklistoffset;
    if (st->weakrefs == 0 || st->handle_type->tp_weaklistoffset != st->weakrefs ||
        st->timer_handle_type->tp_weaklistoffset != st->weakrefs) {
        PyErr_SetString(PyExc_ImportError, "asyncio's handles are not weakly referenced in the way that is known");
        return -1;
    }
    return 0;
}

static int
intern(core_state *st)
{
    static const struct {
        const char *text;
        size_t place;
    } names[] = {
        {"call_at", offsetof(core_state, s_call_at)}, {"time", offsetof(core_state, s_time)},
        {"_run_once", offsetof(core_state, s_run_once)}, {"_process_events", offsetof(core_state, s_process_events)},
        {"_timer_handle_cancelled", offsetof(core_state, s_timer_handle_cancelled)},
        {"monotonic", offsetof(core_state, s_monotonic)}, {"record", offsetof(core_state, s_record)},
        {"_loop_ident", offsetof(core_state, s_loop_ident)},
        {"run", offsetof(core_state, s_run)}, {"get", offsetof(core_state, s_get)},
        {"get_name", offsetof(core_state, s_get_name)}, {"get_coro", offsetof(core_state, s_get_coro)},
        {"done", offsetof(core_state, s_done)}, {"append", offsetof(core_state, s_append)},
        {"context", offsetof(core_state, s_context)}, {"func", offsetof(core_state, s_func)},
        {"_python_call_soon", offsetof(core_state, s_python_call_soon)},
        {"_python_call_later", offsetof(core_state, s_python_call_later)},
        {"_python_call_at", offsetof(core_state, s_python_call_at)},
        {"_python_create_task", offsetof(core_state, s_python_create_task)},
        {"_note_timer", offsetof(core_state, s_note_timer)}, {"name", offsetof(core_state, s_name)},
        {"tasks", offsetof(core_state, s_tasks)}, {"fresh", offsetof(core_state, s_fresh)},
        {"Task", offsetof(core_state, s_Task)},
        {"_python_call_soon_threadsafe", offsetof(core_state, s_python_call_soon_threadsafe)},
        {"_write_to_self", offsetof(core_state, s_write_to_self)},
        {"_selector", offsetof(core_state, s_own_selector)}, {"_csock", offsetof(core_state, s_csock)},
        {"_thread_id", offsetof(core_state, s_thread_id)}, {"stamps", offsetof(core_state, s_stamps)},
        {"outbox", offsetof(core_state, s_outbox)}, {"pending", offsetof(core_state, s_pending)},
        {"drained", offsetof(core_state, s_drained)}, {"drain", offsetof(core_state, s_drain)},
        {"local", offsetof(core_state, s_local)}, {"number", offsetof(core_state, s_number)},
        {"until", offsetof(core_state, s_until)}, {"worker_number", offsetof(core_state, s_worker_number)},
        {"unrun", offsetof(core_state, s_unrun)}, {"words", offsetof(core_state, s_words)},
        {"is_closed", offsetof(core_state, s_is_closed)},
        {"call_soon_threadsafe", offsetof(core_state, s_call_soon_threadsafe)},
        {"add_done_callback", offsetof(core_state, s_add_done_callback)},
        {"remove_done_callback", offsetof(core_state, s_remove_done_callback)},
        {"create_future", offsetof(core_state, s_create_future)}, {"cancelled", offsetof(core_state, s_cancelled)},
        {"cancel", offsetof(core_state, s_cancel)}, {"_state", offsetof(core_state, s_state)},
        {"_exception", offsetof(core_state, s_exception)}, {"_result", offsetof(core_state, s_result)},
        {"set_result", offsetof(core_state, s_set_result)}, {"fileno", offsetof(core_state, s_fileno)},
        {"recv", offsetof(core_state, s_recv)}, {"recv_into", offsetof(core_state, s_recv_into)},
        {"send", offsetof(core_state, s_send)}, {"max_size", offsetof(core_state, s_max_size)},
        {"_read_eof", offsetof(core_state, s_read_eof)}, {"_receive_into", offsetof(core_state, s_receive_into)},
        {"data_received", offsetof(core_state, s_data_received)}, {"get_buffer", offsetof(core_state, s_get_buffer)},
        {"buffer_updated", offsetof(core_state, s_buffer_updated)},
        {"_python_write", offsetof(core_state, s_python_write)}, {"futures", offsetof(core_state, s_futures)},
        {"Future", offsetof(core_state, s_Future)}, {"data", offsetof(core_state, s_data)},
        {"_loop_span", offsetof(core_state, s_loop_span)}, {"future_done", offsetof(core_state, s_future_done)},
        {"source_done", offsetof(core_state, s_source_done)}, {"deliver", offsetof(core_state, s_deliver)},
        {"slow_callback_duration", offsetof(core_state, s_slow_callback_duration)},
        {"__code__", offsetof(core_state, s_code)}, {"cr_code", offsetof(core_state, s_cr_code)},
        {"_context", offsetof(core_state, s_own_context)}, {"proto", offsetof(core_state, s_proto)},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        PyObject *text = PyUnicode_InternFromString(names[i].text);
        if (text == NULL)
            return -1;
        *(PyObject **)((char *)st + names[i].place) = text;
    }
    return 0;
}

static int
core_exec(PyObject *module)
{
    core_state *st = PyModule_GetState(module);
    checksum_prepare(&st->checksum);
    st->clock_counts = clock_counts();
    st->asyncio_handle = import_type("asyncio.events", "Handle");
    st->asyncio_timer_handle = import_type("asyncio.events", "TimerHandle");
    if (add_sources(module) < 0 || st->asyncio_handle == NULL || st->asyncio_timer_handle == NULL ||
        find_slots(st) < 0 ||
        find_tasks(st) < 0 || intern(st) < 0 || make_types(module, st) < 0)
        return -1;
    if ((st->handle_run = attribute_of("traceloop.core.choose", "HANDLE_RUN")) == NULL ||
        (st->report_failure = attribute_of("traceloop.core.handles", "report_failure")) == NULL ||
        (st->nothing = attribute_of("traceloop.core.handles", "nothing")) == NULL ||
        (st->python_timers = attribute_of("traceloop.core.timers", "Timers")) == NULL ||
        (st->spelled_out = attribute_of("traceloop.core.buffer", "spelled_out")) == NULL ||
        (st->heappush = attribute_of("heapq", "heappush")) == NULL ||
        (st->selector_key = import_type("selectors", "SelectorKey")) == NULL ||
        (st->zero = PyLong_FromLong(0)) == NULL || (st->minus_one = PyLong_FromLong(-1)) == NULL ||
        (st->sixty_four = PyLong_FromLong(64)) == NULL ||
        (st->base_events = PyImport_ImportModule("asyncio.base_events")) == NULL)
        return -1;
    /* Where asyncio has none of that name offloads are not followed: recording/offloads/offload.py. */
    st->copy_state = attribute_of("asyncio.futures", "_copy_future_state");
    if (st->copy_state == NULL)
        PyErr_Clear();
    if ((st->concurrent_future = attribute_of("concurrent.futures", "Future")) == NULL ||
        (st->concurrent_finished = attribute_of("concurrent.futures._base", "FINISHED")) == NULL)
        return -1;
#if PY_VERSION_HEX >= 0x030E0000
    st->task_keywords = Py_BuildValue("(s)", "loop");
#else
    st->task_keywords = Py_BuildValue("(ss)", "loop", "name");
#endif
    st->context_keywords = Py_BuildValue("(sss)", "loop", "name", "context");
    st->future_keywords = Py_BuildValue("(s)", "loop");
    return st->task_keywords == NULL || st->context_keywords == NULL || st->future_keywords == NULL ? -1 : 0;
}

static PyObject *
set_clock(PyObject *module, PyObject *globals)
{
    core_state *st = PyModule_GetState(module);
    if (!PyDict_Check(globals)) {
        PyErr_SetString(PyExc_TypeError, "the globals of a module are expected");
        return NULL;
    }
    PyObject *clock = PyDict_GetItemWithError(globals, st->s_monotonic);
    if (clock == NULL) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_KeyError, "monotonic");
        return NULL;
    }
    Py_XSETREF(st->clock_globals, Py_NewRef(globals));
    Py_XSETREF(st->clock, Py_NewRef(clock));
    st->clock_version = 0;
    Py_RETURN_NONE;
}

#define EACH_OBJECT(DO)                                                                                             \
    DO(handle_type) DO(timer_handle_type) DO(queue_type) DO(timers_type) DO(record_type) DO(scheduling_type)        \
    DO(asyncio_handle) DO(asyncio_timer_handle) DO(handle_run) DO(task_type) DO(step_type) DO(method_type)          \
    DO(partial_type) DO(pending) DO(finished) DO(report_failure) DO(python_timers) DO(spelled_out) DO(heappush)     \
    DO(clock_globals) DO(clock) DO(task_class.dict) DO(task_class.found) DO(future_class.dict) DO(future_class.found)  \
    DO(s_call_at) DO(s_time) DO(s_run_once) DO(s_process_events) DO(s_is_closed)                                    \
    DO(s_timer_handle_cancelled) DO(s_monotonic) DO(s_record) DO(s_loop_ident) DO(s_run) DO(s_get) DO(nothing)      \
    DO(s_get_name) DO(s_get_coro) DO(s_done) DO(s_append) DO(s_context) DO(s_func) DO(s_python_call_soon)           \
    DO(s_python_call_later) DO(s_python_call_at) DO(s_python_create_task) DO(s_note_timer) DO(s_name) DO(s_tasks)   \
    DO(s_fresh) DO(s_Task) DO(context_keywords) DO(base_events) DO(task_keywords) DO(offload_type)                    \
    DO(copy_state) DO(concurrent_future) DO(concurrent_finished) DO(s_python_call_soon_threadsafe)                  \
    DO(s_write_to_self) DO(s_own_selector) DO(s_csock) DO(s_thread_id) DO(s_stamps) DO(s_outbox) DO(s_pending)      \
    DO(s_drained) DO(s_drain) DO(s_local) DO(s_number) DO(s_until) DO(s_worker_number) DO(s_unrun) DO(s_words)      \
    DO(s_call_soon_threadsafe) DO(s_add_done_callback) DO(s_remove_done_callback) DO(s_create_future)               \
    DO(s_cancelled) DO(s_cancel) DO(s_state) DO(s_exception) DO(s_result) DO(s_set_result) DO(stream_type)          \
    DO(zero) DO(minus_one) DO(selector_key) DO(future_keywords) DO(streams.transport) DO(streams.counters)          \
    DO(streams.read_ready) DO(streams.socket) DO(streams.socket_methods) DO(s_fileno) DO(s_recv) DO(s_recv_into)    \
    DO(s_send) DO(s_max_size) DO(s_read_eof) DO(s_receive_into) DO(s_data_received) DO(s_get_buffer)                \
    DO(s_buffer_updated) DO(s_python_write) DO(s_futures) DO(s_Future) DO(s_data) DO(alarm_type)         \
    DO(noting_type) DO(coro_code) DO(context_names) DO(ring.type) DO(s_loop_span) DO(s_future_done)               \
    DO(s_source_done) DO(s_deliver) DO(s_slow_callback_duration) DO(s_code) DO(s_cr_code)                    \
    DO(s_own_context) DO(sixty_four) DO(gc_notes_type) DO(s_proto)

DEFINE_STATE_LIFE(core_state)

/* The memory of handles first: to free it, their type is asked for its size. */
static int
core_clear(PyObject *module)
{
    core_free_handles(PyModule_GetState(module));
    return state_clear(module);
}

static void
core_free(void *module)
{
    core_state *st = PyModule_GetState(module);
    if (st != NULL) {
        core_free_handles(st);
        PyMem_Free(st->streams.read_buffer);
        st->streams.read_buffer = NULL;
    }
    state_free(module);
}

static PyMethodDef core_methods[] = {
    {"set_clock", set_clock, METH_O, "The names of ``time``, whose ``monotonic`` is the loop's clock."},
    {"set_streams", core_set_streams, METH_VARARGS, "The classes of stream transports and of their counters."},
    {"signal_action", core_signal_action, METH_O, "The address of a signal's handler; 0: the default action."},
    {"guard_dump", core_guard_dump, METH_O, "Guards faulthandler's handler of a signal where faulthandler needs it."},
    {"read_kernel_file", core_read_kernel_file, METH_O, "A small file of the kernel, without giving the GIL away."},
    {"current_frames", core_current_frames, METH_NOARGS, "The innermost frame of each of this interpreter's threads."},
    {"list_threads", core_list_threads, METH_NOARGS, "This process's threads, without giving the GIL away."},
    {NULL},
};

static PyModuleDef_Slot core_slots[] = MODULE_SLOTS(core_exec);

struct PyModuleDef core_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_core",
    .m_doc = "The accelerator of the event loop; what is in it is private to traceloop.core.",
    .m_size = sizeof(core_state),
    .m_methods = core_methods,
    .m_slots = core_slots,
    .m_traverse = state_traverse,
    .m_clear = core_clear,
    .m_free = core_free,
};

PyMODINIT_FUNC
PyInit__core(void)
{
    return PyModuleDef_Init(&core_module);
}
