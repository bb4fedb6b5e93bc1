/* The clock: what clock.c gives the others. */

#ifndef TRACELOOP_CLOCK_H
#define TRACELOOP_CLOCK_H

#include <stdint.h>

#if defined(__x86_64__) && defined(__linux__)
#define HAVE_COUNTER
#include <x86intrin.h>
#endif

/* For one thread. All is zero at first but ``counts``. */
typedef struct {
    int counts;             /* what clock_counts says */
    uint64_t from, span;    /* the counter when the kernel's clock was asked; how many counts that holds for */
    double now, each;       /* what the kernel's clock said, and how long a count takes, s; 0.0: not known */
    double last;            /* the last reading: none is before it */
    uint64_t measured_from; /* since when ``each`` is measured, by the counter and by the kernel's clock */
    double measured_now;
} Clock;
double core_now(void);  /* CLOCK_MONOTONIC, s */
int clock_counts(void); /* whether the kernel's clock is the processor's counter */
double clock_ask(Clock *clock);

/* CLOCK_MONOTONIC, s; less than 0.1 us behind the kernel's, or 4 us where an interrupt came between. */
static inline double
clock_read(Clock *clock)
{
#ifdef HAVE_COUNTER
    uint64_t passed = __rdtsc() - clock->from;
    if (passed < clock->span) {
        double now = clock->now + (double)passed * clock->each;
        if (now > clock->last)
            clock->last = now;
        return clock->last;
    }
#endif
    return clock_ask(clock);
}

#endif
