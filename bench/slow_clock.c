/* Preloaded before the C library. The monotonic clocks advance SLOWER times slower, as valgrind
   runs a program so much slower. Otherwise its turns would end early, and its disk would seem
   slow. */

#define _GNU_SOURCE
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SLOWER 200

int clock_gettime(clockid_t clock, struct timespec *now) {
    static long long began;
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (failed || (clock != CLOCK_MONOTONIC && clock != CLOCK_BOOTTIME)) return failed;
    long long ns = now->tv_sec * 1000000000LL + now->tv_nsec;
    if (!began) began = ns;
    ns = began + (ns - began) / SLOWER;
    now->tv_sec = ns / 1000000000LL;
    now->tv_nsec = ns % 1000000000LL;
    return 0;
}
