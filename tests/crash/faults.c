/* Preloaded into a Python process (LD_PRELOAD), this stands between it and the C library's file calls.
 *
 * On files under one watched directory it counts calls, and makes the n-th one of chosen kinds fail, end the process,
 * or write only half; and it can write down everything that would have to reach a disk, for tests/crash/disk.py.
 * Everything is off until tests/crash/faults.py says otherwise. Linux. Threads are counted one after the other; writing
 * down is for one thread. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, READ = 4, TRUNCATE = 8, OPEN = 16, RENAME = 32, UNLINK = 64, MKDIR = 128, MAP = 256 };
enum { FAIL = 0, KILL_BEFORE = 1, KILL_AFTER = 2, KILL_HALFWAY = 3 };
enum { L_WRITE = 1, L_TRUNCATE, L_SYNC, L_SYNC_DIRECTORY, L_CREATE, L_RENAME, L_LINK, L_UNLINK, L_MKDIR, L_MARK, L_SYNC_FAILED };

#define FILES 65536
static char watched[4096];
static size_t watched_length;
static unsigned char mine[FILES]; /* 1: a file, 2: a directory */
static int kinds, action, error_number, error_always;
static long nth, seen, fired;
static int log_file = -1;

#define REAL(name) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);

/* -- what tests/crash/faults.py calls ------------------------------------------------------------------------ */

void faults_watch(const char *directory) {
    snprintf(watched, sizeof watched, "%s", directory);
    watched_length = strlen(watched);
}

void faults_arm(int which, long at, int what, int number, int always) {
    kinds = which, nth = at, action = what, error_number = number, error_always = always;
    seen = fired = 0;
}

long faults_disarm(void) {
    kinds = 0;
    return seen;
}

long faults_fired(void) { return fired; }

void faults_log(const char *path) {
    log_file = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
}

/* -- counting, failing, writing down ------------------------------------------------------------------------- */

static int under(const char *path) {
    return watched_length && path && !strncmp(path, watched, watched_length) &&
           (path[watched_length] == '/' || !path[watched_length]);
}

static void end(void) { syscall(SYS_kill, getpid(), SIGKILL); for (;;) pause(); }

/* 0: go on; 1: fail with errno set; 2: end after the call; 3: do half of it, then end. */
static int now(int kind) {
    if (!(kinds & kind)) return 0;
    long call = __atomic_add_fetch(&seen, 1, __ATOMIC_SEQ_CST);
    if (call < nth || (call > nth && !error_always)) return 0;
    __atomic_add_fetch(&fired, 1, __ATOMIC_SEQ_CST);
    if (action == FAIL) { errno = error_number; return 1; }
    if (action == KILL_AFTER) return 2;
    if (action == KILL_HALFWAY && kind == WRITE) return 3;
    end();
    return 0;
}

static void done(int what) { if (what == 2) end(); }

struct record { uint32_t kind, first, second, unused; int64_t offset; uint64_t length, inode; };

static void put(const void *bytes, size_t length) {
    const char *from = bytes;
    while (length) {
        ssize_t written = syscall(SYS_write, log_file, from, length);
        if (written <= 0) abort();
        from += written, length -= (size_t)written;
    }
}

static void note(int kind, const char *first, const char *second, int64_t offset, const void *data, uint64_t length,
                 uint64_t inode) {
    if (log_file < 0) return;
    struct record record = {(uint32_t)kind, first ? (uint32_t)strlen(first) : 0,
                            second ? (uint32_t)strlen(second) : 0, 0, offset, length, inode};
    put(&record, sizeof record);
    if (first) put(first, record.first);
    if (second) put(second, record.second);
    if (data) put(data, length);
}

void faults_mark(const char *text) { note(L_MARK, text, NULL, 0, NULL, 0, 0); }

static uint64_t inode_of(int fd) {
    struct stat status;
    return syscall(SYS_fstat, fd, &status) ? 0 : (uint64_t)status.st_ino;
}

static int is_mine(int fd) { return fd >= 0 && fd < FILES && mine[fd]; }

/* -- the calls ----------------------------------------------------------------------------------------------- */

static int opened(const char *path, int flags, mode_t mode) {
    int what = under(path) ? now(OPEN) : 0;
    if (what == 1) return -1;
    int new = 0;
    if (log_file >= 0 && under(path) && flags & O_CREAT) new = access(path, F_OK) != 0;
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (fd >= 0 && fd < FILES) {
        mine[fd] = 0;
        if (under(path)) {
            struct stat status;
            if (!syscall(SYS_fstat, fd, &status)) mine[fd] = S_ISDIR(status.st_mode) ? 2 : 1;
            if (new) note(L_CREATE, path, NULL, 0, NULL, 0, (uint64_t)status.st_ino);
            else if (flags & O_TRUNC) note(L_TRUNCATE, NULL, NULL, 0, NULL, 0, (uint64_t)status.st_ino);
        }
    }
    done(what);
    return fd;
}

#define OPENS(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        if (flags & (O_CREAT | O_TMPFILE)) { va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); } \
        return opened(path, flags, mode); \
    }
