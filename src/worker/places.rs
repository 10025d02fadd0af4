//! Things at places that somebody else has chosen.

/// At each place one thing or none.
#[derive(Debug)]
pub(super) struct Places<T>(Vec<Option<T>>);

impl<T> Default for Places<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Places<T> {
    /// Puts `thing` at `place`; what is there goes.
    pub(super) fn set(&mut self, place: u16, thing: T) {
        let at = usize::from(place);
        if at >= self.0.len() {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(thing);
    }

    /// Takes what is at `place`.
    pub(super) fn take(&mut self, place: u16) -> Option<T> {
        self.0.get_mut(usize::from(place))?.take()
    }

    pub(super) fn get(&self, place: u16) -> Option<&T> {
        self.0.get(usize::from(place))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, place: u16) -> Option<&mut T> {
        self.0.get_mut(usize::from(place))?.as_mut()
    }

    /// Everything with its place, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u16, &T)> {
        self.0.iter().enumerate().filter_map(|(place, thing)| Some((place as u16, thing.as_ref()?)))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u16, &mut T)> {
        self.0.iter_mut().enumerate().filter_map(|(place, thing)| Some((place as u16, thing.as_mut()?)))
    }

    /// The first place, from `start` on and round to it, with a thing that `is_wanted`.
    pub(super) fn find_from(&self, start: usize, is_wanted: impl Fn(&T) -> bool) -> Option<u16> {
        let start = start.min(self.0.len());
        let mut round = (start..self.0.len()).chain(0..start);
        round.find(|at| self.0[*at].as_ref().is_some_and(&is_wanted)).map(|at| at as u16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_kept_and_looked_at_in_turn() {
        let mut places = Places::default();
        places.set(4, 'x');
        places.set(1, 'y');
        assert_eq!(places.iter().collect::<Vec<_>>(), [(1, &'y'), (4, &'x')]);
        assert_eq!(
            [0, 2, 5, 99].map(|start| places.find_from(start, |_| true)),
            [Some(1), Some(4), Some(1), Some(1)]
        );
        assert_eq!(places.find_from(0, |thing| *thing == 'z'), None);
        assert_eq!((places.take(1), places.take(1), places.take(9)), (Some('y'), None, None));
        assert_eq!((places.get(4), places.get(1)), (Some(&'x'), None));
        assert_eq!(places.get_mut(4), Some(&mut 'x'));
    }
}
