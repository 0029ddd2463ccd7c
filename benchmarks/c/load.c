/* Load of the relay benchmark: generates N streams of RTP and checks every byte of what the relay makes of them.

   load STREAMS FAN IN OUT, where IN and OUT are "udp" or "tcp" (RFC 4571). Prints the sink's ports on one line; reads
   one "host port" per stream, one SSRC per sink, and "go RAMP_S WARM_S WINDOW_S QUIET_S"; prints "begin" and "end" around the
   window and then one line of JSON. Streams begin one after the other during the ramp; the sink
   ends when nothing has come for QUIET_S. The generator is the main thread, the sink another one. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>
#include "traffic.h"

enum { BATCH = 64, BUFFER = 1 << 17, BINS = 8000, BIN_NS = 50000 };

static int streams, fan, tcp_in, tcp_out;
static atomic_llong received, lost, wrong, reordered, sent, unsent;
static atomic_int counting, stopping;
static atomic_llong histogram[BINS + 1];

static void fail(const char *what) { perror(what); exit(2); }

static void grow(int sock)
{
    int size = 4 << 20;
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

/* ---- the sink ---- */

struct output {
    int listener, sock, begun;
    uint32_t stream, ssrc, sequence, stamp_shift;
    uint64_t expected;
    uint8_t *buffer;
    size_t fill;
};
static struct output *outputs;
static int poller;

static int right(struct output *output, const uint8_t *packet, uint64_t counter)
{
    uint8_t head[HEAD_MAX];
    const uint8_t *payload = packet + HEADER;
    int length = payload_head(counter, head), last = table[counter % PER_SECOND].place + 1 == table[counter % PER_SECOND].count;
    if (packet[0] != 0x80 || packet[1] != (TYPE | last << 7) || get32(packet + 8) != output->ssrc)
        return 0;
    if (get32(packet + 4) - (uint32_t)(frame_of(counter) * 3600) != output->stamp_shift)
        return 0;
    return !memcmp(payload, head, (size_t)length)
           && !memcmp(payload + length, noise_for(output->stream, counter) + length, (size_t)(PAYLOAD - TRAILER - length))
           && !memcmp(payload + PAYLOAD - TRAILER, "\xa5\xc3\x99", 3);
}

static void take(struct output *output, const uint8_t *packet, size_t size, int64_t now)
{
    const uint8_t *trailer = packet + PACKET - TRAILER;
    if (size != PACKET || get_sevens(trailer + 3, 2) != output->stream) {
        wrong++;
        return;
    }
    uint64_t counter = get_sevens(trailer + 5, 5);
    uint32_t sequence = get16(packet + 2);
    if (!output->begun) {
        output->begun = 1;
        output->expected = counter;
        output->sequence = sequence;
        output->stamp_shift = get32(packet + 4) - (uint32_t)(frame_of(counter) * 3600);
    }
    if (counter < output->expected) {
        reordered++;
        return;
    }
    uint64_t gap = counter - output->expected;
    /* A relay numbers on without a gap, or keeps the gap. */
    int in_order = sequence == (output->sequence & 0xffff) || sequence == ((output->sequence + gap) & 0xffff);
    lost += (long long)gap;
    if (!in_order || !right(output, packet, counter))
        wrong++;
    output->expected = counter + 1;
    output->sequence = sequence + 1;
    received++;
    if (counting) {
        int64_t bin = (now - (int64_t)get_sevens(trailer + 10, 10)) / BIN_NS;
        histogram[bin < 0 ? 0 : bin > BINS ? BINS : bin]++;
    }
}

static void drain_udp(struct output *output)
{
    static uint8_t space[BATCH][2048];
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    int count;
    do {
        for (int i = 0; i < BATCH; i++) {
            pieces[i] = (struct iovec){space[i], sizeof space[i]};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
        }
        count = recvmmsg(output->sock, messages, BATCH, MSG_DONTWAIT, NULL);
        int64_t now = now_ns();
        for (int i = 0; i < count; i++)
            take(output, space[i], messages[i].msg_len, now);
    } while (count == BATCH);
}

