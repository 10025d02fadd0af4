//! Places that are given away and taken back.

use std::collections::VecDeque;

/// Which of so many places are free.
#[derive(Debug)]
pub(super) struct Places {
    /// From here on none was ever given away.
    fresh: u32,
    most: u32,
    /// Taken back, the one longest ago first.
    free: VecDeque<u32>,
}

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self { fresh: 0, most: most as u32, free: VecDeque::new() }
    }

    /// One that is free.
    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop_front().or_else(|| {
            let fresh = Some(self.fresh).filter(|fresh| *fresh < self.most)?;
            self.fresh += 1;
            Some(fresh)
        })
    }

    /// Takes one back.
    pub(super) fn give_back(&mut self, place: u32) {
        self.free.push_back(place);
    }

    /// Marks one as given away that somebody else has chosen, when nothing was taken yet.
    pub(super) fn occupy(&mut self, place: u32) {
        self.free.extend(self.fresh..place);
        self.free.retain(|free| *free != place);
        self.fresh = self.fresh.max(place.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_away_once() {
        let mut places = Places::new(3);
        assert_eq!(
            [places.take(), places.take(), places.take(), places.take()],
            [Some(0), Some(1), Some(2), None]
        );
        places.give_back(1);
        places.give_back(0);
        assert_eq!([places.take(), places.take(), places.take()], [Some(1), Some(0), None]);
    }

    #[test]
    fn what_another_has_given_away_is_not_free() {
        let mut places = Places::new(5);
        for place in [3, 1, 0] {
            places.occupy(place);
        }
        assert_eq!([places.take(), places.take(), places.take()], [Some(2), Some(4), None]);
    }
}
