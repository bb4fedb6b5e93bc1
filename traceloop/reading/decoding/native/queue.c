/* What the model has in its ready queue: entries, timers that the poll has moved, places of writers' handles. */

#include "reader.h"

#include <stdlib.h>

int
queue_put(Queue *queue, Entry entry)
{
    if (queue->length == queue->size) {
        size_t size = queue->size ? queue->size * 2 : 64;
        if (size > SIZE_MAX / sizeof(Entry) / 2) {
            PyErr_NoMemory();
            return -1;
        }
        Entry *entries = PyMem_Malloc(size * sizeof(Entry));
        if (entries == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        for (size_t index = 0; index < queue->length; index++)
            entries[index] = queue->entries[(queue->head + index) & (queue->size - 1)];
        PyMem_Free(queue->entries);
        queue->entries = entries;
        queue->head = 0;
        queue->size = size;
    }
    queue->entries[(queue->head + queue->length++) & (queue->size - 1)] = entry;
    return 0;
}

bool
queue_take(Queue *queue, Entry *entry)
{
    if (!queue->length)
        return false;
    *entry = queue->entries[queue->head];
    queue->head = (queue->head + 1) & (queue->size - 1);
    queue->length--;
    return true;
}

void
queue_clear(Queue *queue)
{
    queue->head = queue->length = 0;
    if (queue->size > 65536) {
        PyMem_Free(queue->entries);
        queue->entries = NULL;
        queue->size = 0;
    }
}

int
timers_add(Timers *timers, double due, int64_t setter)
{
    if (timers->length >= MAX_TIMERS)
        return 0; /* then there are fewer than R_DUE says: they are known to be timers, and no more */
    if (reserve((void **)&timers->items, &timers->size, timers->length + 1, sizeof(DueTimer)) < 0)
        return -1;
    timers->items[timers->length++] = (DueTimer){due, setter};
    return 0;
}

int
writers_add(Writers *writers, double place)
{
    if (writers->length >= MAX_WRITERS)
        return 0;
    if (reserve((void **)&writers->items, &writers->size, writers->length + 1, sizeof(double)) < 0)
        return -1;
    writers->items[writers->length++] = place;
    return 0;
}

static int
compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

void
writers_sort(Writers *writers)
{
    if (writers->length > 1)
        qsort(writers->items, writers->length, sizeof(double), compare);
}
