//! What differs between a sequence that was sent and the one that came, when equal members cannot be told apart.

use std::collections::{BTreeSet, HashMap};

/// What went wrong on the way, each by its place in what was sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Differences {
    /// What did not come.
    pub(super) lost: Vec<u64>,
    /// What came once more, as often as it did.
    pub(super) duplicated: Vec<u64>,
    /// What came after something that was sent later (RFC 4737, as if it had numbers).
    pub(super) reordered: Vec<u64>,
}

/// All equal members that were sent.
#[derive(Default)]
struct Equals {
    /// Places of those that have not come yet.
    missing: BTreeSet<usize>,
    /// How many more came than were sent and not laid to anything yet.
    surplus: usize,
    /// Place of the one that came last.
    last: Option<usize>,
}

/// Compares what was `sent` with what `came`, of which every member was sent.
///
/// How many are lost and how many are duplicated follows from counting alone, and there are no differences at all only if
/// the two are the same. Where equal members leave a choice, a loss or a copy alone is never laid to the order.
pub(super) fn compare(sent: &[u32], came: &[u32]) -> Differences {
    let mut equals: HashMap<u32, Equals> = HashMap::new();
    for (place, member) in sent.iter().enumerate() {
        equals.entry(*member).or_default().missing.insert(place);
    }
    for member in came {
        equals.entry(*member).or_default().surplus += 1;
    }
    for equal in equals.values_mut() {
        equal.surplus = equal.surplus.saturating_sub(equal.missing.len());
    }
    let mut differences = Differences::default();
    let mut next = 0;
    for member in came {
        let Some(equal) = equals.get_mut(member) else { continue };
        match equal.arrive(next, sent.get(next) == Some(member)) {
            Arrival::Copy(place) => differences.duplicated.push(place as u64),
            Arrival::Late(place) => differences.reordered.push(place as u64),
            Arrival::InOrder(place) => next = place + 1,
        }
    }
    differences.lost =
        equals.into_values().flat_map(|equal| equal.missing).map(|place| place as u64).collect();
    differences.lost.sort_unstable();
    differences
}

enum Arrival {
    InOrder(usize),
    Late(usize),
    Copy(usize),
}

impl Equals {
    /// One of them comes when all before `next` have come or are overdue; `is_next` says whether one is at that place.
    fn arrive(&mut self, next: usize, is_next: bool) -> Arrival {
        let ahead = self.missing.range(next..).next().copied();
        let place = match (self.last, ahead.or_else(|| self.missing.last().copied())) {
            (Some(last), Some(_)) if !is_next && self.surplus > 0 => return self.copy(last),
            (_, Some(place)) => place,
            // Whatever came was sent, and what was sent came before a copy of it.
            (last, None) => return self.copy(last.unwrap_or(next)),
        };
        self.missing.remove(&place);
        self.last = Some(place);
        if place < next { Arrival::Late(place) } else { Arrival::InOrder(place) }
    }

    fn copy(&mut self, place: usize) -> Arrival {
        self.surplus = self.surplus.saturating_sub(1);
        Arrival::Copy(place)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn differences(lost: &[u64], duplicated: &[u64], reordered: &[u64]) -> Differences {
        Differences { lost: lost.to_vec(), duplicated: duplicated.to_vec(), reordered: reordered.to_vec() }
    }

    #[test]
    fn members_that_differ_are_told_by_their_places() {
        let sent = [10, 11, 12, 13, 14];
        let compared = |came: &[u32]| compare(&sent, came);
        assert_eq!(compared(&sent), Differences::default());
        assert_eq!(compared(&[10, 11, 13, 14]), differences(&[2], &[], &[]));
        assert_eq!(compared(&[10, 11, 11, 12, 13, 14]), differences(&[], &[1], &[]));
        assert_eq!(compared(&[10, 11, 12, 13, 14, 11, 11]), differences(&[], &[1, 1], &[]));
        assert_eq!(compared(&[10, 12, 11, 13, 14]), differences(&[], &[], &[1]));
        // One that comes too early makes all before it late.
        assert_eq!(compared(&[13, 10, 11, 12, 14]), differences(&[], &[], &[0, 1, 2]));
        assert_eq!(compared(&[13, 13, 10, 14]), differences(&[1, 2], &[3], &[0]));
        assert_eq!(compared(&[]), differences(&[0, 1, 2, 3, 4], &[], &[]));
    }

    #[test]
    fn equal_members_are_taken_for_those_that_fit() {
        let sent = [7, 7, 1, 7, 2, 7];
        assert_eq!(compare(&sent, &[7, 1, 7, 2, 7]), differences(&[1], &[], &[]));
        assert_eq!(compare(&sent, &[7, 7, 1, 2, 7]), differences(&[3], &[], &[]));
        assert_eq!(compare(&sent, &[7, 7, 7, 1, 7, 2, 7]), differences(&[], &[1], &[]));
        assert_eq!(compare(&[7, 7, 7], &[7, 7]), differences(&[2], &[], &[]));
    }

    /// What was sent: few kinds of members, so that most have equals.
    fn sequence() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0_u32..4, 1..40)
    }

    proptest! {
        #[test]
        fn only_the_same_is_without_differences(sent in sequence(), came in sequence()) {
            let came: Vec<_> = came.into_iter().filter(|member| sent.contains(member)).collect();
            let found = compare(&sent, &came);
            prop_assert_eq!(found == Differences::default(), sent == came);
            prop_assert_eq!(sent.len() + found.duplicated.len(), came.len() + found.lost.len());
        }

        #[test]
        fn a_loss_alone_is_a_loss(sent in sequence(), lost in proptest::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let lost: BTreeSet<_> = lost.iter().map(|index| index.index(sent.len())).collect();
            let came: Vec<_> =
                sent.iter().enumerate().filter(|(place, _)| !lost.contains(place)).map(|(_, member)| *member).collect();
            let found = compare(&sent, &came);
            prop_assert_eq!((found.lost.len(), found.duplicated, found.reordered), (lost.len(), vec![], vec![]));
        }

        #[test]
        fn a_copy_alone_is_a_copy(sent in sequence(), copied: prop::sample::Index, later in 0_usize..40) {
            let copied = copied.index(sent.len());
            let mut came = sent.clone();
            came.insert((copied + 1 + later).min(sent.len()), sent[copied]);
            let found = compare(&sent, &came);
            prop_assert_eq!((found.lost, found.duplicated.len(), found.reordered), (vec![], 1, vec![]));
        }

        #[test]
        fn any_order_of_the_same_members_is_only_an_order(sent in sequence().prop_shuffle(), seed in sequence()) {
            let mut came = sent.clone();
            came.rotate_left(seed.len() % sent.len());
            let found = compare(&sent, &came);
            prop_assert!(found.lost.is_empty() && found.duplicated.is_empty());
            prop_assert_eq!(found.reordered.is_empty(), sent == came);
        }
    }
}
