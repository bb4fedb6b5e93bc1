/* The watchdog's turns that find nothing (recording/watchdog/quiet_turns.py), ten a second.

   In Python such a turn takes 0.1 ms, because whatever it needs has left the caches. While the loop computes, it costs
   the loop more than that: each file that the turn opens gives the GIL away, and each time the loop's thread has to
   hand it over again. Here a turn takes a tenth of the time, and the GIL once: so it notices if another thread holds
   it. What it asks the kernel, it asks before that.

   At the first difference the turns in C end: the next one is Python's, and gets the time from which on this thread was
   late. */

#include "core.h"
#include "alarm.h"

#ifdef __linux__
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MOST_LOOPS 16
/* A turn this late (s) that was woken more than once has waited for the GIL (recording/watchdog/gil_waits.py). */
#define HELD_SECONDS 0.0025
/* One this late is reported, whatever the reason (lateness.py). */
#define LATE_SECONDS 0.05
/* Where the threads besides the loops' computed for more than this part of the time, one of them may hold the GIL. */
#define MUCH 0.01
/* What the other threads may have computed (s), and nothing has changed all the same: clocks are read one by one. */
#define STILL 5e-5
/* A command waits for so long (s) at the most: looking for its file takes a third of what a turn asks the kernel. */
#define ASKED_SECONDS 0.5
/* A folder that has changed within so many seconds may change again without another time (process_folders.py). */
#define SAME_TICK 3

/* What is measured of a loop's thread in a turn (recording/watchdog/thread_clocks.py). */
typedef struct {
    double at, cpu, others, waited;
    long slices;
} Sample;

/* One loop. threshold: no run shorter than so many seconds is a stall, for as long as the loop's slow_callback_duration
   is what it is here. records: that it had written when the sleep began. last: the sample of the last turn; before: of
   the last turn before the loop left its poll, with which a stall is compared. Their times are 0 where there is none.
   The references are borrowed from the arguments. */
typedef struct {
    PyObject *words, *loop, *duration;
    clockid_t clock;
    int thread;
    double threshold, records, running;
    Sample last, before;
} Seen;

/* What a late turn is compared with: from the end of the turn before it. late: of all turns together, s. */
typedef struct {
    double due, process_cpu, measured, late;
    long switches;
} Baseline;

/* Turns that waited for the GIL, and for how long (s). */
typedef struct {
    long turns;
    double seconds;
} Waits;

/* The file by which a command asks for something ("": none), its folder, and when that was changed; 0: not known. due:
   when to look for it next. */
typedef struct {
    const char *file;
    char folder[1024];
    struct timespec changed;
    double due;
} Request;

/* The cpu.stat of a control group with a CPU limit ("": none), how often the group had been held when Python looked,
   and when that was last found unchanged (0: never). */
typedef struct {
    const char *path;
    unsigned long long periods;
    double unchanged;
} Limit;

/* What a turn asks the kernel, before it takes the GIL. spent: how long that took, s. */
typedef struct {
    double began, spent, own, process;
    int asked, held;
    Sample samples[MOST_LOOPS];
} Asked;

/* All of one sleep. */
typedef struct {
    core_state *state;
    Alarm *alarm;
    double period, until, unmoved, other_cpu;
    PyObject *heart, *watched, *empty; /* borrowed from the arguments */
    Baseline base;
    Waits waits;
    Request request;
    Limit limit;
    Py_ssize_t loops, turns;
    Seen seen[MOST_LOOPS];
    int still;
    double own, process, others; /* CPU times at the last turn's samples; others: at the beginning of the sleep */
} Sleep;

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

/* The beginning of a small file, as text; its length, -1 where it cannot be read. */
static ssize_t
read_text(const char *path, char *text, size_t room)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = descriptor < 0 ? -1 : read(descriptor, text, room - 1);
    if (descriptor >= 0)
        close(descriptor);
    text[size < 0 ? 0 : size] = 0;
    return size;
}

