/* A pipelining NBD client that costs little itself, so that what is measured is the server.
 *
 * One thread for each connection keeps `depth` requests under way: what became free in one receive is asked for anew
 * with one send. Every reply is checked: a cookie that is waited for, no error, and all bytes that were asked for.
 * Prints one line of JSON. The flush at the end of a run with writes is part of its time.
 *
 * nbd-load --socket PATH [--export NAME] [--write PERCENT] [--block BYTES] [--depth N] [--connections N]
 *          [--seconds S] [--span BYTES] [--sequential] [--seed N]
 *
 * The protocol is fixed newstyle with structured replies (doc/proto.md of the NetworkBlockDevice project).
 */
#define _GNU_SOURCE
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_DEPTH = 1024, MAX_CONNECTIONS = 256, RECEIVE_BYTES = 1 << 20, REQUEST_BYTES = 28 };
enum { CMD_READ = 0, CMD_WRITE = 1, CMD_DISCONNECT = 2, CMD_FLUSH = 3 };
/* A latency's bucket is its highest bit and the five below it: steps of about three percent. */
enum { STEP_BITS = 5, BUCKETS = 64 << STEP_BITS };

static struct {
  const char *socket, *export;
  unsigned write_percent, block, depth, connections;
  double seconds;
  uint64_t span, seed;
  bool sequential;
} options = {.export = "", .block = 4096, .depth = 16, .connections = 1, .seconds = 2, .seed = 1};

struct slot {
  uint64_t started; /* nanoseconds; 0 while it is free */
  uint64_t cookie;
  uint32_t left; /* bytes of data still to come */
  bool is_write;
};

struct connection {
  pthread_t thread;
  int socket;
  bool has_structured;
  uint64_t size, random, position, next_cookie, requests, finished;
  struct slot slots[MAX_DEPTH];
  uint16_t free_slots[MAX_DEPTH];
  unsigned free_count;
  /* Requests that aren't sent yet. */
  unsigned char headers[MAX_DEPTH][REQUEST_BYTES];
  struct iovec pieces[2 * MAX_DEPTH];
  unsigned first_piece, piece_count;
  /* Bytes that aren't looked at yet, and how many to pass over first. */
  unsigned char *received;
  size_t received_count, skip;
  struct slot *skipping;
  bool skip_ends;
  unsigned char *payload;
  uint64_t latencies[BUCKETS];
};

