/* The recorded iteration: the twin of iterate_recorded in recorded_iteration.py, which has its contract.

   What runs a handle is in runs.c. */

#include "core.h"
#include <math.h>
#include <unistd.h>

#define BATCH (3 * 1024)
#define GAUGES_SECONDS 0.02 /* readers look every 50 ms at most; a flush with them takes twice as long */
#define WAIT_SECONDS 0.02
#define LINGER_SECONDS 0.01
#define MAX_POLL_SECONDS (24 * 3600.0)
#define MANY 1024 /* timers, or what a poll has found: it may take long */
#define RECORDED (-2.0) /* the timeout of a poll whose beginning is in the record already */

typedef struct {
    Run run;
    Poll poll;
    PyObject *keys; /* the selector's keys by descriptor; owned */
    /* Where a ``select`` of the program's would be: the selector's own attributes, and its class. */
    PyObject *placed; /* owned */
    Py_ssize_t places;
    PyTypeObject *selector_type; /* owned */
    unsigned int selector_version;
    double resolution, now, last_flush, last_publish;
    pid_t pid;
} Iteration;

/* -- writing */

static int
flush(Iteration *it, int with_gauges)
{
    Run *run = &it->run;
    if (with_gauges)
        run_forget_codes(run);
    PyObject *now = PyFloat_FromDouble(it->now);
    if (now == NULL || run_settle_counts(run) < 0) {
        Py_XDECREF(now);
        return -1;
    }
    int done = with_gauges ? run_call(run->flush, (PyObject *)run->loop, now) : run_call(run->write, now, NULL);
    Py_DECREF(now);
    if (done < 0)
        return -1;
    if (!with_gauges)
        return 0;
    it->last_flush = it->now;
    return run_refresh_spans(run);
}

static inline void
publish(Iteration *it, double running)
{
    /* In the child of a fork that goes on in the loop, the words are its parent's. */
    if (getpid() == it->pid)
        ((double *)it->run.words.buf)[W_RUNNING] = running;
}

/* -- 5. the handles */

static int
run_batch(Iteration *it)
{
    Run *run = &it->run;
    Scheduling *loop = run->loop;
    Py_ssize_t left = loop->ready->length;
    double flush_at = it->last_flush + WAIT_SECONDS;
    for (; left > 0 && loop->ready != NULL; left--) {
        PyObject *handle = queue_popleft(loop->ready);
        if (handle == NULL)
            break; /* other code took it */
        if (run_handle(run, handle, &it->now) < 0)
            return -1;
        if (it->now > flush_at || run->record->length >= 2 * BATCH) {
            if (PyErr_CheckSignals() < 0 || flush(it, it->now - it->last_flush > GAUGES_SECONDS) < 0)
                return -1;
            flush_at = it->now + WAIT_SECONDS;
        }
    }
    loop->run_ident = 0.0;
    Py_CLEAR(run->seen);
    if (loop->ready != NULL)
        queue_trim(loop->ready);
    queue_trim(run->fresh);
    if (run_define_created(run, it->now) < 0)
        return -1;
    if (run->record->length >= BATCH || it->now - it->last_flush > WAIT_SECONDS)
        return flush(it, it->now - it->last_flush > GAUGES_SECONDS);
    return 0;
}

/* -- 1. and 2. the poll */

/* How long to poll for a timer that is due in ``wait`` s; -1.0: an exception. What NaN does: iteration.py. */
static double
poll_for(double wait)
{
    if (wait < 0.0)
        return 0.0;
    if (wait <= MAX_POLL_SECONDS)
        return wait;
    if (!isnan(wait))
        return MAX_POLL_SECONDS;
#if PY_VERSION_HEX >= 0x030D0000
    PyErr_SetString(PyExc_ValueError, "cannot convert float NaN to integer");
    return -1.0;
#else
    return 0.0;
#endif
}

/* Whether no thread but the watchdog may wait for the GIL. Interpreters may share one; those that do not may end at any
   moment, so only our own is followed. */
static int
is_alone(core_state *st)
{
    PyThreadState *own = PyThreadState_Get();
    PyInterpreterState *interpreter = PyThreadState_GetInterpreter(own);
    if (PyInterpreterState_Head() != interpreter || PyInterpreterState_Next(interpreter) != NULL)
        return 0;
    PyThreadState *each = PyInterpreterState_ThreadHead(interpreter);
    for (; each != NULL; each = PyThreadState_Next(each))
        if (each != own && PyThreadState_GetID(each) != st->watchdog)
            return 0;
    return 1;
}

/* While it waits, ``polling`` tells other threads that a handle has to end it (wakeup.c).

   A poll that only looks keeps the GIL from the watchdog. Given away for a microsecond, it would wake the watchdog each
   time, mostly too late, up to 3,000 times a second; and the watchdog would never wait as long as the 5 ms after which
   the interpreter has the GIL handed over. */
