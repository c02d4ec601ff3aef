/* Faults of a disk, for real: loaded with LD_PRELOAD, it lets the n-th call that writes below a folder fail.

   A call is one of write, pwrite, writev, fsync, fdatasync, open for writing, mkdir, rename, unlink and rmdir.
   What happens at the n-th: the process is killed (a write has then written half), no space is left, the disk gives an
   input/output error, or a write is short (half is written, the next one finds no space). */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NONE, KILL, NO_SPACE, IO_ERROR, SHORT };

static char root[PATH_MAX];
static size_t root_length;
static atomic_int kind = NONE;
static atomic_int for_ever;
static atomic_long at, seen;

void fault_arm(const char *folder, int what, long call, int stays) {
  atomic_store(&kind, NONE);
  strncpy(root, folder, sizeof root - 1);
  root_length = strlen(root);
  atomic_store(&seen, 0);
  atomic_store(&at, call);
  atomic_store(&for_ever, stays);
  atomic_store(&kind, what);
}

long fault_calls(void) { return atomic_load(&seen); }

static int below(const char *path) { return path && root_length && strncmp(path, root, root_length) == 0; }

static int writes_below(int handle) {
  char name[64], path[PATH_MAX];
  snprintf(name, sizeof name, "/proc/self/fd/%d", handle);
  ssize_t length = readlink(name, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return below(path);
}

/* What to do about this call; the kill is done here unless half of a write comes first. */
static int fault(int is_write) {
  int what = atomic_load(&kind);
  if (what == NONE) return NONE;
  long number = atomic_fetch_add(&seen, 1) + 1, wanted = atomic_load(&at);
  if (wanted <= 0 || number < wanted) return NONE;
  if (number > wanted && !atomic_load(&for_ever) && what != SHORT) return NONE;
  if (what == KILL) {
    if (!is_write) kill(getpid(), SIGKILL);
    return KILL;
  }
  if (what == SHORT) return number == wanted && is_write ? SHORT : (number > wanted || !is_write ? NO_SPACE : NONE);
  return what;
}

static int refuse(int what) {
  errno = what == IO_ERROR ? EIO : ENOSPC;
  return -1;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int handle, const void *data, size_t size) {
  int what = atomic_load(&kind) && writes_below(handle) ? fault(1) : NONE;
  if (what == NO_SPACE || what == IO_ERROR) return refuse(what);
  ssize_t written = NEXT(write)(handle, data, what == NONE ? size : size / 2);
  if (what == KILL) kill(getpid(), SIGKILL);
  return written;
}

ssize_t pwrite(int handle, const void *data, size_t size, off_t offset) {
  int what = atomic_load(&kind) && writes_below(handle) ? fault(1) : NONE;
  if (what == NO_SPACE || what == IO_ERROR) return refuse(what);
  ssize_t written = NEXT(pwrite)(handle, data, what == NONE ? size : size / 2, offset);
  if (what == KILL) kill(getpid(), SIGKILL);
  return written;
}

ssize_t writev(int handle, const struct iovec *parts, int count) {
  int what = atomic_load(&kind) && writes_below(handle) ? fault(1) : NONE;
  if (what == NO_SPACE || what == IO_ERROR) return refuse(what);
  ssize_t written = NEXT(writev)(handle, parts, what == NONE || count < 2 ? count : count / 2);
  if (what == KILL) kill(getpid(), SIGKILL);
  return written;
}

#define ON_HANDLE(name)                                                    \
  int name(int handle) {                                                   \
    int what = atomic_load(&kind) && writes_below(handle) ? fault(0) : NONE; \
    return what == NONE ? NEXT(name)(handle) : refuse(what);               \
  }
ON_HANDLE(fsync)
ON_HANDLE(fdatasync)

#define ON_PATH(name)                                                    \
  int name(const char *path) {                                           \
    int what = atomic_load(&kind) && below(path) ? fault(0) : NONE;      \
    return what == NONE ? NEXT(name)(path) : refuse(what);               \
  }
ON_PATH(unlink)
ON_PATH(rmdir)

int mkdir(const char *path, mode_t mode) {
  int what = atomic_load(&kind) && below(path) ? fault(0) : NONE;
  return what == NONE ? NEXT(mkdir)(path, mode) : refuse(what);
}

int rename(const char *from, const char *to) {
  int what = atomic_load(&kind) && below(to) ? fault(0) : NONE;
  return what == NONE ? NEXT(rename)(from, to) : refuse(what);
}

int renameat(int a, const char *from, int b, const char *to) {
  int what = atomic_load(&kind) && below(to) ? fault(0) : NONE;
  return what == NONE ? NEXT(renameat)(a, from, b, to) : refuse(what);
}

#define OPEN(name)                                                                                            \
  int name(const char *path, int flags, ...) {                                                                \
    mode_t mode = 0;                                                                                          \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                      \
      va_list rest;                                                                                           \
      va_start(rest, flags);                                                                                  \
      mode = va_arg(rest, mode_t);                                                                            \
      va_end(rest);                                                                                           \
    }                                                                                                         \
    int what = atomic_load(&kind) && (flags & (O_WRONLY | O_RDWR)) && below(path) ? fault(0) : NONE;          \
    return what == NONE ? NEXT(name)(path, flags, mode) : refuse(what);                                       \
  }
OPEN(open)
OPEN(open64)