static void fail(const char *format, const char *detail) {
  fprintf(stderr, "nbd-load: ");
  fprintf(stderr, format, detail);
  fputc('\n', stderr);
  exit(1);
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* xorshift64*: good enough to spread requests. */
static uint64_t random_number(uint64_t *state) {
  *state ^= *state >> 12;
  *state ^= *state << 25;
  *state ^= *state >> 27;
  return *state * 0x2545f4914f6cdd1d;
}

/* Big-endian numbers. */
static void put16(unsigned char *at, uint16_t value) { value = htobe16(value), memcpy(at, &value, 2); }
static void put32(unsigned char *at, uint32_t value) { value = htobe32(value), memcpy(at, &value, 4); }
static void put64(unsigned char *at, uint64_t value) { value = htobe64(value), memcpy(at, &value, 8); }
static uint16_t get16(const unsigned char *at) { uint16_t value; memcpy(&value, at, 2); return be16toh(value); }
static uint32_t get32(const unsigned char *at) { uint32_t value; memcpy(&value, at, 4); return be32toh(value); }
static uint64_t get64(const unsigned char *at) { uint64_t value; memcpy(&value, at, 8); return be64toh(value); }

static void send_whole(int socket, const void *bytes, size_t count) {
  while (count > 0) {
    ssize_t sent = send(socket, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent <= 0) fail("can't send: %s", strerror(errno));
    bytes = (const char *)bytes + sent;
    count -= (size_t)sent;
  }
}

static void receive_whole(int socket, void *bytes, size_t count) {
  while (count > 0) {
    ssize_t received = recv(socket, bytes, count, 0);
    if (received < 0 && errno == EINTR) continue;
    if (received <= 0) fail("the server ended the connection%s", "");
    bytes = (char *)bytes + received;
    count -= (size_t)received;
  }
}

static void send_option(int socket, uint32_t option, const void *payload, uint32_t count) {
  unsigned char header[16];
  memcpy(header, "IHAVEOPT", 8);
  put32(header + 8, option);
  put32(header + 12, count);
  send_whole(socket, header, sizeof header);
  send_whole(socket, payload, count);
}

/* The reply's type; its payload goes to `payload`. */
static uint32_t receive_option_reply(int socket, unsigned char *payload, uint32_t capacity, uint32_t *count) {
  unsigned char header[20];
  receive_whole(socket, header, sizeof header);
  *count = get32(header + 16);
  if (get64(header) != 0x0003e889045565a9 || *count > capacity) fail("not an answer to an option%s", "");
  receive_whole(socket, payload, *count);
  return get32(header + 12);
}

static void shake_hands(struct connection *c) {
  unsigned char bytes[8192], flags[4];
  uint32_t count;
  receive_whole(c->socket, bytes, 18);
  if (memcmp(bytes, "NBDMAGICIHAVEOPT", 16) != 0 || !(get16(bytes + 16) & 1)) fail("not fixed newstyle%s", "");
  put32(flags, get16(bytes + 16) & 3);
  send_whole(c->socket, flags, sizeof flags);
  send_option(c->socket, 8, "", 0); /* STRUCTURED_REPLY */
  c->has_structured = receive_option_reply(c->socket, bytes, sizeof bytes, &count) == 1;
  uint32_t length = (uint32_t)strlen(options.export);
  if (length > 4096) fail("the export's name is too long%s", "");
  put32(bytes, length);
  memcpy(bytes + 4, options.export, length);
  put16(bytes + 4 + length, 0);
  send_option(c->socket, 7, bytes, length + 6); /* GO */
  for (;;) {
    uint32_t type = receive_option_reply(c->socket, bytes, sizeof bytes, &count);
    if (type == 1) break;
    if (type != 3) fail("the server refuses the export “%s”", options.export);
    if (count >= 12 && get16(bytes) == 0) c->size = get64(bytes + 2);
  }
}

static void open_connection(struct connection *c) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(options.socket) >= sizeof address.sun_path) fail("the path is too long: %s", options.socket);
  strcpy(address.sun_path, options.socket);
  c->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (c->socket < 0 || connect(c->socket, (struct sockaddr *)&address, sizeof address) != 0)
    fail("can't connect: %s", strerror(errno));
  shake_hands(c);
  if (options.span && options.span < c->size) c->size = options.span;
  if (c->size < options.block) fail("the export is smaller than one block%s", "");
}

static void append_header(struct connection *c, uint16_t command, uint64_t cookie, uint64_t offset, uint32_t length,
                          unsigned index) {
  unsigned char *header = c->headers[index];
  put32(header, 0x25609513);
  put16(header + 4, 0);
  put16(header + 6, command);
  put64(header + 8, cookie);
  put64(header + 16, offset);
  put32(header + 24, length);
  c->pieces[c->piece_count++] = (struct iovec){header, REQUEST_BYTES};
}

static void ask(struct connection *c, uint64_t time) {
  unsigned index = c->free_slots[--c->free_count];
  uint64_t blocks = c->size / options.block;
  uint64_t block = options.sequential ? c->position++ % blocks : random_number(&c->random) % blocks;
  struct slot *slot = &c->slots[index];
  slot->started = time;
  slot->is_write = options.write_percent > random_number(&c->random) % 100;
  slot->left = slot->is_write ? 0 : options.block;
  /* The slot is in the low bits, and a number that doesn't come again above. */
  slot->cookie = c->next_cookie++ << 16 | index;
  append_header(c, slot->is_write ? CMD_WRITE : CMD_READ, slot->cookie, block * options.block, options.block, index);
  if (slot->is_write) c->pieces[c->piece_count++] = (struct iovec){c->payload, options.block};
  c->requests++;
}

/* Sends what the socket takes. */
static void send_requests(struct connection *c) {
  while (c->first_piece < c->piece_count) {
    unsigned count = c->piece_count - c->first_piece;
    struct msghdr message = {.msg_iov = c->pieces + c->first_piece, .msg_iovlen = count > 1024 ? 1024 : count};
    ssize_t sent = sendmsg(c->socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) return;
    if (sent < 0) fail("can't send: %s", strerror(errno));
    while (sent > 0) {
      struct iovec *piece = &c->pieces[c->first_piece];
      size_t part = (size_t)sent < piece->iov_len ? (size_t)sent : piece->iov_len;
      piece->iov_base = (char *)piece->iov_base + part;
      piece->iov_len -= part;
      sent -= (ssize_t)part;
      if (piece->iov_len == 0) c->first_piece++;
    }
  }
  c->first_piece = c->piece_count = 0;
}

