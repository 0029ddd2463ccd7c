/* The reference of the relay benchmark: the pump's algorithm in C and nothing else.

   relay STREAMS FAN IN OUT: every 5 ms drain all readable inputs in batches (recvmmsg), rewrite sequence and SSRC in
   place, send runs of equal packets with one UDP_SEGMENT call from connected sockets. No cache, no ordering, no
   statistics. Reads one "port ssrc" per output, prints the inputs' ports on one line, runs until its input ends. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef UDP_SEGMENT
#define UDP_SEGMENT 103
#endif
enum { BATCH = 64, STRIDE = 1412, SEGMENTS = 45, BUFFER = 1 << 18, TICK_NS = 5000000 };

struct output { int sock; uint32_t ssrc; uint16_t sequence; uint8_t *rest; size_t rest_size; };
struct input { int listener, sock; struct output *outputs; uint8_t *buffer; size_t fill; };

static int streams, fan, tcp_in, tcp_out, poller;
static uint8_t arena[BATCH * STRIDE + 65536];

static void fail(const char *what) { perror(what); exit(2); }

static void grow(int sock)
{
    int size = 4 << 20;
    if (setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size))
        setsockopt(sock, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
    if (setsockopt(sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size))
        setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

static void rewrite(struct output *output, uint8_t *packet)
{
    packet[2] = output->sequence >> 8;
    packet[3] = output->sequence++;
    uint32_t ssrc = htonl(output->ssrc);
    memcpy(packet + 8, &ssrc, 4);
}

/* Packets that lie at `starts`: runs of one size, the last may be shorter, in one call each. */
static void send_udp(struct output *output, uint8_t **starts, size_t *sizes, int count)
{
    for (int at = 0; at < count;) {
        struct iovec pieces[SEGMENTS];
        char control[CMSG_SPACE(2)] = {0};
        struct msghdr message = {.msg_iov = pieces};
        size_t size = sizes[at];
        int run = 0;
        while (at + run < count && run < SEGMENTS && sizes[at + run] <= size) {
            uint8_t *start = starts[at + run];
            if (run && (uint8_t *)pieces[message.msg_iovlen - 1].iov_base + pieces[message.msg_iovlen - 1].iov_len == start)
                pieces[message.msg_iovlen - 1].iov_len += sizes[at + run];
            else
                pieces[message.msg_iovlen++] = (struct iovec){start, sizes[at + run]};
            if (sizes[at + run++] < size)
                break;
        }
        if (run > 1) {
            message.msg_control = control;
            message.msg_controllen = sizeof control;
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = IPPROTO_UDP;
            header->cmsg_type = UDP_SEGMENT;
            header->cmsg_len = CMSG_LEN(2);
            uint16_t segment = (uint16_t)size;
            memcpy(CMSG_DATA(header), &segment, 2);
        }
        sendmsg(output->sock, &message, MSG_DONTWAIT);
        at += run;
    }
}

