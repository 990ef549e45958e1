/* A disk that forgets what was not fsynced, and that fails when it is told to. Preloaded into a process under test.

   DISK_FOLDER   only files under this absolute path are concerned
   DISK_IMAGE    here is kept what a power cut would leave: a file's bytes as of its last fsync, under the names that its
                 folder had as of the folder's last fsync
   DISK_CONTROL  a file of `struct control`, shared with the test: which I/O call fails, and how, and which is the last

   The image is pessimistic: fsync of a file does not make its name durable, fsync of a folder not its files' bytes. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct control {
    uint64_t calls;      /* I/O calls so far */
    uint64_t fail_from;  /* the first call that fails; 0: none */
    uint64_t fail_until; /* the first that works again */
    uint64_t error;      /* errno of those that fail */
    uint64_t failed;     /* how many did */
    uint64_t kill_at;    /* the call that the process does not survive; 0: none */
};

static char folder[PATH_MAX], image[PATH_MAX];
static size_t folder_length;
static struct control *control;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread int inside;

#define REAL(name, type, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

static int concerns(const char *path, char *full) {
    if (!folder_length || inside || !path) return 0;
    if (path[0] == '/') snprintf(full, PATH_MAX, "%s", path);
    else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        snprintf(full, PATH_MAX, "%.2000s/%.2000s", here, path);
    }
    return !strncmp(full, folder, folder_length) && (full[folder_length] == '/' || !full[folder_length]);
}

static int concerns_fd(int fd, char *full) {
    if (!folder_length || inside) return 0;
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, full, PATH_MAX - 1);
    if (length <= 0) return 0;
    full[length] = 0;
    return !strncmp(full, folder, folder_length) && (full[folder_length] == '/' || !full[folder_length]);
}

/* Count one call; return the errno with which it shall fail, or 0. */
static int trouble(void) {
    if (!control) return 0;
    uint64_t call = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    if (call == control->kill_at) kill(getpid(), SIGKILL);
    uint64_t from = control->fail_from;
    if (!from || call < from || call >= control->fail_until) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    return (int)control->error;
}

/* An inode may come again for another file: the image tells them apart by how often it was made. */
#define SLOTS 65536
static struct { ino_t inode; uint32_t made; } made[SLOTS];

static uint32_t *made_of(ino_t inode) {
    size_t at = (size_t)(inode * 2654435761u) % SLOTS;
    while (made[at].inode && made[at].inode != inode) at = (at + 1) % SLOTS;
    made[at].inode = inode;
    return &made[at].made;
}

static void content_path(char *path, ino_t inode) {
    snprintf(path, PATH_MAX, "%.3000s/bytes/%lu.%u", image, (unsigned long)inode, *made_of(inode));
}

static void keep_content(int from, ino_t inode) {
    char path[PATH_MAX], scratch[PATH_MAX], chunk[65536];
    content_path(path, inode);
    snprintf(scratch, sizeof scratch, "%.4000s.new", path);
    int to = open(scratch, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    off_t at = 0;
    ssize_t count;
    while ((count = pread(from, chunk, sizeof chunk, at)) > 0) {
        if (write(to, chunk, (size_t)count) != count) abort();
        at += count;
    }
    close(to);
    rename(scratch, path);
}

/* Write down which names a folder has: one line each, "name inode.made". */
static void keep_names(const char *full) {
    char path[PATH_MAX], scratch[PATH_MAX], name[PATH_MAX];
    snprintf(name, sizeof name, "%.3000s", full + folder_length);
    for (char *at = name; *at; at++) if (*at == '/') *at = '%';
    snprintf(path, sizeof path, "%.2000s/names/%.1500s", image, name[0] ? name : "%");
    snprintf(scratch, sizeof scratch, "%.4000s.new", path);
    FILE *out = fopen(scratch, "w");
    DIR *listing = opendir(full);
    struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        struct stat status;
        char member[PATH_MAX];
        snprintf(member, sizeof member, "%.2000s/%.1500s", full, entry->d_name);
        if (lstat(member, &status)) continue;
        if (S_ISDIR(status.st_mode)) fprintf(out, "%s /\n", entry->d_name);
        else if (S_ISREG(status.st_mode))
            fprintf(out, "%s %lu.%u\n", entry->d_name, (unsigned long)status.st_ino, *made_of(status.st_ino));
    }
    if (listing) closedir(listing);
    fclose(out);
    rename(scratch, path);
}

