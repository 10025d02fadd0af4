//! Classic BPF programs that decide in the kernel which frames a packet socket gets.
//!
//! Source: `linux/filter.h`, and Documentation/networking/filter.rst for the ancillary loads.

use socket2::SockFilter;

use super::udp_socket::OWN_MARK;
use crate::wire::ethernet::ethertype;
use crate::wire::{LinkLayer, PROTOCOL_UDP, ethernet, ipv6};

// Instruction classes and modes (linux/bpf_common.h, linux/filter.h).
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_B_IND: u16 = 0x50;
const LD_MEM: u16 = 0x60;
const LDX_IMM: u16 = 0x01;
const ST: u16 = 0x02;
const ADD_K: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const AND_K: u16 = 0x54;
const LSH_K: u16 = 0x64;
const JEQ_K: u16 = 0x15;
const JGT_K: u16 = 0x25;
const RET_K: u16 = 0x06;
const TAX: u16 = 0x07;

/// Base of the ancillary loads: `SKF_AD_OFF`.
const ANCILLARY: u32 = 0xffff_f000;
/// `SKF_AD_PKTTYPE`.
const PACKET_TYPE: u32 = ANCILLARY + 4;
/// `SKF_AD_MARK`.
const MARK: u32 = ANCILLARY + 20;
/// `SKF_AD_VLAN_TAG`: the tag that the kernel took out of the frame, 0 if there was none.
const VLAN_TAG: u32 = ANCILLARY + 44;
/// `PACKET_MULTICAST` (`linux/if_packet.h`). Higher types are frames for other hosts and our own outgoing ones.
const MULTICAST: u32 = 2;
/// The part of a tag that names the VLAN; 0 is no VLAN but a priority only.
const VLAN_ID: u32 = 0x0fff;
/// Bytes of a frame that an accepting program lets through: all.
const WHOLE: u32 = u32::MAX;
/// Extension headers that the program steps over; what lies behind more of them is left to user space.
const EXTENSIONS: usize = 4;

/// Where a jump goes.
#[derive(Clone, Copy)]
enum Target {
    Next,
    Skip(u8),
    Accept,
    Reject,
}

/// A program under construction. Accept and reject stand at its end, so jumps to them are resolved last.
#[derive(Default)]
struct Program(Vec<(u16, u32, Target, Target)>);

impl Program {
    fn push(&mut self, code: u16, k: u32) {
        self.jump(code, k, Target::Next, Target::Next);
    }

    fn jump(&mut self, code: u16, k: u32, yes: Target, no: Target) {
        self.0.push((code, k, yes, no));
    }

    fn finish(self) -> Vec<SockFilter> {
        let accept = self.0.len();
        let resolve = |at: usize, target| match target {
            Target::Next => 0,
            Target::Skip(n) => n,
            Target::Accept => (accept - at - 1) as u8,
            Target::Reject => (accept - at) as u8,
        };
        let steps = self.0.into_iter().enumerate();
        let mut program: Vec<_> = steps
            .map(|(at, (code, k, yes, no))| SockFilter::new(code, resolve(at, yes), resolve(at, no), k))
            .collect();
        program.push(SockFilter::new(RET_K, 0, 0, WHOLE));
        program.push(SockFilter::new(RET_K, 0, 0, 0));
        program
    }
}

/// Of which VLANs frames pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vlans {
    /// Of none: those without a tag. One with VLAN id 0 carries a priority only (IEEE 802.1Q), so such a frame counts as untagged.
    None,
    /// Of all, and of none.
    All,
}

