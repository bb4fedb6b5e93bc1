/* Requests that a server's task answered in its only step, soon after a descriptor's run had made the task: what most
   requests of a quick service are. They are added up here by name; every other task goes to ledger.py, one by one. */

#include "reader.h"

#define MAX_NAMES 64
#define MAX_BEHIND 256
#define MAX_BUCKETS 64
/* As in ledger.py, which explains them. */
#define SHARED_SECONDS 0.001
#define NAMED_SHARE 0.1
#define MAX_RUNS_BEHIND 256
#define MAX_NAMED 12 /* runs of such a share of a wait: 10, and what rounding may add */
#define REQUEST 1

typedef struct {
    int64_t count;
    double running, ready;
} Bucket;

typedef struct {
    uint32_t site;
    size_t count, size;
    double *durations;
    Bucket buckets[MAX_BUCKETS + 1];
} Name;

/* Time that requests of one name waited behind runs of another. */
typedef struct {
    uint32_t name, who;
    double seconds;
} Behind;

typedef struct {
    int64_t run;
    uint32_t site;
} Mark;

typedef struct {
    const Runs *runs;
    const uint8_t *kinds;
    Mark *marks;
    size_t mark_count;
    double bounds[MAX_BUCKETS];
    size_t bound_count;
    size_t name_count, behind_count;
    Behind behind[MAX_BEHIND];
    Name names[MAX_NAMES];
} Sums;

/* The function that a run named (first) as what answers its request; -1 where it named none. */
static int64_t
site_of_mark(const Sums *sums, int64_t run)
{
    size_t low = 0, high = sums->mark_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (sums->marks[middle].run < run)
            low = middle + 1;
        else
            high = middle;
    }
    return low < sums->mark_count && sums->marks[low].run == run ? (int64_t)sums->marks[low].site : -1;
}

static Name *
find_name(Sums *sums, uint32_t site)
{
    for (size_t index = 0; index < sums->name_count; index++)
        if (sums->names[index].site == site)
            return &sums->names[index];
    if (sums->name_count == MAX_NAMES)
        return NULL;
    Name *name = &sums->names[sums->name_count++];
    name->site = site;
    return name;
}

static void
add_behind(Sums *sums, const Behind *more)
{
    for (size_t index = 0; index < sums->behind_count; index++) {
        Behind *known = &sums->behind[index];
        if (known->name == more->name && known->who == more->who) {
            known->seconds += more->seconds;
            return;
        }
    }
    sums->behind[sums->behind_count++] = *more;
}

/* Who ran from ``ready`` until the run at ``index`` began, into ``found``; how many, -1 where that is not to be told
   from these runs alone. */
static int
find_turn(const Sums *sums, Py_ssize_t index, double ready, Behind *found)
{
    const Row *rows = sums->runs->rows;
    double start = rows[index].start, least = (start - ready) * NAMED_SHARE;
    int count = 0;
    if (least < SHARED_SECONDS * NAMED_SHARE)
        return 0;
    for (int passed = 0; passed < MAX_RUNS_BEHIND; passed++) {
        if (--index < 0)
            return -1;
        const Row *row = &rows[index];
        if (row->end <= ready)
            break;
        if (row->end - row->start < least)
            continue;
        int64_t who = site_of_mark(sums, sums->runs->first + index);
        if ((who < 0 && row->ident >= SITE_LIMIT) || count == MAX_NAMED)
            return -1; /* a step of a task that may be a request's: the ledger knows its name */
        double begun = row->start > ready ? row->start : ready;
        double ended = row->end < start ? row->end : start;
        if (ended > begun)
            found[count++] = (Behind){0, who < 0 ? site_of(row->ident) : (uint32_t)who, ended - begun};
        start = begun;
    }
    return count;
}

/* The descriptor's run that led to the request which was answered by the run of this number alone, and how long the
   request took; NULL where it is no such request. */
static const Row *
reader_of(const Sums *sums, int64_t number, double ident, double *duration)
{
    const Runs *runs = sums->runs;
    int64_t index = number - runs->first;
    if (index < 0 || index >= runs->length)
        return NULL;
    const Row *row = &runs->rows[index];
    int64_t by_index = row->scheduler - runs->first;
    if (!row->outcome || row->ident != ident || sums->kinds[site_of(ident)] != REQUEST || row->scheduler <= 0 ||
        by_index < 0 || by_index >= index)
        return NULL;
    const Row *by = &runs->rows[by_index];
    if (by->kind != READER || !(by->delay >= 0.0) || !(row->delay >= 0.0) || row->start < by->end)
        return NULL;
    *duration = row->end - (by->start - by->delay);
    return *duration >= 0.0 && *duration < LATEST ? by : NULL;
}

