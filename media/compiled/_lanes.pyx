# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled part of the packet pump: lanes of steady streams, swept once a tick without the interpreter lock.

A lane is one UDP socket whose sender, SSRC and payload type are known and whose packets come in order. One thread, which
never asks for the interpreter lock, sweeps all readable lanes each tick: recvmmsg into one small arena, headers rewritten
there, sent with UDP_SEGMENT. The packets since the last key frame are kept by copies that go around the processor's caches:
100 MB each second through them cost more than the copying. Whatever is odd is not judged here: the lane is left, its
owner gets the packets as they came in and goes on in Python (media/sources/steady.py).
"""

from libc.errno cimport EAGAIN, ECONNREFUSED, EINVAL, EIO, EMSGSIZE, EOPNOTSUPP, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset


cdef extern from "sys/uio.h" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len


cdef extern from "sys/socket.h" nogil:
    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    struct timespec:
        long tv_sec
        long tv_nsec

    int recvmmsg(int number, mmsghdr *headers, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int number, mmsghdr *headers, unsigned int count, int flags)
    ssize_t sendmsg(int number, msghdr *header, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_TRUNC


cdef extern from "stdlib.h" nogil:
    int posix_memalign(void **memory, size_t alignment, size_t size)


cdef extern from "sys/mman.h" nogil:
    int madvise(void *start, size_t size, int advice)
    enum: MADV_HUGEPAGE


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data:
        int fd

    struct epoll_event:
        uint32_t events
        epoll_data data

    int epoll_create1(int flags)
    int epoll_ctl(int number, int what, int other, epoll_event *event)
    int epoll_wait(int number, epoll_event *events, int count, int timeout)
    enum: EPOLLIN
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_DEL
    enum: EPOLL_CLOEXEC


cdef extern from "sys/eventfd.h" nogil:
    int eventfd(unsigned int value, int flags)
    enum: EFD_NONBLOCK
    enum: EFD_CLOEXEC


cdef extern from "unistd.h" nogil:
    ssize_t read(int number, void *buffer, size_t count)
    ssize_t write(int number, const void *buffer, size_t count)
    int close(int number)


cdef extern from "time.h" nogil:
    int clock_gettime(int clock, timespec *now)
    int clock_nanosleep(int clock, int flags, const timespec *until, timespec *rest)
    enum: CLOCK_MONOTONIC
    enum: TIMER_ABSTIME


cdef extern from "pthread.h" nogil:
    ctypedef struct pthread_mutex_t:
        pass

    int pthread_mutex_init(pthread_mutex_t *lock, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *lock)
    int pthread_mutex_unlock(pthread_mutex_t *lock)
    int pthread_mutex_destroy(pthread_mutex_t *lock)


cdef extern from * nogil:
    """
    #include <string.h>
    #include <stdint.h>
    static inline uint32_t read32(const unsigned char *at) {
        uint32_t value; memcpy(&value, at, 4); return __builtin_bswap32(value);
    }
    static inline void write32(unsigned char *at, uint32_t value) {
        value = __builtin_bswap32(value); memcpy(at, &value, 4);
    }
    #ifdef __SSE2__
    #include <emmintrin.h>
    static inline void put_away(unsigned char *to, const unsigned char *from, size_t size) {
        size_t head = (size_t) (-(intptr_t) to & 15);
        if (head > size) head = size;
        memcpy(to, from, head); to += head; from += head; size -= head;
        for (; size >= 64; size -= 64, to += 64, from += 64) {
            __m128i a = _mm_loadu_si128((const __m128i *) from), b = _mm_loadu_si128((const __m128i *) (from + 16));
            __m128i c = _mm_loadu_si128((const __m128i *) (from + 32)), d = _mm_loadu_si128((const __m128i *) (from + 48));
            _mm_stream_si128((__m128i *) to, a); _mm_stream_si128((__m128i *) (to + 16), b);
            _mm_stream_si128((__m128i *) (to + 32), c); _mm_stream_si128((__m128i *) (to + 48), d);
        }
        memcpy(to, from, size);
        _mm_sfence();
    }
    #else
    static inline void put_away(unsigned char *to, const unsigned char *from, size_t size) { memcpy(to, from, size); }
    #endif
    static inline void write16(unsigned char *at, uint16_t value) {
        value = __builtin_bswap16(value); memcpy(at, &value, 2);
    }
    """
    uint32_t read32(const unsigned char *at)
    void write32(unsigned char *at, uint32_t value)
    void put_away(unsigned char *to, const unsigned char *source, size_t size)
    void write16(unsigned char *at, uint16_t value)


cdef enum:
    BLOCK = 131072          # bytes of one chunk: about 90 packets
    SLAB = 2097152          # one huge page, cut into blocks
    MAX_STRIDE = 16384
    BATCH = 64              # packets of one read
    SPILL = 9216            # longest packet is a slot and this
    EVENTS = 1024
    HEADER = 12
    HEAD = 64               # bytes of a frame in which its first start codes are looked for
    SEGMENTS = 64
    SEGMENT_BYTES = 64000
    MAX_REFUSALS = 3
    SPARE_CHUNKS = 2
    NAME = 28
    SOL_UDP = 17
    UDP_SEGMENT = 103
    TICKS_PER_SECOND = 90000
    IDLE_TICKS = 12         # empty ticks before the thread sleeps until a packet comes
    LONGEST_SHARE = 100     # half a second of lateness is made up for at once

cdef enum:                  # what a visit to a lane ended with
    EMPTY = 0
    HELD = 1                # a burst: the rest waits in the socket for the next tick
    ODD = 2                 # the lane was left

cdef enum:
    OVERFLOWN = -2          # instead of the index of a key frame: nothing is kept until the next one


cdef struct Chunk:
    Chunk *next
    unsigned char *data     # one block: slots of the lane's stride
    uint16_t *sizes
    int used
    int64_t index           # of the packet in slot 0


cdef struct Pool:
    pthread_mutex_t lock
    void **slabs
    int slab_count
    void **blocks           # the free ones
    int block_count


cdef struct Batch:          # what one recvmmsg needs and gives; small and used by all lanes, so it stays in the cache
    unsigned char *data     # BATCH slots of the stride
    int stride
    unsigned int name_size
    uint16_t sizes[BATCH]
    mmsghdr headers[BATCH]
    iovec pieces[2 * BATCH]
    unsigned char names[BATCH * NAME]
    unsigned char *spill


cdef struct Target:
    int number
    int payload_type        # -1: as it came
    int gso
    int refusals
    uint32_t ssrc
    uint16_t offset         # outgoing sequence = packet index + offset
    uint64_t sent
    uint64_t dropped


cdef struct State:
    pthread_mutex_t lock    # between the thread and who reads the counters
    int number
    int stride
    int slots
    Pool *pool
    unsigned int name_size
    unsigned char name[NAME]
    uint32_t ssrc
    uint32_t second         # second byte of the header, without marker
    uint16_t expected
    int64_t index
    uint32_t shift
    uint64_t packets
    uint64_t bytes
    uint32_t last_stamp
    double last_packet
    double transit
    int has_transit
    double jitter
    int64_t video
    int64_t audio
    int64_t keys
    int64_t marked
    int64_t cut
    uint32_t watched_stamp
    int watching
    Chunk *oldest
    Chunk *newest
    Chunk *spare
    int spares
    int64_t kept_bytes
    int64_t limit_bytes
    int keeping
    int held
    int waits               # whether the socket can hold a burst until the next tick
    int64_t burst_bytes
    int64_t paced_bytes
    Target *targets
    int target_count
    unsigned char *odd      # packets that were not understood: length, name, bytes
    int odd_count


# --- memory ------------------------------------------------------------------------------------------------------

cdef unsigned char *take_block(Pool *pool) noexcept nogil:
    """One block of memory; NULL when there is none."""
    cdef void *slab = NULL
    cdef void *block = NULL
    cdef void **more
    cdef int number, room
    pthread_mutex_lock(&pool.lock)
    if pool.block_count == 0:
        room = (pool.slab_count + 1) * (SLAB // BLOCK)
        more = <void **> realloc(pool.slabs, (pool.slab_count + 1) * sizeof(void *))
        if more != NULL:
            pool.slabs = more
            more = <void **> realloc(pool.blocks, room * sizeof(void *))
        if more != NULL:
            pool.blocks = more
            if posix_memalign(&slab, SLAB, SLAB) == 0:
                madvise(slab, SLAB, MADV_HUGEPAGE)  # a hint: 200 streams touch 200 MB once a second
                pool.slabs[pool.slab_count] = slab
                pool.slab_count += 1
                for number in range(SLAB // BLOCK):
                    pool.blocks[number] = <unsigned char *> slab + <size_t> number * BLOCK
                pool.block_count = SLAB // BLOCK
    if pool.block_count > 0:
        pool.block_count -= 1
        block = pool.blocks[pool.block_count]
    pthread_mutex_unlock(&pool.lock)
    return <unsigned char *> block


cdef void give_block(Pool *pool, unsigned char *block) noexcept nogil:
    pthread_mutex_lock(&pool.lock)
    pool.blocks[pool.block_count] = block
    pool.block_count += 1
    pthread_mutex_unlock(&pool.lock)


cdef void free_chunk(State *lane, Chunk *chunk) noexcept nogil:
    if chunk != NULL:
        if chunk.data != NULL:
            give_block(lane.pool, chunk.data)
        free(chunk.sizes)
        free(chunk)


cdef void free_chunks(State *lane, Chunk *chunk) noexcept nogil:
    cdef Chunk *following
    while chunk != NULL:
        following = chunk.next
        free_chunk(lane, chunk)
        chunk = following


cdef Chunk *new_chunk(State *lane) noexcept nogil:
    cdef Chunk *chunk = <Chunk *> calloc(1, sizeof(Chunk))
    if chunk == NULL:
        return NULL
    chunk.data = take_block(lane.pool)
    chunk.sizes = <uint16_t *> calloc(lane.slots, sizeof(uint16_t))
    if chunk.data == NULL or chunk.sizes == NULL:
        free_chunk(lane, chunk)
        return NULL
    return chunk


cdef void prepare(Batch *batch) noexcept nogil:
    """The parts of a batch that never change."""
    cdef int slot
    memset(batch.headers, 0, sizeof(batch.headers))
    for slot in range(BATCH):
        batch.pieces[2 * slot + 1].iov_base = batch.spill + <size_t> slot * SPILL
        batch.pieces[2 * slot + 1].iov_len = SPILL
        batch.headers[slot].msg_hdr.msg_iov = &batch.pieces[2 * slot]
        batch.headers[slot].msg_hdr.msg_iovlen = 2
        batch.headers[slot].msg_hdr.msg_name = batch.names + <size_t> slot * NAME
        batch.headers[slot].msg_hdr.msg_namelen = NAME


cdef int receive(State *lane, Batch *batch, int wanted) noexcept nogil:
    """Read up to ``wanted`` packets into the slots of the batch; how many came."""
    cdef int slot
    if batch.stride != lane.stride or batch.name_size != lane.name_size:
        batch.stride, batch.name_size = lane.stride, lane.name_size
        for slot in range(BATCH):
            batch.pieces[2 * slot].iov_base = batch.data + <size_t> slot * lane.stride
            batch.pieces[2 * slot].iov_len = lane.stride
            batch.headers[slot].msg_hdr.msg_namelen = NAME
    return recvmmsg(lane.number, batch.headers, wanted, MSG_DONTWAIT, NULL)


cdef void forget_kept(State *lane) noexcept nogil:
    """What was kept is older than the key frame now."""
    cdef Chunk *chunk
    while lane.oldest != NULL:
        chunk = lane.oldest
        lane.oldest = chunk.next
        if lane.spares < SPARE_CHUNKS:
            chunk.next = lane.spare
            lane.spare = chunk
            lane.spares += 1
        else:
            free_chunk(lane, chunk)
    lane.newest = NULL
    lane.kept_bytes = 0


cdef Chunk *another_chunk(State *lane, int64_t index) noexcept nogil:
    cdef Chunk *chunk = lane.spare
    if chunk != NULL:
        lane.spare = chunk.next
        lane.spares -= 1
    else:
        chunk = new_chunk(lane)
        if chunk == NULL:
            return NULL
    chunk.next = NULL
    chunk.used = 0
    chunk.index = index
    if lane.newest != NULL:
        lane.newest.next = chunk
    else:
        lane.oldest = chunk
    lane.newest = chunk
    return chunk


cdef void keep(State *lane, Batch *batch, int first, int count, int64_t index) noexcept nogil:
    """Put packets ``first`` to ``count - 1`` of a batch away; ``index`` is that of the first of them."""
    cdef Chunk *chunk = lane.newest
    cdef int part
    lane.kept_bytes += <int64_t> (count - first) * lane.stride
    if lane.kept_bytes > lane.limit_bytes:
        lane.keeping = 0
    while first < count and lane.keeping:
        if chunk == NULL or chunk.used >= lane.slots:
            chunk = another_chunk(lane, index)
        if chunk == NULL:
            lane.keeping = 0
            break
        part = min(count - first, lane.slots - chunk.used)
        put_away(
            chunk.data + <size_t> chunk.used * lane.stride, batch.data + <size_t> first * lane.stride,
            <size_t> (part - 1) * lane.stride + batch.sizes[first + part - 1],
        )
        memcpy(chunk.sizes + chunk.used, batch.sizes + first, part * sizeof(uint16_t))
        chunk.used += part
        first += part
        index += part
    if not lane.keeping:
        lane.cut = OVERFLOWN
        forget_kept(lane)


# --- one batch ---------------------------------------------------------------------------------------------------

cdef int count_plain(State *lane, Batch *batch, int count) noexcept nogil:
    """How many packets at the front of a batch are the next plain ones of the known sender."""
    cdef int slot
    cdef uint32_t fixed = 0x80000000u | lane.second << 16
    cdef unsigned char *packet = batch.data
    cdef mmsghdr *header = batch.headers
    for slot in range(count):
        if header.msg_len < HEADER or header.msg_len > <unsigned int> lane.stride:
            return slot
        if read32(packet) & 0xFF7FFFFFu != fixed | <uint16_t> (lane.expected + slot):
            return slot
        if read32(packet + 8) != lane.ssrc or header.msg_hdr.msg_namelen != lane.name_size:
            return slot
        if memcmp(header.msg_hdr.msg_name, lane.name, lane.name_size) != 0:
            return slot
        batch.sizes[slot] = <uint16_t> header.msg_len
        packet += lane.stride
        header += 1
    return count


cdef void look(State *lane, unsigned char *payload, unsigned int size, int64_t index) noexcept nogil:
    """What a frame begins with: a system header or a program stream map is a key frame (GB/T 28181-2022 C.1)."""
    cdef unsigned int at
    cdef uint8_t code
    cdef int video = 0
    cdef int audio = 0
    if size > HEAD:
        size = HEAD
    at = 0
    while at + 4 <= size:
        if payload[at + 2] > 1:
            at += 3
            continue
        if payload[at] == 0 and payload[at + 1] == 0 and payload[at + 2] == 1:
            code = payload[at + 3]
            if code == 0xBB or code == 0xBC:
                lane.marked = index
                lane.keys += 1
                lane.video += 1
                return
            if code == 0xE0:
                video = 1
            elif code == 0xC0:
                audio = 1
        at += 1
    if video:
        lane.video += 1
    elif audio:
        lane.audio += 1


cdef int take(State *lane, Batch *batch, int count, double now) noexcept nogil:
    """Count plain packets and look for key frames; headers are still as they came in. The place of a key frame or -1."""
    cdef int slot
    cdef int key = -1
    cdef uint64_t size = 0
    cdef uint32_t stamp = lane.watched_stamp
    cdef uint32_t here
    cdef unsigned char *packet = batch.data
    cdef double transit, difference
    for slot in range(count):
        size += batch.sizes[slot]
        here = read32(packet + 4)
        if here != stamp or not lane.watching:
            lane.watching = 1
            stamp = here
            look(lane, packet + HEADER, batch.sizes[slot] - HEADER, lane.index + slot)
            if lane.marked == lane.index + slot:
                key = slot
        packet += lane.stride
    lane.watched_stamp = stamp
    lane.packets += count
    lane.bytes += size
    lane.index += count
    lane.expected = <uint16_t> (lane.expected + count)
    lane.last_packet = now
    if stamp != lane.last_stamp:
        transit = now * TICKS_PER_SECOND - stamp
        if lane.has_transit:
            difference = transit - lane.transit
            if difference < 0:
                difference = -difference
            if difference < 10 * TICKS_PER_SECOND:
                lane.jitter += (difference - lane.jitter) / 16
        lane.has_transit = 1
        lane.transit = transit
        lane.last_stamp = stamp
    return key


cdef void rewrite(State *lane, Target *target, Batch *batch, int count, int64_t index) noexcept nogil:
    cdef int slot
    cdef uint16_t sequence = <uint16_t> (index + target.offset)
    cdef unsigned char *packet = batch.data
    for slot in range(count):
        write16(packet + 2, sequence)
        write32(packet + 8, target.ssrc)
        sequence = <uint16_t> (sequence + 1)
        packet += lane.stride


cdef void mark(State *lane, Batch *batch, int count, int payload_type) noexcept nogil:
    cdef int slot
    cdef unsigned char *packet = batch.data
    for slot in range(count):
        packet[1] = <unsigned char> (packet[1] & 0x80 | payload_type)
        packet += lane.stride


cdef void shift_stamps(State *lane, Batch *batch, int count) noexcept nogil:
    cdef int slot
    cdef unsigned char *packet = batch.data
    for slot in range(count):
        write32(packet + 4, read32(packet + 4) + lane.shift)
        packet += lane.stride


cdef void send_plain(State *lane, Target *target, Batch *batch, int first, int count) noexcept nogil:
    """One packet a datagram, many with one call. What the socket does not take is dropped and counted."""
    cdef mmsghdr headers[BATCH]
    cdef iovec pieces[BATCH]
    cdef int slot, done, at = 0
    memset(headers, 0, sizeof(mmsghdr) * count)
    for slot in range(count):
        pieces[slot].iov_base = batch.data + <size_t> (first + slot) * lane.stride
        pieces[slot].iov_len = batch.sizes[first + slot]
        headers[slot].msg_hdr.msg_iov = &pieces[slot]
        headers[slot].msg_hdr.msg_iovlen = 1
    while at < count:
        done = sendmmsg(target.number, headers + at, count - at, MSG_DONTWAIT)
        if done > 0:
            target.sent += done
            at += done
        else:
            target.dropped += 1
            at += 1


cdef int send_cut(State *lane, Target *target, Batch *batch, int first, int count) noexcept nogil:
    """Neighbours of one size as one send that the kernel cuts. 0, or the error number."""
    cdef iovec pieces[BATCH]
    cdef msghdr header
    cdef unsigned char control[64]
    cdef cmsghdr *message = <cmsghdr *> control
    cdef unsigned int size = batch.sizes[first]
    cdef int slot
    memset(&header, 0, sizeof(msghdr))
    header.msg_iov = pieces
    if size == <unsigned int> lane.stride:
        pieces[0].iov_base = batch.data + <size_t> first * lane.stride
        pieces[0].iov_len = <size_t> (count - 1) * size + batch.sizes[first + count - 1]
        header.msg_iovlen = 1
    else:
        for slot in range(count):
            pieces[slot].iov_base = batch.data + <size_t> (first + slot) * lane.stride
            pieces[slot].iov_len = batch.sizes[first + slot]
        header.msg_iovlen = count
    if count > 1:
        memset(control, 0, 24)
        message.cmsg_len = sizeof(cmsghdr) + sizeof(uint16_t)
        message.cmsg_level = SOL_UDP
        message.cmsg_type = UDP_SEGMENT
        (<uint16_t *> (control + sizeof(cmsghdr)))[0] = <uint16_t> size
        header.msg_control = control
        header.msg_controllen = 24  # CMSG_SPACE of two bytes
    if sendmsg(target.number, &header, MSG_DONTWAIT) >= 0:
        return 0
    return errno


cdef void send(State *lane, Target *target, Batch *batch, int first, int count) noexcept nogil:
    cdef int until = first + count
    cdef int following, limit, error
    cdef unsigned int size
    while first < until:
        if not target.gso:
            send_plain(lane, target, batch, first, until - first)
            return
        size = batch.sizes[first]
        limit = SEGMENT_BYTES // <int> size
        limit = first + (1 if limit < 1 else SEGMENTS if limit > SEGMENTS else limit)
        if limit > until:
            limit = until
        following = first + 1
        while following < limit and batch.sizes[following] == size:
            following += 1
        if following < limit and batch.sizes[following] < size:
            following += 1
        error = send_cut(lane, target, batch, first, following - first)
        if error == 0:
            target.sent += following - first
        elif error == EAGAIN or error == ECONNREFUSED:
            target.dropped += following - first
        else:
            if error == EIO or error == EINVAL or error == EMSGSIZE or error == EOPNOTSUPP:
                target.refusals += 1
                if target.refusals >= MAX_REFUSALS:
                    target.gso = 0
            send_plain(lane, target, batch, first, following - first)
        first = following


cdef void serve(State *lane, Target *target, Batch *batch, int count, int64_t index) noexcept nogil:
    """One target's packets: its own headers on the payload that all share."""
    rewrite(lane, target, batch, count, index)
    if target.payload_type >= 0:
        mark(lane, batch, count, target.payload_type)
    send(lane, target, batch, 0, count)
    if target.payload_type >= 0:
        mark(lane, batch, count, lane.second)


