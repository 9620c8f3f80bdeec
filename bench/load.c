/* The load generator: a closed loop over many connections that sends prepared requests.
 *
 * It is written in C because a Python generator would be slower than the servers. It sends blobs from
 * a file that bench/load.py wrote, and counts answers by the framing of the protocol. The code is the
 * same for every server.
 *
 *     connection   setup, then cycles, one after the other, in an endless loop
 *     cycle        one or more steps; each is sent after all answers of the previous one
 *     step         bytes, the number of their answers, and patches: places where
 *                  base + (number of the cycle on this connection) is written, u64 big-endian;
 *                  with the largest base, the start of a UUIDv7 of the current time
 *
 * So transaction ids and versions differ in each request, although the file is short. Cycles of one
 * step can be pipelined. If an answer is an error, a cycle with a `recover` step restarts (after that
 * step, if it is not empty). It counts once, with its total time. For other cycles the error is
 * counted and reported.
 *
 *     load PROTOCOL HOST PORT FILE DEPTH WARM_UP_S MEASURE_S
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH_MAX = 1024, READ_SIZE = 1 << 18 };

typedef struct { uint32_t offset; uint64_t base; } Patch;
typedef struct { uint32_t answers, size, patch_count; Patch *patches; const uint8_t *data; } Step;
typedef struct { uint32_t count, retries; Step *steps; Step recover; } Cycle;
typedef struct { uint8_t *data; size_t start, end, room; } Buffer;

typedef struct {
    int fd;
    int ready;                  /* the setup is answered */
    Step setup;
    Cycle *cycles;
    uint32_t cycle_count;
    uint64_t uuid_start;        /* start of the transaction id, made when its cycle began */
    uint64_t number;            /* number of started cycles, which patches add to their base */
    Cycle *current;             /* the current cycle, if it has several steps */
    uint32_t step;              /* its step in flight; count: the recover step */
    int failed;                 /* an answer of the step in flight was an error */
    uint32_t owed;              /* missing answers of the oldest request */
    double began[DEPTH_MAX];    /* start times of the requests in flight, a ring */
    uint32_t oldest, in_flight;
    Buffer in, out;
} Connection;

typedef long (*Framing)(const uint8_t *data, size_t size, int *error);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static void die(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "wrong");
    exit(1);
}

/* Framings: the size of the answer at the start of the data, 0 if it is incomplete, and whether it is
 * an error. A negative size is a message that does not complete an answer. */

static long headwater(const uint8_t *data, size_t size, int *error) {
    if (size < 4) return 0;
    size_t whole = 4 + ((size_t)data[0] << 24 | data[1] << 16 | data[2] << 8 | data[3]);
    if (size < whole) return 0;
    /* [request id, status, payload]: the id takes 1, 2, 3 or 5 bytes. */
    uint8_t id = data[5];
    size_t at = 6 + (id == 0xcc ? 1 : id == 0xcd ? 2 : id == 0xce ? 4 : 0);
    *error = data[at] == 1;
    return whole;
}

static const uint8_t *line_end(const uint8_t *data, size_t size) {
    const uint8_t *end = memchr(data, '\n', size);
    return end ? end + 1 : NULL;
}

static long resp(const uint8_t *data, size_t size, int *error) {
    const uint8_t *end = line_end(data, size);
    if (!end) return 0;
    size_t whole = end - data;
    *error = data[0] == '-';
    if (data[0] == '$') {
        long length = strtol((const char *)data + 1, NULL, 10);
        if (length >= 0) whole += length + 2;
    } else if (data[0] == '*') {
        for (long count = strtol((const char *)data + 1, NULL, 10); count > 0; count--) {
            long item = resp(data + whole, size - whole, error);
            if (!item) return 0;
            whole += item;
        }
    }
    return size < whole ? 0 : (long)whole;
}

static long postgres(const uint8_t *data, size_t size, int *error) {
    if (size < 5) return 0;
    size_t whole = 1 + ((size_t)data[1] << 24 | data[2] << 16 | data[3] << 8 | data[4]);
    if (size < whole) return 0;
    *error = data[0] == 'E';
    /* Only ReadyForQuery ends an answer. */
    return data[0] == 'Z' ? (long)whole : -(long)whole;
}

static long http(const uint8_t *data, size_t size, int *error) {
    static const char name[] = "Content-Length:";
    const uint8_t *line = data, *end;
    long length = -1;
    while ((end = line_end(line, data + size - line))) {
        if (end - line <= 2) {
            size_t whole = end - data + (length > 0 ? length : 0);
            *error = size > 12 && memcmp(data + 9, "200", 3) != 0;
            return size < whole ? 0 : (long)whole;
        }
        if (!strncasecmp((const char *)line, name, sizeof name - 1))
            length = strtol((const char *)line + sizeof name - 1, NULL, 10);
        line = end;
    }
    return 0;
}

