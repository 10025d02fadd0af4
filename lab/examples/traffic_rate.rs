//! What generator and sinks cost and how well they keep time, without a relay between them: needs root.
//!
//! ```text
//! cargo run --release -p lab --example traffic_rate -- [packet|xdp] [RATE_PPS] [SECONDS] [PAYLOAD_BYTES] [FLOWS]
//! ```
//!
//! Defaults: the packet generator, 100,000 packets per second for 3 s, 100 bytes, one flow.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use anyhow::Context;
use lab::clock::StepWatch;
use lab::generator::{Generator, GeneratorKind, GeneratorReport};
use lab::plan::{Flow, Plan, multicast_mac};
use lab::sink::{Sink, SinkKind, SinkReport};
use lab::topology::{Checksum, Family, Link, RunName, Segmentation, Topology};

fn main() -> anyhow::Result<()> {
    let kind = match std::env::args().nth(1).as_deref() {
        None | Some("packet") => GeneratorKind::Packet,
        Some("xdp") => GeneratorKind::Xdp,
        Some(other) => anyhow::bail!("{other}: give packet or xdp"),
    };
    let mut numbers = std::env::args().skip(2).map(|text| text.parse::<u64>().context(text));
    let mut next = |default| numbers.next().unwrap_or(Ok(default));
    let (rate_pps, seconds, payload_bytes, flows) = (next(100_000)?, next(3)?, next(100)?, next(1)?);
    let link =
        Link { mtu: 1500, segmentation: Segmentation::Wire, checksum: Checksum::Wire, family: Family::Ipv4 };
    let topology = Topology::build(&RunName::claim()?, &link, 1)?;
    let flows = (0..flows as u32).map(|index| flow(&topology, index)).collect();
    let plan = Arc::new(Plan::new(1, flows, payload_bytes as usize, rate_pps, rate_pps * seconds)?);
    if kind == GeneratorKind::Xdp {
        topology.sinks[0].receive_by_napi()?;
    }
    println!(
        "{kind} generator, {rate_pps} packets per second, {payload_bytes} bytes, {seconds} s, {} flows",
        plan.flows.len()
    );
    for sink in [SinkKind::Xdp, SinkKind::Packet, SinkKind::Socket] {
        let clock = StepWatch::start();
        let (offered, counted) = measure(&topology, kind, sink, &plan)?;
        print(sink, &offered, &counted);
        if let Some(step) = clock.step() {
            println!("  the clock was set meanwhile, by {} ns", step.moved_ns);
        }
    }
    topology.remove()?;
    Ok(())
}

fn flow(topology: &Topology, index: u32) -> Flow {
    let delivered = (Ipv4Addr::from(u32::from(Ipv4Addr::new(239, 82, 1, 1)) + index), 6000).into();
    Flow {
        source: SocketAddr::new(topology.egress[0].address(), 4000),
        destination: delivered,
        destination_mac: multicast_mac(delivered.ip()).unwrap_or_default(),
        delivered,
    }
}

fn measure(
    topology: &Topology,
    kind: GeneratorKind,
    sink: SinkKind,
    plan: &Arc<Plan>,
) -> anyhow::Result<(GeneratorReport, SinkReport)> {
    let (from, to) = (&topology.egress[0], &topology.sinks[0]);
    let sink = to.namespace().run(|| Sink::open(sink, to, topology.link(), plan))??;
    let mut generator = from.namespace().run(|| Generator::open(kind, from.device(), from.mac(), plan))??;
    let stop = AtomicBool::new(false);
    let warm_up = generator.warm_up(plan.rate_pps, plan.rate_pps / 2, &stop)?;
    let offered = generator.run(&stop, &AtomicU64::new(0))?;
    let deadline = Instant::now() + Duration::from_secs(2);
    while sink.received() < warm_up.sent + offered.sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((offered, sink.finish()?))
}

fn print(kind: SinkKind, offered: &GeneratorReport, counted: &SinkReport) {
    let each =
        |cpu: Option<Duration>, count: u64| cpu.map_or(0, |cpu| cpu.as_nanos() / u128::from(count.max(1)));
    let tally = &counted.tally;
    println!("{kind:?} sink");
    println!(
        "  offered {:.1} packets per second, {} of {} sent, retried {}, refused {:?}",
        offered.offered_pps(),
        offered.sent,
        offered.intended,
        offered.retried,
        offered.refused
    );
    println!("  lag ns: {:?}", offered.lag_ns);
    println!(
        "  cpu ns per packet: generator {}, sink {}",
        each(offered.cpu, offered.sent),
        each(counted.cpu, tally.arrivals)
    );
    println!(
        "  received {}, lost {}, duplicated {}, reordered {}, corrupted {}, alien {}, dropped {:?}",
        tally.received,
        tally.lost,
        tally.duplicated,
        tally.reordered,
        tally.corrupted,
        tally.alien,
        counted.dropped
    );
    println!(
        "  latency ns: p50 {}, p99 {}, max {}; buffers {} MiB",
        counted.latency.value_at_quantile(0.5),
        counted.latency.value_at_quantile(0.99),
        counted.latency.max(),
        counted.buffer_bytes >> 20
    );
}
