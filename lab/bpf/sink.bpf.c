// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The xdp sink's program: counts on the sink's device, before there is a socket buffer to pay for.
//
// What is exactly what it should be and comes in order is counted here, by a bit and a few counters, and dropped. Every
// other UDP datagram is handed to user space whole, together with what was known of its sequence before it, and judged
// there by the same code that judges for the other sinks (lab/src/tally.rs). What is no UDP goes on to the IP stack.
//
// The device has one queue, so frames come one after the other, and nothing here needs to be atomic.
// Built by ci/bpf. The other side of every map and constant is lab/src/sink/xdp/.

#include <linux/bpf.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define UDP_BYTES 8
#define UDP 17

// IPv6 headers that others may follow (RFC 8200, section 4.1).
#define HOP_BY_HOP 0
#define ROUTING 43
#define FRAGMENT 44
#define DESTINATION_OPTIONS 60

// The payload, see lab/src/datagram.rs.
#define RUN 0
#define FLOW 2
#define SEQUENCE 4
#define KIND 12
#define CRC8 13
#define CRC32 14
#define INTENDED 18
#define ACTUAL 26
#define MIN_BYTES 18
#define STAMPED_BYTES 34
#define STAMPED 0x80
#define WARM_UP 0
#define MEASURED 1
#define FILLER_STARTS 4096
#define FILLER_WORDS 4608

#define BITS_PER_CHUNK 32768
#define WORDS_PER_CHUNK 512

// Set before the program is loaded, so that the verifier knows them.
const volatile __u32 run;
const volatile __u32 flow_count;
const volatile __u32 payload_bytes;
const volatile __u32 crc32_of_zeros;
const volatile __u32 crc8_of_zeros;
// Where in the payload the time stands from which latency runs: INTENDED or ACTUAL.
const volatile __u32 latency_from;
// Whether the sender leaves checksums to its device: then a datagram comes with the sum of its pseudo-header only.
const volatile __u32 checksum_is_left;
// The device's MAC address as the kernel would load 8 bytes of it, the upper two zero.
const volatile __u64 mac;
// CLOCK_TAI less CLOCK_REALTIME, ns.
const volatile __u64 tai_offset_ns;
// Room for a frame in an event: of the size that the plan's have, and of any that the device can take.
const volatile __u32 usual_frame_bytes;
const volatile __u32 most_frame_bytes;
// How long nothing must come before that is kept, ns.
const volatile __u64 least_silence_ns;

enum counter {
	COUNTED,          // whole measured datagrams in order, the first of their sequence
	WARM,             // whole warm-up datagrams of flows that had one before
	OTHER_FRAMES,     // no UDP
	EARLY,            // those of COUNTED that came before the time their latency runs from
	EVENTS_LOST,      // handed to user space, had there been room
	OTHER_QUEUE,      // frames of another queue than the first
	WARM_LAST_NS,     // when the last of WARM came
	FIRST_NS,         // when the first whole measured datagram came
	LAST_NS,          // and the last
	LONGEST_FROM_NS,  // the longest time between two of them
	LONGEST_TO_NS,
	SILENCES,         // how many were long enough to be kept
	COUNTERS,
};

struct counters {
	__u64 of[COUNTERS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

// Where a flow is delivered: an IPv4 address is the first four bytes of `address`; as loaded, not converted.
struct flow {
	__u64 address[2];
	__u64 port;
	__u64 expected;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct flow);
} flows SEC(".maps");

// How far a flow is.
struct progress {
	__u64 next;       // highest sequence seen, plus one
	__u64 counted;    // those of COUNTED
	__u64 warm;       // whether user space has been handed a whole warm-up datagram
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct progress);
} progresses SEC(".maps");

// A bit for each measured datagram, by global sequence: a copy of it came, whole or damaged.
struct chunk {
	__u64 words[WORDS_PER_CHUNK];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct chunk);
} seen SEC(".maps");

// How often each latency came, in the buckets that HdrHistogram has for three significant digits.
#define BUCKETS 27648
#define MAX_LATENCY_NS ((1ULL << 36) - 1)

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} latencies SEC(".maps");

// Between which whole measured datagrams nothing came for long.
#define MOST_SILENCES 1024