/* Framed bytes as they lie; what the socket does not take is kept and tried on the next ticks. */
static void send_tcp(struct output *output, const uint8_t *data, size_t size)
{
    if (output->rest_size) {
        ssize_t done = send(output->sock, output->rest, output->rest_size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (done > 0) {
            memmove(output->rest, output->rest + done, output->rest_size - (size_t)done);
            output->rest_size -= (size_t)done;
        }
    }
    ssize_t done = output->rest_size ? 0 : send(output->sock, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (done < 0) done = 0;
    size -= (size_t)done;
    if (size && output->rest_size + size <= BUFFER * 8) {
        memcpy(output->rest + output->rest_size, data + done, size);
        output->rest_size += size;
    }
}

static void drain_udp(struct input *input)
{
    struct mmsghdr messages[BATCH];
    struct iovec pieces[BATCH];
    uint8_t *starts[BATCH];
    size_t sizes[BATCH];
    int count;
    do {
        for (int i = 0; i < BATCH; i++) {
            starts[i] = arena + i * STRIDE;
            pieces[i] = (struct iovec){starts[i], STRIDE};
            messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
        }
        count = recvmmsg(input->sock, messages, BATCH, MSG_DONTWAIT, NULL);
        if (count <= 0)
            return;
        for (int i = 0; i < count; i++)
            sizes[i] = messages[i].msg_len;
        for (int target = 0; target < fan; target++) {
            for (int i = 0; i < count; i++)
                rewrite(&input->outputs[target], starts[i]);
            send_udp(&input->outputs[target], starts, sizes, count);
        }
    } while (count == BATCH);
}

static void drain_tcp(struct input *input)
{
    if (input->sock < 0) {
        input->sock = accept4(input->listener, NULL, NULL, SOCK_NONBLOCK);
        if (input->sock < 0)
            return;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = input};
        input->buffer = malloc(BUFFER);
        epoll_ctl(poller, EPOLL_CTL_DEL, input->listener, NULL);
        epoll_ctl(poller, EPOLL_CTL_ADD, input->sock, &event);
        return;
    }
    uint8_t *starts[BUFFER / 64];
    size_t sizes[BUFFER / 64];
    for (;;) {
        ssize_t more = recv(input->sock, input->buffer + input->fill, BUFFER - input->fill, MSG_DONTWAIT);
        if (more == 0)
            epoll_ctl(poller, EPOLL_CTL_DEL, input->sock, NULL);
        if (more <= 0)
            return;
        input->fill += (size_t)more;
        size_t at = 0;
        int count = 0;
        while (input->fill - at >= 2 && count < BUFFER / 64) {
            size_t size = (size_t)input->buffer[at] << 8 | input->buffer[at + 1];
            if (input->fill - at - 2 < size)
                break;
            starts[count] = input->buffer + at + 2;
            sizes[count++] = size;
            at += 2 + size;
        }
        for (int target = 0; target < fan && count; target++) {
            for (int i = 0; i < count; i++)
                rewrite(&input->outputs[target], starts[i]);
            if (tcp_out)
                send_tcp(&input->outputs[target], input->buffer, at);
            else
                send_udp(&input->outputs[target], starts, sizes, count);
        }
        memmove(input->buffer, input->buffer + at, input->fill - at);
        input->fill -= at;
    }
}

static void open_output(struct output *output)
{
    int port, one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (scanf("%d %u", &port, &output->ssrc) != 2) { fprintf(stderr, "no output\n"); exit(2); }
    address.sin_port = htons((uint16_t)port);
    output->sock = socket(AF_INET, tcp_out ? SOCK_STREAM : SOCK_DGRAM, 0);
    grow(output->sock);
    if (connect(output->sock, (void *)&address, sizeof address))
        fail("connect");
    if (tcp_out) {
        setsockopt(output->sock, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        output->rest = malloc(BUFFER * 8);
    }
}

static void open_input(struct input *input)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int sock = socket(AF_INET, tcp_in ? SOCK_STREAM : SOCK_DGRAM, 0);
    grow(sock);
    if (bind(sock, (void *)&address, sizeof address) || (tcp_in && listen(sock, 4)))
        fail("input");
    getsockname(sock, (void *)&address, &size);
    printf("%d ", ntohs(address.sin_port));
    input->listener = sock;
    input->sock = tcp_in ? -1 : sock;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = input};
    epoll_ctl(poller, EPOLL_CTL_ADD, sock, &event);
}

int main(int argc, char **argv)
{
    if (argc != 5) { fprintf(stderr, "relay STREAMS FAN udp|tcp udp|tcp\n"); return 2; }
    streams = atoi(argv[1]), fan = atoi(argv[2]), tcp_in = !strcmp(argv[3], "tcp"), tcp_out = !strcmp(argv[4], "tcp");
    struct input *inputs = calloc((size_t)streams, sizeof *inputs);
    struct epoll_event *ready = calloc((size_t)streams, sizeof *ready);
    poller = epoll_create1(0);
    for (int i = 0; i < streams; i++) {
        inputs[i].outputs = calloc((size_t)fan, sizeof *inputs[i].outputs);
        for (int target = 0; target < fan; target++)
            open_output(&inputs[i].outputs[target]);
    }
    for (int i = 0; i < streams; i++)
        open_input(&inputs[i]);
    printf("\n");
    fflush(stdout);
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (int ticks = 0;; ticks++) {
        next.tv_nsec += TICK_NS;
        if (next.tv_nsec >= 1000000000) { next.tv_nsec -= 1000000000; next.tv_sec++; }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        int count = epoll_wait(poller, ready, streams, 0);
        for (int i = 0; i < count; i++)
            (tcp_in ? drain_tcp : drain_udp)(ready[i].data.ptr);
        if (ticks % 100 == 0) {
            struct pollfd parent = {.fd = 0, .events = POLLIN};
            if (poll(&parent, 1, 0) > 0)
                return 0;
        }
    }
}
