//! A userspace UDP multicast relay for Linux.
//!
//! It captures datagrams with packet sockets, below the IP stack, where reverse-path filtering cannot drop them, and
//! republishes them through ordinary UDP sockets, so that the kernel does routing, neighbour discovery and tunnels.
//!
//! ```text
//!              packet socket            worker                        UDP sockets
//!   ingress ──► filter ──► receiver ──► forward ──► egress batch ──► io_uring ──► egress
//!               fanout     (a block of  (parse,     (slices of the   (one enter
//!                           a ring, …)   rule)       block)           for all)
//! ```
//!
//! Each worker is a process of its own. A supervisor gives it descriptors and orders; its counters and its place in a ring are in
//! memory that outlives it, so that another one goes on where it ended. It outlives its supervisor, and tells the next one what it
//! was told.
//!
//! Modules depend on those to their left only:
//! [`sys`], [`wire`], [`stats`] → [`rules`] → [`control`] → [`worker`] → [`supervisor`] → `main`.
//!
//! - [`cli`], [`config`]: what the user says, checked once.
//! - [`sys`]: the kernel's side, and with [`worker::packet_ring`] the only `unsafe`.
//! - [`wire`]: from bytes to a datagram, or a named reason.
//! - [`stats`]: counters and the identity they obey.
//! - [`rules`]: what goes where.
//! - [`control`]: what other programs are told.
//! - [`client`]: what asks them of a running supervisor.
//! - [`worker`]: the data path.
//! - [`supervisor`]: everything around it.
//! - [`doctor`]: what of a host will bite a relay, beside all that.
//! - [`manual`]: manual pages and shell completions.

pub mod cli;
pub mod client;
pub mod config;
pub mod control;
pub mod doctor;
pub mod logging;
pub mod manual;
pub mod rules;
pub mod stats;
pub mod supervisor;
#[allow(unsafe_code)]
pub mod sys;
pub mod wire;
pub mod worker;
