/* A guard before faulthandler's handler on CPython 3.13.0.
 *
 * When C code calls a Python function, the interpreter puts a frame without code below it, and that frame is the
 * current one while the function's variables are freed. 3.13.0's faulthandler takes it for a frame with code and the
 * process dies (CPython issue 123967, mended in 3.13.1). The last step of a task whose variables take long to free is
 * such a moment, and one in which the collector asks for stacks.
 *
 * A signal handler has no argument: what it needs is static. One process has one dump signal (fault_dump.py).
 */

#include "core.h"
#include <signal.h>

#if PY_VERSION_HEX >> 16 == 0x030D

static struct sigaction guarded;

static void
dump_where_frames_have_code(int number)
{
    PyThreadState *current = PyGILState_GetThisThreadState();
    PyInterpreterState *interpreter = current != NULL ? current->interp : PyInterpreterState_Main();
    PyThreadState *thread = PyInterpreterState_ThreadHead(interpreter);
    for (; thread != NULL; thread = PyThreadState_Next(thread)) {
        /* A frame begins with its code object, or None where it has none. */
        PyObject *const *frame = (PyObject *const *)thread->current_frame;
        if (frame != NULL && (*frame == NULL || !PyCode_Check(*frame)))
            return;
    }
    guarded.sa_handler(number);
}

PyObject *
core_guard_dump(PyObject *module, PyObject *argument)
{
    long number = PyLong_AsLong(argument);
    if (number == -1 && PyErr_Occurred())
        return NULL;
    struct sigaction found;
    if (number <= 0 || number > 64 || sigaction((int)number, NULL, &found) < 0)
        return PyErr_Format(PyExc_ValueError, "%ld is no signal", number);
    if (found.sa_flags & SA_SIGINFO || found.sa_handler == SIG_DFL || found.sa_handler == SIG_IGN)
        return PyErr_Format(PyExc_ValueError, "signal %ld has no handler to guard", number);
    if (found.sa_handler == dump_where_frames_have_code)
        Py_RETURN_NONE;
    guarded = found;
    found.sa_handler = dump_where_frames_have_code;
    if (sigaction((int)number, &found, NULL) < 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

#else

PyObject *
core_guard_dump(PyObject *module, PyObject *argument)
{
    Py_RETURN_NONE; /* faulthandler looks itself */
}

#endif