/* The time that a thread has waited for a processor, and how often it was put on one; -1 where that is not known. */
static void
read_schedule(int thread, Sample *sample)
{
    char path[64], text[128];
    unsigned long long ran, waited;
    long slices;
    snprintf(path, sizeof(path), "/proc/self/task/%d/schedstat", thread);
    int known = read_text(path, text, sizeof(text)) > 0 && sscanf(text, "%llu %llu %ld", &ran, &waited, &slices) == 3;
    sample->waited = known ? (double)waited / 1e9 : -1.0;
    sample->slices = known ? slices : -1;
}

/* Whether the control group was held since Python looked, or can no longer be asked. */
static int
was_held(Limit *limit, double now)
{
    static const char name[] = "nr_throttled ";
    char text[4096];
    unsigned long long periods;
    if (!*limit->path)
        return 0;
    const char *line = read_text(limit->path, text, sizeof(text)) > 0 ? strstr(text, name) : NULL;
    if (line == NULL || sscanf(line + sizeof(name) - 1, "%llu", &periods) != 1 || periods != limit->periods)
        return 1;
    limit->unchanged = now;
    return 0;
}

static void
begin_request(Request *request, const char *file)
{
    const char *name = strrchr(file, '/');
    size_t length = name == NULL ? 0 : (size_t)(name - file);
    request->file = file;
    if (length >= sizeof(request->folder))
        length = 0;
    memcpy(request->folder, file, length);
    request->folder[length] = 0;
}

/* Whether a command asks. A file that is not there costs the kernel ten times what the time of its folder does. */
static int
is_asked(Request *request, double began)
{
    struct stat folder;
    struct timespec now;
    if (!*request->file || began < request->due)
        return 0;
    request->due = began + ASKED_SECONDS;
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

/* All that a turn asks the kernel; without the GIL. */
static void
ask_kernel(Sleep *sleep, Asked *asked)
{
    asked->began = core_now();
    asked->asked = is_asked(&sleep->request, asked->began);
    int computed = 0;
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        const Seen *seen = &sleep->seen[i];
        Sample *sample = &asked->samples[i];
        *sample = seen->last;
        sample->cpu = seconds_of(seen->clock);
        /* A thread without new CPU time was not put on a processor, so the other values have not changed. */
        if (sample->cpu != seen->last.cpu || sample->cpu < 0.0) {
            read_schedule(seen->thread, sample);
            computed = 1;
        }
    }
    /* A limit holds nobody who does not compute; and asking takes as long as the rest of a turn. */
    asked->held = computed && was_held(&sleep->limit, asked->began);
    asked->own = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    asked->process = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    double now = core_now();
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        asked->samples[i].at = now;
        asked->samples[i].others = asked->process - asked->own - sleep->other_cpu;
    }
    asked->spent = now - asked->began;
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

/* Whether the program has given the loop another threshold meanwhile. */
static int
has_another_threshold(const Sleep *sleep, const Seen *seen)
{
    PyObject *duration = PyObject_GetAttr(seen->loop, sleep->state->s_slow_callback_duration);
    int same = duration == NULL ? 0 : PyObject_RichCompareBool(duration, seen->duration, Py_EQ);
    Py_XDECREF(duration);
    if (same < 0 || duration == NULL)
        PyErr_Clear();
    return same != 1;
}

/* Whether no run of any loop is long enough to be a stall. Notes since when each has not polled. */
static int
are_young(Sleep *sleep, double now)
{
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        Seen *seen = &sleep->seen[i];
        seen->running = read_word(seen->words, W_RUNNING);
        if (seen->running < 0.0 || (seen->running > 0.0 && now - seen->running >= seen->threshold) ||
            has_another_threshold(sleep, seen))
            return 0;
    }
    return 1;
}

/* Whether there is nothing for Python to see to: no long run, no command asks, what is to stay empty is empty.
   -1: an exception. */
static int
is_quiet(Sleep *sleep, const Asked *asked, double now)
{
    if (PyDict_GET_SIZE(sleep->watched) != sleep->loops || asked->asked || asked->held || !are_young(sleep, now))
        return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(sleep->empty); i++) {
        Py_ssize_t size = PyObject_Size(PyTuple_GET_ITEM(sleep->empty, i));
        if (size != 0)
            return size < 0 ? -1 : 0;
    }
    return 1;
}