/* Take all that is there when the process begins for durable. */
static void keep_all(const char *full) {
    keep_names(full);
    DIR *listing = opendir(full);
    struct dirent *entry;
    while (listing && (entry = readdir(listing))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        char member[PATH_MAX];
        struct stat status;
        snprintf(member, sizeof member, "%.2000s/%.1500s", full, entry->d_name);
        if (lstat(member, &status)) continue;
        if (S_ISDIR(status.st_mode)) keep_all(member);
        else if (S_ISREG(status.st_mode)) {
            int file = open(member, O_RDONLY);
            if (file >= 0) { keep_content(file, status.st_ino); close(file); }
        }
    }
    if (listing) closedir(listing);
}

__attribute__((constructor)) static void begin(void) {
    const char *where = getenv("DISK_FOLDER"), *keep = getenv("DISK_IMAGE"), *shared = getenv("DISK_CONTROL");
    if (!where) return;
    inside = 1;
    if (shared) {
        int file = open(shared, O_RDWR);
        if (file >= 0) {
            control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
            if (control == MAP_FAILED) control = NULL;
            close(file);
        }
    }
    if (keep) snprintf(image, sizeof image, "%.3000s", keep);
    snprintf(folder, sizeof folder, "%.3000s", where);
    folder_length = strlen(folder);
    if (keep) keep_all(folder);
    inside = 0;
}

static void made_anew(int fd) {
    struct stat status;
    if (image[0] && !fstat(fd, &status) && S_ISREG(status.st_mode)) ++*made_of(status.st_ino);
}

#define OPEN(name) \
int name(const char *path, int flags, ...) { \
    REAL(name, int, const char *, int, ...); \
    va_list rest; va_start(rest, flags); \
    mode_t mode = (flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE) ? va_arg(rest, mode_t) : 0; va_end(rest); \
    char full[PATH_MAX]; \
    if (!concerns(path, full) || !(flags & O_CREAT)) return real(path, flags, mode); \
    int error = trouble(); \
    if (error) { errno = error; return -1; } \
    pthread_mutex_lock(&lock); inside = 1; \
    int fresh = access(full, F_OK) != 0; \
    int fd = real(path, flags, mode); \
    int saved = errno; \
    if (fd >= 0 && fresh) made_anew(fd); \
    inside = 0; pthread_mutex_unlock(&lock); \
    errno = saved; \
    return fd; \
}
OPEN(open)
OPEN(open64)

#define FAILS(fd) do { char full_[PATH_MAX]; int error_; \
    if (concerns_fd(fd, full_) && (error_ = trouble())) { errno = error_; return -1; } } while (0)

ssize_t write(int fd, const void *data, size_t size) { REAL(write, ssize_t, int, const void *, size_t); FAILS(fd); return real(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int count) { REAL(writev, ssize_t, int, const struct iovec *, int); FAILS(fd); return real(fd, parts, count); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) { REAL(pwrite, ssize_t, int, const void *, size_t, off_t); FAILS(fd); return real(fd, data, size, at); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) { REAL(pwrite64, ssize_t, int, const void *, size_t, off64_t); FAILS(fd); return real(fd, data, size, at); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) { REAL(pwritev, ssize_t, int, const struct iovec *, int, off_t); FAILS(fd); return real(fd, parts, count, at); }
int ftruncate(int fd, off_t size) { REAL(ftruncate, int, int, off_t); FAILS(fd); return real(fd, size); }
int ftruncate64(int fd, off64_t size) { REAL(ftruncate64, int, int, off64_t); FAILS(fd); return real(fd, size); }

static int synced(int fd, int (*real)(int)) {
    char full[PATH_MAX];
    if (!concerns_fd(fd, full)) return real(fd);
    int error = trouble();
    if (error) { errno = error; return -1; }
    if (!image[0]) return real(fd);
    struct stat status;
    pthread_mutex_lock(&lock); inside = 1;
    if (!fstat(fd, &status)) {
        if (S_ISDIR(status.st_mode)) keep_names(full);
        else {
            int file = open(full, O_RDONLY); /* the descriptor may be for writing only */
            if (file >= 0) { keep_content(file, status.st_ino); close(file); }
        }
    }
    inside = 0; pthread_mutex_unlock(&lock);
    return 0;
}

int fsync(int fd) { REAL(fsync, int, int); return synced(fd, real); }
int fdatasync(int fd) { REAL(fdatasync, int, int); return synced(fd, real); }
