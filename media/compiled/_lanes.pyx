# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The compiled part of the packet pump: lanes of steady streams, swept once a tick without the interpreter lock.

A lane is one UDP socket whose sender, SSRC and payload type are known and whose packets come in order. One sweep reads
all readable lanes with recvmmsg straight into the memory that keeps the packets since the last key frame, rewrites
headers there and sends with UDP_SEGMENT. Whatever is odd is not judged here: the lane is left, its owner gets the
packets as they came in and goes on in Python (media/sources/steady.py).
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
        pass

    int recvmmsg(int number, mmsghdr *headers, unsigned int count, int flags, timespec *timeout)
    int sendmmsg(int number, mmsghdr *headers, unsigned int count, int flags)
    ssize_t sendmsg(int number, msghdr *header, int flags)
    enum: MSG_DONTWAIT
    enum: MSG_TRUNC


cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data:
        int fd

    struct epoll_event:
        uint32_t events
        epoll_data data

    int epoll_wait(int number, epoll_event *events, int count, int timeout)


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
    static inline void write16(unsigned char *at, uint16_t value) {
        value = __builtin_bswap16(value); memcpy(at, &value, 2);
    }
    """
    uint32_t read32(const unsigned char *at)
    void write32(unsigned char *at, uint32_t value)
    void write16(unsigned char *at, uint16_t value)


cdef enum:
    SLOTS = 128             # packets of one chunk of memory
    ROOM = 32               # a chunk with less room than this is left as it is
    BATCH = 64              # packets of one read
    SPILL = 9216            # longest packet is a slot and this
    EVENTS = 1024
    HEADER = 12
    HEAD = 64               # bytes of a frame in which its first start codes are looked for
    SEGMENTS = 64
    SEGMENT_BYTES = 64000
    MAX_REFUSALS = 3
    SPARE_CHUNKS = 16
    NAME = 28
    SOL_UDP = 17
    UDP_SEGMENT = 103
    TICKS_PER_SECOND = 90000

cdef enum:                  # what a visit to a lane ended with
    EMPTY = 0
    HELD = 1                # a burst: the rest waits in the socket for the next tick
    ODD = 2                 # the lane was left

cdef enum:
    OVERFLOWN = -2          # instead of the index of a key frame: nothing is kept until the next one


cdef struct Chunk:
    Chunk *next
    unsigned char *data     # SLOTS slots of the lane's stride
    mmsghdr *headers
    iovec *iovecs
    unsigned char *names
    int first               # packets in front of this one are older than the key frame
    int used
    int64_t index           # of the packet in slot 0


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
    int number
    int stride
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
    size_t odd_size
    int odd_count


# --- memory ------------------------------------------------------------------------------------------------------

cdef void free_chunk(Chunk *chunk) noexcept nogil:
    if chunk != NULL:
        free(chunk.data)
        free(chunk.headers)
        free(chunk.iovecs)
        free(chunk.names)
        free(chunk)


cdef void free_chunks(Chunk *chunk) noexcept nogil:
    cdef Chunk *following
    while chunk != NULL:
        following = chunk.next
        free_chunk(chunk)
        chunk = following


cdef Chunk *new_chunk(State *lane, unsigned char *spill) noexcept nogil:
    cdef Chunk *chunk = <Chunk *> calloc(1, sizeof(Chunk))
    cdef int slot
    if chunk == NULL:
        return NULL
    chunk.data = <unsigned char *> malloc(<size_t> SLOTS * lane.stride)
    chunk.headers = <mmsghdr *> calloc(SLOTS, sizeof(mmsghdr))
    chunk.iovecs = <iovec *> calloc(2 * SLOTS, sizeof(iovec))
    chunk.names = <unsigned char *> calloc(SLOTS, NAME)
    if chunk.data == NULL or chunk.headers == NULL or chunk.iovecs == NULL or chunk.names == NULL:
        free_chunk(chunk)
        return NULL
    for slot in range(SLOTS):
        chunk.iovecs[2 * slot].iov_base = chunk.data + <size_t> slot * lane.stride
        chunk.iovecs[2 * slot].iov_len = lane.stride
        chunk.iovecs[2 * slot + 1].iov_base = spill + <size_t> (slot % BATCH) * SPILL
        chunk.iovecs[2 * slot + 1].iov_len = SPILL
        chunk.headers[slot].msg_hdr.msg_iov = &chunk.iovecs[2 * slot]
        chunk.headers[slot].msg_hdr.msg_iovlen = 2
        chunk.headers[slot].msg_hdr.msg_name = chunk.names + <size_t> slot * NAME
        chunk.headers[slot].msg_hdr.msg_namelen = NAME
    return chunk


cdef Chunk *room(State *lane, unsigned char *spill) noexcept nogil:
    """The chunk that takes the next packets; NULL without memory."""
    cdef Chunk *chunk = lane.newest
    if chunk != NULL and not lane.keeping:
        chunk.first = chunk.used = 0
        chunk.index = lane.index
        return chunk
    if chunk != NULL and SLOTS - chunk.used >= ROOM:
        return chunk
    if lane.spare != NULL:
        chunk = lane.spare
        lane.spare = chunk.next
        lane.spares -= 1
    else:
        chunk = new_chunk(lane, spill)
        if chunk == NULL:
            return NULL
    chunk.next = NULL
    chunk.first = chunk.used = 0
    chunk.index = lane.index
    if lane.newest != NULL:
        lane.newest.next = chunk
    else:
        lane.oldest = chunk
    lane.newest = chunk
    return chunk


cdef void drop_oldest(State *lane) noexcept nogil:
    cdef Chunk *chunk = lane.oldest
    lane.oldest = chunk.next
    if lane.oldest == NULL:
        lane.newest = NULL
    lane.kept_bytes -= <int64_t> (chunk.used - chunk.first) * lane.stride
    if lane.spares < SPARE_CHUNKS:
        chunk.next = lane.spare
        lane.spare = chunk
        lane.spares += 1
    else:
        free_chunk(chunk)


cdef void cut(State *lane, int64_t index) noexcept nogil:
    """A key frame begins with packet ``index``, which is in the newest chunk: forget what is older."""
    cdef Chunk *chunk
    while lane.oldest != lane.newest:
        drop_oldest(lane)
    chunk = lane.newest
    lane.keeping = 1
    lane.cut = index
    chunk.first = <int> (index - chunk.index)
    lane.kept_bytes = 0


# --- one batch ---------------------------------------------------------------------------------------------------

cdef int count_plain(State *lane, Chunk *chunk, int first, int count) noexcept nogil:
    """How many packets at the front of a batch are the next plain ones of the known sender."""
    cdef int slot
    cdef uint32_t fixed = 0x80000000u | lane.second << 16
    cdef unsigned char *packet = chunk.data + <size_t> first * lane.stride
    cdef mmsghdr *header = chunk.headers + first
    for slot in range(count):
        if header.msg_len < HEADER or header.msg_len > <unsigned int> lane.stride:
            return slot
        if read32(packet) & 0xFF7FFFFFu != fixed | <uint16_t> (lane.expected + slot):
            return slot
        if read32(packet + 8) != lane.ssrc or header.msg_hdr.msg_namelen != lane.name_size:
            return slot
        if memcmp(header.msg_hdr.msg_name, lane.name, lane.name_size) != 0:
            return slot
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


cdef void take(State *lane, Chunk *chunk, int first, int count, double now) noexcept nogil:
    """Count ``count`` plain packets and look for key frames; headers are still as they came in."""
    cdef int slot
    cdef int64_t index = lane.index
    cdef int64_t key = -1
    cdef uint64_t size = 0
    cdef uint32_t stamp = lane.watched_stamp
    cdef uint32_t here
    cdef unsigned char *packet
    cdef double transit, difference
    for slot in range(first, first + count):
        packet = chunk.data + <size_t> slot * lane.stride
        size += chunk.headers[slot].msg_len
        here = read32(packet + 4)
        if here != stamp or not lane.watching:
            lane.watching = 1
            stamp = here
            look(lane, packet + HEADER, chunk.headers[slot].msg_len - HEADER, index)
            if lane.marked == index:
                key = index
        index += 1
    chunk.used = first + count
    lane.watched_stamp = stamp
    lane.packets += count
    lane.bytes += size
    lane.index = index
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
    if key >= 0:
        cut(lane, key)
        lane.kept_bytes = (index - key) * lane.stride
    elif lane.keeping:
        lane.kept_bytes += <int64_t> count * lane.stride
        if lane.kept_bytes > lane.limit_bytes:
            lane.keeping = 0
            lane.cut = OVERFLOWN
            while lane.oldest != lane.newest:
                drop_oldest(lane)
            chunk.first = chunk.used
            lane.kept_bytes = 0


cdef void rewrite(State *lane, Target *target, Chunk *chunk, int first, int count, int64_t index) noexcept nogil:
    cdef int slot
    cdef uint16_t sequence = <uint16_t> (index + target.offset)
    cdef unsigned char *packet = chunk.data + <size_t> first * lane.stride
    for slot in range(count):
        write16(packet + 2, sequence)
        write32(packet + 8, target.ssrc)
        sequence = <uint16_t> (sequence + 1)
        packet += lane.stride


cdef void mark(State *lane, Chunk *chunk, int first, int count, int payload_type) noexcept nogil:
    cdef int slot
    cdef unsigned char *packet
    for slot in range(first, first + count):
        packet = chunk.data + <size_t> slot * lane.stride
        packet[1] = <unsigned char> (packet[1] & 0x80 | payload_type)


cdef void shift_stamps(State *lane, Chunk *chunk, int first, int count) noexcept nogil:
    cdef int slot
    cdef unsigned char *packet
    for slot in range(first, first + count):
        packet = chunk.data + <size_t> slot * lane.stride
        write32(packet + 4, read32(packet + 4) + lane.shift)


cdef void send_plain(State *lane, Target *target, Chunk *chunk, int first, int count) noexcept nogil:
    """One packet a datagram, many with one call. What the socket does not take is dropped and counted."""
    cdef mmsghdr headers[BATCH]
    cdef iovec pieces[BATCH]
    cdef int slot, done, at = 0
    memset(headers, 0, sizeof(mmsghdr) * count)
    for slot in range(count):
        pieces[slot].iov_base = chunk.data + <size_t> (first + slot) * lane.stride
        pieces[slot].iov_len = chunk.headers[first + slot].msg_len
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


cdef int send_cut(State *lane, Target *target, Chunk *chunk, int first, int count) noexcept nogil:
    """Neighbours of one size as one send that the kernel cuts. 0, or the error number."""
    cdef iovec pieces[BATCH]
    cdef msghdr header
    cdef unsigned char control[64]
    cdef cmsghdr *message = <cmsghdr *> control
    cdef unsigned int size = chunk.headers[first].msg_len
    cdef int slot
    memset(&header, 0, sizeof(msghdr))
    header.msg_iov = pieces
    if size == <unsigned int> lane.stride:
        pieces[0].iov_base = chunk.data + <size_t> first * lane.stride
        pieces[0].iov_len = <size_t> (count - 1) * size + chunk.headers[first + count - 1].msg_len
        header.msg_iovlen = 1
    else:
        for slot in range(count):
            pieces[slot].iov_base = chunk.data + <size_t> (first + slot) * lane.stride
            pieces[slot].iov_len = chunk.headers[first + slot].msg_len
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


cdef void send(State *lane, Target *target, Chunk *chunk, int first, int count) noexcept nogil:
    cdef int until = first + count
    cdef int following, limit, error
    cdef unsigned int size
    while first < until:
        if not target.gso:
            send_plain(lane, target, chunk, first, until - first)
            return
        size = chunk.headers[first].msg_len
        limit = SEGMENT_BYTES // <int> size
        limit = first + (1 if limit < 1 else SEGMENTS if limit > SEGMENTS else limit)
        if limit > until:
            limit = until
        following = first + 1
        while following < limit and chunk.headers[following].msg_len == size:
            following += 1
        if following < limit and chunk.headers[following].msg_len < size:
            following += 1
        error = send_cut(lane, target, chunk, first, following - first)
        if error == 0:
            target.sent += following - first
        elif error == EAGAIN or error == ECONNREFUSED:
            target.dropped += following - first
        else:
            if error == EIO or error == EINVAL or error == EMSGSIZE or error == EOPNOTSUPP:
                target.refusals += 1
                if target.refusals >= MAX_REFUSALS:
                    target.gso = 0
            send_plain(lane, target, chunk, first, following - first)
        first = following


cdef void keep_odd(State *lane, Chunk *chunk, int first, int count) noexcept nogil:
    """Copy packets that were not understood: their owner judges them."""
    cdef int slot
    cdef uint32_t length, here
    cdef size_t total = 0
    cdef unsigned char *at
    cdef mmsghdr *header
    for slot in range(first, first + count):
        total += 4 + NAME + chunk.headers[slot].msg_len
    at = <unsigned char *> malloc(total)
    if at == NULL:
        return
    lane.odd = at
    lane.odd_size = total
    lane.odd_count = count
    for slot in range(first, first + count):
        header = &chunk.headers[slot]
        length = header.msg_len
        memcpy(at, &length, 4)
        memcpy(at + 4, header.msg_hdr.msg_name, NAME)
        at += 4 + NAME
        here = length if length < <uint32_t> lane.stride else <uint32_t> lane.stride
        memcpy(at, chunk.data + <size_t> slot * lane.stride, here)
        if length > here:
            memcpy(at + here, chunk.iovecs[2 * slot + 1].iov_base, length - here)
        at += length


cdef int visit(State *lane, double now, unsigned char *spill) noexcept nogil:
    """Read one lane until it is empty, odd, or has had its share of this tick."""
    cdef Chunk *chunk
    cdef int first, wanted, count, plain, number
    cdef int64_t index
    cdef int64_t left = lane.paced_bytes if lane.held else lane.burst_bytes
    lane.held = 0
    while True:
        chunk = room(lane, spill)
        if chunk == NULL:
            return ODD
        first = chunk.used
        wanted = SLOTS - first
        if wanted > BATCH:
            wanted = BATCH
        count = recvmmsg(lane.number, chunk.headers + first, wanted, MSG_DONTWAIT, NULL)
        if count <= 0:
            return EMPTY
        index = lane.index
        plain = count_plain(lane, chunk, first, count)
        if plain > 0:
            take(lane, chunk, first, plain, now)
            if lane.shift:
                shift_stamps(lane, chunk, first, plain)
            for number in range(lane.target_count):
                rewrite(lane, &lane.targets[number], chunk, first, plain, index)
                if lane.targets[number].payload_type >= 0:
                    mark(lane, chunk, first, plain, lane.targets[number].payload_type)
                    send(lane, &lane.targets[number], chunk, first, plain)
                    mark(lane, chunk, first, plain, lane.second)
                else:
                    send(lane, &lane.targets[number], chunk, first, plain)
        if plain < count:
            keep_odd(lane, chunk, first + plain, count - plain)
            return ODD
        if count < wanted:
            return EMPTY
        left -= <int64_t> count * lane.stride
        if left <= 0 and not lane.waits:
            return ODD
        if left <= 0:
            lane.held = 1
            return HELD


# --- what Python sees --------------------------------------------------------------------------------------------

cdef class Lane:
    """One steady stream. Made by :meth:`Sweep.open`; :meth:`close` is idempotent.

    Its memory lives as long as the object, so everything can still be read after :meth:`close`.
    """

    cdef State *state
    cdef Sweep sweep
    cdef readonly int number

    def __cinit__(self, Sweep sweep, int number, bytes name, int stride, int target_count):
        self.sweep = sweep
        self.number = number
        if not 0 < len(name) <= NAME or not HEADER <= stride <= 0xFFFF or target_count < 0:
            raise ValueError("no lane with such a name, stride or number of targets")
        self.state = <State *> calloc(1, sizeof(State))
        if self.state == NULL:
            raise MemoryError
        self.state.targets = <Target *> calloc(max(target_count, 1), sizeof(Target))
        if self.state.targets == NULL:
            raise MemoryError
        self.state.number = number
        self.state.stride = stride
        self.state.name_size = len(name)
        memcpy(self.state.name, <const char *> name, len(name))
        self.state.marked = self.state.cut = -1
        self.state.target_count = target_count

    def __dealloc__(self):
        if self.state != NULL:
            free_chunks(self.state.oldest)
            free_chunks(self.state.spare)
            free(self.state.targets)
            free(self.state.odd)
            free(self.state)

    def counters(self):
        """(packets, bytes, video, audio, keys) since the last call, then (index, expected, stamp, arrival, jitter,
        transit, marked, watched stamp, cut) as they stand."""
        cdef State *s = self.state
        counted = (s.packets, s.bytes, s.video, s.audio, s.keys)
        s.packets = s.bytes = 0
        s.video = s.audio = s.keys = 0
        return counted, (
            s.index, s.expected, s.last_stamp, s.last_packet, s.jitter, s.transit if s.has_transit else None,
            s.marked, s.watched_stamp, s.cut,
        )

    def sent(self):
        """(packets sent, packets dropped, still segmented) of each target, counted since the last call."""
        cdef int number
        cdef Target *target
        result = []
        for number in range(self.state.target_count):
            target = &self.state.targets[number]
            result.append((target.sent, target.dropped, bool(target.gso)))
            target.sent = target.dropped = 0
        return result

    def runs(self):
        """The kept packets as (index, buffer, sizes, stamps) with the lane's stride, oldest first, in copies."""
        cdef State *s = self.state
        cdef Chunk *chunk = s.oldest
        cdef int slot
        cdef size_t start, size
        cdef bytearray buffer
        result = []
        while chunk != NULL:
            if chunk.used > chunk.first and s.keeping:
                start = <size_t> chunk.first * s.stride
                size = <size_t> (chunk.used - 1 - chunk.first) * s.stride + chunk.headers[chunk.used - 1].msg_len
                buffer = bytearray((<char *> chunk.data)[start:start + size])
                sizes = [chunk.headers[slot].msg_len for slot in range(chunk.first, chunk.used)]
                stamps = [
                    <uint32_t> (read32(chunk.data + <size_t> slot * s.stride + 4) - s.shift)
                    for slot in range(chunk.first, chunk.used)
                ]
                result.append((chunk.index + chunk.first, buffer, sizes, stamps))
            chunk = chunk.next
        return result

    def odd(self):
        """The packets because of which the lane was left, as (bytes, raw source address)."""
        cdef State *s = self.state
        cdef unsigned char *at = s.odd
        cdef uint32_t length
        cdef int number
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
        """Take the lane out of its sweep."""
        if self.sweep is not None:
            self.sweep._forget(self.number)
            self.sweep = None


