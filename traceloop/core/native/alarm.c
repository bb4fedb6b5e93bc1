/* Alarm: a lock to sleep on, for the watchdog (recording/watchdog/quiet_turns.py), and its turns while all loops sleep.

   Such a turn finds nothing, ten times a second. In Python it takes 0.1 ms, because whatever it needs has left the
   caches; here it takes a tenth of that. It looks at the same things as a turn in Python. It takes the GIL as well, so
   that it notices if another thread holds it. At the first difference the turns in C end: the next one is Python's, and
   gets the time from which on this thread was late. */

#include "core.h"
#include <pythread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

typedef struct {
    PyObject_HEAD
    PyThread_type_lock lock; /* taken while nobody has rung */
    int rung;
} Alarm;

static PyObject *
alarm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    Alarm *self = (Alarm *)type->tp_alloc(type, 0);
    if (self == NULL)
        return NULL;
    self->lock = PyThread_allocate_lock();
    if (self->lock == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    PyThread_acquire_lock(self->lock, WAIT_LOCK);
    return (PyObject *)self;
}

static void
alarm_dealloc(PyObject *object)
{
    Alarm *self = (Alarm *)object;
    if (self->lock != NULL) {
        if (!self->rung)
            PyThread_release_lock(self->lock);
        PyThread_free_lock(self->lock);
    }
    free_object(object);
}

static PyObject *
alarm_ring(PyObject *object, PyObject *unused)
{
    Alarm *self = (Alarm *)object;
    if (!self->rung) {
        self->rung = 1;
        PyThread_release_lock(self->lock);
    }
    Py_RETURN_NONE;
}

/* Whether it rang within so many seconds. The next wait begins anew. */
static int
hear(Alarm *self, double seconds)
{
    PY_TIMEOUT_T us = seconds <= 0.0 ? 0 : seconds > 1e6 ? (PY_TIMEOUT_T)1e12 : (PY_TIMEOUT_T)(seconds * 1e6 + 0.999);
    PyLockStatus heard;
    Py_BEGIN_ALLOW_THREADS
    heard = PyThread_acquire_lock_timed(self->lock, us, 0);
    Py_END_ALLOW_THREADS
    if (heard != PY_LOCK_ACQUIRED)
        return 0;
    self->rung = 0;
    return 1;
}

static PyObject *
alarm_wait(PyObject *self, PyObject *seconds)
{
    double wait = PyFloat_AsDouble(seconds);
    if (wait == -1.0 && PyErr_Occurred())
        return NULL;
    return PyBool_FromLong(hear((Alarm *)self, wait));
}

#ifdef __linux__
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOST_LOOPS 16
/* A turn this late (s) that was woken more than once has waited for the GIL (recording/watchdog/gil_waits.py). */
#define HELD_SECONDS 0.0025
/* One this late is reported, whatever the reason (lateness.py). */
#define LATE_SECONDS 0.05
/* While the process computes for more than this part of the time, one of its threads may hold the GIL. */
#define MUCH 0.01
/* What the other threads may have computed (s), and nothing has changed all the same: clocks are read one by one. */
#define STILL 5e-5
/* A folder that has changed within so many seconds may change again without another time (process_folders.py). */
#define SAME_TICK 3

/* One loop, as the last turn saw it: its thread's clocks (recording/watchdog/thread_clocks.py). records: that it had
   written when the sleep began. */
typedef struct {
    PyObject *words; /* borrowed from the arguments */
    clockid_t clock;
    int thread;
    double at, cpu, others, waited;
    long slices;
    double records;
} Seen;

/* What a late turn is compared with: from the end of the turn before it. late: of all turns together, s. */
typedef struct {
    double due, process_cpu, measured, late;
    long switches;
} Baseline;

/* The file by which a command asks for something ("": none), its folder, and when that was changed; 0: not known. */
typedef struct {
    const char *file;
    char folder[1024];
    struct timespec changed;
} Request;

