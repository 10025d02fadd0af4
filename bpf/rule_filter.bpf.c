// SPDX-License-Identifier: MIT OR Apache-2.0
//
// The socket filter that lets a relay's rules decide in the kernel: what no rule takes is counted here and never captured,
// so that it costs neither room in a ring nor time of the relay.
//
// It lets through a little more than the rules take, never less: whatever cannot be told here (fragments, headers that
// make no sense) is left to the relay, which counts it by its cause. Frames start with their Ethernet header.
// Built by ci/bpf. The other side of every map and constant is src/sys/rule_filter.rs.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <stdbool.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETHERNET_BYTES 14
#define IPV4_BYTES 20
#define IPV6_BYTES 40
#define UDP_DESTINATION 2
#define IPV4_FRAGMENT 0x3fff
#define VLAN_ID 0x0fff

// Extension headers that are stepped over; what lies behind more of them is left to the relay.
#define EXTENSIONS 4

#define WHOLE -1
#define NOTHING 0

// Set before the program is loaded, so that the verifier knows it: whether any rule names its source.
const volatile bool sources;

// IPv4 addresses are mapped into IPv6. A source of zeros stands for any.
struct endpoint {
    __u8 group[16];
    __u8 source[16];
    __be16 port;
    __u16 zero;
};

// What the rules take; as large as there are rules.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct endpoint);
    __type(value, __u8);
} wanted SEC(".maps");

// How many UDP datagrams no rule takes.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, __u64);
} foreign SEC(".maps");

static __always_inline void map_ipv4(__u8 *address, const __u8 *ipv4)
{
    address[10] = address[11] = 0xff;
    __builtin_memcpy(address + 12, ipv4, 4);
}

// `endpoint` has group and source; the UDP header is at `udp`.
static __always_inline int judge(struct __sk_buff *skb, struct endpoint *endpoint, __u32 udp)
{
    __u32 zero = 0;
    __u64 *count;

    if (bpf_skb_load_bytes(skb, udp + UDP_DESTINATION, &endpoint->port, sizeof(endpoint->port)))
        return WHOLE;
    if (sources && bpf_map_lookup_elem(&wanted, endpoint))
        return WHOLE;
    __builtin_memset(endpoint->source, 0, sizeof(endpoint->source));
    if (bpf_map_lookup_elem(&wanted, endpoint))
        return WHOLE;
    count = bpf_map_lookup_elem(&foreign, &zero);
    if (count)
        (*count)++;
    return NOTHING;
}

static __always_inline int judge_ipv4(struct __sk_buff *skb)
{
    struct endpoint endpoint = {};
    __u8 header[IPV4_BYTES];

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES, header, sizeof(header)))
        return NOTHING;
    if (header[9] != IPPROTO_UDP)
        return NOTHING;
    if (((header[6] << 8) | header[7]) & IPV4_FRAGMENT)
        return WHOLE;
    map_ipv4(endpoint.source, header + 12);
    map_ipv4(endpoint.group, header + 16);
    return judge(skb, &endpoint, ETHERNET_BYTES + (header[0] & 0xf) * 4);
}

static __always_inline int judge_ipv6(struct __sk_buff *skb)
{
    struct endpoint endpoint = {};
    __u32 at = ETHERNET_BYTES + IPV6_BYTES;
    __u8 next, extension[2];

    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES + 6, &next, sizeof(next)) ||
        bpf_skb_load_bytes(skb, ETHERNET_BYTES + 8, endpoint.source, sizeof(endpoint.source)) ||
        bpf_skb_load_bytes(skb, ETHERNET_BYTES + 24, endpoint.group, sizeof(endpoint.group)))
        return NOTHING;
    for (int i = 0; i <= EXTENSIONS; i++) {
        if (next == IPPROTO_UDP)
            return judge(skb, &endpoint, at);
        if (next == IPPROTO_FRAGMENT || next == IPPROTO_AH)
            return WHOLE;
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
            return NOTHING;
        if (bpf_skb_load_bytes(skb, at, extension, sizeof(extension)))
            return NOTHING;
        next = extension[0];
        at += (extension[1] + 1) * 8;
    }
    return WHOLE;
}

SEC("socket")
int rule_filter(struct __sk_buff *skb)
{
    // Frames for other hosts, and for a VLAN: a tag with VLAN id 0 carries a priority only.
    if (skb->pkt_type > PACKET_MULTICAST || (skb->vlan_present && (skb->vlan_tci & VLAN_ID)))
        return NOTHING;
    __u16 protocol;
    if (bpf_skb_load_bytes(skb, ETHERNET_BYTES - 2, &protocol, sizeof(protocol)))
        return NOTHING;
    if (protocol == bpf_htons(ETH_P_IP))
        return judge_ipv4(skb);
    if (protocol == bpf_htons(ETH_P_IPV6))
        return judge_ipv6(skb);
    return NOTHING;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
