//! The kernel's side: sockets, interfaces, `io_uring`, CPU affinity. `unsafe` lives here and in the packet ring only.
//!
//! Each file wraps one facility so that its callers need no `unsafe`: they hold descriptors, indices and slices whose
//! validity the types keep.

pub mod affinity;
pub mod buffer_pool;
pub mod channel;
pub mod clock;
pub mod credentials;
pub mod ethtool;
pub mod filter;
pub mod interface;
pub mod membership_socket;
pub mod memory;
pub mod netlink;
pub mod packet_socket;
pub mod poll;
pub mod process;
pub mod rlimit;
pub mod rule_programs;
pub mod sandbox;
pub mod shared_memory;
mod sockopt;
pub mod udp_socket;
pub mod uring;