static double
seconds_of(clockid_t clock)
{
    struct timespec time;
    return clock_gettime(clock, &time) < 0 ? -1.0 : (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

static long
own_switches(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_THREAD, &usage) < 0 ? 0 : usage.ru_nvcsw;
}

/* The time that a thread has waited for a processor, and how often it was put on one; -1 where that is not known. */
static void
read_schedule(Seen *seen)
{
    char path[64], text[128];
    seen->waited = -1.0;
    seen->slices = -1;
    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", seen->thread);
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = descriptor < 0 ? -1 : read(descriptor, text, sizeof(text) - 1);
    if (descriptor >= 0)
        close(descriptor);
    if (size <= 0)
        return;
    text[size] = 0;
    unsigned long long ran, waited;
    long slices;
    if (sscanf(text, "%llu %llu %ld", &ran, &waited, &slices) == 3) {
        seen->waited = (double)waited / 1e9;
        seen->slices = slices;
    }
}

/* A double of a ring's words; -1.0 where the ring is gone. */
static double
read_word(PyObject *words, int index)
{
    Py_buffer view;
    if (PyObject_GetBuffer(words, &view, PyBUF_SIMPLE) < 0) {
        PyErr_Clear();
        return -1.0;
    }
    double value = view.len >= (index + 1) * (Py_ssize_t)sizeof(double) ? ((double *)view.buf)[index] : -1.0;
    PyBuffer_Release(&view);
    return value;
}

static void
publish(PyObject *words, double now, double due)
{
    Py_buffer view;
    if (words == Py_None)
        return;
    if (PyObject_GetBuffer(words, &view, PyBUF_WRITABLE) < 0) {
        PyErr_Clear();
        return;
    }
    if (view.len > W_DUE * (Py_ssize_t)sizeof(double)) {
        ((double *)view.buf)[W_HEARTBEAT] = ((double *)view.buf)[W_LOOKED] = now;
        ((double *)view.buf)[W_DUE] = due;
    }
    PyBuffer_Release(&view);
}

/* Whether a turn that begins now comes in time, or late as any thread of a busy machine. */
static int
is_in_time(const Baseline *base, double now)
{
    double late = now - base->due;
    return late < HELD_SECONDS || (late < LATE_SECONDS && own_switches() - base->switches < 2);
}

static void
begin_request(Request *request, const char *file)
{
    const char *name = strrchr(file, '/');
    size_t length = name == NULL ? 0 : (size_t)(name - file);
    memset(&request->changed, 0, sizeof(request->changed));
    request->file = file;
    if (length >= sizeof(request->folder))
        length = 0;
    memcpy(request->folder, file, length);
    request->folder[length] = 0;
}

/* Whether a command asks. A file that is not there costs the kernel ten times what the time of its folder does. */
static int
is_asked(Request *request)
{
    struct stat folder;
    struct timespec now;
    if (!*request->file)
        return 0;
    int known = *request->folder && stat(request->folder, &folder) == 0;
    if (known && folder.st_mtim.tv_sec == request->changed.tv_sec &&
        folder.st_mtim.tv_nsec == request->changed.tv_nsec)
        return 0;
    if (access(request->file, F_OK) == 0)
        return 1;
    if (known && clock_gettime(CLOCK_REALTIME, &now) == 0 && now.tv_sec - folder.st_mtim.tv_sec >= SAME_TICK)
        request->changed = folder.st_mtim;
    return 0;
}

/* Whether there is nothing for Python to see to: no loop runs, no command asks, what is to stay empty is empty.
   -1: an exception. */
static int
is_quiet(const Seen *seen, Py_ssize_t loops, PyObject *watched, PyObject *empty, Request *request)
{
    if (PyDict_GET_SIZE(watched) != loops || is_asked(request))
        return 0;
    for (Py_ssize_t i = 0; i < loops; i++)
        if (read_word(seen[i].words, W_RUNNING) != 0.0)
            return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(empty); i++) {
        Py_ssize_t size = PyObject_Size(PyTuple_GET_ITEM(empty, i));
        if (size != 0)
            return size < 0 ? -1 : 0;
    }
    return 1;
}

/* Whether the loop has run nothing since the sleep began. A clock of coarse ticks may show no short run; -1: there is
   none. */
static int
is_still(const Seen *seen, double cpu)
{
    return cpu >= 0.0 && cpu == seen->cpu && read_word(seen->words, W_RECORDS) == seen->records;
}

static PyObject *
result_of(const Seen *seen, Py_ssize_t loops, Py_ssize_t turns, const Baseline *base)
{
    PyObject *samples = PyList_New(0);
    for (Py_ssize_t i = 0; samples != NULL && i < loops && turns > 0; i++) {
        PyObject *sample =
            Py_BuildValue("(ddddl)", seen[i].at, seen[i].cpu, seen[i].others, seen[i].waited, seen[i].slices);
        if (sample == NULL || PyList_Append(samples, sample) < 0)
            Py_CLEAR(samples);
        Py_XDECREF(sample);
    }
    if (samples == NULL)
        return NULL;
    return Py_BuildValue("(n(ddldd)N)", turns, base->due, base->process_cpu, base->switches, base->measured, base->late,
                         samples);
}

