/* What every packet of the load holds, byte for byte, so that the sink can check all of them: shared by load.c's two halves.

   RTP of 12 + 1400 bytes; 25 frames a second of 14 or 15 packets each, 357 packets a second, 4 Mbit/s. Every frame is one
   pack of a program stream with one picture, the first of each second a key frame with system header and map. The last
   20 bytes of each payload say stream, counter and time of sending in bytes above 0x7f, so that no start code appears. */
#ifndef TRAFFIC_H
#define TRAFFIC_H

#include <stdint.h>
#include <string.h>
#include <time.h>

enum { HEADER = 12, PAYLOAD = 1400, PACKET = HEADER + PAYLOAD, TRAILER = 20, HEAD_MAX = 128 };
enum { RATE = 25, PER_SECOND = 357, NOISE = 8192, TYPE = 96 };
#define SSRC_IN 100000000u

static const uint8_t SYSTEM_HEADER[] = {0x00, 0x00, 0x01, 0xbb, 0x00, 0x09, 0x81, 0x86, 0xa1, 0x00, 0xe1, 0x7f, 0xe0, 0xe1, 0x00};
static const uint8_t STREAM_MAP[] = {0x00, 0x00, 0x01, 0xbc, 0x00, 0x0e, 0xe0, 0xff, 0x00, 0x00,
                                     0x00, 0x04, 0x1b, 0xe0, 0x00, 0x00, 0xf4, 0xdc, 0xbd, 0x45};
static const uint8_t KEY_START[] = {0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1e, 0xd9, 0x00, 0xa0, 0x47, 0xfe, 0xc8,
                                    0, 0, 0, 1, 0x68, 0xce, 0x3c, 0x80, 0, 0, 0, 1, 0x65, 0x88};
static const uint8_t OTHER_START[] = {0, 0, 0, 1, 0x41, 0x9a};

static uint8_t noise[NOISE + PAYLOAD];
static struct { uint8_t frame, place, count; } table[PER_SECOND];
static struct { uint16_t first; uint8_t count; } frames[RATE];

static void prepare_traffic(void)
{
    uint32_t state = 28181;
    for (size_t i = 0; i < sizeof noise; i++) {
        state ^= state << 13; state ^= state >> 17; state ^= state << 5;
        noise[i] = 2 + state % 253;
    }
    int counter = 0;
    for (int frame = 0; frame < RATE; frame++) {
        int count = 14 + (frame * 7 % RATE < 7);
        frames[frame].first = (uint16_t)counter;
        frames[frame].count = (uint8_t)count;
        for (int place = 0; place < count; place++, counter++) {
            table[counter].frame = (uint8_t)frame;
            table[counter].place = (uint8_t)place;
            table[counter].count = (uint8_t)count;
        }
    }
}

static inline int64_t now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (int64_t)at.tv_sec * 1000000000 + at.tv_nsec;
}

static inline void put16(uint8_t *at, uint32_t value) { at[0] = value >> 8; at[1] = value; }
static inline void put32(uint8_t *at, uint32_t value) { put16(at, value >> 16); put16(at + 2, value); }
static inline uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
static inline uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }

/* The frame, from the start of the stream, that packet `counter` belongs to. */
static inline uint64_t frame_of(uint64_t counter)
{
    return counter / PER_SECOND * RATE + table[counter % PER_SECOND].frame;
}

static inline const uint8_t *noise_for(uint32_t stream, uint64_t counter)
{
    return noise + ((stream * 131 + counter * 61) & (NOISE - 1));
}

/* ISO/IEC 13818-1 2.4.3.6 and 2.5.3.4: clock fields. Writes pack header, tables before a key frame, PES header and the
   start of the picture into `out`; returns the length, 0 for a packet inside a frame. */
static inline int payload_head(uint64_t counter, uint8_t *out)
{
    if (table[counter % PER_SECOND].place)
        return 0;
    uint64_t frame = frame_of(counter), clock = frame * 3600 & 0x1ffffffffull;
    int key = frame % RATE == 0, total = table[counter % PER_SECOND].count * PAYLOAD;
    uint8_t *at = out;
    uint64_t scr = 1ull << 46 | clock >> 30 << 43 | 1ull << 42 | (clock >> 15 & 0x7fff) << 27 | 1ull << 26
                   | (clock & 0x7fff) << 11 | 1u << 10 | 1;
    memcpy(at, "\0\0\1\xba", 4); at += 4;
    for (int shift = 40; shift >= 0; shift -= 8) *at++ = scr >> shift;
    memcpy(at, "\x03\x0d\x43\xf8", 4); at += 4;
    if (key) {
        memcpy(at, SYSTEM_HEADER, sizeof SYSTEM_HEADER); at += sizeof SYSTEM_HEADER;
        memcpy(at, STREAM_MAP, sizeof STREAM_MAP); at += sizeof STREAM_MAP;
    }
    memcpy(at, "\0\0\1\xe0", 4); at += 4;
    put16(at, (uint32_t)(total - (at + 2 - out))); at += 2;
    *at++ = 0x84; *at++ = 0x80; *at++ = 5;
    *at++ = 0x21 | (clock >> 29 & 0x0e);
    *at++ = clock >> 22;
    *at++ = 1 | (clock >> 14 & 0xfe);
    *at++ = clock >> 7;
    *at++ = 1 | (clock << 1 & 0xfe);
    const uint8_t *start = key ? KEY_START : OTHER_START;
    size_t size = key ? sizeof KEY_START : sizeof OTHER_START;
    memcpy(at, start, size);
    return (int)(at + size - out);
}

static inline void put_sevens(uint8_t *at, int count, uint64_t value)
{
    while (count--) { at[count] = 0x80 | (value & 0x7f); value >>= 7; }
}

static inline uint64_t get_sevens(const uint8_t *at, int count)
{
    uint64_t value = 0;
    for (int i = 0; i < count; i++) value = value << 7 | (at[i] & 0x7f);
    return value;
}

static inline void put_trailer(uint8_t *at, uint32_t stream, uint64_t counter, int64_t sent_ns)
{
    memcpy(at, "\xa5\xc3\x99", 3);
    put_sevens(at + 3, 2, stream);
    put_sevens(at + 5, 5, counter);
    put_sevens(at + 10, 10, (uint64_t)sent_ns);
}

#endif
