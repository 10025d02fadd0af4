//! What the rules' socket filter costs the kernel for each frame, among one rule and among 10,000: the program that the relay
//! attaches, run by the kernel over and over (`BPF_PROG_TEST_RUN`). The frame is the same each time, so that its rule is in
//! the cache. Needs root.

use std::error::Error;
use std::iter::repeat_n;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use aya::programs::{ProgramInfo, SocketFilter, TestRun, TestRunOptions, loaded_programs};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use multicast_relay::sys::rule_programs::{Endpoint, RulePrograms};

/// The filter's name in the kernel.
const FILTER: &str = "filter";
const PORT: u16 = 5_000;
/// What a socket filter returns for a frame that it lets through, and for one that it does not.
const WHOLE: u32 = u32::MAX;
const NOTHING: u32 = 0;

fn group(i: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(239, 81, 1, 1).to_bits() + i)
}

/// UDP to `group` with a payload of 100 bytes, behind the Ethernet header that the kernel takes off before it runs a socket
/// filter for a test.
fn frame(group: Ipv4Addr) -> Vec<u8> {
    let ethernet = [1, 0, 0x5e, 0, 0, 1, 2, 0, 0, 0, 0, 1, 8, 0];
    let mut frame = [ethernet, ethernet].concat();
    frame.extend([0x45, 0, 0, 128, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 9]);
    frame.extend(group.octets());
    frame.extend([0x0f, 0xa0]);
    frame.extend(PORT.to_be_bytes());
    frame.extend([0, 108, 0, 0]);
    frame.extend(repeat_n(7, 100));
    frame
}

/// The filter for so many rules. Who loads programs is not told which they are: it is the newest of its name.
fn load(rules: u32) -> Result<(RulePrograms, SocketFilter), Box<dyn Error>> {
    let endpoint = |i| Endpoint { group: IpAddr::V4(group(i)), port: PORT, source: None };
    let programs = RulePrograms::load(&(0..rules).map(endpoint).collect::<Vec<_>>())?;
    let named = |info: &ProgramInfo| info.name_as_str() == Some(FILTER);
    let newest = loaded_programs().filter_map(Result::ok).filter(named).max_by_key(ProgramInfo::id);
    let filter = SocketFilter::from_program_info(
        newest.ok_or("the filter is not among the programs")?,
        FILTER.into(),
    )?;
    Ok((programs, filter))
}

/// Lets the kernel run `filter` so many times, and returns what it says of the frame.
fn run(filter: &SocketFilter, frame: &[u8], times: u64) -> Result<u32, Box<dyn Error>> {
    let repeat = u32::try_from(times)?;
    let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
    Ok(filter.test_run(options)?.return_value)
}

fn rule_filter(c: &mut Criterion) {
    let mut bench = c.benchmark_group("rule filter");
    bench.throughput(Throughput::Elements(1));
    for rules in [1, 10_000] {
        let (_programs, filter) = match load(rules) {
            Ok(loaded) => loaded,
            Err(error) => {
                eprintln!(
                    "rule filter among {rules}: skipped, it needs root (CAP_BPF and CAP_NET_ADMIN): {error}"
                );
                continue;
            }
        };
        for (what, to, expected) in [("hit", group(rules / 2), WHOLE), ("miss", group(rules), NOTHING)] {
            let frame = frame(to);
            bench.bench_function(BenchmarkId::new(what, rules), |b| {
                b.iter_custom(|times| {
                    let start = Instant::now();
                    let said = run(&filter, &frame, times);
                    let elapsed = start.elapsed();
                    assert!(matches!(said, Ok(said) if said == expected), "{what} among {rules}: {said:?}");
                    elapsed
                });
            });
        }
    }
}

criterion_group!(benches, rule_filter);
criterion_main!(benches);
