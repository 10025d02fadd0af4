// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Puts frames that user space wrote on a wire, without an skb on the sender's side: run through BPF_PROG_TEST_RUN with
// BPF_F_TEST_XDP_LIVE_FRAMES, once for each frame, it fills the kernel's empty frame and redirects it to the device.
//
// What a frame says is decided in user space alone (lab/src/generator), which writes a batch into memory that it shares
// with this program. The kernel uses its frames again without clearing them, so every byte is written every time.

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

// The same numbers as in lab/src/sys/xdp.rs.
#define MOST_FRAMES 64
#define MOST_BYTES 3328

struct batch {
	__u32 frames; // how many there are, side by side
	__u32 bytes;  // of each, as long as the kernel's
	__u32 next;   // the one whose turn it is
	__u32 unused; // aligns what follows
	__u8 contents[MOST_FRAMES * MOST_BYTES];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct batch);
} batch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(struct bpf_devmap_val));
} device SEC(".maps");

SEC("xdp")
int generate(struct xdp_md *context)
{
	__u32 first = 0;
	struct batch *slots = bpf_map_lookup_elem(&batch, &first);
	if (!slots || slots->next >= slots->frames)
		return XDP_DROP;
	__u32 bytes = slots->bytes;
	__u64 at = (__u64)slots->next * bytes;
	slots->next++;
	if (bytes == 0 || bytes > MOST_BYTES || at > sizeof(slots->contents) - MOST_BYTES)
		return XDP_DROP;
	if (bpf_xdp_store_bytes(context, 0, slots->contents + at, bytes))
		return XDP_DROP;
	return bpf_redirect_map(&device, 0, XDP_DROP);
}

char _license[] SEC("license") = "MIT";
