//! The traffic lab: builds a network, offers traffic, counts every datagram at the far end, gives a verdict.
//!
//! ```text
//! scenario -> run, search -> session -> trial: topology, subject, generator, sinks -> ledger -> verdict -> comparison -> results, report
//! ```

mod bitmap;
mod bpf;
pub mod calibration;
pub mod checksum;
pub mod clean;
pub mod cli;
pub mod clock;
pub mod comparison;
pub mod cpu;
pub mod datagram;
pub mod disturbance;
pub mod doctor;
pub mod fragments;
mod frame;
pub mod generator;
pub mod impair;
pub mod impairments;
pub mod ledger;
pub mod memory;
pub mod net;
pub mod plan;
pub mod relay_binary;
pub mod replay;
pub mod report;
pub mod results;
pub mod run;
pub mod scenario;
pub mod schedule;
pub mod search;
mod session;
pub mod sink;
mod statistics;
pub mod subject;
#[allow(unsafe_code)]
pub mod sys;
pub mod tally;
pub mod topology;
pub mod traffic_error;
pub mod trial;
pub mod verdict;