/// Lets through incoming UDP over IPv4 and IPv6 of these VLANs that no relay of this host has sent, fragments included, where
/// frames begin as `link_layer` says. Behind the tag that the kernel has taken out of a frame there is no other one.
///
/// Frames for other hosts, which a promiscuous interface sees, are not for the relay.
pub fn udp_over_ip(link_layer: LinkLayer, vlans: Vlans) -> Vec<SockFilter> {
    use Target::{Accept, Next, Reject, Skip};
    let mut program = Program::default();
    program.push(LD_W_ABS, PACKET_TYPE);
    program.jump(JGT_K, MULTICAST, Reject, Next);
    program.push(LD_W_ABS, MARK);
    program.jump(JEQ_K, OWN_MARK, Reject, Next);
    if vlans == Vlans::None {
        program.push(LD_W_ABS, VLAN_TAG);
        program.push(AND_K, VLAN_ID);
        program.jump(JEQ_K, 0, Next, Reject);
    }

    // Where the IP header is, and what tells its version.
    let (ip, ipv4, ipv6): (u32, u32, u32) = if link_layer == LinkLayer::Ethernet {
        program.push(LD_H_ABS, 12);
        (ethernet::HEADER_LEN as u32, ethertype::IPV4.into(), ethertype::IPV6.into())
    } else {
        program.push(LD_B_ABS, 0);
        program.push(AND_K, 0xf0);
        (0, 0x40, 0x60)
    };
    program.jump(JEQ_K, ipv4, Next, Skip(2));
    program.push(LD_B_ABS, ip + 9);
    program.jump(JEQ_K, PROTOCOL_UDP.into(), Accept, Reject);

    program.jump(JEQ_K, ipv6, Next, Reject);
    program.push(LD_B_ABS, ip + 6);
    program.push(LDX_IMM, ip + ipv6::HEADER_LEN as u32);
    for _ in 0..EXTENSIONS {
        next_header(&mut program, Reject);
        step_over_extension(&mut program);
    }
    next_header(&mut program, Reject);
    program.jump(JEQ_K, 0, Accept, Accept);
    program.finish()
}

/// With the next-header value in A: accepts what is UDP or left to user space, falls through on an extension header
/// that can be stepped over, else goes to `other`.
fn next_header(program: &mut Program, other: Target) {
    use Target::{Accept, Next, Skip};
    use ipv6::extension::{AUTHENTICATION, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING};
    program.jump(JEQ_K, PROTOCOL_UDP.into(), Accept, Next);
    program.jump(JEQ_K, FRAGMENT.into(), Accept, Next);
    program.jump(JEQ_K, AUTHENTICATION.into(), Accept, Next);
    program.jump(JEQ_K, HOP_BY_HOP.into(), Skip(2), Next);
    program.jump(JEQ_K, ROUTING.into(), Skip(1), Next);
    program.jump(JEQ_K, DESTINATION.into(), Next, other);
}

/// With an extension header at X: X moves behind it, A becomes the value that names what is there.
fn step_over_extension(program: &mut Program) {
    program.push(LD_B_IND, 0);
    program.push(ST, 0);
    program.push(LD_B_IND, 1);
    program.push(ADD_K, 1);
    program.push(LSH_K, 3);
    program.push(ADD_X, 0);
    program.push(TAX, 0);
    program.push(LD_MEM, 0);
}

/// Lets nothing through.
pub fn nothing() -> Vec<SockFilter> {
    vec![SockFilter::new(RET_K, 0, 0, 0)]
}