static int
wait(Iteration *it, double timeout, Py_ssize_t wanted)
{
    Scheduling *loop = it->run.loop;
    /* Here, not after the poll: a thread that lost the GIL before it wrote may have set it since, for the poll that is
       over, and its byte may have been read with another. */
    loop->woken = 0;
    loop->polling = 1;
    int failed = poll_wait(&it->poll, timeout, wanted, timeout == 0.0 && is_alone(loop->state));
    loop->polling = 0;
    return failed;
}

/* Polls, and returns the timeout as it is recorded; -3.0: an exception. */
static double
poll_recorded(Iteration *it, double poll_start)
{
    Scheduling *loop = it->run.loop;
    Timers *timers = loop->timers;
    Py_ssize_t wanted = PyDict_GET_SIZE(it->keys);
    double timeout = -1.0;
    if (loop->ready->length > 0 || loop->stopping)
        timeout = 0.0;
    else if (timers->length > 0) {
        timeout = poll_for(timers->heap[0].when - it->now);
        if (timeout < 0.0)
            return -3.0;
    }
    if (timeout >= 0.0 && timeout <= LINGER_SECONDS) {
        if (wait(it, timeout, wanted) < 0)
            return -3.0;
        it->now = clock_read(&it->run.clock);
        return timeout;
    }
    if (wait(it, LINGER_SECONDS, wanted) < 0)
        return -3.0;
    if (it->poll.found == 0 && loop->ready != NULL && loop->ready->length == 0) {
        record_add(it->run.record, poll_start, R_POLL, timeout);
        if (flush(it, 1) < 0)
            return -3.0;
        publish(it, 0.0);
        double rest = -1.0;
        if (timers->list == NULL && timers->length > 0) {
            rest = poll_for(timers->heap[0].when - core_now());
            if (rest < 0.0)
                return -3.0;
        }
        else if (timers->list != NULL) /* changed under us: the next iteration looks */
            rest = 0.0;
        if (loop->ready == NULL || loop->ready->length > 0)
            rest = 0.0;
        int failed = wait(it, rest, wanted);
        it->now = clock_read(&it->run.clock);
        it->last_publish = it->last_flush = it->now;
        publish(it, it->now);
        return failed < 0 ? -3.0 : RECORDED;
    }
    it->now = clock_read(&it->run.clock);
    return timeout;
}

/* -- 3. descriptors */

static int
call_loop(Scheduling *loop, const char *method, PyObject *key)
{
    PyObject *file = PyObject_GetAttrString(key, "fileobj");
    PyObject *result = file == NULL ? NULL : PyObject_CallMethod((PyObject *)loop, method, "O", file);
    Py_XDECREF(file);
    Py_XDECREF(result);
    return result == NULL ? -1 : 0;
}

static int
queue_ready(Iteration *it, PyObject *key, PyObject *handle, int is_writer)
{
    Scheduling *loop = it->run.loop;
    int cancelled = run_is_cancelled(it->run.st, handle);
    if (cancelled < 0)
        return -1;
    if (cancelled)
        return call_loop(loop, is_writer ? "_remove_writer" : "_remove_reader", key);
    if (loop->ready == NULL)
        return 0;
    if (is_writer)
        record_add(it->run.record, (double)loop->ready->length, R_WRITER, 0.0);
    return queue_append(loop->ready, handle);
}

static int
move_descriptors(Iteration *it)
{
    for (int i = 0; i < it->poll.found; i++) {
        PyObject *number = PyLong_FromLong(poll_descriptor(&it->poll, i));
        if (number == NULL)
            return -1;
        PyObject *key = PyDict_GetItemWithError(it->keys, number);
        Py_DECREF(number);
        if (key == NULL) {
            if (PyErr_Occurred())
                return -1;
            continue; /* unregistered since, by a handle of this very list */
        }
        Py_INCREF(key);
        PyObject *pair = Py_IS_TYPE(key, it->run.st->selector_key) && PyTuple_GET_SIZE(key) == 4
                             ? Py_NewRef(PyTuple_GET_ITEM(key, 3))
                             : PyObject_GetAttr(key, it->run.st->s_data);
        int failed = pair == NULL || !PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2;
        if (failed && pair != NULL)
            PyErr_SetString(PyExc_TypeError, "a selector's key without a pair of handles");
        if (!failed && PyTuple_GET_ITEM(pair, 0) != Py_None && poll_readable(&it->poll, i))
            failed = queue_ready(it, key, PyTuple_GET_ITEM(pair, 0), 0) < 0;
        if (!failed && PyTuple_GET_ITEM(pair, 1) != Py_None && poll_writable(&it->poll, i))
            failed = queue_ready(it, key, PyTuple_GET_ITEM(pair, 1), 1) < 0;
        Py_XDECREF(pair);
        Py_DECREF(key);
        if (failed)
            return -1;
    }
    return 0;
}

