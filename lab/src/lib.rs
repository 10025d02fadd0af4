//! The traffic lab: builds a network, offers traffic, counts every datagram at the far end, gives a verdict.
