//! Rules on the command line: `IF:GROUP:PORT=GROUP:PORT:IF[,...]`, an IPv6 address in brackets; a group may be a prefix, and a port a
//! range.

use std::str::FromStr;

use super::range::{Destinations, GroupRange, PortRange, RangeError};
use super::{Input, Output, Rule};

/// Why a text is not a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No `=` between input and outputs.
    #[error("no `=` between input and outputs: write IF:GROUP:PORT=GROUP:PORT:IF[,...]")]
    NoEqualSign,
    /// An input that does not have three parts.
    #[error("input \"{0}\" is not IF:GROUP:PORT, such as eth0:239.1.1.1:5000 or eth0:[ff15::1]:5000")]
    Input(String),
    /// An output that does not have three parts.
    #[error("output \"{0}\" is not GROUP:PORT:IF, such as 239.2.2.2:6000:eth1 or [ff15::2]:6000:eth1")]
    Output(String),
    /// Not an IP address.
    #[error(
        "\"{0}\" is not an IP address: write it as 239.1.1.1 or [ff15::1], or a prefix as 239.1.0.0/16 or [ff15::1:0/112]"
    )]
    Address(String),
    /// Not a port.
    #[error("\"{0}\" is not a port: give a number from 1 to 65535, or a range such as 5000-5009")]
    Port(String),
    /// A range that cannot be.
    #[error(transparent)]
    Range(RangeError),
}

impl FromStr for Rule {
    type Err = SpecError;

    /// Reads a rule; its name is its input. What it says is not checked here: see [`Rule::faults`].
    fn from_str(spec: &str) -> Result<Self, SpecError> {
        let (input, outputs) = spec.split_once('=').ok_or(SpecError::NoEqualSign)?;
        let input = parse_input(input)?;
        let outputs = outputs.split(',').map(parse_output).collect::<Result<_, _>>()?;
        Ok(Self { name: input.to_string(), input, outputs, join: true, dedupe: None })
    }
}

fn parse_input(text: &str) -> Result<Input, SpecError> {
    let error = || SpecError::Input(text.to_owned());
    let (interface, rest) = text.split_once(':').ok_or_else(error)?;
    let (group, port) = rest.rsplit_once(':').ok_or_else(error)?;
    Ok(Input {
        interface: interface.to_owned(),
        group: parse_group(group)?,
        port: parse_port(port)?,
        source: None,
        vlan: None,
    })
}

fn parse_output(text: &str) -> Result<Output, SpecError> {
    let error = || SpecError::Output(text.to_owned());
    let (rest, interface) = text.rsplit_once(':').ok_or_else(error)?;
    let (group, port) = rest.rsplit_once(':').ok_or_else(error)?;
    Ok(Output::new(Destinations { group: parse_group(group)?, port: parse_port(port)? }, interface))
}

fn parse_group(text: &str) -> Result<GroupRange, SpecError> {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner.unwrap_or(text).parse::<GroupRange>() {
        // In brackets if it is of IPv6.
        Ok(group) if group.is_ipv4() == inner.is_none() => Ok(group),
        Ok(_) | Err(RangeError::Address(_)) => Err(SpecError::Address(text.to_owned())),
        Err(error) => Err(SpecError::Range(error)),
    }
}

fn parse_port(text: &str) -> Result<PortRange, SpecError> {
    text.parse().map_err(|error| match error {
        RangeError::Port(_) => SpecError::Port(text.to_owned()),
        error => SpecError::Range(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read() {
        let rule: Rule = "eth0.5:239.1.1.1:5000=239.2.2.2:6000:eth1,[ff15::2]:7000:wg0".parse().unwrap();
        assert_eq!(rule.name, "eth0.5:239.1.1.1:5000");
        assert_eq!(rule.input.interface, "eth0.5");
        assert_eq!(rule.outputs[0].to_string(), "239.2.2.2:6000:eth1");
        assert_eq!(rule.outputs[1].to_string(), "[ff15::2]:7000:wg0");
        let rule: Rule = "br0:[ff15::1]:5000=10.0.0.1:1:eth1".parse().unwrap();
        assert_eq!(rule.input.to_string(), "br0:[ff15::1]:5000");
    }

    #[test]
    fn ranges_are_read_and_written_as_they_were() {
        for spec in [
            "eth0:239.1.0.0/16:5000-5009=239.2.0.0/16:6000-6009:eth1",
            "eth0:[ff15::1:0/112]:5000=[ff15::2:0/112]:7000:eth1",
            "eth0:239.1.1.1:5000-5009=10.0.0.1:6000:eth1",
        ] {
            let rule: Rule = spec.parse().unwrap();
            assert_eq!(format!("{}={}", rule.input, rule.outputs[0]), spec);
            assert_eq!(rule.name, rule.input.to_string());
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        let error = |spec: &str| spec.parse::<Rule>().unwrap_err();
        assert_eq!(error("eth0:239.1.1.1:5000"), SpecError::NoEqualSign);
        assert_eq!(error("eth0=239.2.2.2:6000:eth1"), SpecError::Input("eth0".into()));
        assert_eq!(error("eth0:239.1.1.1:1=eth1"), SpecError::Output("eth1".into()));
        assert_eq!(error("eth0:239.1.1.1:1="), SpecError::Output(String::new()));
        assert_eq!(error("eth0:239.1.1:1=239.2.2.2:6000:eth1"), SpecError::Address("239.1.1".into()));
        assert_eq!(error("eth0:ff15::1:1=239.2.2.2:6000:eth1"), SpecError::Address("ff15::1".into()));
        assert_eq!(error("eth0:239.1.1.1:0=239.2.2.2:6000:eth1"), SpecError::Port("0".into()));
        assert_eq!(error("eth0:239.1.1.1:1=239.2.2.2:65536:eth1"), SpecError::Port("65536".into()));
        assert_eq!(error("eth0:239.1.1.1:1-=239.2.2.2:1:eth1"), SpecError::Port("1-".into()));
        assert_eq!(error("eth0:ff15::/16:1=239.2.2.2:1:eth1"), SpecError::Address("ff15::/16".into()));
        assert_eq!(error("eth0:[239.1.1.1]:1=239.2.2.2:1:eth1"), SpecError::Address("[239.1.1.1]".into()));
        let text = error("eth0:239.1.1.0/16:1=239.2.2.2:1:eth1").to_string();
        assert!(text.contains("write 239.1.0.0/16 for all of it, or 239.1.1.0 for"), "{text}");
    }
}
