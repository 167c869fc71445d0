/* Preloaded into a process, this adds the number of nanoseconds in the file SHIFTED_CLOCK to the time of day.
 *
 * The file is mapped, so that all processes follow a change at once. Clocks that measure durations, and waits, stay
 * as they are; Debian's libfaketime 0.9.10 cannot do that: with its monotonic clock real, time.sleep() fails with
 * EINVAL, with its monotonic clock faked, a lock waited for with a timeout never times out.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL

static int (*real_clock)(clockid_t, struct timespec *);
static int (*real_sem_timedwait)(sem_t *, const struct timespec *);
static const volatile int64_t none = 0, *shift = &none;

__attribute__((constructor)) static void prepare(void)
{
    if (real_clock)
        return;
    *(void **)&real_sem_timedwait = dlsym(RTLD_NEXT, "sem_timedwait");
    *(void **)&real_clock = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("SHIFTED_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *mapped = mmap(NULL, sizeof *shift, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED)
        shift = mapped;
    close(file);
}

static struct timespec moved(struct timespec time, int64_t by)
{
    int64_t all = time.tv_sec * SECOND + time.tv_nsec + by;
    return (struct timespec){.tv_sec = all / SECOND, .tv_nsec = all % SECOND};
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    prepare();
    int failed = real_clock(clock, time);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        *time = moved(*time, *shift);
    return failed;
}

int timespec_get(struct timespec *time, int base)
{
    return base == TIME_UTC && !clock_gettime(CLOCK_REALTIME, time) ? base : 0;
}

int gettimeofday(struct timeval *restrict time, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    if (!clock_gettime(CLOCK_REALTIME, &now))
        *time = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *there)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (there)
        *there = now.tv_sec;
    return now.tv_sec;
}

/* A time of day until which to wait is the kernel's; Python's multiprocessing waits like this. */
int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until)
{
    prepare();
    struct timespec real = moved(*until, -*shift);
    return real_sem_timedwait(semaphore, &real);
}