/* Counts such a request: 1, 0 where the ledger has to, -1 with an error. Those that took more than ``longest`` s are the
   ledger's. */
static int
take_request(Sums *sums, int64_t number, double ident, double longest)
{
    double duration;
    const Row *by = reader_of(sums, number, ident, &duration);
    if (by == NULL || duration > longest)
        return 0;
    int64_t index = number - sums->runs->first;
    const Row *row = &sums->runs->rows[index];
    double begin = by->start - by->delay, ready = row->start - row->delay;
    if (ready < by->end)
        ready = by->end;
    int64_t mark = site_of_mark(sums, number);
    Name *name = find_name(sums, mark < 0 ? site_of(ident) : (uint32_t)mark);
    if (name == NULL || sums->behind_count > MAX_BEHIND - 2 * MAX_NAMED)
        return 0;
    Behind found[2 * MAX_NAMED];
    int first = find_turn(sums, by - sums->runs->rows, begin, found);
    int second = first < 0 ? -1 : find_turn(sums, (Py_ssize_t)index, ready, found + first);
    if (second < 0)
        return 0;
    if (reserve((void **)&name->durations, &name->size, name->count + 1, sizeof(double)) < 0)
        return -1;
    for (int each = 0; each < first + second; each++) {
        found[each].name = name->site;
        add_behind(sums, &found[each]);
    }
    name->durations[name->count++] = duration;
    size_t bucket = 0;
    while (bucket < sums->bound_count && sums->bounds[bucket] < duration)
        bucket++;
    double running = (by->end - by->start) + (row->end - row->start);
    name->buckets[bucket].count++;
    name->buckets[bucket].running += running;
    name->buckets[bucket].ready += by->delay + (row->start - by->end);
    return 1;
}

static int
read_marks(Sums *sums, PyObject *list)
{
    size_t count = (size_t)PyList_GET_SIZE(list);
    sums->marks = PyMem_Malloc((count ? count : 1) * sizeof(Mark));
    if (sums->marks == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t index = 0; index < count; index++) {
        long long run, site;
        if (!PyArg_ParseTuple(PyList_GET_ITEM(list, (Py_ssize_t)index), "LL", &run, &site))
            return -1;
        if (site < 0 || site >= (long long)SITE_LIMIT || (sums->mark_count && run < sums->marks[sums->mark_count - 1].run))
            continue;
        sums->marks[sums->mark_count++] = (Mark){run, (uint32_t)site};
    }
    return 0;
}

/* (site, durations, ((bucket, count, seconds running, ready), ...), ((site of who ran, seconds), ...)) */
static PyObject *
sums_of_name(const Sums *sums, const Name *name)
{
    PyObject *durations = PyList_New((Py_ssize_t)name->count), *buckets = PyList_New(0), *behind = PyList_New(0);
    bool failed = durations == NULL || buckets == NULL || behind == NULL;
    for (size_t index = 0; !failed && index < name->count; index++) {
        PyObject *value = PyFloat_FromDouble(name->durations[index]);
        failed = value == NULL;
        if (!failed)
            PyList_SET_ITEM(durations, (Py_ssize_t)index, value);
    }
    for (size_t index = 0; !failed && index <= sums->bound_count; index++) {
        const Bucket *each = &name->buckets[index];
        PyObject *item = each->count ? Py_BuildValue("(nLdd)", (Py_ssize_t)index, (long long)each->count,
                                                     each->running, each->ready)
                                     : Py_NewRef(Py_None);
        failed = item == NULL || (each->count && PyList_Append(buckets, item) < 0);
        Py_XDECREF(item);
    }
    for (size_t index = 0; !failed && index < sums->behind_count; index++) {
        const Behind *each = &sums->behind[index];
        if (each->name != name->site)
            continue;
        PyObject *item = Py_BuildValue("(Id)", each->who, each->seconds);
        failed = item == NULL || PyList_Append(behind, item) < 0;
        Py_XDECREF(item);
    }
    PyObject *result = failed ? NULL : Py_BuildValue("(IOOO)", name->site, durations, buckets, behind);
    Py_XDECREF(durations);
    Py_XDECREF(buckets);
    Py_XDECREF(behind);
    return result;
}

static int
read_task(PyObject *task, int64_t *number, double *ident)
{
    if (!PyTuple_Check(task) || PyTuple_GET_SIZE(task) < 3) {
        PyErr_SetString(PyExc_TypeError, "tasks are NewTask");
        return -1;
    }
    *ident = PyFloat_AsDouble(PyTuple_GET_ITEM(task, 0));
    *number = PyLong_AsLongLong(PyTuple_GET_ITEM(task, 2));
    return PyErr_Occurred() ? -1 : 0;
}

