/* A batch: what waits in a record, written straight into the ring. The plain case of Ring.write (recording/ring.py),
   which has the rules: there is room, the ring is not our parent's, and no reader has to be woken. Everything else is
   Ring.write's: nothing has been changed then, and it is called with what Record.take gives.

   The ring's state stays where it is, in the slots of the Python object. */

#include "core.h"
#include <unistd.h>

#define SEPARATOR '\x1f'
#define BATCH_MAGIC 0x7E10A7B5u
#define ALIGN 16

/* layout.BATCH; all from ``sequence`` on is what the checksum is of. */
typedef struct {
    uint32_t magic, crc;
    uint64_t sequence;
    uint32_t doubles, text_bytes;
    uint64_t records_before;
    double now;
} BatchHead;

#define HEAD_SIZE ((Py_ssize_t)sizeof(BatchHead))

/* What Ring.write looks at, and what it leaves. */
typedef struct {
    Py_ssize_t pid, capacity, reserved, head, sequence, records, wake_at;
} RingState;

static int
find_ring_slots(core_state *st, PyTypeObject *type)
{
    static const struct {
        const char *name;
        size_t place;
    } slots[] = {
        {"_pid", offsetof(RingSlots, pid)}, {"_capacity", offsetof(RingSlots, capacity)},
        {"_reserved", offsetof(RingSlots, reserved)}, {"_head", offsetof(RingSlots, head)},
        {"_sequence", offsetof(RingSlots, sequence)}, {"records", offsetof(RingSlots, records)},
        {"_wake_at", offsetof(RingSlots, wake_at)}, {"_data", offsetof(RingSlots, data)},
        {"words", offsetof(RingSlots, words)},
    };
    if (st->ring.type == type)
        return 0;
    Py_CLEAR(st->ring.type);
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        Py_ssize_t offset = core_offset_of(type, slots[i].name);
        if (offset < 0)
            return -1;
        *(Py_ssize_t *)((char *)&st->ring + slots[i].place) = offset;
    }
    st->ring.type = (PyTypeObject *)Py_NewRef((PyObject *)type);
    return 0;
}

static Py_ssize_t
number_in(PyObject *ring, Py_ssize_t slot)
{
    PyObject *number = SLOT(ring, slot);
    return number == NULL ? -1 : PyLong_AsSsize_t(number);
}

static int
read_state(RingSlots *slots, PyObject *ring, RingState *state)
{
    *state = (RingState){
        .pid = number_in(ring, slots->pid),
        .capacity = number_in(ring, slots->capacity),
        .reserved = number_in(ring, slots->reserved),
        .head = number_in(ring, slots->head),
        .sequence = number_in(ring, slots->sequence),
        .records = number_in(ring, slots->records),
        .wake_at = number_in(ring, slots->wake_at),
    };
    return PyErr_Occurred() ? -1 : 0;
}

/* 0; -1: an exception, and nothing is changed. */
static int
leave_state(RingSlots *slots, PyObject *ring, const RingState *state)
{
    PyObject *head = PyLong_FromSsize_t(state->head), *sequence = PyLong_FromSsize_t(state->sequence),
             *records = PyLong_FromSsize_t(state->records);
    if (head == NULL || sequence == NULL || records == NULL) {
        Py_XDECREF(head);
        Py_XDECREF(sequence);
        Py_XDECREF(records);
        return -1;
    }
    Py_XSETREF(SLOT(ring, slots->head), head);
    Py_XSETREF(SLOT(ring, slots->sequence), sequence);
    Py_XSETREF(SLOT(ring, slots->records), records);
    return 0;
}

/* The bytes of the items of text as pack_text(spelled_out(text)) has them, which are written to ``place`` if that is
   not NULL. -1: not plain (an item is not ASCII, has a separator in it, or is a number beyond a C long). */
static Py_ssize_t
put_text(PyObject *text, char *place)
{
    Py_ssize_t size = 0;
    long before = -2;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(text); i++) {
        PyObject *item = PyList_GET_ITEM(text, i);
        char spelled[32];
        const char *characters = spelled;
        Py_ssize_t length = 0;
        if (PyUnicode_CheckExact(item)) {
            if (!PyUnicode_IS_COMPACT_ASCII(item))
                return -1;
            before = -2;
            characters = (const char *)PyUnicode_1BYTE_DATA(item);
            length = PyUnicode_GET_LENGTH(item);
            if (place == NULL && memchr(characters, SEPARATOR, (size_t)length) != NULL)
                return -1;
        }
        else {
            int overflow = 0;
            long number = PyLong_CheckExact(item) ? PyLong_AsLongAndOverflow(item, &overflow) : -1;
            if (overflow || number < 0)
                return -1;
            if (before != number - 1)
                length = snprintf(spelled, sizeof(spelled), "Task-%ld", number);
            before = number;
        }
        if (place != NULL) {
            memcpy(place + size, characters, (size_t)length);
            place[size + length] = SEPARATOR;
        }
        size += length + 1;
    }
    return size;
}

