//! The texts of `/proc` and `/sys` that facts are read from (proc(5)). What makes no sense reads as absent.

use crate::doctor::facts::Backlog;

/// A list of CPUs such as `0-3,8`.
pub(super) fn cpus(text: &str) -> Vec<usize> {
    let parts = text.trim().split(',').filter(|part| !part.is_empty());
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse().ok()?, last.parse::<usize>().ok()?);
        // No machine has more; a list that says so is not believed.
        (last < 1 << 16).then_some(first..=last)
    };
    parts.filter_map(range).flatten().collect()
}

/// Whether a mask such as `00000000,0000000f` names any CPU.
pub(super) fn any_cpu(mask: &str) -> bool {
    mask.chars().any(|digit| digit.is_ascii_hexdigit() && digit != '0')
}

/// The CPUs of such a mask.
pub(super) fn masked(mask: &str) -> Vec<usize> {
    let digits = mask.trim().chars().filter_map(|digit| digit.to_digit(16)).collect::<Vec<_>>();
    let bits = digits.iter().rev().enumerate().flat_map(|(place, digit)| {
        (0..4).filter(move |bit| digit >> bit & 1 == 1).map(move |bit| place * 4 + bit)
    });
    bits.collect()
}

/// `/proc/net/softnet_stat`: a line of hexadecimal columns for each CPU that is online; the second is what found the backlog
/// full, and the thirteenth, since Linux 5.10, the CPU.
pub(super) fn backlogs(text: &str) -> Vec<Backlog> {
    let line = |(place, line): (usize, &str)| {
        let column = |at: usize| u64::from_str_radix(line.split_whitespace().nth(at)?, 16).ok();
        Some(Backlog { cpu: column(12).map_or(place, |cpu| cpu as usize), dropped: column(1)? })
    };
    text.lines().enumerate().filter_map(line).collect()
}

/// The value of `key` in lines of `key: value`.
pub(super) fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim)
}

/// The hard limit of `name` in `/proc/self/limits`: columns of fixed width, the hard limit being the third.
pub(super) fn hard_limit(text: &str, name: &str) -> Option<Limit> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().nth(1)? {
        "unlimited" => Some(Limit::None),
        number => number.parse().ok().map(Limit::Of),
    }
}

/// A limit of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// There is none.
    None,
    /// So much.
    Of(u64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_and_masks() {
        assert_eq!(cpus("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(cpus("\n"), [0_usize; 0]);
        assert_eq!(cpus("5-3,x,1-99999999999,7"), [7]);
        assert!(any_cpu("00000000,00000010\n") && !any_cpu("0,0\n"));
        assert_eq!(masked("1,00000011\n"), [0, 4, 32]);
    }

    #[test]
    fn backlogs_with_and_without_the_cpu() {
        let new = "01dbb171 00000003 a6 0 0 0 0 0 0 0 0 0 00000004 0 0\n";
        assert_eq!(backlogs(new), [Backlog { cpu: 4, dropped: 3 }]);
        let old = "01dbb171 00000000 a6\n01 0000000a 0\nnonsense\n";
        assert_eq!(backlogs(old), [Backlog { cpu: 0, dropped: 0 }, Backlog { cpu: 1, dropped: 10 }]);
    }

    #[test]
    fn fields_and_limits() {
        assert_eq!(field("Name:\tx\nCapEff:\t000001ffffffffff\n", "CapEff"), Some("000001ffffffffff"));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 524288               files     \n\
                      Max locked memory         8388608              unlimited            bytes     \n";
        assert_eq!(hard_limit(limits, "Max open files"), Some(Limit::Of(524_288)));
        assert_eq!(hard_limit(limits, "Max locked memory"), Some(Limit::None));
        assert_eq!(hard_limit(limits, "Max nonsense"), None);
    }
}
