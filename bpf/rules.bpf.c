// SPDX-License-Identifier: MIT OR Apache-2.0
//
// What a relay's rules decide in the kernel.
//
// `filter` is a socket filter: what no rule takes is counted here and never captured, so that it costs neither room in a
// ring nor time of the relay. It lets through a little more than the rules take, never less: what cannot be told here
// (fragments, UDP whose headers make no sense) is left to the relay, which counts it by its cause.
//
// `consume` runs at an ingress device behind the relay's tap: what has the addresses and the port of a rule is counted and
// ends there, instead of going on to the IP stack, which has no use for it. So does such a frame that the relay then drops,
// because it is damaged or there is no room for it; fragments go on.
//
// Frames start with their Ethernet header, or with the IP header where the device has no other. Built by ci/bpf. The other
// side of every map and constant is src/sys/rule_programs.rs.

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
// The first byte of a header: the version, with the length of one without options and of the longest one.
#define VERSION 0xf0
#define IPV4 0x40
#define IPV6 0x60
#define IPV4_PLAIN 0x45
#define IPV4_LONGEST 0x4f
#define IPV4_FRAGMENT 0x3fff
#define VLAN_ID 0x0fff

// What relays mark their datagrams with that come in at this host again, through the loopback device.
#define OWN_MARK 0x6d63726c

// Extension headers that are stepped over; what lies behind more of them is left to the relay.
#define EXTENSIONS 4

// What a socket filter returns.
#define WHOLE -1
#define NOTHING 0

// What a program at an ingress device returns: the next program, or the IP stack, or nobody gets the frame.
#define GO_ON -1
#define END 2

// Most shapes of what rules take of each family: lengths of prefixes, sizes of blocks of ports, with and without a source.
#define SHAPES 32

// Places of the counts.
#define FOREIGN_COUNT 0
#define CONSUMED_COUNT 1
#define COUNTS 2

// Set before the program is loaded, so that the verifier knows them: whether any rule names its source, whether frames start
// with an Ethernet header, and whether any rule is for a VLAN.
const volatile bool sources;
const volatile bool ethernet;
const volatile bool vlans;

// The first group and port of what a rule takes, in the byte order of the machine, with its VLAN and the place of its shape. A source
// of zeros stands for any, a VLAN of zero for none.
struct endpoint_v4 {
    __u32 group;
    __u32 source;
    __u16 port;
    __u16 vlan;
    __u32 shape;
};

// The same of IPv6, as it stands in the frame, but for the VLAN.
struct endpoint_v6 {
    __u32 source[4];
    __u32 group[4];
    __be16 port;
    __u16 vlan;
    __u32 shape;
};

// The bits of a datagram's endpoint that count for rules of one shape.
struct shape_v4 {
    __u32 group;
    __u32 source;
    __u32 port;
};

struct shape_v6 {
    __u32 group[4];
    __u32 source;
    __be16 port;
    __u16 unused;
};

// The shapes that there are: set before the program is loaded, too.
const volatile __u32 count_v4;
const volatile __u32 count_v6;
const volatile struct shape_v4 shapes_v4[SHAPES];
const volatile struct shape_v6 shapes_v6[SHAPES];

// What the rules take; as large as there are rules, and blocks of their ports.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct endpoint_v4);
    __type(value, __u8);
} wanted_v4 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, 1);
    __type(key, struct endpoint_v6);
    __type(value, __u8);
} wanted_v6 SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, COUNTS);
    __type(key, __u32);
    __type(value, __u64);
} counts SEC(".maps");

enum verdict {
    NO_UDP,   // or not for this host, or its own
    UNCLEAR,  // cannot be told here
    FOREIGN,  // UDP that no rule takes
    WANTED,   // UDP that a rule takes
};

static __always_inline void count(__u32 place)
{
    __u64 *count = bpf_map_lookup_elem(&counts, &place);
    if (count)
        (*count)++;
}

// Loads of the classic kind: at an offset that is known beforehand they need no call, and give the byte order of the machine.
// Beyond the frame they end the program with 0, so its length is looked at first.
__u64 load_byte(void *skb, __u64 at) asm("llvm.bpf.load.byte");
__u64 load_half(void *skb, __u64 at) asm("llvm.bpf.load.half");
__u64 load_word(void *skb, __u64 at) asm("llvm.bpf.load.word");

// Whether any rule takes what has this endpoint: a look for each shape.
static __always_inline bool is_wanted_v4(const struct endpoint_v4 *endpoint)
{
    struct endpoint_v4 first = {};

#pragma clang loop unroll(disable)
    for (__u32 i = 0; i < SHAPES; i++) {
        if (i >= count_v4)
            break;
        first.group = endpoint->group & shapes_v4[i].group;
        first.source = endpoint->source & shapes_v4[i].source;
        first.port = endpoint->port & shapes_v4[i].port;
        first.vlan = endpoint->vlan;
        first.shape = i;
        if (bpf_map_lookup_elem(&wanted_v4, &first))
            return true;
    }
    return false;
}