/* Results. */

static uint32_t *latencies;     /* tenths of a microsecond */
static size_t latency_count, latency_room;
static uint64_t errors, retries, bytes_in;
static char first_error[160];
static double measure_from, measure_to;

static void record(double began, double ended) {
    if (ended < measure_from || ended >= measure_to) return;
    if (latency_count == latency_room) {
        latency_room = latency_room ? 2 * latency_room : 1 << 16;
        latencies = realloc(latencies, latency_room * sizeof *latencies);
        if (!latencies) die("memory");
    }
    latencies[latency_count++] = (uint32_t)((ended - began) * 1e7);
}

static void note_error(const uint8_t *data, size_t size, double at) {
    if (at < measure_from || at >= measure_to) return;
    if (errors++) return;
    size_t count = size < sizeof first_error - 1 ? size : sizeof first_error - 1;
    for (size_t i = 0; i < count; i++)
        first_error[i] = data[i] >= ' ' && data[i] < 127 && data[i] != '"' && data[i] != '\\' ? data[i] : '.';
}

/* Sending. */

static uint8_t *room_in(Buffer *buffer, size_t size) {
    if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
    if (buffer->end + size > buffer->room) {
        memmove(buffer->data, buffer->data + buffer->start, buffer->end - buffer->start);
        buffer->end -= buffer->start;
        buffer->start = 0;
        if (buffer->end + size > buffer->room) {
            buffer->room = 2 * (buffer->end + size);
            buffer->data = realloc(buffer->data, buffer->room);
            if (!buffer->data) die("memory");
        }
    }
    return buffer->data + buffer->end;
}

/* 48 bits of milliseconds, then the version, like the ids of a client, at the time of the request. */
static uint64_t uuid_start(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (t.tv_sec * 1000ull + t.tv_nsec / 1000000) << 16 | 0x7000;
}

static void put_step(Connection *c, const Step *step, uint64_t number) {
    uint8_t *to = room_in(&c->out, step->size);
    memcpy(to, step->data, step->size);
    for (uint32_t i = 0; i < step->patch_count; i++) {
        uint64_t base = step->patches[i].base;
        uint64_t value = __builtin_bswap64(base == UINT64_MAX ? c->uuid_start : base + number);
        memcpy(to + step->patches[i].offset, &value, 8);
    }
    c->out.end += step->size;
    c->failed = 0;
}

static void send_some(Connection *c) {
    while (c->out.start < c->out.end) {
        ssize_t sent = send(c->fd, c->out.data + c->out.start, c->out.end - c->out.start, MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR)) return; /* retried at the next answer */
        if (sent < 0) die("send");
        c->out.start += sent;
    }
}

static void begin_cycle(Connection *c, double at, uint32_t depth) {
    Cycle *cycle = &c->cycles[c->number % c->cycle_count];
    c->current = cycle;
    c->step = 0;
    c->began[(c->oldest + c->in_flight++) % depth] = at;
    c->uuid_start = uuid_start();
    put_step(c, &cycle->steps[0], c->number++);
    if (c->in_flight == 1) c->owed = cycle->steps[0].answers;
}

static void next_step(Connection *c, uint32_t step) {
    const Step *next = step < c->current->count ? &c->current->steps[step] : &c->current->recover;
    c->step = step;
    c->owed = next->answers;
    put_step(c, next, c->number - 1);
}

/* All answers of the oldest request have arrived. */
static void answered(Connection *c, double at, uint32_t depth) {
    Cycle *cycle = c->current;
    if (c->failed && cycle->retries && c->step < cycle->count) {
        if (at >= measure_from && at < measure_to) retries++;
        if (cycle->recover.size) { next_step(c, cycle->count); return; }
        c->step = cycle->count;
    }
    if (c->step == cycle->count) {
        /* Retry with a new number and so a new transaction id. The time continues. */
        c->step = 0;
        c->owed = cycle->steps[0].answers;
        c->uuid_start = uuid_start();
        put_step(c, &cycle->steps[0], c->number++);
        return;
    }
    if (c->step + 1 < cycle->count) { next_step(c, c->step + 1); return; }
    record(c->began[c->oldest], at);
    c->failed = 0;
    c->oldest = (c->oldest + 1) % depth;
    c->in_flight--;
    c->owed = cycle->steps[0].answers;
    begin_cycle(c, at, depth);
}