static int
shorter_first(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

/* The duration that the ``slowest`` longest of these requests exceed, s; below 0 where there are no more than these, or
   with an error. */
static double
find_longest(const Sums *sums, PyObject *tasks, Py_ssize_t slowest)
{
    Py_ssize_t count = 0, length = PyList_GET_SIZE(tasks);
    double longest = -1.0, *durations = PyMem_Malloc((size_t)(length ? length : 1) * sizeof(double));
    if (durations == NULL) {
        PyErr_NoMemory();
        return -1.0;
    }
    for (Py_ssize_t index = 0; index < length; index++) {
        int64_t number;
        double ident;
        if (read_task(PyList_GET_ITEM(tasks, index), &number, &ident) < 0) {
            count = 0;
            break;
        }
        count += reader_of(sums, number, ident, &durations[count]) != NULL;
    }
    if (count > slowest) {
        qsort(durations, (size_t)count, sizeof(double), shorter_first);
        longest = durations[count - 1 - slowest];
    }
    PyMem_Free(durations);
    return longest;
}

static int
take_tasks(Sums *sums, PyObject *tasks, double longest, PyObject *rest)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(tasks); index++) {
        PyObject *task = PyList_GET_ITEM(tasks, index);
        int64_t number;
        double ident;
        if (read_task(task, &number, &ident) < 0)
            return -1;
        int taken = take_request(sums, number, ident, longest);
        if (taken < 0 || (!taken && PyList_Append(rest, task) < 0))
            return -1;
    }
    return 0;
}

/* quick_requests(runs, tasks, marks, kinds, bounds, longest, slowest): what was added up, and the tasks that were not.

   tasks: NewTask of this chunk. marks: (number of a run, site), in order. kinds: a byte for each site, as servers.py
   has them. bounds: of durations, s. Requests that took more than ``longest`` s are not added up. Where ``longest`` is
   below 0, the ``slowest`` longest of this chunk are not. */
PyObject *
quick_requests(PyObject *module, PyObject *args)
{
    PyObject *runs, *tasks, *marks, *bounds, *rest = NULL, *names = NULL;
    Py_buffer kinds;
    double longest;
    Py_ssize_t slowest;
    if (!PyArg_ParseTuple(args, "O!O!O!y*O!dn", ((reader_state *)PyModule_GetState(module))->runs, &runs, &PyList_Type,
                          &tasks, &PyList_Type, &marks, &kinds, &PyTuple_Type, &bounds, &longest, &slowest))
        return NULL;
    Sums *sums = PyMem_Calloc(1, sizeof(Sums));
    bool failed = sums == NULL;
    if (failed)
        PyErr_NoMemory();
    else if (kinds.len < (Py_ssize_t)SITE_LIMIT || PyTuple_GET_SIZE(bounds) > MAX_BUCKETS) {
        PyErr_SetString(PyExc_ValueError, "a byte for each site, and not so many bounds");
        failed = true;
    }
    else {
        sums->runs = (Runs *)runs;
        sums->kinds = kinds.buf;
        for (; sums->bound_count < (size_t)PyTuple_GET_SIZE(bounds); sums->bound_count++)
            sums->bounds[sums->bound_count] = PyFloat_AsDouble(PyTuple_GET_ITEM(bounds, sums->bound_count));
        rest = PyList_New(0);
        names = PyList_New(0);
        failed = rest == NULL || names == NULL || PyErr_Occurred() || read_marks(sums, marks) < 0;
        if (!failed && longest < 0.0)
            longest = find_longest(sums, tasks, slowest < 0 ? 0 : slowest);
        failed = failed || PyErr_Occurred() || take_tasks(sums, tasks, longest, rest) < 0;
    }
    for (size_t index = 0; !failed && index < sums->name_count; index++) {
        PyObject *item = sums->names[index].count ? sums_of_name(sums, &sums->names[index]) : Py_NewRef(Py_None);
        failed = item == NULL || (item != Py_None && PyList_Append(names, item) < 0);
        Py_XDECREF(item);
    }
    PyObject *result = failed ? NULL : Py_BuildValue("(OO)", names, rest);
    Py_XDECREF(names);
    Py_XDECREF(rest);
    PyBuffer_Release(&kinds);
    for (size_t index = 0; sums != NULL && index < sums->name_count; index++)
        PyMem_Free(sums->names[index].durations);
    if (sums != NULL)
        PyMem_Free(sums->marks);
    PyMem_Free(sums);
    return result;
}
