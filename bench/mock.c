/* An OpenAI-compatible engine that costs next to nothing: mock PORT
 *
 * POST /v1/chat/completions and /v1/completions: always the same answer of some 300 bytes; with
 * "stream": true in the body an event of some 220 bytes every 10 ms, "max_tokens" of them, a last
 * one with the reason, and [DONE]. GET /health and /v1/models: 200. It says "ready" on standard
 * output once it listens.
 */

#include "http.h"

#define PERIOD_NS 10000000
#define MAX_STREAMS 4096

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion\",\"created\":1760000000,"
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
    "\"The quick brown fox jumps over the lazy dog.\"},\"logprobs\":null,\"finish_reason\":\"stop\"}],"
    "\"usage\":{\"prompt_tokens\":42,\"total_tokens\":53,\"completion_tokens\":11}}";
static const char TEXT[] =
    "{\"id\":\"cmpl-0\",\"object\":\"text_completion\",\"created\":1760000000,\"model\":\"bench\","
    "\"choices\":[{\"index\":0,\"text\":\"x\",\"logprobs\":null,\"finish_reason\":\"stop\"}]}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1760000000,"
    "\"owned_by\":\"bench\"}]}";
#define EVENT(delta, reason)                                                                      \
    "data: {\"id\":\"chatcmpl-0123456789abcdef\",\"object\":\"chat.completion.chunk\","           \
    "\"created\":1760000000,\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":" delta       \
    ",\"logprobs\":null,\"finish_reason\":" reason "}]}\n\n"
/* Two, in turn: a gateway may take the same one a hundred times for a model that repeats itself. */
static const char CHUNKS[2][sizeof EVENT("{\"role\":\"assistant\",\"content\":\" token\"}", "null")] = {
    EVENT("{\"role\":\"assistant\",\"content\":\" token\"}", "null"),
    EVENT("{\"role\":\"assistant\",\"content\":\" words\"}", "null"),
};
static const char LAST[] = EVENT("{}", "\"stop\"") "data: [DONE]\n\n";
static const char STREAM_HEAD[] = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
                                  "transfer-encoding: chunked\r\n\r\n";

struct peer {
    int fd;
    struct message request;
    struct bytes out;
    bool blocked;   /* the socket takes no more for now */
    bool streaming;
    long events;    /* that are left */
    int64_t due;    /* when the next one is */
};

static int epoll;
static struct peer *streams[MAX_STREAMS];
static int stream_count;

static void hang_up(struct peer *p)
{
    for (int i = 0; i < stream_count; i++)
        if (streams[i] == p)
            streams[i--] = streams[--stream_count];
    close(p->fd);
    free(p->request.head.at);
    free(p->request.body.at);
    free(p->out.at);
    free(p);
}

/* Send what is there; return false where the peer is gone. */
static bool flush(struct peer *p)
{
    if (!p->out.length)
        return true;
    ssize_t sent = send(p->fd, p->out.at, p->out.length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN)
        return false;
    if (sent > 0)
        drop(&p->out, sent);
    bool blocked = p->out.length > 0;
    if (blocked != p->blocked)
        watch(epoll, p->fd, p, EPOLLIN | (blocked ? EPOLLOUT : 0), EPOLL_CTL_MOD);
    p->blocked = blocked;
    return true;
}

static void answer(struct peer *p, const char *status, const char *body)
{
    char head[256];
    int length = snprintf(head, sizeof head,
                          "HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n",
                          status, strlen(body));
    append(&p->out, head, length);
    append(&p->out, body, strlen(body));
}

static void add_chunk(struct peer *p, const char *data, size_t length)
{
    char size[16];
    append(&p->out, size, snprintf(size, sizeof size, "%zx\r\n", length));
    append(&p->out, data, length);
    append(&p->out, "\r\n", 2);
}

