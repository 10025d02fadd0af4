//! What this relay has sent itself, and a wire brings back.

use std::collections::HashMap;
use std::net::SocketAddr;

/// What outputs send from. No other program of the host can have such an address and port, so what comes in with one was sent by
/// this relay.
#[derive(Debug, Default)]
pub(super) struct Own {
    by_output: HashMap<u32, SocketAddr>,
    /// How many outputs send from there. Two can, through interfaces that have one address.
    users: HashMap<SocketAddr, usize, foldhash::fast::RandomState>,
}

impl Own {
    /// The output at `place` sends from `source`, or from what it relays.
    pub(super) fn set(&mut self, place: u32, source: Option<SocketAddr>) {
        self.remove(place);
        if let Some(source) = source {
            self.by_output.insert(place, source);
            *self.users.entry(source).or_default() += 1;
        }
    }

    /// There is no output at `place`.
    pub(super) fn remove(&mut self, place: u32) {
        let Some(source) = self.by_output.remove(&place) else { return };
        if let Some(users) = self.users.get_mut(&source) {
            *users -= 1;
            if *users == 0 {
                self.users.remove(&source);
            }
        }
    }

    /// Whether something sends from `source`.
    pub(super) fn has(&self, source: SocketAddr) -> bool {
        self.users.contains_key(&source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_own_as_long_as_an_output_sends_from_it() {
        let [one, other]: [SocketAddr; 2] =
            ["10.0.0.1:40000", "10.0.0.1:40001"].map(|it| it.parse().unwrap());
        let mut own = Own::default();
        own.set(1, Some(one));
        own.set(2, Some(one));
        own.set(3, None);
        assert!(own.has(one) && !own.has(other));
        own.set(1, Some(other));
        assert!(own.has(one) && own.has(other));
        own.remove(2);
        own.remove(3);
        assert!(!own.has(one) && own.has(other));
        own.remove(1);
        own.remove(1);
        assert!(!own.has(other));
        assert!(own.users.is_empty() && own.by_output.is_empty());
    }
}
