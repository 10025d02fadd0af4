//! The network the lab builds: what crosses it, what does not, and that nothing of it stays behind.

#![allow(clippy::expect_used, clippy::panic, reason = "a helper of tests fails as they do")]

mod flap;
mod leftovers;
mod support;
mod wire;