struct silence {
	__u64 from_ns;
	__u64 to_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MOST_SILENCES);
	__type(key, __u32);
	__type(value, struct silence);
} silences SEC(".maps");

// What each byte of a payload's head adds to its checksums, and what each filler adds. A CRC is linear, so that they add
// up, by exclusive or, to the checksum of the whole.
struct window {
	__u32 crc32;
	__u32 sum;        // of 16-bit words, for the UDP checksum
};

struct checks {
	__u32 crc32[STAMPED_BYTES][256];
	__u8 crc8[CRC8][256];
	struct window windows[FILLER_STARTS];
	__u64 filler[FILLER_WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct checks);
} checks_map SEC(".maps");

// What user space is to judge.
enum before {
	NOT_ASKED,        // nobody marked anything seen for it
	UNSEEN,           // it is the first of its sequence
	SEEN,
};

struct event {
	__u64 stamp_ns;
	__u64 frame_bytes;
	__u64 before;
	__u64 flow;
	__u64 sequence;
	__u64 next;       // of the flow, before it
	__u8 frame[];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 32 << 20);
} events SEC(".maps");

// A frame on its way through the program.
struct frame {
	struct xdp_md *context;
	struct counters *counters;
	__u8 *start;
	__u8 *end;
	__u64 stamp_ns;
};

// Where the UDP header of a frame begins and what the headers before it say.
struct datagram {
	__u8 *udp;
	__u32 room;       // bytes from there to the end of the IP packet
	bool ipv4;
	bool ip_whole;
	__u64 address[2];
	__u64 pseudo_sum; // of the pseudo-header without the length
};

enum content {
	OTHER,
	ODD,              // for user space to read
	PLAIN,
};

#define LOAD16(at) (*(const __u16 *)(at))
#define LOAD32(at) (*(const __u32 *)(at))
#define LOAD64(at) (*(const __u64 *)(at))

static __always_inline __u32 fold(__u64 sum)
{
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	return (sum & 0xFFFF) + (sum >> 16);
}

// Hands the frame to user space. False when there is no room.
static __always_inline bool tell(struct frame *frame, const struct event *head)
{
	__u64 length = frame->end - frame->start;
	struct event *event = NULL;

	// The compiler may know that it is not 0, the verifier does not.
	barrier_var(length);
	if (length > 0 && length <= usual_frame_bytes) {
		event = bpf_ringbuf_reserve(&events, sizeof(*event) + usual_frame_bytes, 0);
		if (!event)
			goto lost;
		bpf_xdp_load_bytes(frame->context, 0, event->frame, length);
	} else if (length > 0 && length <= most_frame_bytes) {
		event = bpf_ringbuf_reserve(&events, sizeof(*event) + most_frame_bytes, 0);
		if (!event)
			goto lost;
		bpf_xdp_load_bytes(frame->context, 0, event->frame, length);
	} else {
		goto lost;
	}
	event->stamp_ns = frame->stamp_ns;
	event->frame_bytes = length;
	event->before = head->before;
	event->flow = head->flow;
	event->sequence = head->sequence;
	event->next = head->next;
	// User space looks often enough by itself: waking it up would cost the relay's processor more than the rest.
	bpf_ringbuf_submit(event, BPF_RB_NO_WAKEUP);
	return true;
lost:
	frame->counters->of[EVENTS_LOST]++;
	return false;
}

static __always_inline bool tell_unasked(struct frame *frame)
{
	struct event head = { .before = NOT_ASKED };

	return tell(frame, &head);
}

static __always_inline enum content read_ipv4(const struct frame *frame, struct datagram *datagram)
{
	__u8 *ip = frame->start + ETHERNET_BYTES;
	__u64 sum;
	__u32 total;

	if (ip + IPV4_BYTES > frame->end || ip[0] >> 4 != 4 || ip[9] != UDP)
		return OTHER;
	total = bpf_ntohs(LOAD16(ip + 2));
	// Options, or a fragment, or lengths that contradict each other.
	if (ip[0] != 0x45 || bpf_ntohs(LOAD16(ip + 6)) & 0x3FFF || total < IPV4_BYTES + UDP_BYTES ||
	    total > frame->end - ip)
		return ODD;
	sum = (__u64)LOAD32(ip) + LOAD32(ip + 4) + LOAD32(ip + 8) + LOAD32(ip + 12) + LOAD32(ip + 16);
	datagram->ipv4 = true;
	datagram->ip_whole = fold(sum) == 0xFFFF;
	datagram->udp = ip + IPV4_BYTES;
	datagram->room = total - IPV4_BYTES;
	datagram->address[0] = LOAD32(ip + 16);
	datagram->address[1] = 0;
	datagram->pseudo_sum = (__u64)LOAD32(ip + 12) + LOAD32(ip + 16) + bpf_htons(UDP);
	return PLAIN;
}