#[cfg(test)]
pub(super) mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    use super::*;
    use crate::sys::interface::Interface;
    use crate::sys::packet_socket::{self, PacketSocket};
    use crate::sys::poll;

    /// Source address of frames that a test sends through the loopback device, but for its last byte.
    const SOURCE: [u8; 5] = [2, 0x76, 0x6c, 0x61, 0x6e];

    /// Which of these bytes can stand before the ethertype of `frame`, by their numbers, so that it passes what `attach` puts on a
    /// packet socket. The last of them must.
    pub(in crate::sys) fn tags_that_pass(
        attach: impl Fn(&PacketSocket),
        frame: &[u8],
        tags: &[&[u8]],
    ) -> Vec<usize> {
        let lo = Interface::find("lo").unwrap().index;
        let [sender, receiver] = [(); 2].map(|()| PacketSocket::open().unwrap());
        receiver.ignore_outgoing().unwrap();
        attach(&receiver);
        sender.bind(lo).unwrap();
        receiver.bind(lo).unwrap();
        let sender = socket2::Socket::from(sender.try_clone().unwrap());
        for (i, tag) in tags.iter().enumerate() {
            let frame = [&frame[..6], &SOURCE, &[i as u8], tag, &frame[12..]].concat();
            sender.send(&frame).unwrap();
        }
        let (mut passed, mut buffer) = (Vec::new(), [0; 2_000]);
        while passed.last() != Some(&(tags.len() - 1)) {
            poll::wait_readable(receiver.as_fd()).unwrap();
            let len = packet_socket::receive(receiver.as_fd(), &mut buffer).unwrap();
            // What others send there passes, too.
            if len > 12 && buffer[6..11] == SOURCE {
                passed.push(buffer[11].into());
            }
        }
        passed
    }

    /// None, a priority, VLAN 5 without and with one, VLAN 6, VLAN 5 as a provider's, VLANs within a VLAN and within a priority, and
    /// the reserved one.
    pub(in crate::sys) const TAGS: [&[u8]; 9] = [
        &[],
        &[0x81, 0, 0xe0, 0],
        &[0x81, 0, 0, 5],
        &[0x81, 0, 0xe0, 5],
        &[0x81, 0, 0, 6],
        &[0x88, 0xa8, 0, 5],
        &[0x81, 0, 0, 5, 0x81, 0, 0, 6],
        &[0x81, 0, 0, 0, 0x81, 0, 0, 5],
        &[0x81, 0, 0xf, 0xff],
    ];

    /// Whether what `attach` puts on a socket lets `frame` pass: socket filters work on Unix sockets too, to which every
    /// frame is untagged and for this host.
    pub(in crate::sys) fn passes(attach: impl Fn(&UnixDatagram), frame: &[u8]) -> bool {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        attach(&receiver);
        receiver.set_nonblocking(true).unwrap();
        sender.send(frame).unwrap();
        receiver.recv(&mut [0; 2_000]).is_ok()
    }

    fn ipv4(protocol: u8) -> Vec<u8> {
        let mut frame = vec![0; 60];
        (frame[12], frame[13], frame[14], frame[23]) = (0x08, 0x00, 0x45, protocol);
        frame
    }

    /// An IPv6 frame with these extension headers, each (kind, length byte), before `last`.
    pub(in crate::sys) fn ipv6(extensions: &[(u8, u8)], last: u8) -> Vec<u8> {
        let mut frame = vec![0; 54];
        (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x60);
        let mut name_at = 20;
        for (kind, length) in extensions {
            frame[name_at] = *kind;
            name_at = frame.len();
            frame.extend(vec![0; (usize::from(*length) + 1) * 8]);
            frame[name_at + 1] = *length;
        }
        frame[name_at] = last;
        frame.extend([0; 8]);
        frame
    }

    #[test]
    fn the_kernel_lets_udp_over_ip_pass_and_nothing_else() {
        let attach = |program: &[SockFilter], receiver: &UnixDatagram| {
            socket2::SockRef::from(&receiver.as_fd()).attach_filter(program).unwrap();
        };
        let udp = [LinkLayer::Ethernet, LinkLayer::RawIp].map(|layer| udp_over_ip(layer, Vlans::None));
        let cases = [
            (true, ipv4(17)),
            (false, ipv4(6)),
            (false, ipv4(2)),
            (true, ipv6(&[], 17)),
            (false, ipv6(&[], 58)),
            (false, ipv6(&[], 59)),
            (true, ipv6(&[(0, 0), (60, 2), (43, 1)], 17)),
            (false, ipv6(&[(0, 0)], 58)),
            (false, ipv6(&[(0, 3), (60, 0)], 6)),
            (true, ipv6(&[(44, 0)], 17)),
            (true, ipv6(&[(60, 0), (60, 1), (60, 0), (60, 0)], 17)),
            (false, ipv6(&[(60, 0), (60, 1), (60, 0), (60, 0)], 6)),
            (true, ipv6(&[(60, 0), (60, 1), (60, 0), (60, 0), (60, 0)], 17)),
            (false, vec![0; 60]),
            (false, vec![0; 13]),
        ];
        for (i, (expected, frame)) in cases.iter().enumerate() {
            let packet = frame.get(ethernet::HEADER_LEN..).unwrap_or_default();
            for (program, frame) in udp.iter().zip([frame, packet]) {
                let passed = passes(|receiver| attach(program, receiver), frame);
                assert_eq!(passed, *expected, "case {i}: {frame:02x?}");
            }
        }
        assert!(!passes(|receiver| attach(&nothing(), receiver), &ipv4(17)));
    }

    #[test]
    #[ignore = "needs root: opens packet sockets"]
    fn tagged_frames_pass_only_where_a_rule_is_for_a_vlan() {
        for frame in [ipv4(17), ipv6(&[], 17)] {
            let that_pass = |vlans, tags: &[&[u8]]| {
                let program = udp_over_ip(LinkLayer::Ethernet, vlans);
                tags_that_pass(|socket| socket.attach_filter(&program).unwrap(), &frame, tags)
            };
            let and_none = [TAGS.as_slice(), &[&[]]].concat();
            assert_eq!(that_pass(Vlans::None, &and_none), [0, 1, 9]);
            assert_eq!(that_pass(Vlans::All, &TAGS), [0, 1, 2, 3, 4, 5, 8], "but none within another");
        }
    }
}