static struct slot *slot_of(struct connection *c, uint64_t cookie) {
  unsigned index = cookie & 0xffff;
  if (index >= options.depth || !c->slots[index].started || c->slots[index].cookie != cookie)
    fail("a reply to nothing that was asked%s", "");
  return &c->slots[index];
}

static void finish(struct connection *c, struct slot *slot, uint64_t time) {
  if (slot->left) fail("a reply without all of its bytes%s", "");
  uint64_t nanoseconds = time - slot->started;
  unsigned top = 63 - (unsigned)__builtin_clzll(nanoseconds | 1 << STEP_BITS);
  c->latencies[top << STEP_BITS | (nanoseconds >> (top - STEP_BITS) & ((1 << STEP_BITS) - 1))]++;
  slot->started = 0;
  c->free_slots[c->free_count++] = (uint16_t)(slot - c->slots);
  c->finished++;
}

static void take_bytes(struct slot *slot, uint64_t count) {
  if (count > slot->left) fail("more bytes than were asked for%s", "");
  slot->left -= (uint32_t)count;
}

/* Bytes of the header and what is read with it, 0 if they aren't all there. */
static size_t take_header(struct connection *c, const unsigned char *at, size_t count) {
  if (count < 16) return 0;
  struct slot *slot = slot_of(c, get64(at + 8));
  if (get32(at) == 0x67446698) { /* simple */
    if (get32(at + 4)) fail("the server answered with an error%s", "");
    c->skip = slot->left;
    take_bytes(slot, slot->left);
    c->skipping = slot, c->skip_ends = true;
    return 16;
  }
  if (get32(at) != 0x668e33ef) fail("not a reply%s", "");
  if (count < 20) return 0;
  uint32_t length = get32(at + 16), type = get16(at + 6);
  if (type != 0 && type != 1 && type != 2) fail("the server answered with an error%s", "");
  size_t whole = 20 + (type == 0 ? 0 : type == 1 ? 8 : 12);
  if (count < whole) return 0;
  if (length < whole - 20) fail("a chunk that is too short%s", "");
  if (type == 1) take_bytes(slot, length - 8), c->skip = length - 8;
  if (type == 2) take_bytes(slot, get32(at + 28));
  c->skipping = slot, c->skip_ends = get16(at + 4) & 1;
  return whole;
}

static void take_replies(struct connection *c, uint64_t time) {
  size_t start = 0;
  for (;;) {
    size_t part = c->received_count - start < c->skip ? c->received_count - start : c->skip;
    start += part;
    c->skip -= part;
    if (c->skip) break;
    if (c->skipping && c->skip_ends) finish(c, c->skipping, time);
    c->skipping = NULL;
    size_t header = take_header(c, c->received + start, c->received_count - start);
    if (!header) break;
    start += header;
  }
  c->received_count -= start;
  memmove(c->received, c->received + start, c->received_count);
}

/* Waits until something was received; sends meanwhile what is left to send. */
static void receive(struct connection *c) {
  for (;;) {
    if (c->first_piece < c->piece_count) {
      struct pollfd wait = {c->socket, POLLIN | POLLOUT, 0};
      poll(&wait, 1, -1);
      if (wait.revents & POLLOUT) send_requests(c);
      if (!(wait.revents & ~POLLOUT)) continue;
    }
    ssize_t count = recv(c->socket, c->received + c->received_count, RECEIVE_BYTES - c->received_count, 0);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) fail("the server ended the connection%s", "");
    c->received_count += (size_t)count;
    return;
  }
}

static void drain(struct connection *c) {
  while (c->free_count < options.depth) {
    receive(c);
    take_replies(c, now());
  }
}

static void flush(struct connection *c) {
  unsigned index = c->free_slots[--c->free_count];
  c->slots[index] = (struct slot){.started = now(), .cookie = c->next_cookie++ << 16 | index, .is_write = true};
  append_header(c, CMD_FLUSH, c->slots[index].cookie, 0, 0, index);
  send_requests(c);
  drain(c);
  c->finished--;
}

