/* The collector's rest: it looks at the words of rings that nobody writes, some times a second, without the GIL.

   In Python such a look takes 0.1 ms and more, for its code has left the processor's caches since the last one.
   Whatever is not as it was, Python sees to. */

#include "reader.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_DESCRIPTORS 4
#define MOST_FOLDERS 33
#define MOST_RINGS 64
/* Processes come and end seldom, and mostly write to a pipe when they do: so many seconds between two looks. */
#define FOLDERS_SECONDS 1.0

/* A ring: where its words begin in the file, whether it is a loop's; up to where it may be written and still be left
   alone. */
typedef struct {
    int descriptor, is_loop;
    Py_ssize_t words;
    double limit;
} Resting;

/* process: whose folder it is; 0: the run's. */
typedef struct {
    const char *path; /* borrowed from the arguments */
    int process;
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

/* What the rings have; the later one holds for all of them. */
typedef enum { ASLEEP, RUNNING, WRITTEN } Found;

/* Whether a loop runs, or a ring was written beyond its limit. */
static Found
look_at_rings(const Rest *rest)
{
    Found found = ASLEEP;
    for (Py_ssize_t i = 0; i < rest->rings_count; i++) {
        const Resting *ring = &rest->rings[i];
        double words[W_RUNNING + 1];
        /* What is no number is news too. */
        if (pread(ring->descriptor, words, sizeof(words), (off_t)ring->words) != (ssize_t)sizeof(words) ||
            !(words[W_HEAD] <= ring->limit))
            return WRITTEN;
        if (ring->is_loop && words[W_RUNNING] != 0.0)
            found = RUNNING;
    }
    return found;
}

/* Whether a folder has changed, or its process is no more. A zombie is still there: the next poll sees that. */
static bool
has_changed(const Rest *rest)
{
    for (Py_ssize_t i = 0; i < rest->folders_count; i++) {
        const Folder *folder = &rest->folders[i];
        if (folder->changed_ns < 0 || changed_ns(folder->path) != folder->changed_ns ||
            (folder->process > 0 && kill(folder->process, 0) < 0 && errno == ESRCH))
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
        Folder *folder = &rest->folders[i];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(folders, i), "yi", &folder->path, &folder->process))
            return -1;
        folder->changed_ns = changed_ns(folder->path);
    }
    for (Py_ssize_t i = 0; i < rest->rings_count; i++) {
        Resting *ring = &rest->rings[i];
        if (!PyArg_ParseTuple(PyTuple_GET_ITEM(rings, i), "inpd", &ring->descriptor, &ring->words, &ring->is_loop,
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
    double folders_due = 0.0;
    Py_BEGIN_ALLOW_THREADS
    while (!news && !over && ready == 0) {
        double now = now_seconds(), left = until - now, wait = left < pace ? left : pace;
        ready = poll(rest.descriptors, (nfds_t)rest.descriptors_count, wait > 0.0 ? (int)(wait * 1000.0) + 1 : 0);
        Found found = look_at_rings(&rest);
        news = ready > 0 || found == WRITTEN;
        over = left <= pace || found == RUNNING;
        if (!news && now >= folders_due) {
            news = has_changed(&rest);
            folders_due = now + FOLDERS_SECONDS;
        }
    }
    Py_END_ALLOW_THREADS
    if (ready < 0 && PyErr_CheckSignals() < 0)
        return NULL;
    return PyBool_FromLong(news);
}
