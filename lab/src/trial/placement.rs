//! Where the parts of a trial run. All policy about processors is here.
//!
//! The generator spins at high rates and has one processor to itself, the last; the subject gets all others, so that
//! neither takes time from the other. The sinks' threads, which mostly sleep, and the lab's own main thread go where
//! the scheduler finds room. With a single processor nothing is pinned.

use std::io;

use crate::sys::affinity;

/// Which processors are whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// The generator's; `None` leaves it to the kernel.
    pub generator: Option<usize>,
    /// The subject's; `None` leaves it to the kernel.
    pub subject: Option<Vec<usize>>,
}

impl Placement {
    /// The placement on the processors this process may use.
    pub fn here() -> io::Result<Self> {
        Ok(Self::on(&affinity::allowed_cpus()?))
    }

    fn on(cpus: &[usize]) -> Self {
        match cpus.split_last() {
            Some((last, others)) if !others.is_empty() => {
                Self { generator: Some(*last), subject: Some(others.to_vec()) }
            }
            _ => Self::default(),
        }
    }

    /// Puts the calling thread where the generator belongs.
    pub(crate) fn enter_generator(&self) -> io::Result<()> {
        self.generator.map_or(Ok(()), |cpu| affinity::pin_current_thread(&[cpu]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_has_a_processor_of_its_own_if_there_are_two() {
        assert_eq!(Placement::on(&[]), Placement::default());
        assert_eq!(Placement::on(&[3]), Placement::default());
        let two = Placement { generator: Some(1), subject: Some(vec![0]) };
        assert_eq!(Placement::on(&[0, 1]), two);
        let four = Placement { generator: Some(7), subject: Some(vec![1, 2, 4]) };
        assert_eq!(Placement::on(&[1, 2, 4, 7]), four);
    }
}
