/* The clock of the recorded iteration: CLOCK_MONOTONIC in seconds, from the processor's counter where the kernel takes
   its own clock from that.

   The kernel's clock waits until all that comes before it is done. That costs the shortest handles a twelfth of their
   time. So it is asked every 200 us, and in between the counter says how much time has passed since. The counter is
   used only on x86-64, and where the kernel names it as its source: then the kernel has made sure that it runs at one
   rate and is the same on each processor. */

#include "core.h"
#include <fcntl.h>
#include <math.h>
#include <time.h>
#include <unistd.h>

double
core_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

#ifdef HAVE_COUNTER
#define SPAN_SECONDS 200e-6   /* the kernel adjusts its clock by at most 500 ppm, which is 0.1 us in this time */
#define MEASURED_SECONDS 0.01 /* a reading is exact to some 50 ns, and then the rate to 5 ppm */
#define CALM 8192             /* counts, 2 to 4 us: a reading that took longer was interrupted */
#define SAME_RATE 1e-3        /* a rate that differs by more is none: the clock was set, or the machine slept */
#define SHORTEST_COUNT 1e-11  /* s */
#define LONGEST_COUNT 1e-8

int
clock_counts(void)
{
    char name[16];
    int file = open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    ssize_t length = file < 0 ? 0 : read(file, name, sizeof(name));
    if (file >= 0)
        close(file);
    return length == 4 && memcmp(name, "tsc\n", 4) == 0;
}

/* The kernel's clock was ``now`` when the counter stood at ``count``: finds out how long a count takes. */
static void
measure(Clock *clock, uint64_t count, double now)
{
    double elapsed = now - clock->measured_now, each = elapsed / (double)(count - clock->measured_from);
    if (clock->measured_from != 0) {
        if (elapsed >= 0.0 && elapsed < MEASURED_SECONDS)
            return;
        int likely = clock->each == 0.0 ? each > SHORTEST_COUNT && each < LONGEST_COUNT
                                        : fabs(each / clock->each - 1.0) < SAME_RATE;
        clock->each = likely ? each : 0.0;
    }
    clock->measured_from = count;
    clock->measured_now = now;
}

static double
ask(Clock *clock)
{
    uint64_t before = __rdtsc();
    double now = core_now();
    uint64_t after = __rdtsc();
    clock->span = 0;
    if (after - before < CALM) {
        measure(clock, after, now);
        if (clock->each > 0.0)
            clock->span = (uint64_t)(SPAN_SECONDS / clock->each);
    }
    /* From after the reading on: what is reckoned from it is behind the kernel's clock rather than ahead of it. */
    clock->from = after;
    /* Only a clock that was set back goes back: one that was slowed down or stopped is waited for. */
    if (now > clock->last || now < clock->now)
        clock->last = now;
    clock->now = now;
    return clock->last;
}

double
clock_ask(Clock *clock)
{
    return clock->counts ? ask(clock) : core_now();
}

#else

int
clock_counts(void)
{
    return 0;
}

double
clock_ask(Clock *clock)
{
    return core_now();
}

#endif
