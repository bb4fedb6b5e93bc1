/* The module: its state. */

#include "packing.h"

static int
packer_exec(PyObject *module)
{
    packer_state *st = PyModule_GetState(module);
    static const struct {
        size_t at;
        const char *text;
    } texts[] = {
        {offsetof(packer_state, text_kind), "_kind"},
        {offsetof(packer_state, text_common), "common"},
        {offsetof(packer_state, text_context_head), "_context_head"},
        {offsetof(packer_state, text_take_slow_run), "_take_slow_run"},
    };
    for (size_t index = 0; index < sizeof(texts) / sizeof(texts[0]); index++) {
        PyObject *text = PyUnicode_InternFromString(texts[index].text);
        if (text == NULL)
            return -1;
        memcpy((char *)st + texts[index].at, &text, sizeof(text));
    }
    if (add_sources(module) < 0 || PyModule_AddIntConstant(module, "RUN_MEMORY", RUN_MEMORY) < 0)
        return -1;
    if (add_type(module, &traces_spec, &st->traces) < 0 || add_type(module, &packer_spec, &st->packer) < 0 ||
        add_type(module, &portion_spec, &st->portion) < 0)
        return -1;
    return 0;
}

DEFINE_STATE_LIFE(packer_state)

static void
packer_free(void *module)
{
    packer_state *st = PyModule_GetState(module);
    while (st != NULL && st->free_count)
        PyMem_RawFree(st->free_slabs[--st->free_count]);
    state_free(module);
}

static PyModuleDef_Slot packer_slots[] = MODULE_SLOTS(packer_exec);

static struct PyModuleDef packer_module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_packer",
    .m_doc = "The accelerator of span packing; what is in it is private to traceloop.exporters.otlp.",
    .m_size = sizeof(packer_state),
    .m_slots = packer_slots,
    .m_traverse = state_traverse,
    .m_clear = state_clear,
    .m_free = packer_free,
};

PyMODINIT_FUNC
PyInit__packer(void)
{
    return PyModuleDef_Init(&packer_module);
}