static void receive(Connection *c, Framing framing, uint32_t depth) {
    ssize_t size = recv(c->fd, room_in(&c->in, READ_SIZE), READ_SIZE, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) die("the server closed a connection");
    c->in.end += size;
    double at = now();
    if (at >= measure_from && at < measure_to) bytes_in += size;
    while (c->in.start < c->in.end) {
        const uint8_t *data = c->in.data + c->in.start;
        int error = 0;
        long whole = framing(data, c->in.end - c->in.start, &error);
        if (!whole) break;
        if (error) {
            c->failed = 1;
            if (!c->ready || !c->current->retries) note_error(data, labs(whole), c->ready ? at : measure_from);
        }
        c->in.start += labs(whole);
        if (whole < 0 || --c->owed) continue;
        if (c->ready) { answered(c, at, depth); continue; }
        c->ready = 1;
        for (uint32_t i = 0; i < depth; i++) begin_cycle(c, at, depth);
    }
    send_some(c);
}

/* The file. */

static const uint8_t *at_, *end_;

static const void *take(size_t size) {
    const void *data = at_;
    if ((size_t)(end_ - at_) < size) die("the file ends early");
    at_ += size;
    return data;
}
static uint32_t take32(void) { uint32_t v; memcpy(&v, take(4), 4); return v; }
static uint64_t take64(void) { uint64_t v; memcpy(&v, take(8), 8); return v; }

static Step take_step(void) {
    Step step = {.answers = take32(), .size = take32(), .patch_count = take32()};
    step.patches = calloc(step.patch_count + 1, sizeof *step.patches);
    for (uint32_t i = 0; i < step.patch_count; i++) {
        step.patches[i].offset = take32();
        step.patches[i].base = take64();
        if (step.patches[i].offset + 8 > step.size) die("a patch is outside its step");
    }
    step.data = take(step.size);
    return step;
}

static void take_connection(Connection *c) {
    c->setup = take_step();
    c->number = take64();
    c->cycle_count = take32();
    c->cycles = calloc(c->cycle_count, sizeof *c->cycles);
    for (uint32_t i = 0; i < c->cycle_count; i++) {
        Cycle *cycle = &c->cycles[i];
        cycle->count = take32();
        cycle->retries = take32();
        cycle->steps = calloc(cycle->count, sizeof *cycle->steps);
        for (uint32_t s = 0; s < cycle->count; s++) cycle->steps[s] = take_step();
        cycle->recover = take_step();
    }
}

static void read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END)) die(path);
    size_t size = ftell(file);
    uint8_t *data = malloc(size);
    rewind(file);
    if (!data || fread(data, 1, size, file) != size) die(path);
    fclose(file);
    at_ = data;
    end_ = data + size;
}

static int connect_to(const char *host, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die("host");
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static int by_value(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double quantile(double q) {
    return latency_count ? latencies[(size_t)(q * (latency_count - 1))] / 10.0 : 0;
}

int main(int argc, char **argv) {
    if (argc != 8) die("usage: load PROTOCOL HOST PORT FILE DEPTH WARM_UP_S MEASURE_S");
    Framing framing = !strcmp(argv[1], "headwater") ? headwater
        : !strcmp(argv[1], "resp") ? resp
        : !strcmp(argv[1], "postgres") ? postgres
        : !strcmp(argv[1], "http") ? http : NULL;
    uint32_t depth = atoi(argv[5]);
    if (!framing || depth < 1 || depth > DEPTH_MAX) die("protocol or depth");
    read_file(argv[4]);
    uint32_t count = take32();
    Connection *connections = calloc(count, sizeof *connections);
    int poll = epoll_create1(0);
    double began = now();
    measure_from = began + atof(argv[6]);
    measure_to = measure_from + atof(argv[7]);
    for (uint32_t i = 0; i < count; i++) {
        Connection *c = &connections[i];
        take_connection(c);
        c->fd = connect_to(argv[2], atoi(argv[3]));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poll, EPOLL_CTL_ADD, c->fd, &event)) die("epoll_ctl");
        if (c->setup.size) {
            c->owed = c->setup.answers;
            put_step(c, &c->setup, 0);
        } else {
            c->ready = 1;
            for (uint32_t d = 0; d < depth; d++) begin_cycle(c, now(), depth);
        }
        send_some(c);
    }
    struct epoll_event events[256];
    while (now() < measure_to) {
        int ready = epoll_wait(poll, events, 256, 100);
        for (int i = 0; i < ready; i++) receive(events[i].data.ptr, framing, depth);
    }
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
        + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
    qsort(latencies, latency_count, sizeof *latencies, by_value);
    printf("{\"requests\": %zu, \"seconds\": %.3f, \"errors\": %lu, \"retries\": %lu,"
           " \"bytes_in\": %lu, \"cpu_seconds\": %.3f, \"p50_us\": %.1f, \"p99_us\": %.1f,"
           " \"p999_us\": %.1f, \"max_us\": %.1f, \"first_error\": \"%s\"}\n",
           latency_count, measure_to - measure_from, (unsigned long)errors, (unsigned long)retries,
           (unsigned long)bytes_in, cpu, quantile(0.5), quantile(0.99), quantile(0.999),
           quantile(1), first_error);
    return 0;
}
