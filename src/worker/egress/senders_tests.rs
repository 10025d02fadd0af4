use super::*;
use crate::sys::uring::IpHeader;

fn key(number: usize) -> Key {
    let [.., a, b] = (number as u32).to_be_bytes();
    Key { output: 0, source: ([10, 0, a, b], 4_000).into() }
}

/// Senders that have learned the time.
fn senders(most: usize) -> (Senders, Instant) {
    let (mut senders, start) = (Senders::default(), Instant::now());
    senders.limit(most);
    senders.tick(start);
    (senders, start)
}

fn find(senders: &mut Senders, key: Key) -> Found {
    senders.find(key, &mut None)
}

/// Has a lane at the place `number` for the source of that number.
fn open(senders: &mut Senders, number: usize) {
    assert_eq!(find(senders, key(number)), Found::Wanted);
    assert_eq!(senders.ask(), Some(key(number)));
    assert_eq!(senders.answer(key(number), Ok(number)), []);
}

fn label(counters: u32) -> Label {
    Label { counters, header: IpHeader::OF_SOCKET, destination: None }
}

fn keep(senders: &mut Senders, key: Key, len: usize) -> bool {
    senders.keep(&key, &vec![7; len], label(0))
}

#[test]
fn copies_wait_in_order_until_there_is_a_lane() {
    let (mut senders, _) = senders(10);
    assert!(!keep(&mut senders, key(1), 1), "nobody waits for anything");
    for len in 1..4 {
        assert_eq!(find(&mut senders, key(1)), Found::Wanted);
        assert!(keep(&mut senders, key(1), len));
    }
    assert_eq!((senders.ask(), senders.ask()), (Some(key(1)), None), "asked for once");
    assert!(senders.is_waiting() && senders.is_wanted(&key(1)) && !senders.is_wanted(&key(2)));
    let copies = senders.answer(key(1), Ok(5));
    assert_eq!(copies.iter().map(|copy| copy.payload.len()).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(find(&mut senders, key(1)), Found::Lane(5));
    assert_eq!((senders.is_waiting(), senders.kept, senders.asked), (false, 0, 0));
    let other = Key { output: 1, ..key(1) };
    assert_eq!(find(&mut senders, other), Found::Wanted, "each output has its own");
}

#[test]
fn what_was_refused_is_asked_for_again_after_a_while_whenever_the_others_are_looked_at() {
    let (mut senders, start) = senders(10);
    assert_eq!((find(&mut senders, key(1)), senders.ask()), (Found::Wanted, Some(key(1))));
    senders.answer(key(1), Err(SendFailure::Unreachable));
    senders.tick(start + IDLE / 2);
    assert_eq!(find(&mut senders, key(1)), Found::Refused(SendFailure::Unreachable));
    senders.tick(start + IDLE);
    assert_eq!((find(&mut senders, key(1)), senders.ask()), (Found::Wanted, Some(key(1))));
    assert!(senders.is_waiting());
}

#[test]
fn the_one_that_is_idle_longest_makes_room_and_no_other() {
    let (mut senders, start) = senders(3);
    for number in 0..3 {
        senders.tick(start + IDLE / 10 * number as u32);
        open(&mut senders, number);
    }
    // The first one is used again.
    senders.tick(start + IDLE / 2);
    assert_eq!(find(&mut senders, key(0)), Found::Lane(0));
    let mut closed = None;
    senders.tick(start + IDLE);
    let full = Found::Refused(SendFailure::TooManySources);
    assert_eq!((senders.find(key(9), &mut closed), closed), (full, None), "none is idle long enough");
    senders.tick(start + IDLE / 10 + IDLE);
    assert_eq!((senders.find(key(9), &mut closed), closed), (Found::Wanted, Some(1)));
    assert_eq!(senders.all.len(), 3);
    // What is wanted makes no room, whatever its age; another one does.
    senders.tick(start + 9 * IDLE);
    let mut closed = None;
    assert_eq!((senders.find(key(10), &mut closed), closed), (Found::Wanted, Some(2)));
    let mut closed = None;
    assert_eq!((senders.find(key(11), &mut closed), closed), (Found::Wanted, Some(0)));
    assert_eq!(senders.find(key(12), &mut closed), full);
    assert!([9, 10, 11].iter().all(|number| senders.is_wanted(&key(*number))));
}

#[test]
fn one_after_another_any_number_of_sources_finds_room() {
    let (mut senders, start) = senders(100);
    let mut closed_lanes = 0;
    for number in 0..5_000_usize {
        senders.tick(start + IDLE / 100 * number as u32);
        let mut closed = None;
        assert_eq!(senders.find(key(number), &mut closed), Found::Wanted, "{number}");
        closed_lanes += usize::from(closed.is_some());
        assert_eq!(senders.ask(), Some(key(number)));
        senders.answer(key(number), Ok(number));
        assert!(senders.all.len() <= 100);
    }
    assert_eq!(closed_lanes, 4_900);
}

#[test]
fn the_supervisor_is_asked_for_a_few_at_a_time_in_order() {
    let (mut senders, start) = senders(MAX_SENDERS);
    for number in 0..MAX_SENDERS {
        find(&mut senders, key(number));
    }
    let asked: Vec<_> = std::iter::from_fn(|| senders.ask()).collect();
    assert_eq!(asked, (0..MAX_ASKED).map(key).collect::<Vec<_>>());
    senders.answer(key(0), Ok(0));
    senders.answer(key(1), Err(SendFailure::SourceRefused));
    assert_eq!([senders.ask(), senders.ask(), senders.ask()], [Some(key(64)), Some(key(65)), None]);
    // Another supervisor is asked for all that is not there.
    senders.ask_again();
    let asked: Vec<_> = std::iter::from_fn(|| senders.ask()).collect();
    assert_eq!(asked.len(), MAX_ASKED);
    assert!(!asked.contains(&key(0)) && !asked.contains(&key(1)));
    // What is not answered is not waited for.
    senders.tick(start + PATIENCE + SOON);
    senders.look().unwrap();
    assert_eq!((senders.asked, senders.wanted, senders.ask()), (0, 0, None));
}

#[test]
fn the_room_to_wait_in_is_bounded() {
    let (mut senders, _) = senders(MAX_SENDERS);
    let most = ROOM / (1_000 + COST);
    let kept = (0..most + 50).filter(|number| {
        find(&mut senders, key(number % 10));
        keep(&mut senders, key(number % 10), 1_000)
    });
    assert_eq!(kept.count(), most);
    assert_eq!(senders.answer(key(3), Ok(1)).len(), most.div_ceil(10));
    assert!(keep(&mut senders, key(4), 1_000), "there is room again");
    assert!((0..ROOM / COST).any(|_| !keep(&mut senders, key(4), 0)), "what has no payload takes room, too");
}

#[test]
fn what_waits_too_long_is_given_up_and_what_is_long_idle_is_closed() {
    let (mut senders, start) = senders(10);
    assert_eq!((senders.look_after(), senders.look()), (None, None));
    open(&mut senders, 1);
    assert_eq!(senders.look_after(), Some(LATER));
    assert_eq!(senders.look(), Some(Gone::default()));
    find(&mut senders, key(2));
    assert!(keep(&mut senders, key(2), 3));
    find(&mut senders, key(3));
    senders.answer(key(3), Err(SendFailure::Unreachable));
    assert_eq!(find(&mut senders, key(3)), Found::Refused(SendFailure::Unreachable));
    assert_eq!((senders.look_after(), senders.look()), (Some(SOON), None), "not every time");
    senders.tick(start + PATIENCE);
    let gone = senders.look().unwrap();
    assert_eq!((gone.lanes.len(), gone.copies.len()), (0, 1));
    assert_eq!(find(&mut senders, key(3)), Found::Wanted, "it is tried again");
    senders.give_up();
    senders.tick(start + LONG_IDLE);
    assert_eq!(senders.look().unwrap(), Gone { lanes: vec![1], copies: Vec::new() });
    assert_eq!((senders.all.len(), senders.look_after()), (0, None));
}

#[test]
fn with_an_output_go_its_senders_and_with_a_rule_its_copies() {
    let (mut senders, _) = senders(10);
    open(&mut senders, 1);
    let other = Key { output: 7, ..key(1) };
    for (key, counters) in [(key(2), 20), (key(2), 21), (other, 20)] {
        find(&mut senders, key);
        assert!(senders.keep(&key, b"x", label(counters)));
    }
    assert_eq!(senders.take_copies(|counters| counters == 21).len(), 1);
    let gone = senders.end_output(0);
    assert_eq!((gone.lanes, gone.copies.len()), (vec![1], 1));
    assert!(senders.is_wanted(&other));
    assert_eq!(senders.kept, 1 + COST);
    assert_eq!(senders.give_up().copies.len(), 1);
    assert_eq!((senders.kept, senders.wanted, senders.asked), (0, 0, 0));
}
