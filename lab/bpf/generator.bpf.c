// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Puts frames that user space wrote on a wire, each when it is due and without an skb on the sender's side. Run through
// BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES, it gets an empty frame of the kernel's in every pass: it fills and
// redirects that when a frame of the ring is due, and else gives it back. So one call sends what is due while it lasts.
//
// What a frame says is decided in user space (lab/src/generator), but for the time at which it is sent. The kernel uses
// its frames again without clearing them, so every byte is written every time.

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// These and the structures are the same in lab/src/sys/xdp.rs.
#define MOST_SLOTS 4096
#define MOST_BYTES 3328
#define CONTENTS_BYTES (2 << 20)
#define STAMP_BYTES 8

struct times {
	__u64 due_ns;  // CLOCK_MONOTONIC
	__u64 sent_ns; // likewise, written here
};

struct ring {
	__u64 filled;        // how many frames user space has written
	__u64 sent;          // how many of them have been sent, written here
	__u32 next;          // the slot of the next one, written here
	__u32 slots;         // how many there are
	__u32 frame_bytes;   // of each frame, as long as the kernel's
	__u32 slot_bytes;    // from one to the next
	__u32 is_stamped;    // whether frames say when they are sent
	__u32 stamp_at;      // where in a frame: 64 bits, ns of CLOCK_REALTIME, zero before
	__u32 crc_at;        // where the CRC-32 over it is
	__u32 checksum_at;   // where the UDP checksum over both is
	__u64 to_realtime_ns; // from CLOCK_MONOTONIC
	// What each value of each byte of the time changes in the CRC-32, which is linear.
	__u32 stamp_crc[STAMP_BYTES][256];
	struct times times[MOST_SLOTS];
	__u8 contents[CONTENTS_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ring);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_devmap_val));
} device SEC(".maps");

// Writes the time into a frame, and mends the checksums over it (RFC 1624, equation 3).
static __always_inline int stamp(struct ring *shared, __u8 *frame, __u64 now_ns)
{
	__u32 stamp_at = shared->stamp_at, crc_at = shared->crc_at, checksum_at = shared->checksum_at;
	if (stamp_at > MOST_BYTES - 8 || crc_at > MOST_BYTES - 4 || checksum_at > MOST_BYTES - 2)
		return -1;
	__u64 time = now_ns + shared->to_realtime_ns;
	__u32 change = 0;
#pragma unroll
	for (int byte = 0; byte < STAMP_BYTES; byte++)
		change ^= shared->stamp_crc[byte][(time >> (56 - 8 * byte)) & 0xFF];

	__u32 old_crc = *(__u32 *)(frame + crc_at);
	__u32 new_crc = old_crc ^ bpf_htonl(change);
	time = bpf_cpu_to_be64(time);
	__u16 *checksum = (__u16 *)(frame + checksum_at);
	__u64 sum = (__u16)~*checksum;
	sum += (__u64)(__u32)~old_crc + new_crc + (__u32)time + (time >> 32);
	sum = (sum & 0xFFFFFFFF) + (sum >> 32);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);
	sum = (sum & 0xFFFF) + (sum >> 16);

	*(__u64 *)(frame + stamp_at) = time;
	*(__u32 *)(frame + crc_at) = new_crc;
	// 0 would say "no checksum" (RFC 768).
	*checksum = sum == 0xFFFF ? 0xFFFF : ~sum;
	return 0;
}

SEC("xdp")
int generate(struct xdp_md *context)
{
	__u32 first = 0;
	struct ring *shared = bpf_map_lookup_elem(&ring, &first);
	if (!shared || shared->sent == shared->filled)
		return XDP_DROP;
	__u32 slot = shared->next, bytes = shared->frame_bytes;
	if (slot >= MOST_SLOTS || bytes == 0 || bytes > MOST_BYTES)
		return XDP_DROP;
	struct times *times = &shared->times[slot];
	__u64 now_ns = bpf_ktime_get_ns();
	if (now_ns < times->due_ns)
		return XDP_DROP;
	__u64 at = (__u64)slot * shared->slot_bytes;
	if (at > CONTENTS_BYTES - MOST_BYTES)
		return XDP_DROP;
	__u8 *frame = shared->contents + at;
	if (shared->is_stamped && stamp(shared, frame, now_ns))
		return XDP_DROP;
	if (bpf_xdp_store_bytes(context, 0, frame, bytes))
		return XDP_DROP;
	times->sent_ns = now_ns;
	shared->next = slot + 1 < shared->slots ? slot + 1 : 0;
	shared->sent++;
	return bpf_redirect_map(&device, 0, XDP_DROP);
}

char _license[] SEC("license") = "MIT";
