//! The built objects of the lab's BPF programs, whose sources stand beside them in `lab/bpf`.

use std::borrow::Cow;

use aya::include_bytes_aligned;

/// Of `lab/bpf/generator.bpf.c`.
pub(crate) fn generator() -> Cow<'static, [u8]> {
    object("generator.bpf.o", include_bytes_aligned!("../bpf/generator.bpf.o"))
}

/// Of `lab/bpf/sink.bpf.c`.
pub(crate) fn sink() -> Cow<'static, [u8]> {
    object("sink.bpf.o", include_bytes_aligned!("../bpf/sink.bpf.o"))
}

#[cfg(not(test))]
fn object(_name: &str, built: &'static [u8]) -> Cow<'static, [u8]> {
    Cow::Borrowed(built)
}

/// Tests can be run with objects that were built elsewhere: with those in the folder that the variable names.
#[cfg(test)]
fn object(name: &str, built: &'static [u8]) -> Cow<'static, [u8]> {
    match std::env::var_os("BPF_OBJECTS") {
        Some(folder) => Cow::Owned(std::fs::read(std::path::Path::new(&folder).join(name)).unwrap()),
        None => Cow::Borrowed(built),
    }
}
