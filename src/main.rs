//! `multicast_relay`: parse, dispatch, exit code.
fn main() {}
