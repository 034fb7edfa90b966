#pragma once
/* First, so that the system headers keep the feature set that Swift's Glibc module was built with: liburing.h would
   ask for another one, and types such as fd_set would differ between the two modules. */
#include <sys/types.h>
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <linux/stat.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/un.h>
#include <unistd.h>

/* What Swift can't import by itself: functions that glibc declares only for _GNU_SOURCE, system calls without a libc
   function, and macros that compute. */

extern int accept4(int, struct sockaddr *restrict, socklen_t *restrict, int);
extern int fallocate(int, int, off_t, off_t);
extern ssize_t preadv2(int, const struct iovec *, int, off_t, int);
extern ssize_t pwritev2(int, const struct iovec *, int, off_t, int);
extern int pthread_setname_np(pthread_t, const char *);
extern int sem_clockwait(sem_t *restrict, clockid_t, const struct timespec *restrict);

/* Linux values, the same on every architecture. */
enum {
  shim_seek_data = 3,
  shim_seek_hole = 4,
  shim_o_direct = __O_DIRECT,
  shim_o_path = 010000000,
  shim_o_tmpfile = __O_TMPFILE,
  shim_rename_noreplace = 1,
  shim_at_empty_path = 0x1000,
  shim_ofd_getlk = 36,
  shim_ofd_setlk = 37,
};

/* A name of its own: Swift would see renameat2's flags only with _GNU_SOURCE. */
static inline int shim_renameat2(int from, const char *old_name, int to, const char *new_name, unsigned flags) {
  return (int)syscall(SYS_renameat2, from, old_name, to, new_name, flags);
}

static inline int shim_openat2(int folder, const char *path, const struct open_how *how) {
  return (int)syscall(SYS_openat2, folder, path, how, sizeof(*how));
}

static inline ssize_t shim_preadv2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  return preadv2(fd, parts, count, offset, flags);
}

static inline ssize_t shim_pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
  return pwritev2(fd, parts, count, offset, flags);
}

/* The alignment that O_DIRECT needs for memory and for offsets; 0 where the kernel can't tell. */
static inline int shim_direct_alignment(int fd, unsigned *memory, unsigned *offset) {
  struct statx status = {0};
  if (syscall(SYS_statx, fd, "", shim_at_empty_path, STATX_DIOALIGN, &status) != 0) return -1;
  int known = (status.stx_mask & STATX_DIOALIGN) != 0;
  *memory = known ? status.stx_dio_mem_align : 0;
  *offset = known ? status.stx_dio_offset_align : 0;
  return 0;
}

/* The magic number of the file's file system (linux/magic.h). */
static inline int shim_file_system(int fd, unsigned *magic) {
  struct statfs status;
  if (fstatfs(fd, &status) != 0) return -1;
  *magic = (unsigned)status.f_type;
  return 0;
}

/* When the file was made, in nanoseconds since 1970; 0 where the file system doesn't say. */
static inline int shim_birth(int fd, long long *nanoseconds) {
  struct statx status = {0};
  if (syscall(SYS_statx, fd, "", shim_at_empty_path, STATX_BTIME, &status) != 0) return -1;
  int known = (status.stx_mask & STATX_BTIME) != 0;
  *nanoseconds = known ? status.stx_btime.tv_sec * 1000000000LL + status.stx_btime.tv_nsec : 0;
  return 0;
}

/* Tells a block device from others that had its number before it; from Linux 5.15 on (BLKGETDISKSEQ). */
static inline int shim_disk_sequence(int fd, unsigned long long *sequence) {
  return ioctl(fd, _IOR(0x12, 128, unsigned long long), sequence);
}

static inline int shim_block_byte_count(int fd, unsigned long long *count) { return ioctl(fd, BLKGETSIZE64, count); }
static inline int shim_block_sector(int fd, int *byte_count) { return ioctl(fd, BLKSSZGET, byte_count); }

static inline int shim_block_zero_out(int fd, unsigned long long offset, unsigned long long length) {
  unsigned long long range[2] = {offset, length};
  return ioctl(fd, BLKZEROOUT, range);
}

static inline int shim_block_discard(int fd, unsigned long long offset, unsigned long long length) {
  unsigned long long range[2] = {offset, length};
  return ioctl(fd, BLKDISCARD, range);
}

/* Open file description locks: they belong to the open file, not to the process. */
static inline int shim_ofd_lock(int fd, int command, short type, off_t start, off_t length, short *found) {
  struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
  int result = fcntl(fd, command, &lock);
  if (found) *found = lock.l_type;
  return result;
}
static inline int shim_ofd_set(int fd, short type, off_t start, off_t length) {
  return shim_ofd_lock(fd, shim_ofd_setlk, type, start, length, 0);
}
static inline int shim_ofd_test(int fd, off_t start, off_t length, short *found) {
  return shim_ofd_lock(fd, shim_ofd_getlk, F_WRLCK, start, length, found);
}

extern ssize_t splice(int, off_t *, int, off_t *, size_t, unsigned);
extern int pipe2(int *, int);

/* SPLICE_F_MOVE | SPLICE_F_NONBLOCK */
enum { shim_splice_flags = 3 };

static inline ssize_t shim_splice_to_pipe(int file, off_t offset, int pipe, size_t count) {
  return splice(file, &offset, pipe, 0, count, shim_splice_flags);
}
static inline ssize_t shim_splice_to_socket(int pipe, int socket, size_t count) {
  return splice(pipe, 0, socket, 0, count, shim_splice_flags);
}
static inline int shim_set_pipe_byte_count(int pipe, int count) { return fcntl(pipe, 1031, count); }
static inline int shim_pipe_byte_count(int pipe) { return fcntl(pipe, 1032); }

/* Between two looks at memory that another core changes: lets the core's other thread have its units meanwhile. */
static inline void shim_relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
