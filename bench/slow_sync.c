/* Preloaded before the C library. It delays every fdatasync by SLOW_SYNC_US microseconds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <unistd.h>

int fdatasync(int descriptor) {
    static int (*real)(int);
    const char *delay = getenv("SLOW_SYNC_US");
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    if (delay) usleep(atoi(delay));
    return real(descriptor);
}
