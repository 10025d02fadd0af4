use super::*;

const LENGTH: u16 = 100;

fn window() -> Window {
    Window::new(LENGTH, 7, 0).unwrap()
}

fn number(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// What becomes of `arrivals`, each a time, a leg and a number, whose keys `key` makes.
fn relayed<'a>(
    window: &Window,
    arrivals: &'a [(u64, Side, [u8; 4])],
    key: fn(&'a [u8]) -> Key<'a>,
) -> Vec<bool> {
    arrivals.iter().map(|(now, side, bytes)| window.is_first(*now, *side, key(bytes))).collect()
}

#[test]
fn the_first_copy_wins_whichever_leg_brings_it() {
    let (a, b) = (Side::A, Side::B);
    let arrivals = [(1, a, 1), (1, a, 2), (2, b, 1), (2, b, 3), (3, b, 2), (3, a, 3), (4, a, 1), (4, b, 1)];
    let arrivals = arrivals.map(|(now, side, i)| (now, side, number(i)));
    let expected = [true, true, false, true, false, false, false, false];
    assert_eq!(relayed(&window(), &arrivals, Key::Unique), expected);
}

#[test]
fn datagrams_alike_are_relayed_as_often_as_the_leg_that_brings_most_of_them() {
    let (a, b) = (Side::A, Side::B);
    for (sides, expected) in [
        (&[a, a, b, b, a][..], &[true, true, false, false, true][..]),
        (&[a, b, a, b], &[true, false, true, false]),
        (&[b, a, a, a, b, b], &[true, false, true, true, false, false]),
        (&[a, a, a], &[true, true, true]),
    ] {
        let arrivals: Vec<_> = sides.iter().map(|side| (5, *side, number(0))).collect();
        assert_eq!(relayed(&window(), &arrivals, Key::Counted), expected, "{sides:?}");
    }
    let unlike = [(5, a, number(1)), (5, b, number(2))];
    assert_eq!(relayed(&window(), &unlike, Key::Counted), [true, true]);
}

#[test]
fn what_a_worker_died_over_is_relayed_again_unless_the_other_leg_was_first() {
    let window = window();
    for key in [Key::Unique(b"x"), Key::Counted(b"y")] {
        // Entered, and perhaps not sent. Entering it once more changes nothing.
        assert!(window.is_first(1, Side::A, key));
        assert!(window.is_first_again(2, Side::A, key));
        assert!(!window.is_first(3, Side::B, key));
        assert!(window.is_first_again(4, Side::A, key), "which of the two was first nobody knows");
    }
    for key in [Key::Unique(b"other leg's"), Key::Counted(b"the other leg's")] {
        assert!(window.is_first(1, Side::B, key));
        assert!(!window.is_first_again(2, Side::A, key));
    }
    assert!(window.is_first_again(1, Side::A, Key::Unique(b"not entered")));
    assert!(!window.is_first(2, Side::B, Key::Unique(b"not entered")));
    window.sweep(1_000);
    assert_eq!(Side::ALL.map(|side| window.missing(side)), [0, 0]);
}

#[test]
fn after_the_window_a_copy_is_a_datagram_of_its_own() {
    for (now, is_first) in [(99, false), (100, true), (5_000, true), (16_384, true), (16_390, true)] {
        let window = window();
        let arrivals = [(0, Side::A, number(1)), (now, Side::B, number(1))];
        assert_eq!(relayed(&window, &arrivals, Key::Unique), [true, is_first], "{now}");
    }
}

#[test]
fn what_a_leg_does_not_bring_is_missing_when_the_window_is_over() {
    let window = window();
    let missing = |window: &Window| Side::ALL.map(|side| window.missing(side));
    for i in 0..10 {
        assert!(window.is_first(1_000, Side::A, Key::Unique(&number(i))));
        if i >= 3 {
            assert!(!window.is_first(1_050, Side::B, Key::Unique(&number(i))));
        }
    }
    assert!(window.is_first(1_050, Side::B, Key::Unique(&number(99))));
    window.sweep(1_099);
    assert_eq!(missing(&window), [0, 0], "they may come yet");
    window.sweep(1_150);
    assert_eq!(missing(&window), [1, 3]);
    for _ in 0..5 {
        assert!(window.is_first(1_200, Side::A, Key::Counted(b"alike")));
    }
    assert!(!window.is_first(1_200, Side::B, Key::Counted(b"alike")));
    window.sweep(60_000);
    assert_eq!(missing(&window), [1, 7]);
    assert!(window.is_first(60_000, Side::A, Key::Unique(&number(1))));
    window.join(Side::B, 60_001);
    window.sweep(61_000);
    assert_eq!(missing(&window), [1, 0], "a leg that has just come has missed nothing before");
}

#[test]
fn without_anybody_who_sweeps_nothing_of_long_ago_is_taken_for_new() {
    let window = window();
    assert!(window.is_first(0, Side::A, Key::Counted(b"x")));
    // The times of an entry begin anew after 16,384 ms.
    assert!(window.is_first(16_400, Side::B, Key::Counted(b"x")));
    assert_eq!(window.missing(Side::B), 1);
}

#[test]
fn a_clock_that_is_a_little_behind_does_no_harm() {
    let window = window();
    assert!(window.is_first(1_000, Side::A, Key::Unique(&number(1))));
    assert!(!window.is_first(998, Side::B, Key::Unique(&number(1))));
    window.sweep(999);
    assert!(!window.is_first(1_001, Side::B, Key::Unique(&number(1))));
}

#[test]
fn workers_share_what_has_come_in() {
    let one = window();
    let other = Window::open(one.memory().try_clone_to_owned().unwrap(), LENGTH).unwrap();
    assert!(one.is_first(1, Side::A, Key::Unique(&number(1))));
    assert!(!other.is_first(2, Side::B, Key::Unique(&number(1))));
    let firsts = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for (window, side) in [(&one, Side::A), (&other, Side::B)] {
            let firsts = &firsts;
            scope.spawn(move || {
                for i in 0..50_000_u32 {
                    let is_first = window.is_first(10, side, Key::Unique(&(i + 2).to_be_bytes()));
                    firsts.fetch_add(is_first.into(), Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(firsts.into_inner(), 50_000);
    assert_eq!(one.crowded(), 0);
}

#[test]
fn what_there_is_no_room_for_is_counted_and_later_copies_are_relayed_at_worst() {
    let window = window();
    let count = 2 * (BUCKETS * RECORD_LEN) as u32;
    assert!((0..count).all(|i| window.is_first(1, Side::A, Key::Unique(&number(i)))));
    let crowded = window.crowded();
    assert!(crowded >= u64::from(count / 2), "{crowded}");
    let again = (0..count).filter(|i| window.is_first(1, Side::B, Key::Unique(&number(*i)))).count();
    assert!(again as u64 >= u64::from(count / 2) && again < count as usize, "{again}");
}
