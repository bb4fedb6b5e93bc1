/* Lists of stretches, and their memory. A stretch holds a reference to its turn. */

#include "ledger.h"

void
turn_release(Turn *turn)
{
    if (turn != NULL && --turn->references == 0)
        PyMem_Free(turn);
}

/* Takes a reference of its own to the turn. */
int
list_add(List *list, double end, int part, uint32_t detail, Turn *turn)
{
    if (reserve((void **)&list->items, &list->size, list->length + 1, sizeof(Stretch)) < 0)
        return -1;
    if (turn != NULL)
        turn->references++;
    list->items[list->length++] = (Stretch){end, turn, detail, (uint8_t)part};
    return 0;
}

int
list_extend(List *list, const List *more)
{
    for (size_t index = 0; index < more->length; index++) {
        const Stretch *each = &more->items[index];
        if (list_add(list, each->end, each->part, each->detail, each->turn) < 0)
            return -1;
    }
    return 0;
}

/* Its memory is kept. */
void
list_clear(List *list)
{
    for (size_t index = 0; index < list->length; index++)
        turn_release(list->items[index].turn);
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
