/* The exception that is set, taken away and put back; its calls differ between versions of Python. And the exception
   that is being handled (sys.exc_info). */

#include "core.h"

PyObject *
take_exception(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return PyErr_GetRaisedException();
#else
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback != NULL && value != NULL)
        PyException_SetTraceback(value, traceback);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    return value;
#endif
}

void
raise_again(PyObject *error)
{
#if PY_VERSION_HEX >= 0x030C0000
    PyErr_SetRaisedException(error);
#else
    PyErr_Restore(Py_NewRef((PyObject *)Py_TYPE(error)), error, PyException_GetTraceback(error));
#endif
}

/* Not by PyErr_GetHandledException: in a generator that handles none, it gives its caller's. */
PyObject *
handle_exception(PyObject *error)
{
    PyObject **place = &PyThreadState_Get()->exc_info->exc_value;
    PyObject *before = *place;
    *place = Py_NewRef(error);
    return before;
}

void
handle_again(PyObject *before)
{
    Py_XSETREF(PyThreadState_Get()->exc_info->exc_value, before);
}
