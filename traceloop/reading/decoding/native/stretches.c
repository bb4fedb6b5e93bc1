/* The time of one task, cut into stretches that follow each other without a gap: the twin of requests/stretches.py. */

#include "ledger.h"

static void
drop_first(Stretches *own, size_t count)
{
    List *list = &own->list;
    own->begin = list->items[count - 1].end;
    for (size_t index = 0; index < count; index++)
        turn_release(list->items[index].turn);
    list->length -= count;
    memmove(list->items, list->items + count, list->length * sizeof(Stretch));
}

int
sums_add(Sums *sums, int part, uint32_t detail, double seconds)
{
    for (size_t index = 0; index < sums->length; index++) {
        Sum *each = &sums->items[index];
        if (each->part == part && each->detail == detail) {
            each->seconds += seconds;
            return 0;
        }
    }
    if (sums->length >= MAX_SUMS && detail != OTHER_TEXT)
        return sums_add(sums, part, OTHER_TEXT, seconds);
    if (reserve((void **)&sums->items, &sums->size, sums->length + 1, sizeof(Sum)) < 0)
        return -1;
    sums->items[sums->length++] = (Sum){seconds, detail, (uint8_t)part};
    return 0;
}

/* How long a run of another lasted within a stretch. */
double
turn_seconds(const TurnRun *run, double begin, double end)
{
    return fmin(run->end, end) - fmax(run->start, begin);
}

/* Adds what the long runs of others had of a stretch; what is left goes to ``left``. */
static int
add_turn(Requests *self, Sums *out, double begin, const Stretch *stretch, double *left)
{
    *left = stretch->end - begin;
    for (size_t index = 0; index < stretch->turn->count; index++) {
        const TurnRun *run = &stretch->turn->runs[index];
        double seconds = turn_seconds(run, begin, stretch->end);
        if (!(seconds > 0.0))
            continue;
        uint32_t who, detail;
        if (name_of_run(self, run->number, run->ident, &who) < 0 || behind_text(&self->names, who, &detail) < 0 ||
            sums_add(out, stretch->part, detail, seconds) < 0)
            return -1;
        *left -= seconds;
    }
    *left = fmax(0.0, *left);
    return 0;
}

static int
add_sums(Requests *self, const Stretches *own, size_t count, Sums *out)
{
    double begin = own->begin;
    for (size_t index = 0; index < count; index++) {
        const Stretch *each = &own->list.items[index];
        double seconds = each->end - begin;
        if (each->turn != NULL && add_turn(self, out, begin, each, &seconds) < 0)
            return -1;
        if (seconds != 0.0 && sums_add(out, each->part, each->detail, seconds) < 0)
            return -1;
        begin = each->end;
    }
    return 0;
}

/* Seconds by part, of all stretches; what was in ``out`` goes. */
int
stretches_sum(Requests *self, const Stretches *own, Sums *out)
{
    out->length = 0;
    return add_sums(self, own, own->list.length, out);
}

double
stretches_end(const Stretches *own)
{
    return own->list.length ? own->list.items[own->list.length - 1].end : own->begin;
}

static bool
are_alike(const Stretch *one, const Stretch *other)
{
    if (one->part != other->part || one->detail != other->detail)
        return false;
    if (one->turn == other->turn)
        return true;
    return one->turn != NULL && other->turn != NULL && one->turn->count == other->turn->count &&
           !memcmp(one->turn->runs, other->turn->runs, one->turn->count * sizeof(TurnRun));
}

/* The oldest ``count`` become one for each part, one after the other: how long is kept, when is not. */
static int
put_together(Requests *self, Stretches *own, size_t count)
{
    List *list = &own->list;
    Sums sums = {0}, of_kinds = {0}, *kept = &sums;
    int result = -1;
    if (own->begin == -INFINITY) { /* the length of the first one is not known */
        drop_first(own, 1);
        count--;
    }
    if (add_sums(self, own, count, &sums) < 0)
        goto done;
    if (sums.length > MOST_PARTS) {
        for (size_t index = 0; index < sums.length; index++)
            if (sums_add(&of_kinds, sums.items[index].part, NO_TEXT, sums.items[index].seconds) < 0)
                goto done;
        kept = &of_kinds;
    }
    double end = own->begin, last = list->items[count - 1].end;
    for (size_t index = 0; index < count; index++)
        turn_release(list->items[index].turn);
    for (size_t index = 0; index < kept->length; index++) {
        const Sum *each = &kept->items[index];
        end = index + 1 < kept->length ? fmin(end + each->seconds, last) : last;
        list->items[index] = (Stretch){end, NULL, each->detail, each->part};
    }
    memmove(list->items + kept->length, list->items + count, (list->length - count) * sizeof(Stretch));
    list->length -= count - kept->length;
    own->summed_until = last;
    result = 0;
done:
    PyMem_Free(sums.items);
    PyMem_Free(of_kinds.items);
    return result;
}

/* The next stretch. One that ends no later than what is there has no length, and is left out. */
int
stretches_add(Requests *self, Stretches *own, const Stretch *next)
{
    List *list = &own->list;
    if (next->end <= stretches_end(own))
        return 0;
    if (list->length && are_alike(&list->items[list->length - 1], next)) {
        list->items[list->length - 1].end = next->end;
        return 0;
    }
    if (list_add(list, next->end, next->part, next->detail, next->turn) < 0)
        return -1;
    return list->length > MOST_STRETCHES ? put_together(self, own, MOST_STRETCHES / 2) : 0;
}

/* How many of the stretches end at ``when`` or before. */
static size_t
ended_by(const Stretches *own, double when)
{
    size_t low = 0, high = own->list.length;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (when < own->list.items[middle].end)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

void
stretches_forget_before(Stretches *own, double when)
{
    size_t count = ended_by(own, when);
    if (count)
        drop_first(own, count);
}

/* The stretches from ``begin`` to ``end``, added to ``out``; what is not known of it is a stretch of its own. */
int
stretches_cut(const Stretches *own, double begin, double end, List *out)
{
    bool added = false;
    double last = 0.0;
    if (begin < own->begin) {
        last = fmin(own->begin, end);
        added = true;
        if (list_add(out, last, IN_UNKNOWN, NO_TEXT, NULL) < 0)
            return -1;
    }
    for (size_t index = ended_by(own, begin); index < own->list.length; index++) {
        const Stretch *each = &own->list.items[index];
        last = fmin(each->end, end);
        added = true;
        if (list_add(out, last, each->part, each->detail, each->turn) < 0)
            return -1;
        if (each->end >= end)
            return 0;
    }
    return !added || last < end ? list_add(out, end, IN_UNKNOWN, NO_TEXT, NULL) : 0;
}