/* -- 4. timers */

static int
move_timers(Iteration *it, Py_ssize_t *due)
{
    core_state *st = it->run.st;
    Scheduling *loop = it->run.loop;
    Timers *timers = loop->timers;
    double end = it->now + it->resolution;
    while (loop->ready != NULL && timers->list == NULL && timers->length > 0 && !(timers->heap[0].when >= end)) {
        double when = timers->heap[0].when;
        PyObject *handle = timers_pop(timers);
        int cancelled = run_is_cancelled(st, handle), failed = cancelled < 0;
        if (cancelled > 0)
            timers->cancelled--;
        else if (!failed) {
            failed = queue_append(loop->ready, handle) < 0;
            int64_t place = 0;
            if (PyObject_TypeCheck(handle, st->timer_handle_type))
                place = *(int64_t *)((char *)handle + st->set_at);
            /* NaN and minus infinity are no times that a delay could be reckoned from. */
            record_add(it->run.record, when > (double)-INFINITY ? when : it->now, R_TIMER, (double)place);
            (*due)++;
            /* A burst of timers is written by pieces, while the time is the loop's own. */
            if (it->run.record->length >= 2 * BATCH)
                failed = failed || flush(it, 0) < 0 || run_show_own_work(&it->run, DUE_TIMERS, it->now) < 0;
        }
        Py_DECREF(handle);
        if (failed)
            return -1;
    }
    if (*due > 0)
        timers_trim(timers);
    return 0;
}

/* Before 1.: takes cancelled timers out. Of many, what follows the last run is no idle time. */
static int
sweep(Iteration *it)
{
    Timers *timers = it->run.loop->timers;
    Py_ssize_t before = timers->length;
    if (timers_sweep(timers) < 0)
        return -1;
    Py_ssize_t gone = before - timers->length;
    if (gone <= MANY)
        return 0;
    double start = it->now;
    /* A poll that found nothing, for readers: the last run ended here. */
    record_add(it->run.record, start, R_SPIN, start);
    it->now = clock_read(&it->run.clock);
    return run_tell_own_work(&it->run, CANCELLED_TIMERS, gone, start, it->now);
}

/* -- the whole */

/* Whether the Python iteration has to go on from here: 1, 0, or -1 with an exception. ``holders``: see
   timers_back_to_array. */
static int
has_to_leave(Scheduling *loop, Py_ssize_t holders)
{
    core_state *st = loop->state;
    if (loop->debug || loop->ready == NULL || loop->timers == NULL || loop->record == NULL || loop->fresh == NULL)
        return 1;
    int clean = scheduling_is_clean(loop);
    if (clean == 1)
        clean = core_clock_is_ours(st);
    if (clean != 1)
        return clean < 0 ? -1 : 1;
    if (st->handle_version == 0 || st->handle_version != st->asyncio_handle->tp_version_tag) {
        PyObject *run = PyObject_GetAttrString((PyObject *)st->asyncio_handle, "_run");
        if (run == NULL)
            return -1;
        int same = run == st->handle_run;
        Py_DECREF(run);
        if (!same)
            return 1;
        st->handle_version = st->asyncio_handle->tp_version_tag;
    }
    /* Last: where the Python iteration goes on, it goes on with its list. */
    int back = timers_back_to_array(loop->timers, holders);
    return back < 0 ? -1 : !back;
}

/* _may_run_native(): asked by the Python iteration, which has the list of timers and gives it up. */
PyObject *
scheduling_may_run(PyObject *self, PyObject *unused)
{
    int leave = has_to_leave((Scheduling *)self, 1);
    return leave < 0 ? NULL : PyBool_FromLong(!leave);
}

/* Whether the program may have replaced the poll since the plan was made (a test does, for a clock that jumps). */
static inline int
may_poll_otherwise(const Iteration *it)
{
    return PyDict_GET_SIZE(it->placed) != it->places || it->selector_type->tp_version_tag != it->selector_version ||
           it->run.loop->new_selector;
}

/* What another thread has had raised in this one (PyThreadState_SetAsyncExc) comes out of the loop, as it does where
   the poll is a Python function. Left to the next handle, the loop would log it as that handle's and go on. */
