/* Which run a place in the record belongs to: a timer remembers where the record stood when it was set. The latest
   batches of one ring, by the number of their first record. The limits and the answers are those of
   timer_setters.py. */

#include "reader.h"

#define MOST_RECORDS 65536
#define MOST_BATCHES 2048

static void
drop(Places *places, size_t count)
{
    for (size_t index = 0; index < count; index++)
        PyMem_Free(places->items[index].before);
    places->length -= count;
    if (count)
        memmove(places->items, places->items + count, places->length * sizeof(Place));
}

/* The index of the last batch that begins at ``record`` or before it; -1: none does. */
static Py_ssize_t
find(const Places *places, uint64_t record)
{
    size_t low = 0, high = places->length;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (record < places->items[middle].first)
            high = middle;
        else
            low = middle + 1;
    }
    return (Py_ssize_t)low - 1;
}

int
places_add(Places *places, uint64_t first, int64_t runs, const double *records, size_t count)
{
    if (first < places->end) /* a damaged count: what is known would no longer be in order */
        drop(places, places->length);
    if (reserve((void **)&places->items, &places->size, places->length + 1, sizeof(Place)) < 0)
        return -1;
    uint32_t *before = PyMem_Malloc((count + 1) * sizeof(uint32_t));
    if (before == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    uint32_t seen = 0;
    for (size_t index = 0; index < count; index++) {
        before[index] = seen;
        seen += records[3 * index + 1] > 0.0;
    }
    before[count] = seen;
    places->items[places->length++] = (Place){first, runs, count, before};
    places->end = first + count;
    if (places->length > MOST_BATCHES ||
        places->end - places->items[0].first > MOST_RECORDS + MOST_RECORDS / 4) {
        Py_ssize_t old = places->end >= MOST_RECORDS ? find(places, places->end - MOST_RECORDS) : -1;
        Py_ssize_t many = (Py_ssize_t)places->length - MOST_BATCHES * 3 / 4;
        if (old < many)
            old = many;
        if (old < 0)
            old = 0;
        if (old > (Py_ssize_t)places->length - 1)
            old = (Py_ssize_t)places->length - 1;
        drop(places, (size_t)old);
    }
    return 0;
}

int64_t
places_run_at(const Places *places, double doubles)
{
    if (!(doubles > 0.0 && doubles < EXACT))
        return 0;
    uint64_t record = (uint64_t)doubles / 3;
    Py_ssize_t index = find(places, record);
    if (index < 0)
        return 0;
    const Place *place = &places->items[index];
    uint64_t offset = record - place->first;
    if (offset >= place->records)
        return 0; /* lost, or not read yet */
    if (place->before[offset] == place->before[place->records]) {
        /* The run's record is in the next batch, if that was not lost. */
        if ((size_t)index + 1 >= places->length || places->items[index + 1].first != place->first + place->records)
            return 0;
    }
    return place->runs + place->before[offset] + 1;
}

void
places_free(Places *places)
{
    drop(places, places->length);
    PyMem_Free(places->items);
}
