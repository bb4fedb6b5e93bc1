/* A signal's action as the kernel has it. Python's ``signal`` module knows only the handlers that were set through it,
   and not those of C code: faulthandler's, a Java machine's. */

#include "core.h"
#include <signal.h>

/* The address of the handler; 0: the default action. */
PyObject *
core_signal_action(PyObject *module, PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    PyOS_sighandler_t handler = number <= 0 || number > 64 ? SIG_ERR : PyOS_getsig((int)number);
    if (handler == SIG_ERR)
        return PyErr_Format(PyExc_ValueError, "%ld is no signal", number);
    return PyLong_FromUnsignedLongLong((uintptr_t)handler);
}
