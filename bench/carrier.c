/* Moves packets between TUN devices: late, at a rate, and not all of them. Compiled and started by bench/carrier.py.
 *
 * carrier SOURCE:SINK:DELAY_NS:BYTES_PER_SECOND:QUEUE_BYTES ...     (descriptors that were opened already; rate 0: none)
 *
 * Each argument is one direction of a link: a drop-tail queue, a rate, then a delay. A packet is read straight into a
 * slot, waits there, and is written from it: one copy in and one out, both the kernel's.
 */

#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    MOST_WIRES = 16,
    SLOTS = 1 << 15,     /* of each wire; only those in use ever touch memory */
    BATCH = 64,          /* packets read from one device before the clock is looked at again */
    VNET_BYTES = 10,     /* struct virtio_net_hdr of linux/virtio_net.h, before each packet */
    SLOT_BYTES = 65536 + 64,
    TICK_NS = 250000 /* while packets fly, look this often and no oftener: fewer wake-ups, for a fourth of a ms */
};

struct flying {
    int64_t due;
    uint32_t length;
    uint32_t slot;
};

struct wire {
    int source, sink;
    int64_t delay, free_at;
    double bytes_per_second;
    double queue_bytes;
    unsigned char *memory;
    uint32_t *unused; /* a stack: the slot that was free last is still in the processor's cache */
    uint32_t unused_count;
    struct flying *queue; /* a ring of SLOTS */
    uint32_t head, count;
};

static int64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* The length on the wire: a train of TCP segments, which the kernel hands over as one, has a header each. */
static double wire_bytes(const unsigned char *packet, size_t read) {
    double length = (double)(read - VNET_BYTES);
    uint16_t header, segment;
    memcpy(&header, packet + 2, 2);
    memcpy(&segment, packet + 4, 2);
    if (segment == 0 || read - VNET_BYTES <= header)
        return length;
    return length + (double)((read - VNET_BYTES - header - 1) / segment) * header;
}

static void take(struct wire *wire) {
    for (int number = 0; number < BATCH && wire->unused_count > 0; number++) {
        uint32_t slot = wire->unused[wire->unused_count - 1];
        unsigned char *packet = wire->memory + (size_t)slot * SLOT_BYTES;
        ssize_t length = read(wire->source, packet, SLOT_BYTES);
        if (length <= VNET_BYTES)
            return;
        int64_t now = now_ns(), due = now + wire->delay;
        if (wire->bytes_per_second > 0) {
            int64_t start = wire->free_at > now ? wire->free_at : now;
            if ((double)(start - now) * 1e-9 * wire->bytes_per_second > wire->queue_bytes)
                continue; /* dropped: the slot is used again */
            wire->free_at = start + (int64_t)(wire_bytes(packet, (size_t)length) / wire->bytes_per_second * 1e9);
            due = wire->free_at + wire->delay;
        }
        wire->unused_count--;
        struct flying *last = &wire->queue[(wire->head + wire->count++) % SLOTS];
        last->due = due;
        last->length = (uint32_t)length;
        last->slot = slot;
    }
}

static void deliver(struct wire *wire, int64_t now) {
    while (wire->count > 0 && wire->queue[wire->head].due <= now) {
        struct flying *first = &wire->queue[wire->head];
        /* an error is a device that is down, or whose namespace is going away: the packet is lost, as on a wire */
        if (write(wire->sink, wire->memory + (size_t)first->slot * SLOT_BYTES, first->length) < 0 && errno == EBADF)
            exit(1);
        wire->unused[wire->unused_count++] = first->slot;
        wire->head = (wire->head + 1) % SLOTS;
        wire->count--;
    }
}

static int make(struct wire *wire, const char *text) {
    double delay;
    if (sscanf(text, "%d:%d:%lf:%lf:%lf", &wire->source, &wire->sink, &delay, &wire->bytes_per_second,
               &wire->queue_bytes) != 5)
        return 0;
    wire->delay = (int64_t)delay;
    wire->memory = mmap(NULL, (size_t)SLOTS * SLOT_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    wire->unused = malloc(SLOTS * sizeof *wire->unused);
    wire->queue = malloc(SLOTS * sizeof *wire->queue);
    if (wire->memory == MAP_FAILED || wire->unused == NULL || wire->queue == NULL)
        return 0;
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        wire->unused[wire->unused_count++] = SLOTS - 1 - slot;
    return 1;
}

int main(int count, char **arguments) {
    static struct wire wires[MOST_WIRES];
    struct pollfd polled[MOST_WIRES];
    int wire_count = count - 1;
    if (wire_count < 1 || wire_count > MOST_WIRES)
        return 2;
    for (int i = 0; i < wire_count; i++) {
        if (!make(&wires[i], arguments[i + 1])) {
            fprintf(stderr, "carrier: cannot make a wire of %s\n", arguments[i + 1]);
            return 2;
        }
        polled[i].fd = wires[i].source;
        polled[i].events = POLLIN;
    }
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* in ns; 50,000 by default */
    puts("carrying");
    fflush(stdout);
    for (;;) {
        int64_t next = INT64_MAX, now = now_ns();
        for (int i = 0; i < wire_count; i++) {
            deliver(&wires[i], now);
            if (wires[i].count > 0 && wires[i].queue[wires[i].head].due < next)
                next = wires[i].queue[wires[i].head].due;
        }
        struct timespec wait = {0, 0};
        int64_t left = next - now_ns();
        if (next != INT64_MAX && left > 0) {
            wait.tv_sec = left / 1000000000;
            wait.tv_nsec = left % 1000000000;
        }
        if (next != INT64_MAX) {
            struct timespec tick = {0, TICK_NS};
            nanosleep(&tick, NULL);
            left -= TICK_NS;
            wait.tv_sec = left > 0 ? left / 1000000000 : 0;
            wait.tv_nsec = left > 0 ? left % 1000000000 : 0;
        }
        if (ppoll(polled, (nfds_t)wire_count, next == INT64_MAX ? NULL : &wait, NULL) < 0 && errno != EINTR)
            return 1;
        for (int i = 0; i < wire_count; i++)
            if (polled[i].revents)
                take(&wires[i]);
    }
}