static void drain_tcp(struct output *output)
{
    if (output->sock < 0) {
        output->sock = accept4(output->listener, NULL, NULL, SOCK_NONBLOCK);
        if (output->sock < 0)
            return;
        output->buffer = malloc(BUFFER);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = output};
        epoll_ctl(poller, EPOLL_CTL_DEL, output->listener, NULL);
        epoll_ctl(poller, EPOLL_CTL_ADD, output->sock, &event);
        return;
    }
    ssize_t count;
    while ((count = recv(output->sock, output->buffer + output->fill, BUFFER - output->fill, MSG_DONTWAIT)) > 0) {
        int64_t now = now_ns();
        size_t at = 0;
        output->fill += (size_t)count;
        while (output->fill - at >= 2 && output->fill - at - 2 >= get16(output->buffer + at)) {
            size_t size = get16(output->buffer + at);
            take(output, output->buffer + at + 2, size, now);
            at += 2 + size;
        }
        memmove(output->buffer, output->buffer + at, output->fill - at);
        output->fill -= at;
    }
    if (count == 0)
        epoll_ctl(poller, EPOLL_CTL_DEL, output->sock, NULL);
}

static void *sink(void *unused)
{
    struct epoll_event ready[256];
    (void)unused;
    while (!stopping) {
        int count = epoll_wait(poller, ready, 256, 50);
        for (int i = 0; i < count; i++)
            (tcp_out ? drain_tcp : drain_udp)(ready[i].data.ptr);
    }
    return NULL;
}

static void open_outputs(void)
{
    poller = epoll_create1(0);
    outputs = calloc((size_t)(streams * fan), sizeof *outputs);
    for (int i = 0; i < streams * fan; i++) {
        struct output *output = &outputs[i];
        int sock = socket(AF_INET, tcp_out ? SOCK_STREAM : SOCK_DGRAM, 0);
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        grow(sock);
        if (sock < 0 || bind(sock, (void *)&address, sizeof address) || (tcp_out && listen(sock, 4)))
            fail("sink");
        getsockname(sock, (void *)&address, &size);
        printf("%d ", ntohs(address.sin_port));
        output->stream = (uint32_t)(i / fan);
        output->listener = sock;
        output->sock = tcp_out ? -1 : sock;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = output};
        epoll_ctl(poller, EPOLL_CTL_ADD, sock, &event);
    }
    printf("\n");
    fflush(stdout);
}

/* ---- the generator ---- */

struct input { int sock; uint64_t counter; };
static struct input *inputs;

static void open_inputs(void)
{
    inputs = calloc((size_t)streams, sizeof *inputs);
    for (int i = 0; i < streams; i++) {
        char host[64];
        int port, one = 1;
        if (scanf("%63s %d", host, &port) != 2) { fprintf(stderr, "no target\n"); exit(2); }
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        inet_pton(AF_INET, host, &address.sin_addr);
        int sock = socket(AF_INET, tcp_in ? SOCK_STREAM : SOCK_DGRAM, 0);
        grow(sock);
        if (connect(sock, (void *)&address, sizeof address))
            fail("connect");
        if (tcp_in)
            setsockopt(sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        inputs[i].sock = sock;
    }
    for (int i = 0; i < streams * fan; i++)
        if (scanf("%u", &outputs[i].ssrc) != 1) { fprintf(stderr, "no SSRC\n"); exit(2); }
}

/* One frame in one sendmmsg, or one sendmsg on TCP: as the bursts of a camera arrive. */
static void send_frame(uint32_t stream)
{
    static uint8_t lengths[16][2], heads[16][HEADER + HEAD_MAX], trailers[16][TRAILER];
    struct iovec pieces[16][4];
    struct mmsghdr messages[16];
    struct input *input = &inputs[stream];
    int count = table[input->counter % PER_SECOND].count;
    int64_t now = now_ns();
    for (int i = 0; i < count; i++) {
        uint64_t counter = input->counter + (uint64_t)i;
        uint8_t *header = heads[i];
        header[0] = 0x80;
        header[1] = (uint8_t)(TYPE | (i + 1 == count ? 0x80 : 0));
        put16(header + 2, (uint32_t)(counter + stream * 977));
        put32(header + 4, (uint32_t)(frame_of(counter) * 3600));
        put32(header + 8, SSRC_IN + stream);
        size_t head = (size_t)payload_head(counter, header + HEADER);
        put_trailer(trailers[i], stream, counter, now);
        put16(lengths[i], PACKET);
        pieces[i][0] = (struct iovec){lengths[i], 2};
        pieces[i][1] = (struct iovec){header, HEADER + head};
        pieces[i][2] = (struct iovec){(void *)(noise_for(stream, counter) + head), PAYLOAD - TRAILER - head};
        pieces[i][3] = (struct iovec){trailers[i], TRAILER};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i][1], .msg_iovlen = 3};
    }
    input->counter += (uint64_t)count;
    if (!tcp_in) {
        int done = 0, refusals = 0;
        while (done < count) {
            int more = sendmmsg(input->sock, messages + done, (unsigned)(count - done), 0);
            if (more > 0)
                done += more;
            else if (errno != EINTR && refusals++ > 2)
                break; /* an earlier packet met a closed port: the error is told once per packet */
        }
        sent += done;
        unsent += count - done;
        return;
    }
    struct msghdr message = {.msg_iov = pieces[0], .msg_iovlen = (size_t)count * 4};
    size_t total = (size_t)count * (2 + PACKET), done = 0;
    while (done < total) {
        ssize_t more = sendmsg(input->sock, &message, MSG_NOSIGNAL); /* waits when the relay does not read */
        if (more < 0) {
            unsent += count;
            return;
        }
        done += (size_t)more;
        size_t skip = (size_t)more;
        while (skip && skip >= message.msg_iov->iov_len) {
            skip -= message.msg_iov->iov_len;
            message.msg_iov++;
            message.msg_iovlen--;
        }
        if (skip) {
            message.msg_iov->iov_base = (uint8_t *)message.msg_iov->iov_base + skip;
            message.msg_iov->iov_len -= skip;
        }
    }
    sent += count;
}

