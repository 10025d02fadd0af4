//! What becomes of a count, and frames of the kernel's program against those of user space.

use std::net::{Ipv6Addr, SocketAddr};

use super::*;
use crate::datagram::{Encoder, Header, Kind, Undecodable, decode};
use crate::generator::offering::{Guise, Offer};
use crate::generator::template::Templates;
use crate::plan::{Flow, Foreign, Plan};
use crate::schedule::Turn;

fn by_name(
    redirected: u64,
    before: Option<Transmitted>,
    after: io::Result<Transmitted>,
) -> Vec<(String, u64)> {
    let all = unsent(redirected, before, after).into_iter();
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn what_the_peer_did_not_take_has_a_name() {
    let counters = |taken, ring_full| Transmitted { taken, ring_full };
    let before = Some(counters(1_000, 10));
    assert_eq!(by_name(100, before, Ok(counters(1_100, 10))), []);
    assert_eq!(by_name(100, before, Ok(counters(1_070, 40))), [(RING_FULL.to_owned(), 30)]);
    let vanished = by_name(100, before, Ok(counters(1_050, 40)));
    assert_eq!(vanished, [(RING_FULL.to_owned(), 30), (NOT_REDIRECTED.to_owned(), 20)]);
}

#[test]
fn a_device_that_is_gone_vouches_for_nothing() {
    let gone = || Err(io::Error::from_raw_os_error(libc::ENODEV));
    assert_eq!(by_name(7, Some(Transmitted::default()), gone()), [("ENODEV".to_owned(), 7)]);
    assert_eq!(by_name(7, None, Ok(Transmitted::default())), [(NOT_REDIRECTED.to_owned(), 7)]);
    assert_eq!(by_name(0, None, gone()), []);
}

fn plan(ipv6: bool, payload_bytes: usize) -> Plan {
    let address = |net: u16, index: u16, port: u16| -> SocketAddr {
        if ipv6 {
            (Ipv6Addr::new(0xFF15, 0, 0, 0, 0, net, 0, index), port).into()
        } else {
            ([239, net as u8, (index >> 8) as u8, index as u8], port).into()
        }
    };
    let flow = |index| Flow {
        source: address(1, 1, 4000),
        destination: address(81, index, 5000 + index),
        destination_mac: [1, 0, 0x5E, 1, 2, index as u8],
        delivered: address(82, index, 6000),
    };
    let foreign =
        Foreign { flow: Flow { delivered: address(83, 1, 1), ..flow(300) }, rate_pps: 1, datagrams: 1 };
    let plan = Plan::new(0xABCD, (0..300).map(flow).collect(), payload_bytes, 1, 1);
    plan.and_then(|plan| plan.beside(Some(foreign))).unwrap()
}

fn frames(plan: &Plan) -> Frames {
    let templates = Templates::build(plan, [2, 0, 0, 0, 0, 1], 9_000);
    Frames { run: plan.run, templates, encoder: Encoder::new(plan.payload_bytes), identification: 0 }
}

#[test]
#[ignore = "needs root: loads a BPF program"]
fn the_program_makes_the_frames_of_user_space() {
    for (ipv6, payload_bytes) in
        [18, 33, 34, 35, 100, 101, 1_400, 3_260].into_iter().flat_map(|bytes| [(false, bytes), (true, bytes)])
    {
        let plan = plan(ipv6, payload_bytes);
        let mut frames = frames(&plan);
        let frame_bytes = frames.templates.frames()[0];
        let payload_at = frames.templates.places().1;
        let mut ring = load(frame_bytes, &frames).unwrap();
        ring.begin(1_700_000_000_000_000_000);
        let turns = (0..3_000_u64).map(|turn| Turn {
            flow: (turn % 300) as u16,
            // Every byte of it changes now and then.
            sequence: turn.wrapping_mul(0x0101_0307_0F1F_3F7F),
            due_ns: turn,
            begins_burst: true,
        });
        for (index, turn) in turns.enumerate() {
            let kind = if index % 2 == 0 { Kind::Measured } else { Kind::WarmUp };
            let guise = match index % 5 {
                2 => Guise::NoRule,
                3 => Guise::Flipped(index as u64),
                4 => Guise::Foreign,
                _ => Guise::Own,
            };
            let offer = Offer { turn, guise };
            let mut stamps = Stamps { intended_ns: 1_700_000_000_000_000_000 + turn.due_ns, actual_ns: 0 };
            frames.write(ring.free_slot().unwrap(), &offer, kind, stamps);
            ring.commit(turn.due_ns);
            let made = ring.dry_run().unwrap();
            assert_eq!(ring.sent(), index as u64 + 1);

            let sent_ns = 1_700_000_000_000_000_000 + ring.sent_ns(index as u64);
            let own = Header { run: plan.run, flow: turn.flow, sequence: turn.sequence, kind };
            match (guise, decode(&made[payload_at..])) {
                (Guise::Own, Ok(read)) => {
                    assert_eq!(read.header, own);
                    assert!(read.stamps.is_none_or(|stamps| stamps.actual_ns == sent_ns));
                }
                (Guise::Foreign | Guise::NoRule, Ok(read)) => {
                    assert_eq!(read.header, Header { run: !plan.run, ..own });
                }
                (Guise::Flipped(_), Err(Undecodable::Damaged(header))) => assert_eq!(header, own),
                unlike => panic!("{unlike:?}"),
            }
            stamps.actual_ns = sent_ns;
            let mut expected = vec![0xEE; frame_bytes];
            frames.write(&mut expected, &offer, kind, stamps);
            assert_eq!(made, expected, "IPv6 {ipv6}, {payload_bytes} bytes, {offer:?}");
        }
    }
}

#[test]
#[ignore = "needs root: loads a BPF program"]
fn what_is_not_due_or_given_up_is_not_sent() {
    let plan = plan(false, 100);
    let mut frames = frames(&plan);
    let mut ring = load(frames.templates.frames()[0], &frames).unwrap();
    ring.begin(0);
    let turn = Turn { flow: 0, sequence: 0, due_ns: 0, begins_burst: true };
    let offer = Offer { turn, guise: Guise::Own };
    let mut put = |ring: &mut LiveFrames, due_ns| {
        let stamps = Stamps { intended_ns: 1, actual_ns: 0 };
        frames.write(ring.free_slot().unwrap(), &offer, Kind::Measured, stamps);
        ring.commit(due_ns);
    };
    put(&mut ring, 0);
    put(&mut ring, u64::MAX);
    ring.run(100, 16).unwrap();
    assert_eq!(ring.sent(), 1);
    assert_eq!((ring.discard(), ring.sent()), (1, 2));
    // All the way round the ring, and over its end.
    while ring.free_slot().is_some() {
        put(&mut ring, 0);
    }
    let slots = ring.sent() + 2;
    ring.run(100_000, 16).unwrap();
    assert!(ring.sent() > slots, "{}", ring.sent());
    put(&mut ring, 0);
    let before = ring.sent();
    ring.run(100, 16).unwrap();
    assert_eq!(ring.sent(), before + 1);
}
