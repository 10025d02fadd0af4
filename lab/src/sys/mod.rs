//! Every `unsafe` of the lab lives here, behind safe functions: system calls and memory shared with the kernel, no
//! policy. Nothing here knows of plans, flows or trials.

pub mod affinity;
pub mod block;
pub(crate) mod core_dump;
pub(crate) mod ethtool;
pub mod mmsg;
pub mod packet_ring;
pub mod packet_socket;
pub(crate) mod pidfd;
pub mod ready;
pub(crate) mod signal;
pub(crate) mod socket_option;
pub(crate) mod tai;
pub mod tun;
pub(crate) mod xdp;
