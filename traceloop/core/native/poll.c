/* The poll of an epoll object, without a list of tuples for what it found. Linux; elsewhere there is none. */

#include "core.h"
#include <errno.h>
#include <limits.h>
#include <math.h>

#ifdef __linux__
#include <sys/epoll.h>

#define MOST 4096 /* what one poll may return; the next one has the rest */

int
poll_open(Poll *poll, PyObject *epoll)
{
    poll->epoll = PyObject_AsFileDescriptor(epoll);
    poll->events = NULL;
    poll->size = poll->found = 0;
    return poll->epoll < 0 ? -1 : 0;
}

void
poll_close(Poll *poll)
{
    PyMem_Free(poll->events);
    poll->events = NULL;
}

int
poll_wait(Poll *poll, double timeout, Py_ssize_t wanted, int keep_gil)
{
    int size = wanted < 1 ? 1 : wanted > MOST ? MOST : (int)wanted;
    poll->found = 0;
    if (size > poll->size) {
        struct epoll_event *events = PyMem_Realloc(poll->events, (size_t)size * sizeof(struct epoll_event));
        if (events == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        poll->events = events;
        poll->size = size;
    }
    double end = timeout > 0.0 ? core_now() + timeout : 0.0;
    for (;;) {
        /* Whole milliseconds, rounded up as select.epoll does it. */
        double ms = ceil(timeout * 1e3);
        int wait = timeout < 0.0 ? -1 : ms > (double)INT_MAX ? INT_MAX : (int)ms;
        PyThreadState *saved = keep_gil ? NULL : PyEval_SaveThread();
        int found = epoll_wait(poll->epoll, poll->events, size, wait);
        int error = errno;
        if (saved != NULL)
            PyEval_RestoreThread(saved);
        if (found >= 0) {
            poll->found = found;
            return 0;
        }
        if (error != EINTR) {
            errno = error;
            PyErr_SetFromErrno(PyExc_OSError);
            return -1;
        }
        if (PyErr_CheckSignals() < 0)
            return -1;
        if (timeout > 0.0) {
            timeout = end - core_now();
            if (timeout < 0.0)
                timeout = 0.0;
        }
    }
}

int
poll_descriptor(Poll *poll, int index)
{
    return ((struct epoll_event *)poll->events)[index].data.fd;
}

/* Anything but "writable" makes a reader ready, and the other way round: errors and hang-ups wake both. */
int
poll_readable(Poll *poll, int index)
{
    return (((struct epoll_event *)poll->events)[index].events & ~(uint32_t)EPOLLOUT) != 0;
}

int
poll_writable(Poll *poll, int index)
{
    return (((struct epoll_event *)poll->events)[index].events & ~(uint32_t)EPOLLIN) != 0;
}

#else

int
poll_open(Poll *poll, PyObject *epoll)
{
    PyErr_SetString(PyExc_NotImplementedError, "there is no epoll here");
    return -1;
}

void
poll_close(Poll *poll)
{
}

int
poll_wait(Poll *poll, double timeout, Py_ssize_t wanted, int keep_gil)
{
    return -1;
}

int
poll_descriptor(Poll *poll, int index)
{
    return -1;
}

int
poll_readable(Poll *poll, int index)
{
    return 0;
}

int
poll_writable(Poll *poll, int index)
{
    return 0;
}

#endif
