//! Which receive path the workers take, and what it needs of packet sockets.

use std::cell::Cell;
use std::{io, iter};

use super::SupervisorError;
use super::inputs::enlarge_buffers;
use crate::config::{Config, Rx};
use crate::sys::interface::Interface;
use crate::sys::memory;
use crate::sys::packet_socket::PacketSocket;
use crate::wire::ethernet;
use crate::worker::order::Path;
use crate::worker::packet_ring::{Layout, Shape, Version};

/// Tags that can stand in a frame: the kernel takes out the outer one of two, but not on every path.
const TAGS: usize = 2;

/// A receive path, for all workers and inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// By rings of this layout, or smaller ones.
    Rings(Layout),
    /// By `recv`.
    Recv(Path),
}

impl Way {
    /// The best that works here, of what `config` allows.
    pub(super) fn choose(config: &Config) -> Result<Self, SupervisorError> {
        let recv = Self::Recv(Path::Recv { coalesce: config.recv_coalesce });
        match config.rx {
            Rx::Recv => Ok(recv),
            Rx::Mmap => Ok(Self::Rings(config.ring)),
            Rx::Auto => match try_ring(config.ring, first_interface(config)) {
                Ok(()) => Ok(Self::Rings(config.ring)),
                Err(error @ SupervisorError::Ring { .. }) => {
                    tracing::warn!("{error}; so frames are received by recv, which takes more CPU time");
                    Ok(recv)
                }
                Err(error) => Err(error),
            },
        }
    }

    /// How workers receive.
    pub(super) fn path(&self) -> Path {
        match self {
            Self::Rings(layout) => match layout.version() {
                Version::V3 => Path::Blocks,
                Version::V2 => Path::Slots,
            },
            Self::Recv(path) => *path,
        }
    }

    /// In a word, for reports.
    pub(super) fn name(&self) -> &'static str {
        match self.path() {
            Path::Blocks => "mmap-v3",
            Path::Slots => "mmap-v2",
            Path::Recv { .. } | Path::RecvSingleShot => "recv",
        }
    }

    /// Gives `sockets`, which are to capture on `interface`, what it takes to receive from them: rings, or large buffers.
    pub(super) fn prepare(
        &self,
        interface: &Interface,
        sockets: &[PacketSocket],
    ) -> Result<Vec<Option<Shape>>, SupervisorError> {
        if self.path() != Path::Blocks {
            // For all frames, or for those that are too large for a slot.
            enlarge_buffers(interface, sockets)?;
        }
        let Self::Rings(layout) = self else { return Ok(vec![None; sockets.len()]) };
        let failed =
            |error| SupervisorError::Ring { interface: interface.name.clone(), layout: *layout, error };
        let affordable = affordable(*layout, sockets.len()).map_err(failed)?;
        let smallest = Cell::new(affordable);
        let request = |socket: &PacketSocket| {
            let (shape, obtained) = Shape::request(socket, affordable, frame_len(interface))?;
            if obtained.size() < smallest.get().size() {
                smallest.set(obtained);
            }
            Ok(Some(shape))
        };
        let shapes = sockets.iter().map(request).collect::<io::Result<_>>().map_err(failed)?;
        let (name, obtained) = (&interface.name, smallest.get());
        if obtained == *layout {
            tracing::info!("receiving on {name} by mmap: {obtained}");
        } else {
            tracing::warn!("there is memory for a smaller ring on {name} only: {obtained}, not {layout}");
        }
        Ok(shapes)
    }
}

fn first_interface(config: &Config) -> &str {
    config.rules.first().map_or("any interface", |rule| &rule.input.interface)
}

/// Whether a ring can be had at all, be it a small one. `interface` is for messages.
fn try_ring(layout: Layout, interface: &str) -> Result<(), SupervisorError> {
    let interface = interface.to_owned();
    let socket = match PacketSocket::open() {
        Ok(socket) => socket,
        Err(error) => return Err(SupervisorError::PacketSocket { interface, error }),
    };
    let try_it = || {
        socket.prefix_vnet_header()?;
        let smallest = iter::successors(Some(layout), Layout::halved).last().unwrap_or(layout);
        Shape::request(&socket, affordable(smallest, 1)?, ethernet::HEADER_LEN).map(|_| ())
    };
    try_it().map_err(|error| SupervisorError::Ring { interface, layout, error })
}

/// The layout of rings that leave the machine half of the memory it has to give. The kernel would hand out more, and then end
/// programs to get it.
fn affordable(layout: Layout, rings: usize) -> io::Result<Layout> {
    let Some(available) = memory::available() else { return Ok(layout) };
    within(layout, rings, available / 2).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// The layout of so many rings, halved until together they take at most `bytes`.
fn within(layout: Layout, rings: usize, bytes: u64) -> Option<Layout> {
    let fits = |layout: &Layout| (layout.size() as u64).saturating_mul(rings as u64) <= bytes;
    iter::successors(Some(layout), Layout::halved).find(fits)
}

/// Bytes of the largest frame that the interface's MTU allows.
fn frame_len(interface: &Interface) -> usize {
    ethernet::HEADER_LEN + TAGS * ethernet::TAG_LEN + interface.mtu as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_halved_until_all_of_them_fit() {
        let blocks =
            |rings, bytes| within(Layout::default(), rings, bytes).map(|layout| layout.block_count());
        let all = Layout::default().size() as u64;
        assert_eq!(blocks(1, all), Some(512));
        assert_eq!([blocks(1, all - 1), blocks(2, all), blocks(3, all)], [Some(256), Some(256), Some(128)]);
        assert_eq!(blocks(1, all / 256), Some(2), "the fewest");
        assert_eq!(blocks(1, all / 256 - 1), None);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(memory::available().is_some_and(|bytes| bytes > 1 << 20));
    }
}
