//! The network the lab builds: namespaces, veth pairs, addresses, offloads, and who is still inside them.
//!
//! Nothing here touches a namespace it did not make, and what it made goes with its guard: the namespace is
//! unmounted on drop, and the devices vanish with it. What is built out of these parts is in
//! [`crate::topology`].

mod error;
pub(crate) mod link;
mod namespace;
pub(crate) mod netlink;
pub(crate) mod occupants;
pub(crate) mod offloads;
mod run_name;

pub use error::NetError;
pub use link::DeviceCounters;
pub use namespace::{NAMESPACE_DIRECTORY, Namespace};
pub(crate) use namespace::{NamespaceId, remove_named};
pub use run_name::RunName;
pub(crate) use run_name::{Claim, RunLock, file_names, parse_namespace};
