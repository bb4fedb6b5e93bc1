/* Requests that were answered, of one chunk. They are added up by name; the slowest ones, and all where somebody
   watches them, are told one by one: (name, begin, seconds, [(part, detail, seconds), ...], task, [(begin, end, part,
   detail), ...]), the last of them where somebody watches. */

#include "ledger.h"

static PyObject *
text_of(const Requests *self, uint32_t number)
{
    return PyList_GET_ITEM(self->names.texts, number);
}

/* ((part, detail, seconds), ...) */
static PyObject *
listed(const Requests *self, const Sums *sums)
{
    PyObject *out = PyList_New((Py_ssize_t)sums->length);
    for (size_t index = 0; out != NULL && index < sums->length; index++) {
        const Sum *each = &sums->items[index];
        PyObject *item = Py_BuildValue("(iOd)", (int)each->part, text_of(self, each->detail), each->seconds);
        if (item == NULL)
            Py_CLEAR(out);
        else
            PyList_SET_ITEM(out, (Py_ssize_t)index, item);
    }
    return out;
}

/* The run of another that lasted longest within a stretch: what the stretch is called by. */
static int
detail_of(Requests *self, double begin, const Stretch *stretch, uint32_t *detail)
{
    *detail = stretch->detail;
    double most = 0.0;
    const TurnRun *longest = NULL;
    for (size_t index = 0; stretch->turn != NULL && index < stretch->turn->count; index++) {
        const TurnRun *run = &stretch->turn->runs[index];
        double seconds = turn_seconds(run, begin, stretch->end);
        if (seconds > most) {
            most = seconds;
            longest = run;
        }
    }
    uint32_t who;
    if (longest == NULL)
        return 0;
    return name_of_run(self, longest->number, longest->ident, &who) < 0 ? -1 : behind_text(&self->names, who, detail);
}

/* [(begin, end, part, detail), ...]: of each stretch, as far as that is known. */
static PyObject *
moments_of(Requests *self, const Stretches *own)
{
    PyObject *out = PyList_New(0);
    double begin = own != NULL ? own->begin : 0.0;
    for (size_t index = 0; out != NULL && own != NULL && index < own->list.length; index++) {
        const Stretch *each = &own->list.items[index];
        if (each->end > own->summed_until) {
            uint32_t detail;
            PyObject *item = detail_of(self, begin, each, &detail) < 0
                                 ? NULL
                                 : Py_BuildValue("(ddiO)", begin, each->end, (int)each->part, text_of(self, detail));
            if (item == NULL || PyList_Append(out, item) < 0)
                Py_CLEAR(out);
            Py_XDECREF(item);
        }
        begin = each->end;
    }
    return out;
}

static int
tell(Requests *self, double task, uint32_t name, double begin, double seconds, const Sums *parts,
     const Stretches *own)
{
    PyObject *all = listed(self, parts), *moments = moments_of(self, self->tell_all ? own : NULL);
    if (all == NULL || moments == NULL) {
        Py_XDECREF(all);
        Py_XDECREF(moments);
        return -1;
    }
    PyObject *request =
        Py_BuildValue("(OddNdN)", text_of(self, name), begin, seconds, all, task, moments);
    int result = request != NULL ? PyList_Append(self->singles, request) : -1;
    Py_XDECREF(request);
    return result;
}

static NameSums *
sums_of(Requests *self, uint32_t name)
{
    for (size_t index = 0; index < self->name_count; index++)
        if (self->by_name[index].name == name)
            return &self->by_name[index];
    if (self->name_count == MAX_NAMES)
        return NULL;
    NameSums *sums = &self->by_name[self->name_count++];
    *sums = (NameSums){0};
    sums->name = name;
    sums->smallest = INFINITY;
    return sums;
}

static Bucket *
bucket_for(const Requests *self, NameSums *sums, double seconds)
{
    size_t of = histogram_bucket(self->bounds, seconds);
    for (size_t index = 0; index < sums->bucket_count; index++)
        if (sums->buckets[index].index == of)
            return &sums->buckets[index];
    if (reserve((void **)&sums->buckets, &sums->bucket_size, sums->bucket_count + 1, sizeof(Bucket)) < 0)
        return NULL;
    Bucket *bucket = &sums->buckets[sums->bucket_count++];
    *bucket = (Bucket){0};
    bucket->index = of;
    return bucket;
}

/* A request was answered, by this task. */
int
answer(Requests *self, double task, uint32_t name, double begin, double seconds, const Sums *parts,
       const Stretches *own)
{
    bool is_usual = !self->tell_all && 0.0 <= seconds && seconds <= self->least_slow && seconds < LATEST;
    NameSums *sums = is_usual ? sums_of(self, name) : NULL;
    if (sums == NULL)
        return tell(self, task, name, begin, seconds, parts, own);
    Bucket *bucket = bucket_for(self, sums, seconds);
    if (bucket == NULL)
        return -1;
    bucket->count++;
    sums->sum += seconds;
    if (seconds < sums->smallest)
        sums->smallest = seconds;
    if (seconds > sums->largest)
        sums->largest = seconds;
    for (size_t index = 0; index < parts->length; index++) {
        const Sum *each = &parts->items[index];
        bucket->parts[each->part] += each->seconds;
        if (each->detail != NO_TEXT && sums_add(&sums->details, each->part, each->detail, each->seconds) < 0)
            return -1;
    }
    return 0;
}

/* (name, (sum, smallest, largest), [(bucket, count, seconds of each part), ...], [(part, detail, seconds), ...]) */
static PyObject *
told_of_name(const Requests *self, const NameSums *sums)
{
    PyObject *buckets = PyList_New((Py_ssize_t)sums->bucket_count);
    bool failed = buckets == NULL;
    for (size_t index = 0; !failed && index < sums->bucket_count; index++) {
        const Bucket *bucket = &sums->buckets[index];
        PyObject *parts = PyTuple_New(PARTS);
        for (int part = 0; parts != NULL && part < PARTS; part++) {
            PyObject *value = PyFloat_FromDouble(bucket->parts[part]);
            if (value == NULL)
                Py_CLEAR(parts);
            else
                PyTuple_SET_ITEM(parts, part, value);
        }
        PyObject *item =
            parts != NULL ? Py_BuildValue("(nLN)", (Py_ssize_t)bucket->index, bucket->count, parts) : NULL;
        failed = item == NULL;
        if (!failed)
            PyList_SET_ITEM(buckets, (Py_ssize_t)index, item);
    }
    PyObject *details = failed ? NULL : listed(self, &sums->details);
    PyObject *result = details != NULL ? Py_BuildValue("(O(ddd)OO)", text_of(self, sums->name), sums->sum,
                                                       sums->smallest, sums->largest, buckets, details)
                                       : NULL;
    Py_XDECREF(details);
    Py_XDECREF(buckets);
    return result;
}

/* A list of what was added up by name. */
PyObject *
take_sums(Requests *self)
{
    PyObject *out = PyList_New(0);
    for (size_t index = 0; out != NULL && index < self->name_count; index++) {
        PyObject *told = told_of_name(self, &self->by_name[index]);
        if (told == NULL || PyList_Append(out, told) < 0)
            Py_CLEAR(out);
        Py_XDECREF(told);
    }
    return out;
}

void
forget_sums(Requests *self)
{
    for (size_t index = 0; index < self->name_count; index++) {
        NameSums *sums = &self->by_name[index];
        PyMem_Free(sums->buckets);
        PyMem_Free(sums->details.items);
    }
    self->name_count = 0;
}
