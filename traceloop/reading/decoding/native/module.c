/* The module: its state, made from the classes of decoded.py and runs.py when it is loaded. */

#include "alive.h"
#include "ledger.h"

/* Whether all of a buffer's doubles are numbers that a writer may write (LARGEST, ring_reader.py). */
static PyObject *
all_in_range(PyObject *module, PyObject *argument)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(argument, &buffer, PyBUF_FORMAT | PyBUF_C_CONTIGUOUS) < 0)
        return NULL;
    if (buffer.itemsize != sizeof(double) || strcmp(buffer.format, "d") != 0) {
        PyBuffer_Release(&buffer);
        PyErr_SetString(PyExc_TypeError, "doubles");
        return NULL;
    }
    const char *bytes = buffer.buf;
    bool all = true;
    for (Py_ssize_t at = 0; at < buffer.len; at += (Py_ssize_t)sizeof(double)) {
        double value;
        memcpy(&value, bytes + at, sizeof(double));
        all &= fabs(value) < LARGEST;
    }
    PyBuffer_Release(&buffer);
    return PyBool_FromLong(all);
}

/* As zlib.crc32 has it, by the processor's multiplication: with zlib, reading a handle takes a tenth longer. */
static PyObject *
checksum(PyObject *module, PyObject *argument)
{
    reader_state *st = PyModule_GetState(module);
    Py_buffer buffer;
    if (PyObject_GetBuffer(argument, &buffer, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t sum = checksum_of(&st->checksum, 0, buffer.buf, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    return PyLong_FromUnsignedLong(sum);
}

/* Empty Runs, Iterations, Tasks, Ends, Marks and Spans. */
static PyObject *
new_columns(PyObject *module, PyObject *ignored)
{
    reader_state *st = PyModule_GetState(module);
    return Py_BuildValue("(NNNNNN)", st->runs->tp_alloc(st->runs, 0), st->iterations->tp_alloc(st->iterations, 0),
                         st->tasks->tp_alloc(st->tasks, 0), st->ends->tp_alloc(st->ends, 0),
                         st->marks->tp_alloc(st->marks, 0), st->spans->tp_alloc(st->spans, 0));
}

static int
reader_exec(PyObject *module)
{
    reader_state *st = PyModule_GetState(module);
    static const struct {
        size_t at;
        const char *text;
    } texts[] = {
        {offsetof(reader_state, text_active_s), "active_s"},     {offsetof(reader_state, text_idle_s), "idle_s"},
        {offsetof(reader_state, text_iterations), "iterations"}, {offsetof(reader_state, text_runs), "runs"},
        {offsetof(reader_state, text_tasks), "tasks"},           {offsetof(reader_state, text_finished), "finished"},
        {offsetof(reader_state, text_closed), "closed"},         {offsetof(reader_state, text_end), "end"},
        {offsetof(reader_state, text_lose_place), "lose_place"}, {offsetof(reader_state, text_new_tasks), "new_tasks"},
        {offsetof(reader_state, text_requests), "requests"},     {offsetof(reader_state, text_offloads), "offloads"},
        {offsetof(reader_state, text_submit), "submit"},         {offsetof(reader_state, text_start), "start"},
        {offsetof(reader_state, text_finish), "finish"},         {offsetof(reader_state, text_deliver), "deliver"},
        {offsetof(reader_state, text_spans), "spans"},
    };
    for (size_t index = 0; index < sizeof(texts) / sizeof(texts[0]); index++) {
        PyObject *text = PyUnicode_InternFromString(texts[index].text);
        if (text == NULL)
            return -1;
        memcpy((char *)st + texts[index].at, &text, sizeof(text));
    }
    if (add_sources(module) < 0 || add_type(module, &runs_spec, &st->runs) < 0 ||
        add_type(module, &iterations_spec, &st->iterations) < 0 || add_type(module, &tasks_spec, &st->tasks) < 0 ||
        add_type(module, &ends_spec, &st->ends) < 0 || add_type(module, &marks_spec, &st->marks) < 0 ||
        add_type(module, &spans_spec, &st->spans) < 0 || add_type(module, &model_spec, &st->model) < 0 ||
        add_type(module, &buckets_spec, &st->buckets) < 0 || add_type(module, &tally_spec, &st->tally) < 0 ||
        add_type(module, &requests_spec, &st->requests) < 0 || add_type(module, &totals_spec, &st->totals) < 0 ||
        add_type(module, &alive_spec, &st->alive) < 0)
        return -1;
    checksum_prepare(&st->checksum);
    st->salt = (uint64_t)PyObject_Hash(st->text_active_s); /* another in each process, as the hash of each text is */
    st->kinds = attribute_of("traceloop.reading.decoding.decoded", "KINDS");
    st->new_task = st->kinds ? attribute_of("traceloop.reading.decoding.decoded", "NewTask") : NULL;
    st->offload_step = st->new_task ? attribute_of("traceloop.reading.decoding.decoded", "OffloadStep") : NULL;
    st->known_task = st->offload_step ? attribute_of("traceloop.reading.decoding.task_rows", "KnownTask") : NULL;
    st->span_context = st->known_task ? attribute_of("traceloop.reading.decoding.decoded", "SpanContext") : NULL;
    st->iteration = st->span_context ? attribute_of("traceloop.reading.decoding.runs", "Iteration") : NULL;
    if (st->iteration == NULL)
        return -1;
    if (!PyTuple_Check(st->kinds) || PyTuple_GET_SIZE(st->kinds) != KINDS || !PyType_Check(st->offload_step) ||
        !PyType_IsSubtype((PyTypeObject *)st->offload_step, &PyTuple_Type) || !PyType_Check(st->span_context) ||
        !PyType_IsSubtype((PyTypeObject *)st->span_context, &PyTuple_Type)) {
        PyErr_SetString(PyExc_ImportError, "not the module that belongs to these sources");
        return -1;
    }
    return 0;
}

DEFINE_STATE_LIFE(reader_state)

static PyMethodDef reader_methods[] = {
    {"checksum", checksum, METH_O, "The checksum of a buffer, as zlib.crc32 has it."},
    {"count_iterations", (PyCFunction)(void (*)(void))count_iterations, METH_FASTCALL,
     "Histograms of iterations: durations, numbers of handles, poll delays."},
    {"in_range", all_in_range, METH_O, "Whether all doubles of a buffer are numbers that a writer may write."},
    {"new_columns", new_columns, METH_NOARGS, "Empty Runs, Iterations, Tasks, Ends, Marks and Spans."},
    {"rest", rest_until, METH_VARARGS, "Looks at rings that nobody writes, until somebody does (rest.py)."},
    {NULL},
};

static PyModuleDef_Slot reader_slots[] = MODULE_SLOTS(reader_exec);

struct PyModuleDef reader_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_reader",
    .m_doc = "The accelerator of the reader; what is in it is private to traceloop.reading and traceloop.exporters.",
    .m_size = sizeof(reader_state),
    .m_methods = reader_methods,
    .m_slots = reader_slots,
    .m_traverse = state_traverse,
    .m_clear = state_clear,
    .m_free = state_free,
};

PyMODINIT_FUNC
PyInit__reader(void)
{
    return PyModuleDef_Init(&reader_module);
}
