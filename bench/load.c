/* A load generator: keeps some connections busy and says as JSON what came of it.
 *
 *   load -p PORT -c CONNECTIONS -d SECONDS -b FILE [-H 'name: value']... [-e FILE] [-m TEXT]
 *        [-x 'name: value'] [-u NUMBER [-k COUNT]]
 *   load -p PORT -c STREAMS -s EVENTS -b FILE [-H 'name: value']...
 *
 *   -b  body of the requests
 *   -e  the body that every answer must have
 *   -m  text that every answer must hold
 *   -x  a header line: how many answers have it is counted
 *   -u  replace the sixteen '#' in the body by this number, and count on with each request
 *   -k  start over with the number after so many requests
 *   -s  one stream a connection, of at least so many events before [DONE], started one by one
 *
 * An answer that is not as it must be, or not 200, is an error. So is a connection that breaks.
 */

#include "http.h"

#define PATH "/v1/chat/completions"
#define BLANKS "################"
#define PERIOD_NS 10000000
#define START_EVERY_NS 1000000
#define PATIENCE_NS 20000000000
#define MAX_ERRORS 1000

struct samples {
    int64_t *at;
    size_t count, room;
};

struct client {
    int fd;
    bool busy;
    struct message answer;
    size_t sent, next_event; /* next_event: where in the body the next one begins */
    uint64_t number;
    int64_t began, heard;
    long events;
    bool done;               /* [DONE] came */
};

static struct {
    int port, connections;
    double seconds;
    long events;
    struct bytes head, body, expected;
    const char *marker, *mark_header;
    bool unique;
    uint64_t number, first, cycle;
} option;

static int epoll, busy;
static int64_t deadline;
static char *blanks;
static long answers, marked, errors, events;
static char first_error[160];
static struct samples latencies, gaps;

static void note(struct samples *s, int64_t value)
{
    if (s->count == s->room) {
        s->room = s->room ? s->room * 2 : 65536;
        s->at = realloc(s->at, s->room * sizeof *s->at);
        if (!s->at)
            die("realloc");
    }
    s->at[s->count++] = value;
}

static void fail(const char *what)
{
    if (!errors++)
        snprintf(first_error, sizeof first_error, "%s", what);
}

static void dial(struct client *c)
{
    int on = 1;
    struct sockaddr_in address = loopback(option.port);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    watch(epoll, c->fd, c, EPOLLIN, EPOLL_CTL_ADD);
}

static void hang_up(struct client *c)
{
    close(c->fd);
    busy -= c->busy;
    c->busy = false;
    message_reset(&c->answer);
}

static void broken(struct client *c, const char *what)
{
    fail(what);
    hang_up(c);
}

/* Send head and body, or the rest of them. */
static void send_on(struct client *c)
{
    while (c->sent < option.head.length + option.body.length) {
        bool in_head = c->sent < option.head.length;
        if (blanks) {
            char number[sizeof BLANKS];
            snprintf(number, sizeof number, "%016llx", (unsigned long long)c->number);
            memcpy(blanks, number, sizeof BLANKS - 1);
        }
        struct iovec parts[2] = {
            {option.head.at + c->sent, in_head ? option.head.length - c->sent : 0},
            {option.body.at, option.body.length},
        };
        if (!in_head) {
            size_t of_body = c->sent - option.head.length;
            parts[0] = (struct iovec){option.body.at + of_body, option.body.length - of_body};
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = in_head ? 2 : 1};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN) {
            watch(epoll, c->fd, c, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return;
        }
        if (sent < 0) {
            broken(c, "the connection broke while the request was sent");
            return;
        }
        c->sent += sent;
    }
}

static void ask(struct client *c)
{
    if (option.unique) {
        c->number = option.number++;
        if (option.cycle && option.number == option.first + option.cycle)
            option.number = option.first;
    }
    busy += !c->busy;
    c->busy = true;
    c->done = false;
    c->sent = c->next_event = 0;
    c->events = c->heard = 0;
    c->began = now_ns();
    send_on(c);
}

/* Count the events that are complete; drop them. */
static void count_events(struct client *c)
{
    struct bytes *body = &c->answer.body;
    long before = c->events;
    size_t used = 0;
    for (char *end; body->length > used && (end = strstr(body->at + used, "\n\n"));
         used = end + 2 - body->at) {
        if (!strncmp(body->at + used, "data: [DONE]", 12))
            c->done = true;
        else if (!strncmp(body->at + used, "data:", 5))
            c->events++;
    }
    if (used)
        drop(body, used);
    if (c->events == before)
        return;
    int64_t now = now_ns();
    if (c->heard)
        note(&gaps, now - c->heard);
    else
        note(&latencies, now - c->began);
    c->heard = now;
    events += c->events - before;
}

static const char *fault(const struct client *c)
{
    static char text[160];
    const struct bytes *body = &c->answer.body;
    if (strncmp(c->answer.head.at, "HTTP/1.1 200", 12)) {
        snprintf(text, sizeof text, "%.12s: %.120s", c->answer.head.at,
                 body->length ? body->at : "");
        return text;
    }
    if (option.events)
        return !c->done ? "a stream without [DONE]"
               : c->events < option.events ? "a stream with too few events" : NULL;
    if (option.expected.length && (body->length != option.expected.length ||
                                   memcmp(body->at, option.expected.at, body->length)))
        return "an answer with another body";
    if (option.marker && (!body->length || !memmem(body->at, body->length, option.marker,
                                                   strlen(option.marker))))
        return "an answer without the text that it must hold";
    return NULL;
}

