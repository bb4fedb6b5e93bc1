/* Steps by task: what statistics/tasks.py adds up step by step, added up for each task of a chunk. Tasks that begin and
   end within the chunk, as most do that are short, are added up by coroutine. */

#include "steps.h"

#include <limits.h>
#include <stdlib.h>

#define MAX_CREATORS 64 /* as in statistics/tasks.py */
#define BUCKETS 256     /* of coroutines by site */

/* The whole tasks of one coroutine. ``since``, ``until``: when each was there. ``next``: see Coroutines. */
typedef struct {
    double running, longest, ready, suspended;
    long long steps, outcomes[FIRST_STEP];
    size_t count, size, until_size;
    double *since, *until;
    uint32_t site, next, creator_count, creators[MAX_CREATORS];
    long long made[MAX_CREATORS];
} Coroutine;

/* ``buckets``: by site, the number and one of the latest coroutine there, whose ``next`` is the same of another; 0
   where there is none. */
typedef struct {
    Coroutine *items;
    size_t count, size;
    uint32_t buckets[BUCKETS];
} Coroutines;

static inline void
add_step(Group *group, const Row *row)
{
    double took = row->end - row->start, start = row->start;
    group->steps++;
    group->running += took;
    if (took > group->longest)
        group->longest = took;
    if (0.0 < row->delay && row->delay < LATEST) {
        group->ready += row->delay;
        start -= row->delay;
    }
    if (group->steps == 1)
        group->first_start = start;
    else if (group->last_end < 0.0) {
        group->begun++;
        group->since = start;
    }
    else if (start > group->last_end)
        group->suspended += start - group->last_end;
    group->last_end = row->end;
}

/* Of 24 bits. A task's number is in the upper half of a double: lower bits of the product do not depend on it. */
static inline size_t
hash(double ident)
{
    uint64_t bits;
    memcpy(&bits, &ident, 8);
    bits *= 0x9E3779B97F4A7C15u;
    return (size_t)(bits >> 40);
}