OPENS(open)
OPENS(open64)
int __open_2(const char *path, int flags) { return opened(path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened(path, flags, 0); }

int close(int fd) {
    REAL(close)
    if (fd >= 0 && fd < FILES) mine[fd] = 0;
    return real(fd);
}

static ssize_t written(int fd, const void *from, size_t length, off_t offset, int positioned) {
    int what = is_mine(fd) ? now(WRITE) : 0;
    if (what == 1) return -1;
    size_t some = what == 3 ? length / 2 : length;
    off_t at = offset;
    if (log_file >= 0 && is_mine(fd) && !positioned) at = lseek(fd, 0, SEEK_CUR);
    ssize_t result = positioned ? syscall(SYS_pwrite64, fd, from, some, offset) : syscall(SYS_write, fd, from, some);
    if (result > 0 && is_mine(fd)) note(L_WRITE, NULL, NULL, at, from, (uint64_t)result, inode_of(fd));
    if (what == 3) end();
    done(what);
    return result;
}

ssize_t write(int fd, const void *from, size_t length) { return written(fd, from, length, 0, 0); }
ssize_t pwrite(int fd, const void *from, size_t length, off_t offset) { return written(fd, from, length, offset, 1); }
ssize_t pwrite64(int fd, const void *from, size_t length, off64_t at) { return written(fd, from, length, at, 1); }

static ssize_t got(int fd, void *to, size_t length, off_t offset, int positioned) {
    int what = is_mine(fd) ? now(READ) : 0;
    if (what == 1) return -1;
    ssize_t result = positioned ? syscall(SYS_pread64, fd, to, length, offset) : syscall(SYS_read, fd, to, length);
    done(what);
    return result;
}

ssize_t read(int fd, void *to, size_t length) { return got(fd, to, length, 0, 0); }
ssize_t pread(int fd, void *to, size_t length, off_t offset) { return got(fd, to, length, offset, 1); }
ssize_t pread64(int fd, void *to, size_t length, off64_t offset) { return got(fd, to, length, offset, 1); }
ssize_t __read_chk(int fd, void *to, size_t length, size_t room) { (void)room; return got(fd, to, length, 0, 0); }
ssize_t __pread_chk(int fd, void *to, size_t n, off_t at, size_t room) { (void)room; return got(fd, to, n, at, 1); }
ssize_t __pread64_chk(int fd, void *to, size_t n, off64_t at, size_t room) { (void)room; return got(fd, to, n, at, 1); }

static int synced(int fd, long call) {
    int what = is_mine(fd) ? now(SYNC) : 0;
    if (what == 1) {
        int number = errno;
        if (mine[fd] == 1) note(L_SYNC_FAILED, NULL, NULL, 0, NULL, 0, inode_of(fd));
        errno = number;
        return -1;
    }
    /* What is watched is not really synced: a killed process loses nothing by it, and a test waits for no disk. */
    int result = is_mine(fd) ? 0 : (int)syscall(call, fd);
    if (is_mine(fd)) {
        if (mine[fd] == 2) {
            char link[64], path[4096];
            snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
            ssize_t length = readlink(link, path, sizeof path - 1);
            path[length > 0 ? length : 0] = 0;
            note(L_SYNC_DIRECTORY, path, NULL, 0, NULL, 0, inode_of(fd));
        } else note(L_SYNC, NULL, NULL, 0, NULL, 0, inode_of(fd));
    }
    done(what);
    return result;
}

int fsync(int fd) { return synced(fd, SYS_fsync); }
int fdatasync(int fd) { return synced(fd, SYS_fdatasync); }

static int truncated(int fd, off_t length) {
    int what = is_mine(fd) ? now(TRUNCATE) : 0;
    if (what == 1) return -1;
    int result = (int)syscall(SYS_ftruncate, fd, length);
    if (!result && is_mine(fd)) note(L_TRUNCATE, NULL, NULL, length, NULL, 0, inode_of(fd));
    done(what);
    return result;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

int posix_fallocate(int fd, off_t offset, off_t length) {
    int what = is_mine(fd) ? now(TRUNCATE) : 0;
    if (what == 1) return errno;
    REAL(posix_fallocate)
    int result = real(fd, offset, length);
    done(what);
    return result;
}

static void *mapped(void *at, size_t length, int protection, int flags, int fd, off_t offset) {
    int what = is_mine(fd) ? now(MAP) : 0;
    if (what == 1) return MAP_FAILED;
    void *result = (void *)syscall(SYS_mmap, at, length, protection, flags, fd, offset);
    done(what);
    return result;
}

void *mmap(void *at, size_t n, int prot, int flags, int fd, off_t o) { return mapped(at, n, prot, flags, fd, o); }
void *mmap64(void *at, size_t n, int prot, int flags, int fd, off64_t o) { return mapped(at, n, prot, flags, fd, o); }

int rename(const char *from, const char *to) {
    int what = under(from) || under(to) ? now(RENAME) : 0;
    if (what == 1) return -1;
    int result = (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!result && under(to)) note(L_RENAME, from, to, 0, NULL, 0, 0);
    done(what);
    return result;
}

static int linked(const char *from, const char *to, int flags) {
    int what = under(from) || under(to) ? now(RENAME) : 0;
    if (what == 1) return -1;
    int result = (int)syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, flags);
    if (!result && under(to)) note(L_LINK, from, to, 0, NULL, 0, 0);
    done(what);
    return result;
}

int link(const char *from, const char *to) { return linked(from, to, 0); }
/* Python's os.link comes by this road. */
int linkat(int a, const char *from, int b, const char *to, int flags) { (void)a, (void)b; return linked(from, to, flags); }

int unlink(const char *path) {
    int what = under(path) ? now(UNLINK) : 0;
    if (what == 1) return -1;
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (!result && under(path)) note(L_UNLINK, path, NULL, 0, NULL, 0, 0);
    done(what);
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int what = under(path) ? now(MKDIR) : 0;
    if (what == 1) return -1;
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!result && under(path)) note(L_MKDIR, path, NULL, 0, NULL, 0, 0);
    done(what);
    return result;
}
