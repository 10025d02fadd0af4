//! A userspace UDP multicast relay for Linux.