static void begin_stream(struct peer *p)
{
    const char *wanted = strstr(p->request.body.at, "\"max_tokens\"");
    p->events = wanted ? strtol(wanted + 12 + strspn(wanted + 12, ": "), NULL, 10) : 16;
    p->streaming = true;
    p->due = now_ns();
    append(&p->out, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    if (stream_count == MAX_STREAMS)
        die("too many streams");
    streams[stream_count++] = p;
}

/* Tell the next event of a stream; a late one is not made up for by two at once. */
static void tell(struct peer *p, int64_t now)
{
    p->due += PERIOD_NS;
    if (p->due < now)
        p->due = now + PERIOD_NS;
    if (p->events-- > 0) {
        add_chunk(p, CHUNKS[p->events % 2], sizeof CHUNKS[0] - 1);
        return;
    }
    add_chunk(p, LAST, sizeof LAST - 1);
    append(&p->out, "0\r\n\r\n", 5);
    p->streaming = false;
}

static void tell_streams(void)
{
    int64_t now = now_ns();
    for (int i = 0; i < stream_count; i++) {
        struct peer *p = streams[i];
        if (p->due > now)
            continue;
        tell(p, now);
        if (!p->streaming)
            streams[i--] = streams[--stream_count];
        if (!flush(p))
            hang_up(p);
    }
}

static int64_t next_due(void)
{
    int64_t due = 0;
    for (int i = 0; i < stream_count; i++)
        if (!due || streams[i]->due < due)
            due = streams[i]->due;
    return due;
}

static bool wants_stream(const struct message *m)
{
    const char *field = m->body.length ? memmem(m->body.at, m->body.length, "\"stream\"", 8) : NULL;
    return field && !strncmp(field + 8 + strspn(field + 8, ": "), "true", 4);
}

static void serve(struct peer *p)
{
    const char *line = p->request.head.at;
    if (!strncmp(line, "POST /v1/chat/completions ", 26)) {
        if (wants_stream(&p->request))
            begin_stream(p);
        else
            answer(p, "200 OK", ANSWER);
    } else if (!strncmp(line, "POST /v1/completions ", 21))
        answer(p, "200 OK", TEXT);
    else if (!strncmp(line, "GET /v1/models ", 15))
        answer(p, "200 OK", MODELS);
    else if (!strncmp(line, "GET /health ", 12))
        answer(p, "200 OK", "{}");
    else
        answer(p, "404 Not Found", "{}");
}

/* Read and serve; return false where the peer is gone or speaks nonsense. */
static bool hear(struct peer *p)
{
    static char buffer[READ_SIZE];
    ssize_t length = recv(p->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (length <= 0)
        return length < 0 && errno == EAGAIN;
    for (ssize_t used = 0; used < length;) {
        ssize_t took = message_feed(&p->request, buffer + used, length - used);
        if (took < 0 || p->streaming)
            return false;
        used += took;
        if (p->request.state != WHOLE)
            break;
        serve(p);
        message_reset(&p->request);
    }
    return true;
}

static void welcome(int listener)
{
    int on = 1, fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct peer *p = calloc(1, sizeof *p);
    if (!p)
        die("calloc");
    p->fd = fd;
    watch(epoll, fd, p, EPOLLIN, EPOLL_CTL_ADD);
}

static int listen_on(int port)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_in address = loopback(port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) || listen(fd, 4096))
        die("listen");
    return fd;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: mock PORT\n");
        return 2;
    }
    prctl(PR_SET_TIMERSLACK, 1000UL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int listener = listen_on(atoi(argv[1]));
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(epoll, listener, NULL, EPOLLIN, EPOLL_CTL_ADD);
    puts("ready");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[256];
        int ready = wait_until(epoll, events, 256, next_due());
        for (int i = 0; i < ready; i++) {
            struct peer *p = events[i].data.ptr;
            if (!p)
                welcome(listener);
            else if (!(events[i].events == EPOLLOUT ? flush(p) : hear(p) && flush(p)))
                hang_up(p);
        }
        tell_streams();
    }
}