cdef void keep_odd(State *lane, Batch *batch, int first, int count) noexcept nogil:
    """Copy the packets of a batch from ``first`` on that were not understood: their owner judges them."""
    cdef int slot
    cdef uint32_t length, here
    cdef size_t total = 0
    cdef unsigned char *at
    cdef mmsghdr *header
    for slot in range(first, count):
        total += 4 + NAME + batch.headers[slot].msg_len
    at = <unsigned char *> malloc(total)
    if at == NULL:
        return
    lane.odd = at
    lane.odd_count = count - first
    for slot in range(first, count):
        header = &batch.headers[slot]
        length = header.msg_len
        memcpy(at, &length, 4)
        memcpy(at + 4, header.msg_hdr.msg_name, NAME)
        at += 4 + NAME
        here = length if length < <uint32_t> lane.stride else <uint32_t> lane.stride
        memcpy(at, batch.pieces[2 * slot].iov_base, here)
        if length > here:
            memcpy(at + here, batch.pieces[2 * slot + 1].iov_base, length - here)
        at += length


cdef int visit(State *lane, Batch *batch, double now, int64_t share) noexcept nogil:
    """Read one lane until it is empty, odd, or has had its share of this tick."""
    cdef int wanted, count, plain, number, key
    cdef int64_t index
    cdef int64_t left = share * (lane.paced_bytes if lane.held else lane.burst_bytes)
    lane.held = 0
    while True:
        wanted = min(<int> BATCH, max(1, <int> (left // lane.stride)))
        count = receive(lane, batch, wanted)
        if count <= 0:
            return EMPTY
        index = lane.index
        plain = count_plain(lane, batch, count)
        if plain > 0:
            key = take(lane, batch, plain, now)
            if lane.shift:
                shift_stamps(lane, batch, plain)
            for number in range(lane.target_count):
                serve(lane, &lane.targets[number], batch, plain, index)
            if key >= 0:
                forget_kept(lane)
                lane.keeping = 1
                lane.cut = index + key
            if lane.keeping:
                key = max(key, 0)
                keep(lane, batch, key, plain, index + key)
        if plain < count:
            keep_odd(lane, batch, plain, count)
            return ODD
        if count < wanted:
            return EMPTY
        left -= <int64_t> count * lane.stride
        if left < lane.stride and not lane.waits:
            return ODD
        if left < lane.stride:
            lane.held = 1
            return HELD


# --- what Python sees --------------------------------------------------------------------------------------------

cdef class Lane:
    """One steady stream. Made by :meth:`Sweep.open`; :meth:`close` is idempotent.

    Its memory lives as long as the object, so everything can still be read after :meth:`close`.
    """

    cdef State *state
    cdef Sweep sweep
    cdef Sweep memory           # keeps the blocks' owner alive
    cdef readonly int number

    def __cinit__(self, Sweep sweep, int number, bytes name, int stride, int target_count):
        self.sweep = self.memory = sweep
        self.number = number
        if not 0 < len(name) <= NAME or not HEADER <= stride <= MAX_STRIDE or target_count < 0:
            raise ValueError("no lane with such a name, stride or number of targets")
        self.state = <State *> calloc(1, sizeof(State))
        if self.state == NULL:
            raise MemoryError
        pthread_mutex_init(&self.state.lock, NULL)
        self.state.targets = <Target *> calloc(max(target_count, 1), sizeof(Target))
        if self.state.targets == NULL:
            raise MemoryError
        self.state.number = number
        self.state.stride = stride
        self.state.slots = BLOCK // stride
        self.state.pool = &sweep.pool
        self.state.name_size = len(name)
        memcpy(self.state.name, <const char *> name, len(name))
        self.state.marked = self.state.cut = -1
        self.state.target_count = target_count

    def __dealloc__(self):
        if self.state != NULL:
            free_chunks(self.state, self.state.oldest)
            free_chunks(self.state, self.state.spare)
            free(self.state.targets)
            free(self.state.odd)
            pthread_mutex_destroy(&self.state.lock)
            free(self.state)

    def counters(self):
        """(packets, bytes, video, audio, keys) since the last call, then (index, expected, stamp, arrival, jitter,
        transit, marked, watched stamp, cut) as they stand."""
        cdef State *s = self.state
        pthread_mutex_lock(&s.lock)
        counted = (s.packets, s.bytes, s.video, s.audio, s.keys)
        s.packets = s.bytes = 0
        s.video = s.audio = s.keys = 0
        standing = (
            s.index, s.expected, s.last_stamp, s.last_packet, s.jitter, s.transit if s.has_transit else None,
            s.marked, s.watched_stamp, s.cut,
        )
        pthread_mutex_unlock(&s.lock)
        return counted, standing

    def sent(self):
        """(packets sent, packets dropped, still segmented) of each target, counted since the last call."""
        cdef int number
        cdef Target *target
        result = []
        pthread_mutex_lock(&self.state.lock)
        for number in range(self.state.target_count):
            target = &self.state.targets[number]
            result.append((target.sent, target.dropped, bool(target.gso)))
            target.sent = target.dropped = 0
        pthread_mutex_unlock(&self.state.lock)
        return result

    def runs(self):
        """The kept packets as (index, buffer, sizes, stamps) with the lane's stride, oldest first, in copies.

        Only of a closed lane.
        """
        cdef State *s = self.state
        cdef Chunk *chunk = s.oldest
        cdef int slot
        cdef size_t size
        cdef bytearray buffer
        if self.sweep is not None:
            raise RuntimeError("the lane is still open")
        result = []
        while chunk != NULL:
            if chunk.used:
                size = <size_t> (chunk.used - 1) * s.stride + chunk.sizes[chunk.used - 1]
                buffer = bytearray((<char *> chunk.data)[:size])
                sizes = [chunk.sizes[slot] for slot in range(chunk.used)]
                stamps = [
                    <uint32_t> (read32(chunk.data + <size_t> slot * s.stride + 4) - s.shift)
                    for slot in range(chunk.used)
                ]
                result.append((chunk.index, buffer, sizes, stamps))
            chunk = chunk.next
        return result

    def odd(self):
        """The packets because of which the lane was left, as (bytes, raw source address). Only of a closed lane."""
        cdef State *s = self.state
        cdef unsigned char *at = s.odd
        cdef uint32_t length
        cdef int number
        if self.sweep is not None:
            raise RuntimeError("the lane is still open")
        result = []
        for number in range(s.odd_count):
            memcpy(&length, at, 4)
            name = (<char *> at)[4:4 + s.name_size]
            at += 4 + NAME
            result.append(((<char *> at)[:length], name))
            at += length
        s.odd_count = 0
        return result

    def close(self):
        """Take the lane out of its sweep; the thread does not touch it afterwards."""
        if self.sweep is not None:
            self.sweep._forget(self)
            self.sweep = None


cdef class Sweep:
    """All lanes of one thread. :meth:`run` is the thread's work; the rest is called by the lanes' owner, one at a time.

    :attr:`bell` is a descriptor that becomes readable when lanes were left: :meth:`left` names them.
    """

    cdef int epoll
    cdef readonly int bell
    cdef int waker              # an eventfd in the epoll set, so that a sleeping thread sees the end
    cdef int stopping
    cdef pthread_mutex_t lock   # protects the table and the list of lanes left
    cdef State **lanes
    cdef int size
    cdef int *gone
    cdef int gone_count
    cdef Batch *batch
    cdef Pool pool
    cdef dict objects
    cdef readonly long long ticks

    def __cinit__(self):
        cdef epoll_event event
        self.bell = self.waker = -1
        pthread_mutex_init(&self.lock, NULL)
        self.objects = {}
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        self.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.waker = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        pthread_mutex_init(&self.pool.lock, NULL)
        self.batch = <Batch *> calloc(1, sizeof(Batch))
        if self.batch != NULL:
            self.batch.spill = <unsigned char *> malloc(BATCH * SPILL)
            self.batch.data = <unsigned char *> malloc(BATCH * MAX_STRIDE)
        if self.batch == NULL or self.batch.spill == NULL or self.batch.data == NULL or self.epoll < 0 or self.bell < 0 or self.waker < 0:
            raise OSError("no descriptors or no memory for a sweep")
        prepare(self.batch)
        event.events = EPOLLIN
        event.data.fd = self.waker
        epoll_ctl(self.epoll, EPOLL_CTL_ADD, self.waker, &event)

    def __dealloc__(self):
        cdef int number
        for number in range(self.pool.slab_count):
            free(self.pool.slabs[number])
        free(self.pool.slabs)
        free(self.pool.blocks)
        pthread_mutex_destroy(&self.pool.lock)
        if self.batch != NULL:
            free(self.batch.spill)
            free(self.batch.data)
            free(self.batch)
        if self.epoll >= 0:
            close(self.epoll)
        if self.bell >= 0:
            close(self.bell)
        if self.waker >= 0:
            close(self.waker)
        pthread_mutex_destroy(&self.lock)
        free(self.lanes)
        free(self.gone)

    def __len__(self):
        return len(self.objects)

    def open(
        self, int number, bytes name, *, int stride, unsigned int ssrc, int payload_type, int expected,
        long long index, unsigned int shift, unsigned int stamp, arrival, transit, double jitter,
        long long marked, watched, long long kept_bytes, long long limit_bytes, bint waits,
        long long burst_bytes, long long paced_bytes, list targets,
    ):
        """A lane for socket ``number``. ``targets``: (number, ssrc, offset, payload type or -1, gso) each."""
        cdef Lane lane
        cdef State *s
        cdef Target *target
        if number < 0 or number in self.objects:
            raise ValueError("no lane for such a socket")
        lane = Lane(self, number, name, stride, len(targets))
        s = lane.state
        s.ssrc, s.second, s.expected, s.index, s.shift = ssrc, payload_type, <uint16_t> expected, index, shift
        s.last_stamp, s.last_packet, s.jitter, s.marked = stamp, arrival or 0.0, jitter, marked
        s.has_transit, s.transit = transit is not None, transit or 0.0
        s.watching, s.watched_stamp = watched is not None, watched or 0
        s.keeping, s.kept_bytes, s.limit_bytes = 1, kept_bytes, limit_bytes
        s.waits, s.burst_bytes, s.paced_bytes = waits, burst_bytes, paced_bytes
        for position, (target_number, target_ssrc, offset, target_type, gso) in enumerate(targets):
            target = &s.targets[<int> position]
            target.number, target.ssrc, target.payload_type, target.gso = target_number, target_ssrc, target_type, gso
            target.offset = <uint16_t> (<long long> offset & 0xFFFF)
        self._remember(number, lane)
        return lane

    cdef _remember(self, int number, Lane lane):
        cdef int size = self.size
        cdef State **larger
        cdef int *more
        cdef epoll_event event
        pthread_mutex_lock(&self.lock)
        if number >= size:
            size = max(number + 1, 2 * size, 256)
            larger = <State **> realloc(self.lanes, size * sizeof(State *))
            if larger != NULL:
                memset(larger + self.size, 0, (size - self.size) * sizeof(State *))
                self.lanes = larger
            more = <int *> realloc(self.gone, size * sizeof(int))
            if more != NULL:
                self.gone = more
            if larger == NULL or more == NULL:
                pthread_mutex_unlock(&self.lock)
                raise MemoryError
            self.size = size
        self.lanes[number] = lane.state
        pthread_mutex_unlock(&self.lock)
        self.objects[number] = lane
        event.events = EPOLLIN
        event.data.fd = number
        if epoll_ctl(self.epoll, EPOLL_CTL_ADD, number, &event) < 0:
            lane.close()
            raise OSError(errno, "the socket cannot be watched")

    cdef _forget(self, Lane lane):
        cdef epoll_event event
        pthread_mutex_lock(&self.lock)
        self.lanes[lane.number] = NULL
        pthread_mutex_unlock(&self.lock)
        with nogil:  # wait until the thread is out of it
            pthread_mutex_lock(&lane.state.lock)
            pthread_mutex_unlock(&lane.state.lock)
        epoll_ctl(self.epoll, EPOLL_CTL_DEL, lane.number, &event)
        self.objects.pop(lane.number, None)

    def left(self):
        """The lanes that were left since the last call, closed."""
        cdef uint64_t rung
        cdef int at
        read(self.bell, &rung, 8)
        pthread_mutex_lock(&self.lock)
        numbers = [self.gone[at] for at in range(self.gone_count)]
        self.gone_count = 0
        pthread_mutex_unlock(&self.lock)
        lanes = [self.objects[number] for number in numbers if number in self.objects]
        for lane in lanes:
            lane.close()
        return lanes

    def stop(self):
        """Let :meth:`run` return soon, also when it sleeps."""
        cdef uint64_t one = 1
        self.stopping = 1
        write(self.waker, &one, 8)

    def run(self, double tick_s):
        """Serve all lanes every ``tick_s`` seconds until :meth:`stop`; sleeps while there is no traffic."""
        with nogil:
            self._run(<long long> (tick_s * 1e9))

    cdef void _run(self, long long tick_ns) noexcept nogil:
        cdef timespec now, due, began
        cdef long long passed_ns
        cdef int64_t share = 1  # how many ticks' worth of bytes each lane may send: a late thread makes up for it
        cdef int empty = 0
        clock_gettime(CLOCK_MONOTONIC, &due)
        began = due
        while not self.stopping:
            if empty >= IDLE_TICKS:
                share = 1
            else:
                clock_gettime(CLOCK_MONOTONIC, &now)
                passed_ns = (now.tv_sec - began.tv_sec) * <long long> 1000000000 + now.tv_nsec - began.tv_nsec
                share = max(<int64_t> 1, min(<int64_t> (passed_ns // tick_ns), <int64_t> LONGEST_SHARE))
                began = now
            if self._sweep(0 if empty < IDLE_TICKS else -1, share):
                if empty >= IDLE_TICKS:
                    clock_gettime(CLOCK_MONOTONIC, &began)
                empty = 0
            else:
                empty += 1
            self.ticks += 1
            due.tv_nsec += tick_ns
            while due.tv_nsec >= 1000000000:
                due.tv_nsec -= 1000000000
                due.tv_sec += 1
            clock_gettime(CLOCK_MONOTONIC, &now)
            if now.tv_sec > due.tv_sec or (now.tv_sec == due.tv_sec and now.tv_nsec > due.tv_nsec):
                due = now
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL)

    cdef int _sweep(self, int timeout, int64_t share) noexcept nogil:
        """Serve every readable lane; the number of readable descriptors."""
        cdef epoll_event events[EVENTS]
        cdef timespec clock
        cdef double now
        cdef int at, number, result
        cdef State *lane
        cdef int odd = 0
        cdef uint64_t one = 1
        cdef int ready = epoll_wait(self.epoll, events, EVENTS, timeout)
        clock_gettime(CLOCK_MONOTONIC, &clock)
        now = <double> clock.tv_sec + <double> clock.tv_nsec * 1e-9
        for at in range(ready):
            number = events[at].data.fd
            pthread_mutex_lock(&self.lock)
            lane = self.lanes[number] if number < self.size else NULL
            if lane == NULL:
                pthread_mutex_unlock(&self.lock)
                continue
            pthread_mutex_lock(&lane.lock)
            pthread_mutex_unlock(&self.lock)
            result = visit(lane, self.batch, now, share)
            pthread_mutex_unlock(&lane.lock)
            if result == ODD:
                self._drop(number, lane)
                odd = 1
        if odd:
            write(self.bell, &one, 8)
        return ready

    cdef void _drop(self, int number, State *lane) noexcept nogil:
        """Leave a lane, unless its owner closed it meanwhile."""
        cdef epoll_event event
        cdef int at = 0
        pthread_mutex_lock(&self.lock)
        if self.lanes[number] == lane:
            self.lanes[number] = NULL
            epoll_ctl(self.epoll, EPOLL_CTL_DEL, number, &event)
            while at < self.gone_count and self.gone[at] != number:
                at += 1
            self.gone[at] = number  # each number at most once, so the list is never longer than the table
            self.gone_count = max(self.gone_count, at + 1)
        pthread_mutex_unlock(&self.lock)