/* Whether the loop has run nothing since the sleep began. A clock of coarse ticks may show no short run; -1: there is
   none. */
static int
is_still(const Seen *seen, const Sample *sample)
{
    return sample->cpu >= 0.0 && sample->cpu == seen->last.cpu && read_word(seen->words, W_RECORDS) == seen->records;
}

/* The CPU time of the process since the last turn, without the watchdog's and the loops', s. */
static double
computed_by_others(const Sleep *sleep, const Asked *asked)
{
    double seconds = asked->process - sleep->process - (asked->own - sleep->own);
    for (Py_ssize_t i = 0; i < sleep->loops; i++)
        if (asked->samples[i].cpu >= 0.0 && sleep->seen[i].last.cpu >= 0.0)
            seconds -= asked->samples[i].cpu - sleep->seen[i].last.cpu;
    return seconds;
}

/* Whether a turn that comes ``late`` (s) may be quiet all the same. It is IN_TIME, or as late as any thread of a busy
   machine; or it waited while the only loop had the GIL for its own runs, which is no news: OWN_WAIT. */
enum { LATE, IN_TIME, OWN_WAIT };

static int
punctuality(const Sleep *sleep, const Asked *asked, double late)
{
    if (late < HELD_SECONDS)
        return IN_TIME;
    if (late >= LATE_SECONDS)
        return LATE;
    if (own_switches() - sleep->base.switches < 2)
        return IN_TIME;
    int alone = sleep->loops == 1 && sleep->seen[0].last.cpu >= 0.0 &&
                computed_by_others(sleep, asked) <= MUCH * (sleep->period + late);
    return alone ? OWN_WAIT : LATE;
}

/* When the next turn is due: sooner where a run reaches its threshold. */
static double
next_due(const Sleep *sleep, double now)
{
    double due = now + sleep->period;
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        const Seen *seen = &sleep->seen[i];
        if (seen->running > 0.0 && seen->running + seen->threshold < due)
            due = seen->running + seen->threshold;
    }
    return due;
}

/* The turn is over: keeps what it has measured. late: how long the thread waited for a processor (s). */
static void
keep(Sleep *sleep, const Asked *asked, double now, double late)
{
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        Seen *seen = &sleep->seen[i];
        if (seen->last.at > 0.0 && (seen->running == 0.0 || seen->running > seen->last.at))
            seen->before = seen->last;
        seen->last = asked->samples[i];
    }
    sleep->turns++;
    sleep->own = asked->own;
    sleep->process = asked->process;
    sleep->base =
        (Baseline){next_due(sleep, now), asked->process, core_now(), sleep->base.late + late, own_switches()};
    publish(sleep->heart, now, sleep->base.due);
}

static int
add_sample(PyObject *list, const Sample *sample)
{
    if (sample->at <= 0.0)
        return 0;
    PyObject *item =
        Py_BuildValue("(ddddl)", sample->at, sample->cpu, sample->others, sample->waited, sample->slices);
    int added = item == NULL ? -1 : PyList_Append(list, item);
    Py_XDECREF(item);
    return added;
}

/* Loop by loop, the samples that were kept; new reference. */
static PyObject *
samples_of(const Sleep *sleep)
{
    PyObject *all = PyList_New(0);
    for (Py_ssize_t i = 0; all != NULL && i < sleep->loops && sleep->turns > 0; i++) {
        PyObject *samples = PyList_New(0);
        if (samples == NULL || add_sample(samples, &sleep->seen[i].before) < 0 ||
            add_sample(samples, &sleep->seen[i].last) < 0 || PyList_Append(all, samples) < 0)
            Py_CLEAR(all);
        Py_XDECREF(samples);
    }
    return all;
}

static PyObject *
result_of(const Sleep *sleep)
{
    PyObject *samples = samples_of(sleep);
    if (samples == NULL)
        return NULL;
    const Baseline *base = &sleep->base;
    return Py_BuildValue("(n(ddldd)(ld)dN)", sleep->turns, base->due, base->process_cpu, base->switches, base->measured,
                         base->late, sleep->waits.turns, sleep->waits.seconds, sleep->limit.unchanged, samples);
}

