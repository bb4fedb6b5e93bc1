/* The ledger of requests: what its files share. It is the twin of requests/ledger.py, which explains it. The
   files, in the order in which to read them:

   stretch_lists.c  lists of stretches, and their memory
   stretches.c      the time of a task, cut into stretches; sums of them by part and detail
   request_names.c  texts by number: names of requests, details of parts
   recent_runs.c    the latest runs
   request_tasks.c  tasks that are followed, or have ended; what runs are called
   requests.c       one step of a task: since when it waited, for what
   request_sums.c   requests that were answered: added up by name, or told one by one
   requests_type.c  Requests as a Python type

   Texts are Python objects, held by Names. Everything else here is plain memory, which Requests owns; it refers to a
   text by its number. Followed and Turn count the references to them. A function that returns an int returns -1 with an
   exception set. One that returns a pointer returns a borrowed one, or NULL where there is none. */

#ifndef TRACELOOP_LEDGER_H
#define TRACELOOP_LEDGER_H

#include "reader.h"

/* As in requests/ledger.py, totals.py and servers.py; tests/reading/requests/test_native_ledger.py compares them. */
#define MAX_FOLLOWED 20000
#define MAX_ENDED 4096
#define MAX_MARKS 16384
#define MAX_FURTHER 1000
#define MAX_HOPS 16
#define SHARED_SECONDS 0.001
#define NAMED_SHARE 0.1
#define MAX_BEHIND 256
#define MAX_NAMED 16
#define MOST_STRETCHES 1024
#define MOST_PARTS 256
#define KEPT_RUNS 16384
#define REQUEST 1
#define CONNECTION 2

/* Of this half alone: texts, sums of one request, names whose requests are added up in one chunk. */
#define MAX_TEXTS (1 << 17)
#define MAX_SUMS 4096
#define MAX_NAMES 64
#define NOT_LOOKED_UP 255
#define BUCKETS 8192
#define NEAR_MARKS 4

/* As in stretches.py: PARTS. */
enum {
    IN_RUNNING, IN_READY, IN_QUEUED, IN_OFFLOADED, IN_RETURNING, IN_TIMER, IN_NETWORK, IN_TASK, IN_THREAD, IN_OTHER,
    IN_UNKNOWN, PARTS
};

/* Numbers of texts that are always there. */
enum { NO_TEXT, OTHER_TEXT };

/* A run, with its number: a copy, since its row may move while Python runs. */
typedef struct {
    int64_t number;
    Row row;
} Run;

typedef struct {
    double start, end, ident;
    int64_t number;
} TurnRun;

/* The long runs of others while a task was ready, latest first. */
typedef struct {
    size_t references, count;
    TurnRun runs[];
} Turn;

/* Begins where the one before it ends. Owns a reference to its turn, which most have not. */
typedef struct {
    double end;
    Turn *turn;
    uint32_t detail;
    uint8_t part;
} Stretch;

/* has_turns: whether any of them may have a turn. */
typedef struct {
    Stretch *items;
    size_t length, size;
    bool has_turns;
} List;

typedef struct {
    double seconds;
    uint32_t detail;
    uint8_t part;
} Sum;

typedef struct {
    Sum *items;
    size_t length, size;
} Sums;

/* summed_until: of those that end by then it is known how long they were, but not when. */
typedef struct {
    double begin, summed_until;
    List list;
} Stretches;

/* A task that is a request, or belongs to one, or may turn out to. It owns a reference to its maker, and to its root
   where that is another. A table owns one to each task in it; those that have ended stand in a row, oldest first. */
typedef struct Followed {
    size_t references;
    double ident, last_end, arrival_begin;
    struct Followed *maker, *root, *next, *older, *newer;
    Stretches own;
    List arrival;
    uint32_t name, place;
    uint8_t kind;
} Followed;

typedef struct {
    Followed **buckets;
    uint64_t salt;
    size_t length;
    Followed *oldest, *newest;
} Table;

typedef struct Block Block;

typedef struct {
    int64_t first;
    Py_ssize_t length; /* as it was: rows that are added to the runs later are none of ours */
    Runs *runs;        /* owned */
    Block *blocks;     /* owned; recent_runs.c */
} Chunk;

typedef struct {
    int64_t run;
    uint32_t site;
} Mark;