/* Where the next batch goes: ``state->head`` is moved to the ring's start if it does not fit in front of its end.
   0: Ring.write has to look (it may grow, split the batch or wake readers); 1. */
static int
find_place(RingState *state, Py_ssize_t doubles, Py_ssize_t text, Py_ssize_t length)
{
    if (state->head < 0 || state->sequence < 0 || state->records < 0 || state->capacity < HEAD_SIZE ||
        state->reserved > state->capacity || state->reserved / 32 < doubles || state->reserved / 4 < text)
        return 0;
    Py_ssize_t offset = state->head % state->capacity;
    if (offset + length > state->reserved) {
        if (state->reserved < state->capacity || length > state->reserved)
            return 0;
        state->head += state->capacity - offset;
    }
    return state->head + length < state->wake_at;
}

static int
write_into(Record *record, PyObject *ring, Py_buffer *data, Py_buffer *words, double now)
{
    core_state *st = record->state;
    RingState state;
    if (read_state(&st->ring, ring, &state) < 0)
        return -1;
    Py_ssize_t text = put_text(record->text, NULL), body = record->length * (Py_ssize_t)sizeof(double);
    Py_ssize_t length = (HEAD_SIZE + body + text + ALIGN - 1) / ALIGN * ALIGN;
    if (text < 0 || record->length % 3 != 0 || record->length > UINT32_MAX || state.pid != getpid() ||
        !find_place(&state, record->length, text, length) || state.reserved > data->len ||
        words->itemsize != (Py_ssize_t)sizeof(double) || words->len <= W_RECORDS * (Py_ssize_t)sizeof(double))
        return 0;
    BatchHead head = {.magic = BATCH_MAGIC, .sequence = (uint64_t)state.sequence, .doubles = (uint32_t)record->length,
                      .text_bytes = (uint32_t)text, .records_before = (uint64_t)state.records, .now = now};
    char *place = (char *)data->buf + state.head % state.capacity;
    state.head += length;
    state.sequence++;
    state.records += record->length / 3;
    if (leave_state(&st->ring, ring, &state) < 0)
        return -1;
    if (body > 0)
        memcpy(place + HEAD_SIZE, record->doubles, (size_t)body);
    put_text(record->text, place + HEAD_SIZE + body);
    head.crc = checksum_of(&st->checksum, 0, &head.sequence, sizeof(head) - offsetof(BatchHead, sequence));
    head.crc = checksum_of(&st->checksum, head.crc, record->doubles, (size_t)body);
    head.crc = checksum_of(&st->checksum, head.crc, place + HEAD_SIZE + body, (size_t)text);
    memcpy(place, &head, sizeof(head));
    ((double *)words->buf)[W_RECORDS] = (double)state.records;
    ((double *)words->buf)[W_HEAD] = (double)state.head;
    return 1;
}

/* write_to(ring, now): whether all that waits was written. */
PyObject *
record_write_to(PyObject *self, PyObject *const *args, Py_ssize_t count)
{
    Record *record = (Record *)self;
    core_state *st = record->state;
    if (count != 2) {
        PyErr_SetString(PyExc_TypeError, "write_to() takes a ring and a time");
        return NULL;
    }
    double now = PyFloat_AsDouble(args[1]);
    if ((now == -1.0 && PyErr_Occurred()) || find_ring_slots(st, Py_TYPE(args[0])) < 0)
        return NULL;
    PyObject *data_view = SLOT(args[0], st->ring.data), *words_view = SLOT(args[0], st->ring.words);
    if (data_view == NULL || words_view == NULL)
        Py_RETURN_FALSE;
    Py_buffer data, words;
    if (PyObject_GetBuffer(data_view, &data, PyBUF_WRITABLE) < 0)
        return NULL;
    if (PyObject_GetBuffer(words_view, &words, PyBUF_WRITABLE | PyBUF_FORMAT | PyBUF_ND) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    int written = write_into(record, args[0], &data, &words, now);
    PyBuffer_Release(&words);
    PyBuffer_Release(&data);
    if (written == 1 && record_emptied(record) < 0)
        return NULL;
    return written < 0 ? NULL : PyBool_FromLong(written);
}
