/* The table of tasks that are alive: rows in the order in which the tasks began, found by ident. */

#include "alive.h"

/* Rows are moved together when more than half of this many are not in use. */
#define LEAST_ROWS 256

/* The totals of a coroutine; those of OTHER_SITE where there are too many. */
Totals *
totals_of(AliveTasks *self, uint32_t site)
{
    if (site < self->site_count && self->by_site[site] != NULL)
        return self->by_site[site];
    size_t size = self->site_count;
    if (reserve((void **)&self->by_site, &size, site + 1, sizeof(Totals *)) < 0)
        return NULL;
    while (self->site_count < size)
        self->by_site[self->site_count++] = NULL;
    if (site != OTHER_SITE && PyDict_GET_SIZE(self->coroutines) >= MAX_COROUTINES) {
        Totals *other = totals_of(self, OTHER_SITE);
        if (other != NULL)
            self->by_site[site] = (Totals *)Py_NewRef(other);
        return other;
    }
    PyTypeObject *type = state_of(Py_TYPE(self))->totals;
    PyObject *key = PyLong_FromUnsignedLong(site), *totals = key != NULL ? type->tp_alloc(type, 0) : NULL; /* zeroed */
    if (totals != NULL && PyDict_SetItem(self->coroutines, key, totals) < 0)
        Py_CLEAR(totals);
    Py_XDECREF(key);
    self->by_site[site] = (Totals *)totals;
    return (Totals *)totals;
}

/* -- rows by ident */

static inline uint32_t *
bucket_of(const AliveTasks *self, double ident)
{
    return &self->buckets[mixed_ident(ident, self->salt) & (self->bucket_count - 1)];
}

AliveRow *
find_task(const AliveTasks *self, double ident)
{
    if (!self->bucket_count)
        return NULL;
    for (uint32_t number = *bucket_of(self, ident); number; number = self->rows[number - 1].next)
        if (self->rows[number - 1].ident == ident)
            return &self->rows[number - 1];
    return NULL;
}

static void
link_row(AliveTasks *self, AliveRow *row)
{
    uint32_t *bucket = bucket_of(self, row->ident);
    row->next = *bucket;
    *bucket = (uint32_t)(row - self->rows) + 1;
}

void
remove_task(AliveTasks *self, AliveRow *row)
{
    uint32_t *link = bucket_of(self, row->ident), number = (uint32_t)(row - self->rows) + 1;
    while (*link != number)
        link = &self->rows[*link - 1].next;
    *link = row->next;
    self->alive -= row->state == ALIVE;
    self->gone++;
    row->state = GONE;
    Py_CLEAR(row->name); /* a text: no code runs */
}

/* Links all rows anew, to as many buckets as there is room for rows; to fewer where there is no memory for them. */
static int
link_rows(AliveTasks *self)
{
    if (self->bucket_count != self->size) {
        uint32_t *buckets = PyMem_Malloc(self->size * sizeof(uint32_t));
        if (buckets != NULL) {
            PyMem_Free(self->buckets);
            self->buckets = buckets;
            self->bucket_count = self->size;
        }
        else if (!self->bucket_count) {
            PyErr_NoMemory();
            return -1;
        }
    }
    memset(self->buckets, 0, self->bucket_count * sizeof(uint32_t));
    for (size_t at = 0; at < self->length; at++)
        if (self->rows[at].state != GONE)
            link_row(self, &self->rows[at]);
    return 0;
}

/* Moves the rows together where most of them are not in use, and gives back room that is not needed. */
void
tidy_rows(AliveTasks *self)
{
    if (self->length < LEAST_ROWS || 2 * self->gone < self->length)
        return;
    size_t kept = 0;
    self->ended_count = 0;
    for (size_t at = 0; at < self->length; at++) {
        if (self->rows[at].state == GONE)
            continue;
        if (self->rows[at].state == ENDED)
            self->ended[self->ended_count++] = (uint32_t)kept; /* no more than there were */
        self->rows[kept++] = self->rows[at];
    }
    self->length = kept;
    self->gone = 0;
    size_t size = self->size;
    while (size > LEAST_ROWS && size / 4 > kept)
        size /= 2;
    if (size < self->size) {
        AliveRow *moved = PyMem_Realloc(self->rows, size * sizeof(AliveRow));
        if (moved != NULL) {
            self->rows = moved;
            self->size = size;
        }
    }
    link_rows(self); /* there are buckets: it does not fail */
}

static AliveRow *
add_row(AliveTasks *self, double ident)
{
    /* The number of buckets is that of rows that there is room for: a power of two. */
    if ((self->length == self->size || !self->bucket_count) &&
        (reserve((void **)&self->rows, &self->size, self->length + 1, sizeof(AliveRow)) < 0 || link_rows(self) < 0))
        return NULL;
    AliveRow *row = &self->rows[self->length++];
    *row = (AliveRow){.ident = ident, .state = ALIVE};
    link_row(self, row);
    self->alive++;
    return row;
}

/* -- tasks */

/* The oldest are forgotten, many at once, where there are too many. */
static void
make_room(AliveTasks *self)
{
    size_t left = self->alive >= self->most ? self->most / 16 : 0;
    for (size_t at = 0; left && at < self->length; at++) {
        AliveRow *row = &self->rows[at];
        if (row->state != ALIVE)
            continue;
        row->totals->alive--;
        row->totals->forgotten += row->last_end >= 0.0;
        self->forgotten++;
        remove_task(self, row);
        left--;
    }
}

AliveRow *
begin_alive(AliveTasks *self, double ident, double since)
{
    make_room(self);
    Totals *totals = totals_of(self, site_of(ident));
    if (totals == NULL)
        return NULL;
    AliveRow *row = find_task(self, ident);
    if (row != NULL && row->state == ENDED) {
        remove_task(self, row);
        row = NULL;
    }
    if (row == NULL) {
        row = add_row(self, ident);
        if (row == NULL)
            return NULL;
        totals->alive++;
    }
    row->since = since;
    row->last_end = -1.0;
    row->totals = totals;
    row->automatic = -1;
    row->creator = 0;
    Py_CLEAR(row->name);
    return row;
}

int
end_alive(AliveTasks *self, AliveRow *row)
{
    if (reserve((void **)&self->ended, &self->ended_size, self->ended_count + 1, sizeof(uint32_t)) < 0)
        return -1;
    self->ended[self->ended_count++] = (uint32_t)(row - self->rows);
    row->state = ENDED;
    row->totals->alive--;
    self->alive--;
    return 0;
}

void
forget_ended(AliveTasks *self)
{
    for (size_t index = 0; index < self->ended_count; index++) {
        AliveRow *row = &self->rows[self->ended[index]];
        if (row->state == ENDED)
            remove_task(self, row);
    }
    self->ended_count = 0;
}

void
forget_tasks(AliveTasks *self)
{
    for (size_t at = 0; at < self->length; at++)
        Py_CLEAR(self->rows[at].name);
    self->length = self->alive = self->gone = self->ended_count = 0;
    PyMem_Free(self->rows);
    PyMem_Free(self->buckets);
    self->rows = NULL;
    self->buckets = NULL;
    self->size = self->bucket_count = 0;
}
