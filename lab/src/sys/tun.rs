//! Devices whose frames a program sends and receives in place of a cable (`linux/if_tun.h`).

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::packet_socket::interface_name;

/// What the frames of a device begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An IP header.
    Tun,
    /// An Ethernet header.
    Tap,
}

/// The program's end of such a device. The device is there as long as this is.
#[derive(Debug)]
pub struct Tun(File);

impl Tun {
    /// Makes the device `name`, which is down, in the calling thread's network namespace. With `virtio_headers` every frame has
    /// a `virtio_net_hdr` of 10 bytes before it, both ways. Needs `CAP_NET_ADMIN`.
    pub fn create(name: &str, kind: Kind, virtio_headers: bool) -> io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
        let kind = match kind {
            Kind::Tun => libc::IFF_TUN,
            Kind::Tap => libc::IFF_TAP,
        };
        let virtio = if virtio_headers { libc::IFF_VNET_HDR } else { 0 };
        let flags = (kind | libc::IFF_NO_PI | virtio) as libc::c_short;
        let ifr_ifru = libc::__c_anonymous_ifr_ifru { ifru_flags: flags };
        let mut request = libc::ifreq { ifr_name: interface_name(name)?, ifr_ifru };
        // SAFETY: TUNSETIFF takes a pointer to an `ifreq`, which lives until the call returns.
        let result = unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result == 0 { Ok(Self(device)) } else { Err(io::Error::last_os_error()) }
    }

    /// Has the device, which must be down, claim to be of another kind (`ARPHRD_…`, `linux/if_arp.h`). What its frames begin with
    /// does not change.
    pub fn claim(&self, hardware: u16) -> io::Result<()> {
        // SAFETY: TUNSETLINK takes a number.
        let result =
            unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TUNSETLINK, libc::c_ulong::from(hardware)) };
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Has the device, which must be up, receive `frame`.
    pub fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        self.0.write_all(frame)
    }

    /// Waits for the next frame that the device sends, and returns its length.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