static __always_inline enum content read_ipv6(const struct frame *frame, struct datagram *datagram)
{
	__u8 *ip = frame->start + ETHERNET_BYTES;
	__u64 sum = bpf_htons(UDP);
	__u32 length;

	if (ip + IPV6_BYTES > frame->end || ip[0] >> 4 != 6)
		return OTHER;
	if (ip[6] == HOP_BY_HOP || ip[6] == ROUTING || ip[6] == FRAGMENT || ip[6] == DESTINATION_OPTIONS)
		return ODD;
	if (ip[6] != UDP)
		return OTHER;
	length = bpf_ntohs(LOAD16(ip + 4));
	if (length < UDP_BYTES || length > frame->end - ip - IPV6_BYTES)
		return ODD;
	for (int at = 8; at < IPV6_BYTES; at += 4)
		sum += LOAD32(ip + at);
	datagram->ipv4 = false;
	datagram->ip_whole = true;
	datagram->udp = ip + IPV6_BYTES;
	datagram->room = length;
	datagram->address[0] = LOAD64(ip + 24);
	datagram->address[1] = LOAD64(ip + 32);
	datagram->pseudo_sum = sum;
	return PLAIN;
}

// The finaliser of splitmix64, as lab/src/datagram.rs has it.
static __always_inline __u64 mix(__u64 number)
{
	number += 0x9E3779B97F4A7C15;
	number = (number ^ (number >> 30)) * 0xBF58476D1CE4E5B9;
	number = (number ^ (number >> 27)) * 0x94D049BB133111EB;
	return number ^ (number >> 31);
}

// Whether the UDP checksum is right, or absent where IPv4 allows that, or left to the device where the link does so.
// `sum` is that of header and payload.
static __always_inline bool checksum_holds(const struct datagram *datagram, __u64 sum)
{
	__u32 field = LOAD16(datagram->udp + 6);
	__u64 pseudo = datagram->pseudo_sum + LOAD16(datagram->udp + 4);

	if (datagram->ipv4 && !field)
		return true;
	if (field && fold(pseudo + sum) == 0xFFFF)
		return true;
	// Zero and 0xFFFF are one number in this arithmetic.
	return checksum_is_left && fold(pseudo) % 0xFFFF == field % 0xFFFF;
}

// Whether a datagram whose header has been read is whole to the last bit, as far as its own content tells.
static __always_inline bool is_whole(const struct frame *frame, const struct datagram *datagram, struct checks *checks,
				     __u64 flow, __u64 sequence)
{
	const bool stamped = payload_bytes >= STAMPED_BYTES;
	const __u32 head = stamped ? STAMPED_BYTES : MIN_BYTES;
	__u32 window = mix(sequence ^ (flow << 48)) % FILLER_STARTS;
	const __u8 *filler = (const __u8 *)checks->filler + window * 8;
	const __u8 *payload = datagram->udp + UDP_BYTES;
	const __u8 *tail = payload + head;
	const __u32 rest = payload_bytes - head;
	__u32 crc32 = crc32_of_zeros ^ checks->windows[window].crc32;
	__u64 sum = (__u64)LOAD32(datagram->udp) + LOAD32(datagram->udp + 4) + checks->windows[window].sum;
	__u64 different = 0;
	__u32 at;

	if (payload + payload_bytes > frame->end || !datagram->ip_whole)
		return false;
	if (!!(payload[KIND] & STAMPED) != stamped)
		return false;
#pragma clang loop unroll(full)
	for (at = 0; at < CRC32; at++)
		crc32 ^= checks->crc32[at][payload[at]];
	sum += (__u64)LOAD32(payload) + LOAD32(payload + 4) + LOAD32(payload + 8) + LOAD32(payload + 12) +
	       LOAD16(payload + 16);
	if (stamped) {
#pragma clang loop unroll(full)
		for (at = INTENDED; at < STAMPED_BYTES; at++)
			crc32 ^= checks->crc32[at][payload[at]];
		sum += (__u64)LOAD32(payload + 18) + LOAD32(payload + 22) + LOAD32(payload + 26) +
		       LOAD32(payload + 30);
	}
	if (bpf_ntohl(LOAD32(payload + CRC32)) != crc32 || !checksum_holds(datagram, sum))
		return false;
	for (at = 0; at + 8 <= rest; at += 8)
		different |= LOAD64(tail + at) ^ LOAD64(filler + at);
	for (; at < rest; at++)
		different |= tail[at] ^ filler[at];
	return !different;
}