/* The loops as sleep_quietly is told of them; how many, -1: an exception. */
static Py_ssize_t
begin_loops(Seen *seen, PyObject *loops)
{
    Py_ssize_t count = PyList_GET_SIZE(loops);
    if (count > MOST_LOOPS) {
        PyErr_SetString(PyExc_ValueError, "too many loops");
        return -1;
    }
    memset(seen, 0, MOST_LOOPS * sizeof(*seen));
    for (Py_ssize_t i = 0; i < count; i++) {
        int clock;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(loops, i), "Oiiddl", &seen[i].words, &clock, &seen[i].thread,
                              &seen[i].cpu, &seen[i].waited, &seen[i].slices))
            return -1;
        seen[i].clock = (clockid_t)clock;
        seen[i].records = read_word(seen[i].words, W_RECORDS);
    }
    return count;
}

/* sleep_quietly(due, switches, period, until, unmoved, other_cpu, request, heart, watched, empty, loops): see
   quiet_turns.py. None: it rang. */
static PyObject *
alarm_sleep_quietly(PyObject *self, PyObject *args)
{
    double period, until, unmoved, other_cpu, cpu[MOST_LOOPS];
    Baseline base = {0};
    Seen seen[MOST_LOOPS];
    Request request;
    const char *file;
    PyObject *heart, *watched, *empty, *loops;
    if (!PyArg_ParseTuple(args, "dlddddyOO!O!O!", &base.due, &base.switches, &period, &until, &unmoved, &other_cpu,
                          &file, &heart, &PyDict_Type, &watched, &PyTuple_Type, &empty, &PyList_Type, &loops))
        return NULL;
    Py_ssize_t count = begin_loops(seen, loops), turns = 0;
    if (count < 0)
        return NULL;
    begin_request(&request, file);
    double own = seconds_of(CLOCK_THREAD_CPUTIME_ID), process = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    const double others = process - own;
    for (int still = 1;;) {
        if (hear((Alarm *)self, base.due - core_now()))
            Py_RETURN_NONE;
        double now = core_now(), own_before = own, process_before = process;
        int quiet = is_in_time(&base, now) ? is_quiet(seen, count, watched, empty, &request) : 0;
        if (quiet < 0)
            return NULL;
        own = seconds_of(CLOCK_THREAD_CPUTIME_ID);
        process = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
        still = still && process - own - others < STILL;
        for (Py_ssize_t i = 0; i < count; i++) {
            cpu[i] = seconds_of(seen[i].clock);
            still = still && is_still(&seen[i], cpu[i]);
        }
        if (!quiet || now >= (still && until < unmoved ? unmoved : until) ||
            process - process_before - (own - own_before) > MUCH * period)
            return result_of(seen, count, turns, &base);
        for (Py_ssize_t i = 0; i < count; i++) {
            if (cpu[i] != seen[i].cpu || cpu[i] < 0.0)
                read_schedule(&seen[i]);
            seen[i].cpu = cpu[i];
            seen[i].others = process - own - other_cpu;
            seen[i].at = core_now();
        }
        turns++;
        base = (Baseline){now + period, process, core_now(), base.late + (now - base.due), own_switches()};
        publish(heart, now, base.due);
    }
}
#endif

static PyMethodDef alarm_methods[] = {
    {"ring", alarm_ring, METH_NOARGS, "Ends a wait, or the next one. From any thread."},
    {"wait", alarm_wait, METH_O, "Waits for so many seconds; whether it rang. Silent again afterwards."},
#ifdef __linux__
    {"sleep_quietly", alarm_sleep_quietly, METH_VARARGS, "Turns while all loops sleep (quiet_turns.py)."},
#endif
    {NULL},
};

static PyType_Slot alarm_slots[] = {
    {Py_tp_doc, "What the watchdog sleeps on. One thread waits."},
    {Py_tp_new, alarm_new},
    {Py_tp_dealloc, alarm_dealloc},
    {Py_tp_methods, alarm_methods},
    {0, NULL},
};

PyType_Spec core_alarm_spec = {
    .name = "traceloop.core._core.Alarm",
    .basicsize = sizeof(Alarm),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = alarm_slots,
};