/* The groups but those that were added up by coroutine. */
static PyObject *
listed(const Groups *groups)
{
    PyObject *list = PyList_New(0);
    for (size_t index = 0; list != NULL && index < groups->count; index++) {
        const Group *group = &groups->groups[index];
        if (group->is_whole || group->is_known)
            continue;
        PyObject *item = Py_BuildValue("(dLddddddLd)", group->ident, group->steps, group->running, group->longest,
                                       group->ready, group->suspended, group->first_start, group->last_end,
                                       group->begun, group->since);
        if (item == NULL || PyList_Append(list, item) < 0)
            Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static Group *
find_group(const Groups *groups, double ident, size_t *at)
{
    size_t place = hash(ident) & (groups->size - 1);
    while (groups->places[place] && groups->groups[groups->places[place] - 1].ident != ident)
        place = (place + 1) & (groups->size - 1);
    *at = place;
    return groups->places[place] ? &groups->groups[groups->places[place] - 1] : NULL;
}

static void
free_groups(Groups *groups)
{
    PyMem_Free(groups->places);
    PyMem_Free(groups->groups);
}

static int
make_groups(const Runs *runs, Groups *groups)
{
    size_t length = (size_t)runs->length;
    *groups = (Groups){.size = 64};
    while (groups->size < 2 * length)
        groups->size *= 2;
    groups->places = PyMem_Calloc(groups->size, sizeof(uint32_t));
    groups->groups = PyMem_Malloc((length ? length : 1) * sizeof(Group));
    if (groups->places == NULL || groups->groups == NULL || length > UINT32_MAX / 2) {
        PyErr_NoMemory();
        return -1;
    }
    for (size_t index = 0; index < length; index++) {
        const Row *row = &runs->rows[index];
        int64_t number = runs->first + (int64_t)index;
        size_t place;
        if (!(row->ident >= SITE_LIMIT))
            continue;
        Group *group = find_group(groups, row->ident, &place);
        if (group == NULL) {
            group = &groups->groups[groups->count++];
            *group = (Group){.ident = row->ident, .first_run = number};
            groups->places[place] = (uint32_t)groups->count;
        }
        group->last_run = number;
        add_step(group, row);
    }
    return 0;
}

/* group_steps(runs): of each task that ran, what StepGroup in statistics/tasks.py says. */
PyObject *
group_steps(PyObject *module, PyObject *argument)
{
    reader_state *st = PyModule_GetState(module);
    if (!Py_IS_TYPE(argument, st->runs)) {
        PyErr_SetString(PyExc_TypeError, "group_steps(runs)");
        return NULL;
    }
    Groups groups;
    PyObject *list = make_groups((Runs *)argument, &groups) < 0 ? NULL : listed(&groups);
    free_groups(&groups);
    return list;
}

/* -- whole tasks */

/* Notes down with each group what is said of its task's beginning: of a NewTask, or with ``ends`` of its end: (ident,
   outcome, when, number of the run). */
static int
note_begins_or_ends(const Groups *groups, PyObject *list, bool ends)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(list); index++) {
        PyObject *item = PyList_GET_ITEM(list, index);
        if (!PyTuple_Check(item) || PyTuple_GET_SIZE(item) != (ends ? 4 : 7)) {
            PyErr_SetString(PyExc_TypeError, "not a task's beginning or end");
            return -1;
        }
        double ident = PyFloat_AsDouble(PyTuple_GET_ITEM(item, 0));
        long long run = PyLong_AsLongLong(PyTuple_GET_ITEM(item, ends ? 3 : 2));
        double when = PyFloat_AsDouble(PyTuple_GET_ITEM(item, ends ? 2 : 5));
        long outcome = ends ? PyLong_AsLong(PyTuple_GET_ITEM(item, 1)) : 0;
        if (PyErr_Occurred())
            return -1;
        size_t place;
        Group *group = find_group(groups, ident, &place);
        if (group == NULL)
            continue;
        if (ends) {
            /* One whose last step is not over comes with the next chunk. */
            group->ends += run == group->last_run ? 1 : 2;
            group->outcome = outcome > 0 && outcome < FIRST_STEP ? (int)outcome : 0;
            group->ended_at = when;
        }
        else {
            group->begins += run == group->first_run ? 1 : 2;
            group->creator = when;
        }
    }
    return 0;
}

static int
is_known(PyObject *known, PyObject *ident)
{
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(known); index++) {
        int contained = PyDict_Contains(PyTuple_GET_ITEM(known, index), ident);
        if (contained)
            return contained;
    }
    return 0;
}

static void
count_creator(Coroutine *coroutine, double ident)
{
    uint32_t creator = site_of(ident), index = 0;
    if (ident == 0.0)
        return;
    while (index < coroutine->creator_count && coroutine->creators[index] != creator)
        index++;
    if (index == MAX_CREATORS)
        return;
    if (index == coroutine->creator_count) {
        coroutine->creators[coroutine->creator_count++] = creator;
        coroutine->made[index] = 0;
    }
    coroutine->made[index]++;
}

static int
add_whole(Coroutine *coroutine, const Group *group)
{
    if (reserve((void **)&coroutine->since, &coroutine->size, coroutine->count + 1, sizeof(double)) < 0 ||
        reserve((void **)&coroutine->until, &coroutine->until_size, coroutine->count + 1, sizeof(double)) < 0)
        return -1;
    coroutine->since[coroutine->count] = group->first_start;
    coroutine->until[coroutine->count++] = group->ended_at;
    coroutine->steps += group->steps;
    coroutine->outcomes[group->outcome]++;
    coroutine->running += group->running;
    coroutine->ready += group->ready;
    coroutine->suspended += group->suspended;
    if (group->longest > coroutine->longest)
        coroutine->longest = group->longest;
    count_creator(coroutine, group->creator);
    return 0;
}

