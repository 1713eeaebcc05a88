/* Loaded before libc into a process that writes a store: records what reaches the files below FOREBAY_RECORD_DIR, in order, and
 * lets calls fail where it is told to. The tests that read the record decide what a power cut would have left of it.
 *
 * FOREBAY_RECORD      the record: (operation, descriptor, offset, length, bytes or path), little-endian, one after another
 * FOREBAY_RECORD_DIR  only files below it count
 * FOREBAY_FAIL        "write:K:ERRNO" or "sync:K:ERRNO": the K-th such call on store.db* fails, once. With ENOSPC all from
 *                     there on do, until store.db.ballast is removed.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { OPENED = 1, CLOSED, WROTE, CUT, SYNCED, RENAMED, REMOVED };
#define FDS 1024

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;
static char *dir;
static size_t dir_length;
static char counted[FDS], failing[FDS]; /* by descriptor: whether it is recorded; whether it may fail */
static char fail_what;
static long fail_at, fail_errno, reached;

static void raw(const void *bytes, size_t length) {
    const char *at = bytes;
    while (length > 0) {
        long done = syscall(SYS_write, record, at, length);
        if (done <= 0) abort();
        at += done;
        length -= (size_t)done;
    }
}

static void note(uint8_t operation, int fd, uint64_t offset, const void *bytes, uint64_t length) {
    if (record < 0) return;
    int kept = errno;
    char head[21];
    int32_t descriptor = fd;
    head[0] = (char)operation;
    memcpy(head + 1, &descriptor, 4);
    memcpy(head + 5, &offset, 8);
    memcpy(head + 13, &length, 8);
    pthread_mutex_lock(&lock);
    raw(head, sizeof head);
    if (bytes) raw(bytes, length);
    pthread_mutex_unlock(&lock);
    errno = kept;
}

__attribute__((constructor)) static void begin(void) {
    char *path = getenv("FOREBAY_RECORD"), *fail = getenv("FOREBAY_FAIL");
    dir = getenv("FOREBAY_RECORD_DIR");
    dir_length = dir ? strlen(dir) : 0;
    if (path) record = (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fail) {
        fail_what = fail[0];
        char *rest = strchr(fail, ':') + 1;
        fail_at = strtol(rest, &rest, 10);
        fail_errno = strtol(rest + 1, NULL, 10);
    }
}

static int is_ours(const char *path) { return dir && strncmp(path, dir, dir_length) == 0; }

/* Whether this call is to fail. */
static int fails(char what, int fd) {
    if (fail_what != what || fd < 0 || fd >= FDS || !failing[fd]) return 0;
    long count = __sync_add_and_fetch(&reached, 1);
    if (fail_errno == ENOSPC ? count < fail_at : count != fail_at) return 0;
    errno = (int)fail_errno;
    return 1;
}

static int counts(int fd) { return fd >= 0 && fd < FDS && counted[fd]; }

#define REAL(name) static __typeof__(name) *real; if (!real) real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < FDS) {
        counted[fd] = (char)is_ours(path);
        failing[fd] = counted[fd] && strstr(path, "store.db") && !strstr(path, ".ballast") && !strstr(path, ".lock");
        if (counted[fd]) note(OPENED, fd, 0, path, strlen(path));
    }
    return fd;
}

#define OPEN(name)                                                                   \
    int name(const char *path, int flags, ...) {                                     \
        REAL(name);                                \
        va_list rest;                                                                \
        va_start(rest, flags);                                                       \
        mode_t mode = va_arg(rest, mode_t);                                          \
        va_end(rest);                                                                \
        return opened(real(path, flags, mode), path);                                \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    REAL(close);
    if (counts(fd)) {
        note(CLOSED, fd, 0, NULL, 0);
        counted[fd] = 0;
    }
    return real(fd);
}

ssize_t write(int fd, const void *bytes, size_t length) {
    REAL(write);
    if (!counts(fd)) return real(fd, bytes, length);
    if (fails('w', fd)) return -1;
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, bytes, length);
    if (done > 0) note(WROTE, fd, (uint64_t)at, bytes, (uint64_t)done);
    return done;
}

#define PWRITE(name, offset_type)                                                    \
    ssize_t name(int fd, const void *bytes, size_t length, offset_type at) {         \
        REAL(name);            \
        if (fails('w', fd)) return -1;                                               \
        ssize_t done = real(fd, bytes, length, at);                                  \
        if (done > 0 && counts(fd)) note(WROTE, fd, (uint64_t)at, bytes, (uint64_t)done); \
        return done;                                                                 \
    }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define TRUNCATE(name, offset_type)                                                  \
    int name(int fd, offset_type length) {                                           \
        REAL(name);                                      \
        int done = real(fd, length);                                                 \
        if (done == 0 && counts(fd)) note(CUT, fd, (uint64_t)length, NULL, 0);       \
        return done;                                                                 \
    }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

#define SYNC(name)                                                                   \
    int name(int fd) {                                                               \
        REAL(name);                                                   \
        if (fails('s', fd)) return -1;                                               \
        int done = real(fd);                                                         \
        if (done == 0 && counts(fd)) note(SYNCED, fd, 0, NULL, 0);                   \
        return done;                                                                 \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    REAL(rename);
    int done = real(from, to);
    if (done == 0 && is_ours(from)) {
        /* Both paths, and between them the zero that ends the first. */
        size_t first = strlen(from) + 1, second = strlen(to);
        char *both = malloc(first + second);
        memcpy(both, from, first);
        memcpy(both + first, to, second);
        note(RENAMED, -1, 0, both, first + second);
        free(both);
    }
    return done;
}

int unlink(const char *path) {
    REAL(unlink);
    int done = real(path);
    if (done == 0 && is_ours(path)) {
        note(REMOVED, -1, 0, path, strlen(path));
        if (strstr(path, ".ballast")) fail_what = 0;
    }
    return done;
}
