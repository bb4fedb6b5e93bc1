/* The rows of Runs and Iterations (decoding/runs.py), for those extensions that read them. Both types show their
   rows by the buffer protocol, with these formats: who takes a buffer compares the format and the size of an item. */

#ifndef TRACELOOP_ROWS_H
#define TRACELOOP_ROWS_H

#include <stdint.h>

/* As in decoded.py: KINDS. */
enum { TASK, SOON, TIMER, READER, WRITER, SIGNAL, THREADSAFE, KINDS };

/* One handle run. Its number is that of the first row and its index. */
typedef struct {
    double start, end, ident, delay;
    int64_t scheduler, context, iteration;
    uint8_t kind, outcome;
} Row;

typedef struct {
    int64_t number, callbacks;
    double start, end, poll_duration, poll_delay;
} IterationRow;

#define ROW_FORMAT "T{4d3qBB6x}"
#define ITERATION_FORMAT "T{2q4d}"

#endif
