/* The collector's rest: it looks at the words of rings that nobody writes, some times a second, without the GIL.

   In Python such a look takes 0.1 ms and more, for its code has left the processor's caches since the last one.
   Whatever is not as it was, Python sees to. */

#include "reader.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 4
#define MOST_FOLDERS 33
#define MOST_RINGS 64

/* A ring: where in its file the head is, and the word that is 0 while the loop sleeps (-1: it has none); up to where it
   may be written and still be left alone. */
typedef struct {
    int descriptor;
    Py_ssize_t head, running;
    double limit;
} Resting;

typedef struct {
    const char *path; /* borrowed from the arguments */
    long long changed_ns;
} Folder;

typedef struct {
    struct pollfd descriptors[MOST_DESCRIPTORS];
    Folder folders[MOST_FOLDERS];
    Resting rings[MOST_RINGS];
    Py_ssize_t descriptors_count, folders_count, rings_count;
} Rest;

static double
now_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* When a folder has changed; -1 where there is none. */
static long long
changed_ns(const char *path)
{
    struct stat status;
    return stat(path, &status) < 0 ? -1 : status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec;
}

static bool
read_double(int descriptor, Py_ssize_t offset, double *value)
{
    return pread(descriptor, value, sizeof(*value), (off_t)offset) == (ssize_t)sizeof(*value);
}

/* Whether a folder has changed, or a ring was written beyond its limit. */
static bool
has_news(const Rest *rest)
{
    for (Py_ssize_t i = 0; i < rest->rings_count; i++) {
        double head;
        /* What is no number is news too. */
        if (!read_double(rest->rings[i].descriptor, rest->rings[i].head, &head) || !(head <= rest->rings[i].limit))
            return true;
    }
    for (Py_ssize_t i = 0; i < rest->folders_count; i++)
        if (rest->folders[i].changed_ns < 0 || changed_ns(rest->folders[i].path) != rest->folders[i].changed_ns)
            return true;
    return false;
}

static bool
is_a_loop_running(const Rest *rest)
{
    for (Py_ssize_t i = 0; i < rest->rings_count; i++) {
        double running = 0.0;
        if (rest->rings[i].running >= 0 &&
            (!read_double(rest->rings[i].descriptor, rest->rings[i].running, &running) || running != 0.0))
            return true;
    }
    return false;
}

static int
begin(Rest *rest, PyObject *descriptors, PyObject *folders, PyObject *rings)
{
    rest->descriptors_count = PyTuple_GET_SIZE(descriptors);
    rest->folders_count = PyTuple_GET_SIZE(folders);
    rest->rings_count = PyTuple_GET_SIZE(rings);
    if (rest->descriptors_count > MOST_DESCRIPTORS || rest->folders_count > MOST_FOLDERS ||
        rest->rings_count > MOST_RINGS) {
        PyErr_SetString(PyExc_ValueError, "too many to look at");
        return -1;
    }
    for (Py_ssize_t i = 0; i < rest->descriptors_count; i++) {
        long descriptor = PyLong_AsLong(PyTuple_GET_ITEM(descriptors, i));
        if (descriptor == -1 && PyErr_Occurred())
            return -1;
        rest->descriptors[i] = (struct pollfd){.fd = (int)descriptor, .events = POLLIN};
    }
    for (Py_ssize_t i = 0; i < rest->folders_count; i++) {
        rest->folders[i].path = PyBytes_AsString(PyTuple_GET_ITEM(folders, i));
        if (rest->folders[i].path == NULL)
            return -1;
        rest->folders[i].changed_ns = changed_ns(rest->folders[i].path);
    }
    for (Py_ssize_t i = 0; i < rest->rings_count; i++) {
        Resting *ring = &rest->rings[i];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(rings, i), "innd", &ring->descriptor, &ring->head, &ring->running,
                              &ring->limit))
            return -1;
    }
    return 0;
}

/* rest(descriptors, folders, rings, pace, until): see reading/rest.py. */
PyObject *
rest_until(PyObject *module, PyObject *args)
{
    Rest rest;
    PyObject *descriptors, *folders, *rings;
    double pace, until;
    if (!PyArg_ParseTuple(args, "O!O!O!dd", &PyTuple_Type, &descriptors, &PyTuple_Type, &folders, &PyTuple_Type, &rings,
                          &pace, &until))
        return NULL;
    if (begin(&rest, descriptors, folders, rings) < 0)
        return NULL;
    bool news = false, over = false;
    int ready = 0;
    Py_BEGIN_ALLOW_THREADS
    while (!news && !over && ready == 0) {
        double left = until - now_seconds(), wait = left < pace ? left : pace;
        ready = poll(rest.descriptors, (nfds_t)rest.descriptors_count, wait > 0.0 ? (int)(wait * 1000.0) + 1 : 0);
        news = ready > 0 || has_news(&rest);
        over = left <= pace || is_a_loop_running(&rest);
    }
    Py_END_ALLOW_THREADS
    if (ready < 0 && PyErr_CheckSignals() < 0)
        return NULL;
    return PyBool_FromLong(news);
}