struct marks { long long received, lost, wrong, reordered, sent, unsent; };

static struct marks mark(void)
{
    return (struct marks){received, lost, wrong, reordered, sent, unsent};
}

static double percentile_ms(double share)
{
    long long total = 0, seen = 0;
    for (int i = 0; i <= BINS; i++) total += histogram[i];
    for (int i = 0; i <= BINS; i++)
        if ((seen += histogram[i]) >= (long long)(share * (double)total) && seen)
            return (i + 0.5) * BIN_NS / 1e6;
    return 0;
}

int main(int argc, char **argv)
{
    double ramp, warm, window, quiet;
    pthread_t thread;
    if (argc != 5) { fprintf(stderr, "load STREAMS FAN udp|tcp udp|tcp\n"); return 2; }
    streams = atoi(argv[1]), fan = atoi(argv[2]), tcp_in = !strcmp(argv[3], "tcp"), tcp_out = !strcmp(argv[4], "tcp");
    prepare_traffic();
    open_outputs();
    open_inputs();
    if (scanf(" go %lf %lf %lf %lf", &ramp, &warm, &window, &quiet) != 4) return 2;
    pthread_create(&thread, NULL, sink, NULL);
    int64_t started = now_ns(), begin = started + (int64_t)((ramp + warm) * 1e9), end = begin + (int64_t)(window * 1e9), late = 0;
    int64_t spacing = 1000000000 / RATE / streams;
    struct marks first = {0}, last;
    for (int64_t burst = 0;; burst++) {
        int64_t due = started + burst / streams * (1000000000 / RATE) + burst % streams * spacing, now = now_ns();
        if (due > now) {
            struct timespec at = {due / 1000000000, due % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
            now = now_ns();
        }
        if (!counting && now >= begin) {
            first = mark();
            counting = 1;
            printf("begin\n");
            fflush(stdout);
        }
        if (now >= end)
            break;
        if (counting && now - due > late)
            late = now - due;
        if (due - started >= (int64_t)(ramp * 1e9) / streams * (burst % streams))
            send_frame((uint32_t)(burst % streams));
    }
    last = mark();
    printf("end\n");
    fflush(stdout);
    long long before = -1;
    int64_t since = now_ns(), limit = since + 20000000000;
    while (now_ns() < limit && now_ns() - since < (int64_t)(quiet * 1e9)) { /* what is still on its way */
        if (before != received)
            before = received, since = now_ns();
        usleep(10000);
    }
    long long tail = 0;
    for (int i = 0; i < streams * fan; i++)
        tail += (long long)(inputs[outputs[i].stream].counter - outputs[i].expected);
    stopping = 1;
    pthread_join(thread, NULL);
    printf("{\"received\": %lld, \"lost\": %lld, \"wrong\": %lld, \"reordered\": %lld, \"sent\": %lld, \"unsent\": %lld, "
           "\"p50_ms\": %.2f, \"p99_ms\": %.2f, \"late_ms\": %.1f, "
           "\"all\": {\"sent\": %lld, \"received\": %lld, \"unsent\": %lld}}\n",
           last.received - first.received, (long long)lost - first.lost + tail - (last.unsent - first.unsent) * fan, (long long)wrong - first.wrong,
           (long long)reordered - first.reordered, last.sent - first.sent, last.unsent - first.unsent,
           percentile_ms(0.5), percentile_ms(0.99), late / 1e6,
           (long long)sent, (long long)received + reordered, (long long)unsent);
    return 0;
}
