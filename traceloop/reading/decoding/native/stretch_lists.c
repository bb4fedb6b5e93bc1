/* Lists of stretches, and their memory. A stretch holds a reference to its turn. */

#include "ledger.h"

void
turn_release(Turn *turn)
{
    if (turn != NULL && --turn->references == 0)
        PyMem_Free(turn);
}

/* Most tasks of a request have a few stretches, and thousands of those that have ended are kept. */
#define FIRST_STRETCHES 8

int
list_grow(List *list, size_t more)
{
    size_t size = list->size ? list->size : FIRST_STRETCHES;
    if (reserve_more((void **)&list->items, &size, list->length + more, sizeof(Stretch)) < 0)
        return -1;
    list->size = size;
    return 0;
}

int
list_extend(List *list, const List *more)
{
    if (list->length + more->length > list->size && list_grow(list, more->length) < 0)
        return -1;
    for (size_t index = 0; more->has_turns && index < more->length; index++)
        if (more->items[index].turn != NULL)
            more->items[index].turn->references++;
    if (more->length)
        memcpy(list->items + list->length, more->items, more->length * sizeof(Stretch));
    list->length += more->length;
    list->has_turns = list->has_turns || more->has_turns;
    return 0;
}

/* Its memory is kept. */
void
list_clear(List *list)
{
    for (size_t index = 0; list->has_turns && index < list->length; index++)
        turn_release(list->items[index].turn);
    list->has_turns = false;
    list->length = 0;
}

/* Frees their memory too. */
void
stretches_clear(Stretches *own)
{
    list_clear(&own->list);
    PyMem_Free(own->list.items);
    *own = (Stretches){0};
}