static void *serve(void *argument) {
  struct connection *c = argument;
  uint64_t time = now(), end = time + (uint64_t)(options.seconds * 1e9);
  while (time < end) {
    /* New ones are appended only where all before them are sent: there is room for one batch. */
    if (c->piece_count == 0)
      while (c->free_count) ask(c, time);
    send_requests(c);
    receive(c);
    time = now();
    take_replies(c, time);
  }
  drain(c);
  if (options.write_percent) flush(c);
  return NULL;
}

static double percentile(const uint64_t *counts, uint64_t total, double share) {
  uint64_t seen = 0;
  for (unsigned index = 0; index < BUCKETS; index++) {
    seen += counts[index];
    if (seen < total * share || seen == 0) continue;
    unsigned top = index >> STEP_BITS, step = index & ((1 << STEP_BITS) - 1);
    return (double)((uint64_t)((1 << STEP_BITS) + step + 1) << (top - STEP_BITS)) / 1e3;
  }
  return 0;
}

static void parse(int count, char **arguments) {
  enum { SOCKET = 1, EXPORT, WRITE, BLOCK, DEPTH, CONNECTIONS, SECONDS, SPAN, SEED, SEQUENTIAL };
  static const struct option names[] = {
      {"socket", 1, NULL, SOCKET}, {"export", 1, NULL, EXPORT}, {"write", 1, NULL, WRITE},
      {"block", 1, NULL, BLOCK}, {"depth", 1, NULL, DEPTH}, {"connections", 1, NULL, CONNECTIONS},
      {"seconds", 1, NULL, SECONDS}, {"span", 1, NULL, SPAN}, {"seed", 1, NULL, SEED},
      {"sequential", 0, NULL, SEQUENTIAL}, {0}};
  for (int name; (name = getopt_long(count, arguments, "", names, NULL)) != -1;) switch (name) {
    case SOCKET: options.socket = optarg; break;
    case EXPORT: options.export = optarg; break;
    case WRITE: options.write_percent = (unsigned)atoi(optarg); break;
    case BLOCK: options.block = (unsigned)atoi(optarg); break;
    case DEPTH: options.depth = (unsigned)atoi(optarg); break;
    case CONNECTIONS: options.connections = (unsigned)atoi(optarg); break;
    case SECONDS: options.seconds = atof(optarg); break;
    case SPAN: options.span = strtoull(optarg, NULL, 10); break;
    case SEED: options.seed = strtoull(optarg, NULL, 10); break;
    case SEQUENTIAL: options.sequential = true; break;
    default: exit(2);
  }
  if (!options.socket || optind < count || options.block < 1 || options.block > 32 << 20 || options.depth < 1 ||
      options.depth > MAX_DEPTH || options.connections < 1 || options.connections > MAX_CONNECTIONS)
    fail("what is to be done? See the head of nbd-load.c%s", "");
}

int main(int count, char **arguments) {
  parse(count, arguments);
  struct connection *all = calloc(options.connections, sizeof *all);
  unsigned char *payload = malloc(options.block);
  uint64_t random = options.seed | 1, latencies[BUCKETS] = {0}, requests = 0;
  if (!all || !payload) fail("no memory%s", "");
  for (unsigned index = 0; index < options.block; index++) payload[index] = (unsigned char)(random_number(&random) >> 56);
  for (struct connection *c = all; c < all + options.connections; c++) {
    c->random = random_number(&random) | 1;
    c->payload = payload;
    c->received = malloc(RECEIVE_BYTES);
    if (!c->received) fail("no memory%s", "");
    for (unsigned slot = options.depth; slot-- > 0;) c->free_slots[c->free_count++] = (uint16_t)slot;
    open_connection(c);
  }
  uint64_t start = now();
  for (struct connection *c = all; c < all + options.connections; c++)
    if (pthread_create(&c->thread, NULL, serve, c) != 0) fail("no thread%s", "");
  for (struct connection *c = all; c < all + options.connections; c++) {
    pthread_join(c->thread, NULL);
    if (c->finished != c->requests) fail("requests without an answer%s", "");
    requests += c->finished;
    for (unsigned index = 0; index < BUCKETS; index++) latencies[index] += c->latencies[index];
  }
  double seconds = (double)(now() - start) / 1e9;
  printf("{\"requests\": %" PRIu64 ", \"seconds\": %.4f, \"p50\": %.1f, \"p99\": %.1f}\n", requests, seconds,
         percentile(latencies, requests, 0.5), percentile(latencies, requests, 0.99));
  return 0;
}