// The bucket of a latency: up to 2,047 ns each has its own, then each power of two has 1,024.
static __always_inline __u32 bucket_of(__u64 latency_ns)
{
	__u64 rest = latency_ns >> 11;
	__u32 shift = 0;

	if (rest >> 16) {
		rest >>= 16;
		shift += 16;
	}
	if (rest >> 8) {
		rest >>= 8;
		shift += 8;
	}
	if (rest >> 4) {
		rest >>= 4;
		shift += 4;
	}
	if (rest >> 2) {
		rest >>= 2;
		shift += 2;
	}
	shift += rest >> 1 ? 2 : rest;
	return shift * 1024 + (latency_ns >> shift);
}

static __always_inline void record_latency(const struct frame *frame, __u64 from_ns)
{
	__u64 latency = frame->stamp_ns - from_ns;
	__u64 *count;
	__u32 bucket;

	if (frame->stamp_ns < from_ns) {
		frame->counters->of[EARLY]++;
		return;
	}
	if (latency < 1)
		latency = 1;
	if (latency > MAX_LATENCY_NS)
		latency = MAX_LATENCY_NS;
	bucket = bucket_of(latency);
	count = bpf_map_lookup_elem(&latencies, &bucket);
	if (count)
		(*count)++;
}

static __always_inline void record_arrival(const struct frame *frame)
{
	struct counters *counters = frame->counters;
	__u64 last = counters->of[LAST_NS];
	struct silence *kept;
	__u32 number;

	if (!last)
		counters->of[FIRST_NS] = last = frame->stamp_ns;
	if (frame->stamp_ns < last)
		return;
	if (frame->stamp_ns - last > counters->of[LONGEST_TO_NS] - counters->of[LONGEST_FROM_NS]) {
		counters->of[LONGEST_FROM_NS] = last;
		counters->of[LONGEST_TO_NS] = frame->stamp_ns;
	}
	if (frame->stamp_ns - last >= least_silence_ns) {
		number = counters->of[SILENCES];
		kept = bpf_map_lookup_elem(&silences, &number);
		if (kept) {
			kept->from_ns = last;
			kept->to_ns = frame->stamp_ns;
			counters->of[SILENCES]++;
		}
	}
	counters->of[LAST_NS] = frame->stamp_ns;
}

static __always_inline void count_warm_up(struct frame *frame, struct progress *progress, bool whole)
{
	if (whole && progress->warm) {
		frame->counters->of[WARM]++;
		frame->counters->of[WARM_LAST_NS] = frame->stamp_ns;
	} else if (tell_unasked(frame) && whole) {
		progress->warm = 1;
	}
}

static __always_inline void count_measured(struct frame *frame, const __u8 *payload, __u32 flow, __u64 sequence,
					   struct progress *progress, bool whole)
{
	__u64 global = sequence * flow_count + flow;
	__u32 key = global / BITS_PER_CHUNK;
	__u64 mask = 1ULL << (global % 64);
	struct chunk *chunk = bpf_map_lookup_elem(&seen, &key);
	struct event head = { .flow = flow, .sequence = sequence, .next = progress->next };
	__u64 *word;

