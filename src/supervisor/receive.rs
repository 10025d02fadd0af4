//! Which receive path the workers take, and what each of them receives through.

use std::cell::Cell;
use std::{io, iter};

use super::inputs::{Input, clamped, failed};
use super::{SupervisorError, counted};
use crate::config::{Config, Rx};
use crate::rules;
use crate::sys::interface::Interface;
use crate::sys::memory;
use crate::sys::packet_socket::PacketSocket;
use crate::sys::rule_programs::{Endpoint, RulePrograms};
use crate::wire::ethernet;
use crate::worker;
use crate::worker::packet_ring::{BlockRing, Layout, SlotRing, Version};

/// Tags that can stand in a frame: the kernel takes out the outer one of two, but not on every path.
const TAGS: usize = 2;

/// Everything that receives.
pub(super) struct Receive {
    /// In the order of the interfaces.
    pub inputs: Vec<Input>,
    /// What each worker receives through.
    pub workers: Vec<worker::Inputs>,
    /// The path in a word, for reports.
    pub path: &'static str,
}

impl Receive {
    /// Opens what `config` asks for on `interfaces`. Nothing is captured before the inputs are started.
    pub(super) fn open(config: &Config, interfaces: &[Interface]) -> Result<Self, SupervisorError> {
        let by_rings = || Self::by_rings(config, interfaces);
        match config.rx {
            Rx::Recv => Self::by_recv(config, interfaces),
            Rx::Mmap => by_rings(),
            Rx::Auto => by_rings().or_else(|error| match error {
                SupervisorError::Ring { .. } => {
                    tracing::warn!("{error}; so frames are received by recv, which takes more CPU time");
                    Self::by_recv(config, interfaces)
                }
                error => Err(error),
            }),
        }
    }

    fn by_rings(config: &Config, interfaces: &[Interface]) -> Result<Self, SupervisorError> {
        let inputs = open_inputs(config, interfaces)?;
        let layout = affordable(config.ring, &inputs, config.num_workers)?;
        let smallest = Cell::new(layout);
        let (workers, path) = match config.ring.version() {
            Version::V3 => {
                let map = |_: &Interface, socket: &PacketSocket| BlockRing::map(socket, layout);
                (
                    rings(config, &inputs, &smallest, map)?.into_iter().map(worker::Inputs::Blocks).collect(),
                    "mmap-v3",
                )
            }
            Version::V2 => {
                for input in &inputs {
                    // For frames that are too large for a slot.
                    if let Some(warning) = clamped(&input.interface.name, input.enlarge_buffers()?) {
                        tracing::warn!("{warning}");
                    }
                }
                let map = |interface: &Interface, socket: &PacketSocket| {
                    SlotRing::map(socket, layout, frame_len(interface))
                };
                (
                    rings(config, &inputs, &smallest, map)?.into_iter().map(worker::Inputs::Slots).collect(),
                    "mmap-v2",
                )
            }
        };
        let count = counted(inputs.len() * config.num_workers, "ring");
        let less = if smallest.get() == config.ring { "" } else { "the smallest of them " };
        tracing::info!("receiving by mmap: {count}, {less}{}", smallest.get());
        Ok(Self { inputs, workers, path })
    }

    fn by_recv(config: &Config, interfaces: &[Interface]) -> Result<Self, SupervisorError> {
        let inputs = open_inputs(config, interfaces)?;
        for input in &inputs {
            if let Some(warning) = clamped(&input.interface.name, input.enlarge_buffers()?) {
                tracing::warn!("{warning}");
            }
        }
        let descriptor = |interface: &Interface, socket: &PacketSocket| {
            socket.try_clone().map_err(|error| failed(interface, error))
        };
        let workers = for_each_worker(config, &inputs, descriptor)?;
        tracing::info!("receiving by recv");
        let by_recv = |sockets| worker::Inputs::Recv { sockets, coalesce: config.recv_coalesce };
        Ok(Self { inputs, workers: workers.into_iter().map(by_recv).collect(), path: "recv" })
    }
}