cdef class Sweep:
    """All lanes of one epoll set. :meth:`run` serves them; the rest of the set is the caller's business."""

    cdef int epoll
    cdef State **lanes
    cdef int size
    cdef unsigned char *spill
    cdef dict objects
    cdef readonly list left     # lanes that were left in the latest run, closed
    cdef readonly int ready     # readable descriptors of the latest run

    def __cinit__(self, int epoll):
        self.epoll = epoll
        self.objects = {}
        self.left = []
        self.spill = <unsigned char *> malloc(BATCH * SPILL)
        if self.spill == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.lanes)
        free(self.spill)

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
        if number >= size:
            size = max(number + 1, 2 * size, 256)
            larger = <State **> realloc(self.lanes, size * sizeof(State *))
            if larger == NULL:
                raise MemoryError
            memset(larger + self.size, 0, (size - self.size) * sizeof(State *))
            self.lanes, self.size = larger, size
        self.lanes[number] = lane.state
        self.objects[number] = lane

    cdef _forget(self, int number):
        if number < self.size:
            self.lanes[number] = NULL
        self.objects.pop(number, None)

    def run(self, double now):
        """Serve every readable lane; returns the readable descriptors that are no lanes."""
        cdef epoll_event events[EVENTS]
        cdef int ready, at, number
        cdef int others = 0
        cdef int odd = 0
        cdef State *lane
        with nogil:
            ready = epoll_wait(self.epoll, events, EVENTS, 0)
            for at in range(ready):
                number = events[at].data.fd
                lane = self.lanes[number] if number < self.size else NULL
                if lane == NULL:
                    events[others].data.fd = number
                    others += 1
                elif visit(lane, now, self.spill) == ODD:
                    events[EVENTS - 1 - odd].data.fd = number
                    odd += 1
        self.ready = max(ready, 0)
        self.left = []
        for at in range(odd):
            gone = <Lane> self.objects[events[EVENTS - 1 - at].data.fd]
            gone.close()
            self.left.append(gone)
        return [events[at].data.fd for at in range(others)]
