/* Where the threads of this interpreter stand.

   sys._current_frames() goes through the threads of all interpreters. One that has a GIL of its own runs meanwhile, and
   frees the frames that are looked at: the process crashes. */

#include "core.h"

PyObject *
core_current_frames(PyObject *module, PyObject *unused)
{
    /* Up to 3.11 what is made here may begin a garbage collection: finalizers let other threads run, and end. */
    int collects = PyGC_Disable();
    PyObject *frames = PyDict_New();
    PyThreadState *each = PyInterpreterState_ThreadHead(PyInterpreterState_Get());
    for (; frames != NULL && each != NULL; each = PyThreadState_Next(each)) {
        PyObject *frame = (PyObject *)PyThreadState_GetFrame(each);
        if (frame == NULL)
            continue; /* it runs no Python */
        PyObject *thread = PyLong_FromUnsignedLong(each->thread_id);
        if (thread == NULL || PyDict_SetItem(frames, thread, frame) < 0)
            Py_CLEAR(frames);
        Py_XDECREF(thread);
        Py_DECREF(frame);
    }
    if (collects)
        PyGC_Enable();
    return frames;
}