	if (!chunk)
		return;
	word = &chunk->words[global / 64 % WORDS_PER_CHUNK];
	head.before = *word & mask ? SEEN : UNSEEN;
	if (whole)
		record_arrival(frame);
	if (whole && head.before == UNSEEN && sequence >= progress->next) {
		frame->counters->of[COUNTED]++;
		progress->counted++;
		if (payload_bytes >= STAMPED_BYTES) {
			__u64 from = latency_from == ACTUAL ? LOAD64(payload + ACTUAL) : LOAD64(payload + INTENDED);

			record_latency(frame, bpf_be64_to_cpu(from));
		}
	} else if (!tell(frame, &head)) {
		return;
	}
	*word |= mask;
	if (sequence >= progress->next)
		progress->next = sequence + 1;
}

static __always_inline void count_udp(struct frame *frame, const struct datagram *datagram)
{
	const __u8 *payload = datagram->udp + UDP_BYTES;
	__u32 zero = 0, flow, kind, at, length, crc8 = crc8_of_zeros;
	struct progress *progress;
	struct checks *checks;
	struct flow *expected;
	__u64 sequence;

	checks = bpf_map_lookup_elem(&checks_map, &zero);
	if (!checks)
		return;
	if (payload + MIN_BYTES > frame->end)
		goto unreadable;
	length = bpf_ntohs(LOAD16(datagram->udp + 4));
	if (length < UDP_BYTES + MIN_BYTES || length > datagram->room)
		goto unreadable;
#pragma clang loop unroll(full)
	for (at = 0; at < CRC8; at++)
		crc8 ^= checks->crc8[at][payload[at]];
	kind = payload[KIND] & ~STAMPED;
	flow = bpf_ntohs(LOAD16(payload + FLOW));
	sequence = bpf_be64_to_cpu(LOAD64(payload + SEQUENCE));
	if (crc8 != payload[CRC8] || kind > MEASURED || bpf_ntohs(LOAD16(payload + RUN)) != run || flow >= flow_count)
		goto unreadable;
	expected = bpf_map_lookup_elem(&flows, &flow);
	progress = bpf_map_lookup_elem(&progresses, &flow);
	if (!expected || !progress || expected->address[0] != datagram->address[0] ||
	    expected->address[1] != datagram->address[1] || expected->port != LOAD16(datagram->udp + 2))
		goto unreadable;
	if (kind == MEASURED && sequence >= expected->expected)
		goto unreadable;

	bool whole = length == UDP_BYTES + payload_bytes && is_whole(frame, datagram, checks, flow, sequence);

	if (kind == WARM_UP)
		count_warm_up(frame, progress, whole);
	else
		count_measured(frame, payload, flow, sequence, progress, whole);
	return;
unreadable:
	tell_unasked(frame);
}

SEC("xdp")
int sink(struct xdp_md *context)
{
	struct frame frame = {
		.context = context,
		.start = (void *)(long)context->data,
		.end = (void *)(long)context->data_end,
	};
	struct datagram datagram = {};
	enum content content = OTHER;
	__u16 ether_type;
	__u32 zero = 0;

	frame.counters = bpf_map_lookup_elem(&counters, &zero);
	if (!frame.counters)
		return XDP_PASS;
	if (context->rx_queue_index) {
		frame.counters->of[OTHER_QUEUE]++;
		return XDP_PASS;
	}
	frame.stamp_ns = bpf_ktime_get_tai_ns() - tai_offset_ns;
	if (frame.start + ETHERNET_BYTES > frame.end)
		goto other;
	ether_type = bpf_ntohs(LOAD16(frame.start + 12));
	// A tagged frame may be anything: user space takes the tag off.
	if (ether_type == 0x8100 || ether_type == 0x88A8) {
		tell_unasked(&frame);
		return XDP_PASS;
	}
	if (ether_type == 0x0800)
		content = read_ipv4(&frame, &datagram);
	else if (ether_type == 0x86DD)
		content = read_ipv6(&frame, &datagram);
	if (content == OTHER)
		goto other;
	// To another host, which is for user space to say.
	if (!(frame.start[0] & 1) && (LOAD64(frame.start) & 0xFFFFFFFFFFFF) != mac)
		content = ODD;
	if (content == ODD)
		tell_unasked(&frame);
	else
		count_udp(&frame, &datagram);
	// Headers that user space reads may belong to something else than UDP.
	return content == ODD && ether_type == 0x86DD ? XDP_PASS : XDP_DROP;
other:
	frame.counters->of[OTHER_FRAMES]++;
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
