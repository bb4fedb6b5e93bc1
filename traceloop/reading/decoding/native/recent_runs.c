/* The latest runs of the loop; the twin of requests/recent_runs.py. */

#include "ledger.h"

/* So many rows are passed over at once where none of them matters. */
#define BLOCK_ROWS 8

struct Block {
    double longest, first_end;
};

/* Of each whole block of rows, the longest run and the earliest end: most waits have no long run behind them. */
static Block *
blocks_of(const Runs *runs)
{
    Py_ssize_t count = runs->length / BLOCK_ROWS;
    Block *blocks = PyMem_Calloc(count ? (size_t)count : 1, sizeof(Block));
    if (blocks == NULL) {
        PyErr_NoMemory();
        return NULL;
    }
    const Row *row = runs->rows;
    for (Py_ssize_t index = 0; index < count; index++) {
        Block block = {row->end - row->start, row->end};
        for (const Row *upto = row++ + BLOCK_ROWS; row < upto; row++) {
            double took = row->end - row->start;
            block.longest = took > block.longest ? took : block.longest;
            block.first_end = row->end < block.first_end ? row->end : block.first_end;
        }
        blocks[index] = block;
    }
    return blocks;
}

static void
chunk_release(Chunk *chunk)
{
    Py_DECREF(chunk->runs);
    PyMem_Free(chunk->blocks);
}

int
runs_add(Requests *self, Runs *runs)
{
    if (!runs->length || runs->first < 0)
        return 0;
    if (self->first_chunk > 64 && self->first_chunk > self->chunk_count) {
        memmove(self->chunks, self->chunks + self->first_chunk, self->chunk_count * sizeof(Chunk));
        self->first_chunk = 0;
    }
    size_t wanted = self->first_chunk + self->chunk_count + 1;
    if (reserve((void **)&self->chunks, &self->chunk_size, wanted, sizeof(Chunk)) < 0)
        return -1;
    Block *blocks = blocks_of(runs);
    if (blocks == NULL)
        return -1;
    runs_trim(runs); /* of a quiet server, each chunk has a run or two and room for a thousand */
    self->chunks[wanted - 1] = (Chunk){runs->first, runs->length, (Runs *)Py_NewRef(runs), blocks};
    self->chunk_count++;
    self->run_count += runs->length;
    Chunk *oldest;
    while (oldest = &self->chunks[self->first_chunk], self->run_count - oldest->length >= KEPT_RUNS) {
        self->run_count -= oldest->length;
        self->first_chunk++;
        self->chunk_count--;
        chunk_release(oldest);
    }
    return 0;
}

/* The latest chunk whose first number is below ``number``, or is it; NULL where there is none. */
static const Chunk *
chunk_of(const Requests *self, int64_t number)
{
    const Chunk *chunks = self->chunks + self->first_chunk;
    size_t low = 0, high = self->chunk_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (chunks[middle].first <= number)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &chunks[low - 1] : NULL;
}

/* Copies the run of this number; false where it is not known, or no longer. */
bool
run_of(const Requests *self, int64_t number, Run *run)
{
    const Chunk *chunk = number > 0 ? chunk_of(self, number) : NULL;
    if (chunk == NULL || number - chunk->first >= chunk->length)
        return false;
    run->number = number;
    run->row = chunk->runs->rows[number - chunk->first];
    return true;
}

/* Of the runs before this one, those that ended after ``ready`` and lasted for ``least`` s or longer, latest first: a
   new reference, NULL where there are none. */
int
longer_before(const Requests *self, int64_t number, double ready, double least, Turn **turn)
{
    TurnRun found[MAX_NAMED];
    size_t count = 0;
    int passed = 0;
    bool over = false;
    *turn = NULL;
    const Chunk *chunk = chunk_of(self, number - 1);
    if (chunk == NULL)
        return 0;
    ptrdiff_t left = chunk - (self->chunks + self->first_chunk);
    for (; !over && passed < MAX_BEHIND && left >= 0; left--) {
        chunk = self->chunks + self->first_chunk + left;
        int64_t index = number - chunk->first;
        if (index > chunk->length)
            index = chunk->length;
        while (index > 0 && passed < MAX_BEHIND) {
            if (index % BLOCK_ROWS == 0 && passed + BLOCK_ROWS <= MAX_BEHIND) {
                const Block *block = &chunk->blocks[index / BLOCK_ROWS - 1];
                if (block->longest < least && block->first_end > ready) {
                    index -= BLOCK_ROWS;
                    passed += BLOCK_ROWS;
                    continue;
                }
            }
            const Row *row = &chunk->runs->rows[--index];
            over = row->end <= ready;
            if (over)
                break;
            passed++;
            if (!(row->end - row->start < least) && count < MAX_NAMED)
                found[count++] = (TurnRun){row->start, row->end, row->ident, chunk->first + index};
        }
    }
    if (!count)
        return 0;
    *turn = PyMem_Malloc(sizeof(Turn) + count * sizeof(TurnRun));
    if (*turn == NULL) {
        PyErr_NoMemory();
        return -1;
    }
    (*turn)->references = 1;
    (*turn)->count = count;
    memcpy((*turn)->runs, found, count * sizeof(TurnRun));
    return 0;
}

void
forget_runs(Requests *self)
{
    for (size_t index = 0; index < self->chunk_count; index++)
        chunk_release(&self->chunks[self->first_chunk + index]);
    PyMem_Free(self->chunks);
    self->chunks = NULL;
    self->chunk_count = 0;
}