static Coroutine *
coroutine_of(Coroutines *self, uint32_t site)
{
    uint32_t *bucket = &self->buckets[site % BUCKETS];
    for (uint32_t number = *bucket; number; number = self->items[number - 1].next)
        if (self->items[number - 1].site == site)
            return &self->items[number - 1];
    if (reserve((void **)&self->items, &self->size, self->count + 1, sizeof(Coroutine)) < 0)
        return NULL;
    Coroutine *made = &self->items[self->count++];
    *made = (Coroutine){.site = site, .next = *bucket};
    *bucket = (uint32_t)self->count;
    return made;
}

static void
free_coroutines(Coroutines *self)
{
    for (size_t index = 0; index < self->count; index++) {
        PyMem_Free(self->items[index].since);
        PyMem_Free(self->items[index].until);
    }
    PyMem_Free(self->items);
}

/* The tasks that are not whole; the whole ones are added up in ``coroutines``, the ends of their last steps go to
   ``ended``. */
static int
take_whole(const Groups *groups, PyObject *tasks, PyObject *known, Coroutines *coroutines, PyObject *rest,
           PyObject *ended)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(tasks); index++) {
        PyObject *task = PyList_GET_ITEM(tasks, index), *ident = PyTuple_GET_ITEM(task, 0);
        size_t place;
        Group *group = find_group(groups, PyFloat_AsDouble(ident), &place);
        int unknown = group != NULL && group->begins == 1 && group->ends == 1 && !group->begun && group->outcome;
        if (unknown) {
            int contained = is_known(known, ident);
            if (contained < 0)
                return -1;
            unknown = !contained;
        }
        if (!unknown) {
            if (PyList_Append(rest, task) < 0)
                return -1;
            continue;
        }
        Coroutine *coroutine = coroutine_of(coroutines, site_of(group->ident));
        if (coroutine == NULL || add_whole(coroutine, group) < 0)
            return -1;
        group->is_whole = true;
        PyObject *end = PyFloat_FromDouble(group->last_end);
        int failed = end == NULL || PyDict_SetItem(ended, ident, end) < 0;
        Py_XDECREF(end);
        if (failed)
            return -1;
    }
    return 0;
}

static int
take_others(const Groups *groups, PyObject *finished, PyObject *rest)
{
    for (Py_ssize_t index = 0; index < PyList_GET_SIZE(finished); index++) {
        PyObject *item = PyList_GET_ITEM(finished, index);
        size_t place;
        const Group *group = find_group(groups, PyFloat_AsDouble(PyTuple_GET_ITEM(item, 0)), &place);
        if ((group == NULL || !group->is_whole) && PyList_Append(rest, item) < 0)
            return -1;
    }
    return 0;
}

static PyObject *
bytes_of(const double *values, size_t count)
{
    return PyBytes_FromStringAndSize((const char *)values, (Py_ssize_t)(count * sizeof(double)));
}

/* What WholeTasks in statistics/tasks.py says. */
static PyObject *
told(const Coroutine *each)
{
    PyObject *creators = PyList_New(0);
    for (uint32_t index = 0; creators != NULL && index < each->creator_count; index++) {
        PyObject *item = Py_BuildValue("(IL)", each->creators[index], each->made[index]);
        if (item == NULL || PyList_Append(creators, item) < 0)
            Py_CLEAR(creators);
        Py_XDECREF(item);
    }
    if (creators == NULL)
        return NULL;
    return Py_BuildValue("(I(LLLL)LddddNNN)", each->site, each->outcomes[0], each->outcomes[1], each->outcomes[2],
                         each->outcomes[3], each->steps, each->running, each->longest, each->ready, each->suspended,
                         creators, bytes_of(each->since, each->count), bytes_of(each->until, each->count));
}

/* whole_tasks(runs, tasks, finished, known, adds): the groups, NewTask and ends of the tasks that are not whole; of
   those that are, the sums by coroutine, and a dictionary of the ends of their last steps; what add_known says.
   Whole is a task that begins and ends within these runs, and that none of the dictionaries in ``known`` has: those
   of tasks that are alive, two more, and the looks, then others. ``adds``: whether steps of tasks that are alive may
   be added up here. */
