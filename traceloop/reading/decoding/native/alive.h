/* The tasks of a loop that are alive, and the totals of their coroutines: what its files share. It is the twin of
   statistics/alive_tasks.py, which explains it. The files, in the order in which to read them:

   coroutine_totals.c  the totals of one coroutine, as a Python type
   alive_tasks.c       the table of tasks that are alive
   task_steps.c        one chunk: tasks begin, step and end
   alive_type.c        AliveTasks as a Python type

   No task is a Python object here. Totals are, since Python reads them when it likes. A pointer to a row is borrowed,
   and good until a row is added or the rows are moved. Neither happens while ``feed`` calls Python code; elsewhere a
   row is looked for anew after it. */

#ifndef TRACELOOP_ALIVE_H
#define TRACELOOP_ALIVE_H

#include "reader.h"

/* As in statistics/alive_tasks.py; tests/reading/decoding/test_native.py compares them. */
#define MAX_COROUTINES 4096
#define MAX_CREATORS 64
#define OTHER_SITE 0
#define MAX_HOPS_BACK 16

typedef struct {
    uint32_t site;
    long long tasks;
} Creator;

/* CoroutineTotals. ``moments``: while peaks are sought, the number and one of its Moments; else 0. */
typedef struct {
    PyObject_HEAD
    long long count, alive, most_alive, forgotten, steps, results, exceptions, cancelled, abandoned, left;
    double running, ready, suspended, longest_step;
    Creator *creators;
    size_t creator_count, creator_size, moments;
} Totals;

/* GONE: the row is not in use. ENDED: it ended in the latest chunk; its last step may end in the next one. */
enum { GONE, ALIVE, ENDED };

/* A task since its first step. ``last_end``: of its steps; below 0 before the first one's end. Its name is owned, and
   as in TaskRow. ``totals`` are borrowed from the table. ``next``: see AliveTasks. ``looked_at``: Waits may know it; in
   a chunk in which these were marked, no look at it is before ``first_look``. */
typedef struct {
    double ident, since, last_end, first_look;
    Totals *totals;
    PyObject *name;
    int64_t automatic;
    uint32_t creator, next;
    uint8_t state;
    bool looked_at;
} AliveRow;

/* ``rows``: in the order in which the tasks began. ``buckets``: by ident, the number and one of the latest row there,
   whose ``next`` is the same of another; 0 where there is none. ``ended``: rows that were ENDED in the latest chunk.
   ``forgotten``: tasks that there was no room for. */
typedef struct {
    PyObject_HEAD
    PyObject *coroutines; /* a dictionary of Totals by site */
    Totals **by_site;     /* owned: the same, and those of coroutines beyond MAX_COROUTINES */
    size_t site_count;
    AliveRow *rows;
    size_t length, size, alive, gone, most;
    uint32_t *buckets;
    size_t bucket_count;
    uint64_t salt;
    uint32_t *ended;
    size_t ended_count, ended_size;
    Py_ssize_t forgotten;
    bool feeding;
} AliveTasks;

/* coroutine_totals.c */
int count_creator(Totals *totals, uint32_t site);

/* alive_tasks.c */
Totals *totals_of(AliveTasks *self, uint32_t site);                  /* borrowed; NULL with an error set */
AliveRow *find_task(const AliveTasks *self, double ident);           /* alive or ended; NULL: neither */
AliveRow *begin_alive(AliveTasks *self, double ident, double since); /* without a name; NULL with an error set */
int end_alive(AliveTasks *self, AliveRow *row);
void forget_ended(AliveTasks *self);
void remove_task(AliveTasks *self, AliveRow *row);
void tidy_rows(AliveTasks *self);
void forget_tasks(AliveTasks *self);

/* task_steps.c */
PyObject *alive_feed(AliveTasks *self, PyObject *args);

extern PyType_Spec totals_spec, alive_spec;

#endif
