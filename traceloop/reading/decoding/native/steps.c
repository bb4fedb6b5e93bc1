/* Steps by task: what statistics/tasks.py adds up step by step, added up for each task of a chunk. */

#include "reader.h"

/* ``begun``: steps before which the task had no step that ended at a time of a clock; ``since``: the last of these. */
typedef struct {
    double ident, first_start, last_end, running, longest, ready, suspended, since;
    long long steps, begun;
} Group;

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

static inline size_t
hash(double ident)
{
    uint64_t bits;
    memcpy(&bits, &ident, 8);
    bits *= 0x9E3779B97F4A7C15u;
    return (size_t)(bits >> 32);
}

static PyObject *
listed(const Group *groups, Py_ssize_t count)
{
    PyObject *list = PyList_New(count);
    for (Py_ssize_t index = 0; list != NULL && index < count; index++) {
        const Group *group = &groups[index];
        PyObject *item = Py_BuildValue("(dLddddddLd)", group->ident, group->steps, group->running, group->longest,
                                       group->ready, group->suspended, group->first_start, group->last_end,
                                       group->begun, group->since);
        if (item == NULL)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, index, item);
    }
    return list;
}

PyObject *
group_steps(PyObject *module, PyObject *argument)
{
    reader_state *st = PyModule_GetState(module);
    if (!Py_IS_TYPE(argument, st->runs)) {
        PyErr_SetString(PyExc_TypeError, "group_steps(runs)");
        return NULL;
    }
    Runs *runs = (Runs *)argument;
    size_t size = 64, length = (size_t)runs->length;
    while (size < 2 * length)
        size *= 2;
    /* Places hold the number of a group and one; 0 is empty. */
    uint32_t *places = PyMem_Calloc(size, sizeof(uint32_t));
    Group *groups = PyMem_Malloc((length ? length : 1) * sizeof(Group));
    PyObject *list = NULL;
    if (places == NULL || groups == NULL || length > UINT32_MAX / 2)
        PyErr_NoMemory();
    else {
        uint32_t count = 0;
        for (size_t index = 0; index < length; index++) {
            const Row *row = &runs->rows[index];
            if (!(row->ident >= SITE_LIMIT))
                continue;
            size_t place = hash(row->ident) & (size - 1);
            while (places[place] && groups[places[place] - 1].ident != row->ident)
                place = (place + 1) & (size - 1);
            if (!places[place]) {
                groups[count] = (Group){.ident = row->ident};
                places[place] = ++count;
            }
            add_step(&groups[places[place] - 1], row);
        }
        list = listed(groups, (Py_ssize_t)count);
    }
    PyMem_Free(places);
    PyMem_Free(groups);
    return list;
}
