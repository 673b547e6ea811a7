/* One HTTP/1.1 message, parsed as it comes: what the mock and the load generator share. */

#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define HEAD_LIMIT 16384
#define READ_SIZE (256 * 1024)

enum state { HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, WHOLE };

/* Bytes that grow as needed; the room is kept for the next message. */
struct bytes {
    char *at;
    size_t length, room;
};

struct message {
    enum state state;
    struct bytes head, body;
    size_t left;     /* of the body, or of the chunk */
    char line[64];   /* the chunk size or trailer line that is being read */
    size_t line_length;
};

static void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "no errno");
    exit(2);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void append(struct bytes *b, const char *data, size_t length)
{
    if (b->length + length + 1 > b->room) {
        b->room = (b->length + length + 1) * 2;
        b->at = realloc(b->at, b->room);
        if (!b->at)
            die("realloc");
    }
    memcpy(b->at + b->length, data, length);
    b->length += length;
    b->at[b->length] = 0;
}

static void drop(struct bytes *b, size_t length)
{
    memmove(b->at, b->at + length, b->length - length + 1); /* the final 0 too */
    b->length -= length;
}

/* Return the value of a header in the head, or NULL; it ends at the line break. */
static const char *header(const struct message *m, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(m->head.at, "\r\n"); line; line = strstr(line, "\r\n")) {
        line += 2;
        if (!strncasecmp(line, name, length) && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return NULL;
}

static void message_reset(struct message *m)
{
    m->state = HEAD;
    m->head.length = m->body.length = m->left = m->line_length = 0;
}

static void head_complete(struct message *m)
{
    const char *length = header(m, "content-length");
    const char *coding = header(m, "transfer-encoding");
    m->left = length ? strtoull(length, NULL, 10) : 0;
    m->state = coding && !strncasecmp(coding, "chunked", 7) ? CHUNK_SIZE : m->left ? SIZED : WHOLE;
}

/* Take the head; return how many bytes were of it, or -1 if it is too long. */
static ssize_t feed_head(struct message *m, const char *data, size_t length)
{
    size_t before = m->head.length, take = length < HEAD_LIMIT ? length : HEAD_LIMIT;
    append(&m->head, data, take);
    char *end = strstr(m->head.at + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (!end)
        return m->head.length > HEAD_LIMIT ? -1 : (ssize_t)take;
    m->head.length = end - m->head.at + 4;
    m->head.at[m->head.length - 2] = 0; /* keeps the break of the last line */
    head_complete(m);
    return m->head.length - before;
}

/* Take one byte of a chunk size line or a trailer; return -1 if it makes no sense. */
static int feed_line(struct message *m, char byte)
{
    if (byte != '\n') {
        if (m->line_length + 1 < sizeof m->line)
            m->line[m->line_length++] = byte;
        return 0;
    }
    m->line[m->line_length] = 0;
    bool empty = m->line_length == 0 || m->line[0] == '\r';
    m->line_length = 0;
    if (m->state == CHUNK_END) {
        m->state = CHUNK_SIZE;
        return empty ? 0 : -1;
    }
    if (m->state == TRAILER) {
        m->state = empty ? WHOLE : TRAILER;
        return 0;
    }
    char *end;
    m->left = strtoull(m->line, &end, 16);
    m->state = m->left ? CHUNK_DATA : TRAILER;
    return end == m->line ? -1 : 0;
}

static size_t feed_body(struct message *m, const char *data, size_t length)
{
    size_t take = length < m->left ? length : m->left;
    append(&m->body, data, take);
    m->left -= take;
    if (!m->left)
        m->state = m->state == SIZED ? WHOLE : CHUNK_END;
    return take;
}

/* Take bytes until the message is whole; return how many were of it, or -1 if it is malformed. */
static ssize_t message_feed(struct message *m, const char *data, size_t length)
{
    size_t used = 0;
    while (used < length && m->state != WHOLE) {
        ssize_t took = 1;
        if (m->state == HEAD)
            took = feed_head(m, data + used, length - used);
        else if (m->state == SIZED || m->state == CHUNK_DATA)
            took = feed_body(m, data + used, length - used);
        else if (feed_line(m, data[used]))
            took = -1;
        if (took < 0)
            return -1;
        used += took;
    }
    return used;
}

static void watch(int epoll, int fd, void *who, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = who};
    if (epoll_ctl(epoll, operation, fd, &event))
        die("epoll_ctl");
}

static struct sockaddr_in loopback(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

/* Sleep until something happens or this time comes; 0: until something happens. */
static int wait_until(int epoll, struct epoll_event *events, int count, int64_t at)
{
    int64_t rest = at - now_ns();
    if (rest < 0)
        rest = 0;
    struct timespec timeout = {rest / 1000000000, rest % 1000000000};
    int ready = epoll_pwait2(epoll, events, count, at ? &timeout : NULL, NULL);
    if (ready < 0 && errno != EINTR)
        die("epoll_pwait2");
    return ready < 0 ? 0 : ready;
}

#endif