static int
raise_from_other_thread(const Run *run)
{
    if (PyThreadState_Get()->async_exc == NULL)
        return 0;
    /* The interpreter raises it where a function in Python begins, and forgets that it was asked to. Taken from here,
       3.11 and 3.12 would look for it again at each call and each turn of a loop, in all threads, for good. */
    PyObject *done = PyObject_CallNoArgs(run->st->nothing);
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* One iteration. 1: the Python iteration has to go on; 2: the loop was stopped; 0; -1: an exception. */
static int
iterate(Iteration *it)
{
    Scheduling *loop = it->run.loop;
    Record *record = it->run.record;
    int leave = has_to_leave(loop, 0);
    if (leave != 0)
        return leave;
    if (loop->ready->length == 0 && may_poll_otherwise(it))
        return 1;
    if (loop->timers->cancelled > 0 && sweep(it) < 0)
        return -1;
    if (loop->ready == NULL || loop->timers == NULL)
        return 1;
    double poll_start = it->now;
    double timeout = poll_recorded(it, poll_start);
    if (timeout == -3.0 || PyErr_CheckSignals() < 0 || (timeout != 0.0 && raise_from_other_thread(&it->run) < 0))
        return -1;
    if (loop->ready == NULL || loop->timers == NULL)
        return 1;
    Py_ssize_t base = loop->ready->length, moved = 0, due = 0;
    if (it->poll.found > 0) {
        if (move_descriptors(it) < 0)
            return -1;
        if (loop->ready == NULL)
            return 1;
        moved = loop->ready->length - base;
    }
    if (!moved)
        base = loop->ready->length;
    if (loop->timers->length > 0 && move_timers(it, &due) < 0)
        return -1;
    if (loop->ready == NULL) /* a signal's handler has put another queue there, while records were written */
        return 1;
    if ((moved > 0 || due > 0) && moved > 0 && base == 0 && due == 0 && (timeout > 0.0 || timeout == -1.0))
        record_add(record, poll_start, R_FOUND - (double)moved, it->now);
    else if (timeout == 0.0 && moved == 0 && due == 0)
        record_add(record, poll_start, R_SPIN, it->now);
    else {
        if (timeout != RECORDED)
            record_add(record, poll_start, R_POLL, timeout);
        record_add(record, it->now, R_ACTIVE, (double)moved);
        if (moved > 0 || due > 0)
            record_add(record, (double)base, R_DUE, (double)due);
    }
    if (moved + due > 4) {
        double polled = it->now;
        it->now = clock_read(&it->run.clock);
        loop->run_ident = 0.0;
        int which = due > moved ? DUE_TIMERS : POLL_RESULTS;
        if (run_tell_own_work(&it->run, which, moved + due, polled, it->now) < 0)
            return -1;
    }
    if (it->now - it->last_publish > 0.001) {
        it->last_publish = it->now;
        publish(it, it->now);
    }
    if (run_batch(it) < 0)
        return -1;
    return loop->stopping ? 2 : 0;
}

static int
watch_selector(Iteration *it, PyObject *selector)
{
    it->placed = PyObject_GetAttrString(selector, "__dict__");
    if (it->placed == NULL)
        return -1;
    if (!PyDict_Check(it->placed)) {
        PyErr_SetString(PyExc_TypeError, "a selector with a dict is expected");
        return -1;
    }
    it->places = PyDict_GET_SIZE(it->placed);
    it->selector_type = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(selector));
    it->selector_version = it->selector_type->tp_version_tag;
    it->run.loop->new_selector = 0;
    return 0;
}

/* _run_native(recorder, selector, epoll, keys, resolution) */
PyObject *
scheduling_run(PyObject *self, PyObject *args)
{
    Scheduling *loop = (Scheduling *)self;
    PyObject *recorder, *selector, *epoll, *keys;
    Iteration *it = PyMem_Calloc(1, sizeof(Iteration)); /* 6 KB: too much for a thread's small stack */
    if (it == NULL)
        return PyErr_NoMemory();
    if (!PyArg_ParseTuple(args, "OOOO!d", &recorder, &selector, &epoll, &PyDict_Type, &keys, &it->resolution)) {
        PyMem_Free(it);
        return NULL;
    }
    it->keys = Py_NewRef(keys);
    it->pid = getpid();
    int state = run_open(&it->run, loop, recorder);
    if (state == 1 && (watch_selector(it, selector) < 0 || poll_open(&it->poll, epoll) < 0))
        state = -1;
    if (state == 1) {
        it->now = it->last_flush = it->last_publish = clock_read(&it->run.clock);
        publish(it, it->now);
        loop->running = 1;
        loop->run = &it->run;
        do
            state = iterate(it);
        while (state == 0);
        loop->running = 0;
        loop->run = NULL;
        loop->run_ident = 0.0;
    }
    else if (state == 0)
        state = 1;
    PyObject *error = state < 0 ? take_exception() : NULL;
    if (it->run.tasks != NULL && run_settle_counts(&it->run) < 0)
        PyErr_Clear();
    poll_close(&it->poll);
    run_close(&it->run);
    Py_DECREF(keys);
    Py_XDECREF(it->placed);
    Py_XDECREF(it->selector_type);
    PyMem_Free(it);
    if (error != NULL) {
        raise_again(error);
        return NULL;
    }
    return PyBool_FromLong(state == 2);
}
