/* Looks at a suspended task: their moments (monotonic s) and chains by turns, as statistics/waits.py has them. */

#include "reader.h"

/* Whether there is one from ``begin`` to ``end``. Most waits of a busy task end without one, and asking Python takes
   ten times as long as this. ``seen``: an array of doubles. */
int
look_between(PyObject *seen, double begin, double end)
{
    Py_buffer view;
    if (PyObject_GetBuffer(seen, &view, PyBUF_SIMPLE) < 0)
        return -1;
    const double *items = view.buf;
    Py_ssize_t count = view.len / (Py_ssize_t)sizeof(double);
    bool found = false;
    for (Py_ssize_t index = 0; index < count && !found; index += 2)
        found = begin <= items[index] && items[index] <= end;
    PyBuffer_Release(&view);
    return found;
}
