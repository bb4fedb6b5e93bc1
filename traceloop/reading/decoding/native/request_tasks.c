/* The tasks that are followed, those that have ended and may be asked for; and the functions that runs have named as
   what answers their request. */

#include "ledger.h"

/* -- tasks by ident */

static size_t
bucket_of(const Table *table, double ident)
{
    return (size_t)mixed_ident(ident, table->salt) % BUCKETS;
}

int
table_init(Table *table, uint64_t salt)
{
    table->salt = salt;
    table->buckets = PyMem_Calloc(BUCKETS, sizeof(Followed *));
    if (table->buckets == NULL)
        PyErr_NoMemory();
    return table->buckets == NULL ? -1 : 0;
}

/* One reference less. What the last one held goes in a loop: a task's makers may be a long row. */
static void
release(Followed *task)
{
    while (task != NULL && --task->references == 0) {
        Followed *maker = task->maker, *root = task->root;
        stretches_clear(&task->own);
        list_clear(&task->arrival);
        PyMem_Free(task->arrival.items);
        if (root != task) /* a root's own root is itself, or a connection: this ends */
            release(root);
        PyMem_Free(task);
        task = maker;
    }
}

/* ``root``: a connection's task, whose own root is itself. */
void
set_root(Followed *task, Followed *root)
{
    if (task->root == root)
        return;
    root->references++;
    if (task->root != task)
        release(task->root);
    task->root = root;
}

Followed *
table_get(const Table *table, double ident)
{
    Followed *task = table->buckets[bucket_of(table, ident)];
    while (task != NULL && task->ident != ident)
        task = task->next;
    return task;
}

/* Takes it out; its reference is the caller's. */
static Followed *
table_take(Table *table, double ident)
{
    Followed **at = &table->buckets[bucket_of(table, ident)];
    while (*at != NULL && (*at)->ident != ident)
        at = &(*at)->next;
    Followed *task = *at;
    if (task == NULL)
        return NULL;
    *at = task->next;
    *(task->older ? &task->older->newer : &table->oldest) = task->newer;
    *(task->newer ? &task->newer->older : &table->newest) = task->older;
    task->next = task->older = task->newer = NULL;
    table->length--;
    return task;
}

/* One that has left the tables needs no makers: else their row would never end. */
static void
let_go(Followed *task)
{
    if (task == NULL)
        return;
    release(task->maker);
    task->maker = NULL;
    release(task);
}

/* Takes over the caller's reference. One of the same ident goes. */
static void
table_put(Table *table, Followed *task)
{
    let_go(table_take(table, task->ident));
    Followed **bucket = &table->buckets[bucket_of(table, task->ident)];
    task->next = *bucket;
    *bucket = task;
    task->older = table->newest;
    *(table->newest ? &table->newest->newer : &table->oldest) = task;
    table->newest = task;
    table->length++;
}

/* What still refers to one of them needs it, but not the row of its makers. */
void
table_clear(Table *table)
{
    while (table->oldest != NULL) {
        let_go(table_take(table, table->oldest->ident));
    }
}

void
table_free(Table *table)
{
    if (table->buckets != NULL)
        table_clear(table);
    PyMem_Free(table->buckets);
    table->buckets = NULL;
}

int
begin_task(Requests *self, const TaskRow *begun)
{
    int kind = kind_of_ident(self, begun->ident);
    if (kind < 0)
        return -1;
    Followed *maker = begun->made_by_loop && !kind ? table_get(&self->followed, begun->creator_ident) : NULL;
    if (!kind && maker == NULL && begun->made_by_loop)
        return 0;
    if (self->followed.length >= MAX_FOLLOWED) {
        self->incomplete += kind == REQUEST;
        return 0;
    }
    Followed *task = PyMem_Calloc(1, sizeof(Followed));
    if (task == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    task->references = 1;
    task->ident = begun->ident;
    task->kind = (uint8_t)kind;
    task->last_end = -1.0;
    task->own.begin = -INFINITY;
    task->root = task;
    if (maker != NULL) {
        maker->references++;
        task->maker = maker;
        task->root = maker->root;
        task->root->references++;
    }
    table_put(&self->followed, task);
    return begun->waited_from >= 0.0 ? take_beginning(self, task, begun) : 0;
}

/* Its last step is over. */
void
end_task(Requests *self, Followed *task)
{
    if (table_get(&self->followed, task->ident) != task)
        return;
    table_put(&self->ended, table_take(&self->followed, task->ident));
    if (self->ended.length > MAX_ENDED)
        let_go(table_take(&self->ended, self->ended.oldest->ident));
}

/* It is over, and nothing will be asked of it. */
void
drop_task(Requests *self, Followed *task)
{
    if (table_get(&self->followed, task->ident) == task)
        release(table_take(&self->followed, task->ident));
}

/* -- marks */

/* A run has named the function that answers its request; a second time, where it answers several. */
int
marks_add(Requests *self, int64_t run, uint32_t site)
{
    Mark *marks = self->marks + self->first_mark;
    size_t count = self->mark_count;
    if (count && marks[count - 1].run == run) {
        if (++self->further > MAX_FURTHER)
            return 0;
    }
    else {
        self->further = 0;
        if (count && marks[count - 1].run > run)
            return 0; /* a writer counts its runs: damage */
    }
    if (self->first_mark > 64 && self->first_mark > count) {
        memmove(self->marks, marks, count * sizeof(Mark));
        self->first_mark = 0;
    }
    if (reserve((void **)&self->marks, &self->mark_size, self->first_mark + count + 1, sizeof(Mark)) < 0)
        return -1;
    self->marks[self->first_mark + count] = (Mark){run, site};
    if (count == MAX_MARKS)
        self->first_mark++;
    else
        self->mark_count++;
    return 0;
}

/* The index in ``marks`` of the first mark of this run; of the first that is later, where it has none. Sought near the
   one before, since runs are mostly asked for in their order. */
size_t
mark_of(Requests *self, int64_t run)
{
    const Mark *marks = self->marks;
    size_t low = self->first_mark, high = low + self->mark_count, near = self->found_mark;
    if (low <= near && near <= high && (near == low || marks[near - 1].run < run)) {
        low = near;
        if (high - near > NEAR_MARKS && marks[near + NEAR_MARKS].run >= run)
            high = near + NEAR_MARKS;
    }
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (marks[middle].run < run)
            low = middle + 1;
        else
            high = middle;
    }
    return self->found_mark = low;
}

void
forget_marks(Requests *self)
{
    PyMem_Free(self->marks);
    self->marks = NULL;
    self->mark_count = 0;
}

/* -- names */

Followed *
known_task(const Requests *self, double ident)
{
    Followed *task = table_get(&self->followed, ident);
    return task != NULL ? task : table_get(&self->ended, ident);
}

/* The name of what runs: in a request, that of the request. */
int
name_of_task(Requests *self, double ident, uint32_t *name)
{
    const Followed *known = known_task(self, ident);
    *name = NO_TEXT;
    if (known != NULL) {
        const Followed *root = known->root->kind == REQUEST ? known->root : known;
        *name = root->name ? root->name : root->place;
    }
    return *name ? 0 : label_of(self, ident, name);
}

/* The name of a run, by its number: of the function that answered a request in it, where it is marked as one. */
int
name_of_run(Requests *self, int64_t number, double ident, uint32_t *name)
{
    size_t mark = mark_of(self, number);
    if (mark < self->first_mark + self->mark_count && self->marks[mark].run == number)
        return label_of(self, (double)self->marks[mark].site, name);
    return name_of_task(self, ident, name);
}