PyObject *
whole_tasks(PyObject *module, PyObject *args)
{
    reader_state *st = PyModule_GetState(module);
    PyObject *runs, *tasks, *finished, *known, *result = NULL;
    int adds;
    if (!PyArg_ParseTuple(args, "O!O!O!O!p", st->runs, &runs, &PyList_Type, &tasks, &PyList_Type, &finished,
                          &PyTuple_Type, &known, &adds))
        return NULL;
    if (PyTuple_GET_SIZE(known) < 4) {
        PyErr_SetString(PyExc_TypeError, "known are four dictionaries at least");
        return NULL;
    }
    for (Py_ssize_t index = 0; index < PyTuple_GET_SIZE(known); index++)
        if (!PyDict_Check(PyTuple_GET_ITEM(known, index))) {
            PyErr_SetString(PyExc_TypeError, "known are dictionaries");
            return NULL;
        }
    Groups groups;
    Coroutines coroutines = {0};
    PyObject *rest = PyList_New(0), *others = PyList_New(0), *sums = PyList_New(0), *ended = PyDict_New();
    bool failed = rest == NULL || others == NULL || sums == NULL || ended == NULL;
    failed = make_groups((Runs *)runs, &groups) < 0 || failed || note_begins_or_ends(&groups, tasks, false) < 0 ||
             note_begins_or_ends(&groups, finished, true) < 0 ||
             take_whole(&groups, tasks, known, &coroutines, rest, ended) < 0 ||
             take_others(&groups, finished, others) < 0;
    for (size_t index = 0; !failed && index < coroutines.count; index++) {
        PyObject *item = told(&coroutines.items[index]);
        failed = item == NULL || PyList_Append(sums, item) < 0;
        Py_XDECREF(item);
    }
    PyObject *added = NULL, *list = NULL;
    if (!failed)
        added = adds ? add_known(st, &groups, PyTuple_GET_ITEM(known, 0), PyTuple_GET_ITEM(known, 3)) : PyList_New(0);
    if (added != NULL)
        list = listed(&groups);
    if (list != NULL)
        result = Py_BuildValue("(OOOOOO)", list, rest, others, sums, ended, added);
    Py_XDECREF(added);
    free_coroutines(&coroutines);
    free_groups(&groups);
    Py_XDECREF(list);
    Py_XDECREF(rest);
    Py_XDECREF(others);
    Py_XDECREF(sums);
    Py_XDECREF(ended);
    return result;
}

static int
earlier_first(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

/* most_at_once(now, begins, ends): how many of something there were at the most after a change, of which there were
   ``now`` before; when more began and ended, as bytes of doubles. What ends when another begins ends first. */
PyObject *
most_at_once(PyObject *module, PyObject *args)
{
    long long now;
    Py_buffer begins, ends;
    if (!PyArg_ParseTuple(args, "Ly*y*", &now, &begins, &ends))
        return NULL;
    size_t begin_count = (size_t)begins.len / sizeof(double), end_count = (size_t)ends.len / sizeof(double);
    double *times = PyMem_Malloc((begin_count + end_count + 1) * sizeof(double));
    long long most = begin_count || end_count ? LLONG_MIN : now;
    if (times == NULL)
        PyErr_NoMemory();
    else {
        double *end_times = times + begin_count;
        memcpy(times, begins.buf, begin_count * sizeof(double));
        memcpy(end_times, ends.buf, end_count * sizeof(double));
        qsort(times, begin_count, sizeof(double), earlier_first);
        qsort(end_times, end_count, sizeof(double), earlier_first);
        for (size_t begun = 0, ended = 0; begun < begin_count || ended < end_count;) {
            bool ends_first = begun == begin_count || (ended < end_count && end_times[ended] <= times[begun]);
            if (ends_first)
                ended++;
            else
                begun++;
            now += ends_first ? -1 : 1;
            if (now > most)
                most = now;
        }
    }
    PyMem_Free(times);
    PyBuffer_Release(&begins);
    PyBuffer_Release(&ends);
    return times != NULL ? PyLong_FromLongLong(most) : NULL;
}