fn open_inputs(config: &Config, interfaces: &[Interface]) -> Result<Vec<Input>, SupervisorError> {
    let open = |interface: &Interface| {
        Input::open(interface.clone(), config.num_workers, rule_programs(config, &interface.name)?)
    };
    interfaces.iter().map(open).collect()
}

/// Programs that decide by the rules on `interface`, unless the configuration or the kernel is against it.
fn rule_programs(config: &Config, interface: &str) -> Result<Option<RulePrograms>, SupervisorError> {
    if !config.rule_filter {
        return Ok(None);
    }
    let inputs = config.rules.iter().map(|rule| &rule.input).filter(|input| input.interface == interface);
    let endpoint =
        |input: &rules::Input| Endpoint { group: input.group, port: input.port, source: input.source };
    match RulePrograms::load(&inputs.map(endpoint).collect::<Vec<_>>()) {
        Ok(programs) => Ok(Some(programs)),
        Err(error) if config.consume => {
            Err(SupervisorError::Consume { interface: interface.to_owned(), error })
        }
        Err(error) => {
            tracing::warn!(
                "filter by the rules on {interface}: {error}; so other UDP is captured too, and dropped as `no_rule`: \
                 grant CAP_BPF (before Linux 5.8 CAP_SYS_ADMIN), or give --no-rule-filter"
            );
            Ok(None)
        }
    }
}

/// The layout of rings that leave the machine half of the memory it has to give. The kernel would hand out more, and then end
/// programs to get it.
fn affordable(layout: Layout, inputs: &[Input], workers: usize) -> Result<Layout, SupervisorError> {
    let Some(available) = memory::available() else { return Ok(layout) };
    within(layout, inputs.len() * workers, available / 2).ok_or_else(|| SupervisorError::Ring {
        interface: inputs.first().map(|input| input.interface.name.clone()).unwrap_or_default(),
        layout,
        error: io::Error::from_raw_os_error(libc::ENOMEM),
    })
}

/// The layout of so many rings, halved until together they take at most `bytes`.
fn within(layout: Layout, rings: usize, bytes: u64) -> Option<Layout> {
    let fits = |layout: &Layout| (layout.size() as u64).saturating_mul(rings as u64) <= bytes;
    iter::successors(Some(layout), Layout::halved).find(fits)
}

/// The rings that `map` makes, for each worker one of each input; `smallest` tells the smallest layout obtained.
fn rings<R>(
    config: &Config,
    inputs: &[Input],
    smallest: &Cell<Layout>,
    map: impl Fn(&Interface, &PacketSocket) -> io::Result<(R, Layout)>,
) -> Result<Vec<Vec<worker::Input<R>>>, SupervisorError> {
    for_each_worker(config, inputs, |interface, socket| {
        let name = &interface.name;
        let (ring, obtained) = map(interface, socket).map_err(|error| SupervisorError::Ring {
            interface: name.clone(),
            layout: config.ring,
            error,
        })?;
        if obtained.size() < smallest.get().size() {
            smallest.set(obtained);
        }
        if obtained != config.ring {
            tracing::warn!(
                "there is memory for a smaller ring on {name} only: {obtained}, not {}",
                config.ring
            );
        }
        Ok(ring)
    })
}

/// What `make` makes of each socket, for each worker one of each input.
fn for_each_worker<S>(
    config: &Config,
    inputs: &[Input],
    make: impl Fn(&Interface, &PacketSocket) -> Result<S, SupervisorError>,
) -> Result<Vec<Vec<worker::Input<S>>>, SupervisorError> {
    let source = |worker: usize, input: &Input| {
        let socket = input.sockets.get(worker)?;
        let source = make(&input.interface, socket);
        Some(source.map(|source| worker::Input { name: input.interface.name.clone(), source }))
    };
    let of_worker = |worker| inputs.iter().filter_map(|input| source(worker, input)).collect();
    (0..config.num_workers).map(of_worker).collect()
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