static __always_inline bool is_wanted_v6(const struct endpoint_v6 *endpoint)
{
    struct endpoint_v6 first = {};

#pragma clang loop unroll(disable)
    for (__u32 i = 0; i < SHAPES; i++) {
        if (i >= count_v6)
            break;
#pragma clang loop unroll(full)
        for (int word = 0; word < 4; word++) {
            first.source[word] = endpoint->source[word] & shapes_v6[i].source;
            first.group[word] = endpoint->group[word] & shapes_v6[i].group[word];
        }
        first.port = endpoint->port & shapes_v6[i].port;
        first.vlan = endpoint->vlan;
        first.shape = i;
        if (bpf_map_lookup_elem(&wanted_v6, &first))
            return true;
    }
    return false;
}

// Behind a link-layer header of so many bytes.
static __always_inline enum verdict judge_ipv4(struct __sk_buff *skb, const __u32 link_bytes, __u16 vlan)
{
    struct endpoint_v4 endpoint = { .vlan = vlan };
    __u32 udp = link_bytes + IPV4_BYTES;

    if (skb->len < udp || load_byte(skb, link_bytes + 9) != IPPROTO_UDP)
        return NO_UDP;
    if (load_half(skb, link_bytes + 6) & IPV4_FRAGMENT)
        return UNCLEAR;
    if (load_byte(skb, link_bytes) == IPV4_PLAIN) {
        if (skb->len < udp + UDP_DESTINATION + 2)
            return UNCLEAR;
        endpoint.port = load_half(skb, udp + UDP_DESTINATION);
    } else {
        __be16 port;

        if (load_byte(skb, link_bytes) < IPV4_PLAIN || load_byte(skb, link_bytes) > IPV4_LONGEST)
            return UNCLEAR;
        udp = link_bytes + (load_byte(skb, link_bytes) & 0xf) * 4;
        if (bpf_skb_load_bytes(skb, udp + UDP_DESTINATION, &port, sizeof(port)))
            return UNCLEAR;
        endpoint.port = bpf_ntohs(port);
    }
    endpoint.group = load_word(skb, link_bytes + 16);
    if (sources)
        endpoint.source = load_word(skb, link_bytes + 12);
    return is_wanted_v4(&endpoint) ? WANTED : FOREIGN;
}

// `endpoint` has group and source; the UDP header is at `udp`.
static __always_inline enum verdict judge_udp_v6(struct __sk_buff *skb, struct endpoint_v6 *endpoint, __u32 udp)
{
    if (bpf_skb_load_bytes(skb, udp + UDP_DESTINATION, &endpoint->port, sizeof(endpoint->port)))
        return UNCLEAR;
    return is_wanted_v6(endpoint) ? WANTED : FOREIGN;
}

static __always_inline enum verdict judge_ipv6(struct __sk_buff *skb, const __u32 link_bytes, __u16 vlan)
{
    struct endpoint_v6 endpoint = { .vlan = vlan };
    __u32 at = link_bytes + IPV6_BYTES;
    __u8 next, extension[2];

    // Source and destination follow each other.
    if (skb->len < at || bpf_skb_load_bytes(skb, link_bytes + 8, endpoint.source, 2 * sizeof(endpoint.source)))
        return NO_UDP;
    next = load_byte(skb, link_bytes + 6);
    for (int i = 0; i <= EXTENSIONS; i++) {
        if (next == IPPROTO_UDP)
            return judge_udp_v6(skb, &endpoint, at);
        if (next == IPPROTO_FRAGMENT || next == IPPROTO_AH)
            return UNCLEAR;
        if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS)
            return NO_UDP;
        if (bpf_skb_load_bytes(skb, at, extension, sizeof(extension)))
            return UNCLEAR;
        next = extension[0];
        at += (extension[1] + 1) * 8;
    }
    return UNCLEAR;
}

static __always_inline enum verdict judge_frame(struct __sk_buff *skb)
{
    __u64 protocol;
    // The kernel has taken the outer tag out of the frame. One with VLAN id 0 carries a priority only.
    __u16 vlan = skb->vlan_present ? skb->vlan_tci & VLAN_ID : 0;

    // Frames for other hosts, of a relay of this host, and for a VLAN where no rule is for any.
    if (skb->pkt_type > PACKET_MULTICAST || skb->mark == OWN_MARK || (vlan && !vlans))
        return NO_UDP;
    if (!ethernet) {
        if (skb->len < 1)
            return NO_UDP;
        protocol = load_byte(skb, 0) & VERSION;
        if (protocol == IPV4)
            return judge_ipv4(skb, 0, vlan);
        return protocol == IPV6 ? judge_ipv6(skb, 0, vlan) : NO_UDP;
    }
    if (skb->len < ETHERNET_BYTES)
        return NO_UDP;
    protocol = load_half(skb, ETHERNET_BYTES - 2);
    if (protocol == ETH_P_IP)
        return judge_ipv4(skb, ETHERNET_BYTES, vlan);
    if (protocol == ETH_P_IPV6)
        return judge_ipv6(skb, ETHERNET_BYTES, vlan);
    return NO_UDP;
}

SEC("socket")
int filter(struct __sk_buff *skb)
{
    enum verdict verdict = judge_frame(skb);

    if (verdict == FOREIGN)
        count(FOREIGN_COUNT);
    return verdict == WANTED || verdict == UNCLEAR ? WHOLE : NOTHING;
}

SEC("classifier")
int consume(struct __sk_buff *skb)
{
    if (judge_frame(skb) != WANTED)
        return GO_ON;
    count(CONSUMED_COUNT);
    return END;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
