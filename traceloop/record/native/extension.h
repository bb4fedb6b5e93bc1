/* What our extension modules have in common: how they are made, and how their state goes. Each has its state in a
   structure whose objects it lists as EACH_OBJECT(DO), and nothing that is static and mutable. */

#ifndef TRACELOOP_EXTENSION_H
#define TRACELOOP_EXTENSION_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* An attribute of a module of ours: a new reference. */
static inline PyObject *
attribute_of(const char *module, const char *name)
{
    PyObject *found = PyImport_ImportModule(module);
    if (found == NULL)
        return NULL;
    PyObject *value = PyObject_GetAttrString(found, name);
    Py_DECREF(found);
    return value;
}

/* Makes a type of the module's, and keeps it in its state. */
static inline int
add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **type)
{
    *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    return *type == NULL ? -1 : PyModule_AddType(module, *type);
}

/* Which sources this was built from (record/built.py); not known where another tool than setup.py has compiled it. */
#ifndef SOURCES
#define SOURCES ""
#endif

static inline int
add_sources(PyObject *module)
{
    return PyModule_AddStringConstant(module, "SOURCES", SOURCES);
}

/* The end of an object of a type of ours that takes no part in garbage collection. */
static inline void
free_object(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

#define VISIT_OBJECT(name) Py_VISIT(st->name);
#define CLEAR_OBJECT(name) Py_CLEAR(st->name);

/* Defines how the state goes: state_traverse, state_clear and state_free. */
#define DEFINE_STATE_LIFE(state_type)                                                                                  \
    static int state_traverse(PyObject *module, visitproc visit, void *arg)                                            \
    {                                                                                                                  \
        state_type *st = PyModule_GetState(module);                                                                    \
        EACH_OBJECT(VISIT_OBJECT)                                                                                      \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static int state_clear(PyObject *module)                                                                           \
    {                                                                                                                  \
        state_type *st = PyModule_GetState(module);                                                                    \
        EACH_OBJECT(CLEAR_OBJECT)                                                                                      \
        return 0;                                                                                                      \
    }                                                                                                                  \
    static void state_free(void *module)                                                                               \
    {                                                                                                                  \
        if (PyModule_GetState(module) != NULL)                                                                         \
            state_clear(module);                                                                                       \
    }

/* The slots of a module that every interpreter has for itself. None is loaded where there is no GIL (choose.py). */
#ifdef Py_mod_multiple_interpreters
#define EACH_INTERPRETER_SLOT {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
#else
#define EACH_INTERPRETER_SLOT
#endif
#ifdef Py_mod_gil
#define GIL_SLOT {Py_mod_gil, Py_MOD_GIL_USED},
#else
#define GIL_SLOT
#endif
#define MODULE_SLOTS(exec) {{Py_mod_exec, exec}, EACH_INTERPRETER_SLOT GIL_SLOT {0, NULL}}

#endif
