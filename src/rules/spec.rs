//! Rules on the command line: `IF:GROUP:PORT=GROUP:PORT:IF[,...]`, an IPv6 address in brackets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

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
    #[error("\"{0}\" is not an IP address: write it as 239.1.1.1 or [ff15::1]")]
    Address(String),
    /// Not a port.
    #[error("\"{0}\" is not a port: give a number from 1 to 65535")]
    Port(String),
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
        group: parse_address(group)?,
        port: parse_port(port)?,
        source: None,
        vlan: None,
    })
}

fn parse_output(text: &str) -> Result<Output, SpecError> {
    let error = || SpecError::Output(text.to_owned());
    let (rest, interface) = text.rsplit_once(':').ok_or_else(error)?;
    let (group, port) = rest.rsplit_once(':').ok_or_else(error)?;
    let (group, port) = (parse_address(group)?, parse_port(port)?);
    Ok(Output::new(SocketAddr::new(group, port), interface))
}

fn parse_address(text: &str) -> Result<IpAddr, SpecError> {
    let address = match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
    };
    address.ok_or_else(|| SpecError::Address(text.to_owned()))
}

fn parse_port(text: &str) -> Result<u16, SpecError> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| SpecError::Port(text.to_owned()))
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
    }
}