/* The loops as sleep_quietly is told of them. -1: an exception. */
static int
begin_loops(Sleep *sleep, PyObject *loops)
{
    sleep->loops = PyList_GET_SIZE(loops);
    if (sleep->loops > MOST_LOOPS) {
        PyErr_SetString(PyExc_ValueError, "too many loops");
        return -1;
    }
    for (Py_ssize_t i = 0; i < sleep->loops; i++) {
        Seen *seen = &sleep->seen[i];
        int clock;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(loops, i), "Oiiddl(dOO)", &seen->words, &clock, &seen->thread,
                              &seen->last.cpu, &seen->last.waited, &seen->last.slices, &seen->threshold, &seen->loop,
                              &seen->duration))
            return -1;
        seen->clock = (clockid_t)clock;
        seen->records = read_word(seen->words, W_RECORDS);
    }
    return 0;
}

/* sleep_quietly((due, switches, period, until, unmoved, other_cpu), (request, limit, periods, heart), watched, empty,
   loops): see quiet_turns.py. None: it rang. */
PyObject *
alarm_sleep_quietly(PyObject *alarm, PyObject *args)
{
    Sleep sleep = {.state = core_state_of(alarm), .alarm = (Alarm *)alarm, .still = 1};
    const char *file;
    PyObject *loops;
    if (sleep.state == NULL) { /* the interpreter ends */
        PyErr_SetString(PyExc_RuntimeError, "the C core is gone");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "(dldddd)(yyKO)O!O!O!", &sleep.base.due, &sleep.base.switches, &sleep.period,
                          &sleep.until, &sleep.unmoved, &sleep.other_cpu, &file, &sleep.limit.path,
                          &sleep.limit.periods, &sleep.heart, &PyDict_Type, &sleep.watched, &PyTuple_Type,
                          &sleep.empty, &PyList_Type, &loops) ||
        begin_loops(&sleep, loops) < 0)
        return NULL;
    sleep.state->watchdog = PyThreadState_GetID(PyThreadState_Get());
    begin_request(&sleep.request, file);
    sleep.own = seconds_of(CLOCK_THREAD_CPUTIME_ID);
    sleep.process = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    sleep.others = sleep.process - sleep.own;
    /* What the loops have computed since Python took their samples, maybe for long, is not the others' either. */
    for (Py_ssize_t i = 0; i < sleep.loops; i++)
        if (sleep.seen[i].last.cpu >= 0.0)
            sleep.process -= seconds_of(sleep.seen[i].clock) - sleep.seen[i].last.cpu;
    for (;;) {
        Asked asked = {0};
        int heard;
        Py_BEGIN_ALLOW_THREADS
        heard = alarm_sleep(sleep.alarm, sleep.base.due - core_now());
        if (!heard)
            ask_kernel(&sleep, &asked);
        Py_END_ALLOW_THREADS
        if (heard) {
            alarm_heard(sleep.alarm);
            Py_RETURN_NONE;
        }
        double now = core_now(), late = now - sleep.base.due - asked.spent;
        int punctual = punctuality(&sleep, &asked, late);
        int quiet = punctual == LATE ? 0 : is_quiet(&sleep, &asked, now);
        if (quiet < 0)
            return NULL;
        sleep.still = sleep.still && asked.process - asked.own - sleep.others < STILL;
        for (Py_ssize_t i = 0; i < sleep.loops; i++)
            sleep.still = sleep.still && is_still(&sleep.seen[i], &asked.samples[i]);
        double until = sleep.still && sleep.until < sleep.unmoved ? sleep.unmoved : sleep.until;
        if (!quiet || now >= until)
            return result_of(&sleep);
        if (punctual == OWN_WAIT) {
            sleep.waits.turns++;
            sleep.waits.seconds += late;
        }
        keep(&sleep, &asked, now, punctual == OWN_WAIT ? 0.0 : late);
    }
}
#endif