typedef struct {
    PyObject *texts, *numbers; /* a list of texts, and a dictionary of their numbers */
    uint32_t *behind, *waited_for;
    size_t behind_size, waited_for_size;
    uint32_t *labels; /* by site; NO_TEXT: not asked for yet */
    uint8_t *kinds;   /* by site */
} Names;

typedef struct {
    size_t index;
    long long count;
    double parts[PARTS];
} Bucket;

/* The requests of one name that were answered in this chunk. */
typedef struct {
    uint32_t name;
    double sum, smallest, largest; /* of their durations, s */
    Bucket *buckets;
    size_t bucket_count, bucket_size;
    Sums details;
} NameSums;

typedef struct {
    PyObject_HEAD
    Names names;
    Table followed, ended;
    Chunk *chunks;
    size_t first_chunk, chunk_count, chunk_size;
    Py_ssize_t run_count;
    Mark *marks;
    size_t first_mark, mark_count, mark_size, further;
    size_t found_mark; /* what mark_of found last */
    Buckets *bounds; /* of the durations */
    /* Used by one step after the other, so that none asks for memory. */
    List waited, turn;
    Stretches whole;
    Sums sums;
    /* While feed runs. Borrowed, but ``singles``. */
    bool feeding, tell_all;
    PyObject *owner, *delivered, *looks, *singles;
    double least_slow, latest_look;
    NameSums by_name[MAX_NAMES];
    size_t name_count;
    long long incomplete;
} Requests;

/* stretch_lists.c */
void turn_release(Turn *turn);
int list_grow(List *list, size_t more);
int list_extend(List *list, const List *more);
void list_clear(List *list);
void stretches_clear(Stretches *own);

/* Takes a reference of its own to the turn. */
static inline int
list_add(List *list, double end, int part, uint32_t detail, Turn *turn)
{
    if (list->length == list->size && list_grow(list, 1) < 0)
        return -1;
    if (turn != NULL) {
        turn->references++;
        list->has_turns = true;
    }
    list->items[list->length++] = (Stretch){end, turn, detail, (uint8_t)part};
    return 0;
}

/* stretches.c */
int stretches_add(Requests *self, Stretches *own, const Stretch *next);
void stretches_forget_before(Stretches *own, double when);
int stretches_cut(const Stretches *own, double begin, double end, List *out);
int stretches_sum(Requests *self, const Stretches *own, Sums *out);
double stretches_end(const Stretches *own);
double turn_seconds(const TurnRun *run, double begin, double end);
int sums_add(Sums *sums, int part, uint32_t detail, double seconds);

/* request_names.c */
int names_init(Names *names);
void names_free(Names *names);
int text_number(Names *names, PyObject *text, uint32_t *number);
int behind_text(Names *names, uint32_t name, uint32_t *number);
int waited_for_text(Names *names, uint32_t name, uint32_t *number);
int label_of(Requests *self, double ident, uint32_t *number);
int kind_of_ident(Requests *self, double ident);

/* recent_runs.c */
int runs_add(Requests *self, Runs *runs);
bool run_of(const Requests *self, int64_t number, Run *run);
int longer_before(const Requests *self, int64_t number, double ready, double least, Turn **turn);
void forget_runs(Requests *self);

/* request_tasks.c */
int table_init(Table *table, uint64_t salt);
void table_free(Table *table);
Followed *table_get(const Table *table, double ident);
void table_clear(Table *table);
int begin_task(Requests *self, const TaskRow *begun);
void set_root(Followed *task, Followed *root);
void end_task(Requests *self, Followed *task);
void drop_task(Requests *self, Followed *task);
int marks_add(Requests *self, int64_t run, uint32_t site);
size_t mark_of(Requests *self, int64_t run);
void forget_marks(Requests *self);
Followed *known_task(const Requests *self, double ident); /* followed, or ended; NULL: neither */
int name_of_task(Requests *self, double ident, uint32_t *name);
int name_of_run(Requests *self, int64_t number, double ident, uint32_t *name);

/* requests.c */
int take_beginning(Requests *self, Followed *task, const TaskRow *begun);
int take_step(Requests *self, Followed *task, const Run *run);

/* request_sums.c */
int answer(Requests *self, double task, uint32_t name, double begin, double seconds, const Sums *parts,
           const Stretches *own);
PyObject *take_sums(Requests *self);
void forget_sums(Requests *self);

extern PyType_Spec requests_spec;

#endif
