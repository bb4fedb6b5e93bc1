/* Steps by task: what steps.c adds up, and known_tasks.c takes further. */

#ifndef TRACELOOP_STEPS_H
#define TRACELOOP_STEPS_H

#include "reader.h"

/* ``begun``: steps before which the task had no step that ended at a time of a clock; ``since``: the last of these. */
typedef struct {
    double ident, first_start, last_end, running, longest, ready, suspended, since;
    long long steps, begun;
    /* Of its first and its last run. What the records of its beginning and of its end say, and how many there are. */
    int64_t first_run, last_run;
    double ended_at, creator;
    uint32_t begins, ends;
    int outcome;
    /* Added up by coroutine: it begins and ends here, or known_tasks.c has added it. */
    bool is_whole, is_known;
} Group;

/* By ident: ``places`` hold the number of a group and one; 0 is empty. */
typedef struct {
    Group *groups;
    uint32_t *places;
    size_t count, size;
} Groups;

PyObject *add_known(reader_state *st, Groups *groups, PyObject *alive, PyObject *looks);

#endif