static void answered(struct client *c)
{
    int64_t now = now_ns();
    const char *what = fault(c);
    if (option.mark_header && strcasestr(c->answer.head.at, option.mark_header))
        marked++;
    if (what)
        fail(what);
    else
        answers++;
    if (!option.events)
        note(&latencies, now - c->began);
    bool closes = header(&c->answer, "connection") &&
                  !strncasecmp(header(&c->answer, "connection"), "close", 5);
    message_reset(&c->answer);
    bool more = !option.events && now < deadline && errors < MAX_ERRORS;
    if (closes || !more)
        hang_up(c);
    if (closes && more)
        dial(c);
    if (more)
        ask(c);
}

static void hear(struct client *c)
{
    static char buffer[READ_SIZE];
    ssize_t length = recv(c->fd, buffer, sizeof buffer, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        broken(c, "the connection broke before the end of the answer");
        return;
    }
    if (message_feed(&c->answer, buffer, length) != length) {
        broken(c, "the answer is not valid HTTP");
        return;
    }
    if (option.events && c->answer.state != HEAD)
        count_events(c);
    if (c->answer.state == WHOLE)
        answered(c);
}

static void react(struct client *c, uint32_t what)
{
    if (what & EPOLLOUT) {
        watch(epoll, c->fd, c, EPOLLIN, EPOLL_CTL_MOD);
        send_on(c);
    }
    if (c->busy && what & ~EPOLLOUT)
        hear(c);
}

static void run(struct client *clients)
{
    int64_t began = now_ns(), every = START_EVERY_NS + PERIOD_NS / option.connections;
    int started = 0;
    deadline = began + (int64_t)(option.seconds * 1e9);
    int64_t patience = deadline + option.events * PERIOD_NS * 10 + PATIENCE_NS;
    while (started < option.connections || busy) {
        while (started < option.connections &&
               (!option.events || began + started * every <= now_ns()))
            ask(&clients[started++]);
        int64_t until = started < option.connections ? began + started * every : patience;
        struct epoll_event ready[256];
        int count = wait_until(epoll, ready, 256, until);
        for (int i = 0; i < count; i++)
            react(ready[i].data.ptr, ready[i].events);
        if (now_ns() > patience) {
            fail("no answer");
            return;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static double share_us(struct samples *s, double share)
{
    if (!s->count)
        return 0;
    qsort(s->at, s->count, sizeof *s->at, by_value);
    return s->at[(size_t)(share * (s->count - 1))] / 1e3;
}

static void read_file(const char *path, struct bytes *into)
{
    char buffer[65536];
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path);
    for (size_t length; (length = fread(buffer, 1, sizeof buffer, file));)
        append(into, buffer, length);
    fclose(file);
}

static void read_options(int argc, char **argv)
{
    struct bytes extra = {0};
    append(&extra, "", 0);
    for (int letter; (letter = getopt(argc, argv, "p:c:d:s:b:H:e:m:x:u:k:")) != -1;) {
        switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'c': option.connections = atoi(optarg); break;
        case 'd': option.seconds = atof(optarg); break;
        case 's': option.events = atol(optarg); break;
        case 'b': read_file(optarg, &option.body); break;
        case 'e': read_file(optarg, &option.expected); break;
        case 'm': option.marker = optarg; break;
        case 'x': option.mark_header = optarg; break;
        case 'k': option.cycle = strtoull(optarg, NULL, 10); break;
        case 'u':
            option.unique = true;
            option.number = option.first = strtoull(optarg, NULL, 10);
            break;
        case 'H':
            append(&extra, optarg, strlen(optarg));
            append(&extra, "\r\n", 2);
            break;
        default: exit(2);
        }
    }
    if (option.connections < 1 || !option.body.length)
        die("-c and -b are needed");
    char head[512];
    int length = snprintf(head, sizeof head,
                          "POST " PATH " HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n"
                          "content-type: application/json\r\ncontent-length: %zu\r\n",
                          option.port, option.body.length);
    append(&option.head, head, length);
    append(&option.head, extra.at, extra.length);
    append(&option.head, "\r\n", 2);
    blanks = option.unique ? memmem(option.body.at, option.body.length, BLANKS, 16) : NULL;
}

int main(int argc, char **argv)
{
    read_options(argc, argv);
    prctl(PR_SET_TIMERSLACK, 1000UL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct client *clients = calloc(option.connections, sizeof *clients);
    for (int i = 0; i < option.connections; i++)
        dial(&clients[i]);
    int64_t began = now_ns();
    run(clients);
    printf("{\"answers\": %ld, \"marked\": %ld, \"errors\": %ld, \"first_error\": \"", answers, marked,
           errors);
    for (const char *c = first_error; *c; c++)
        if (*c >= ' ' && *c != '"' && *c != '\\')
            putchar(*c);
    printf("\", \"events\": %ld, \"seconds\": %.6f, ", events, (now_ns() - began) / 1e9);
    printf("\"p50_us\": %.1f, \"p99_us\": %.1f, ", share_us(&latencies, 0.5),
           share_us(&latencies, 0.99));
    printf("\"gap_p50_us\": %.1f, \"gap_p99_us\": %.1f}\n", share_us(&gaps, 0.5),
           share_us(&gaps, 0.99));
    return 0;
}
