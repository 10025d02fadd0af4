//! Egress sockets, one for each distinct output.

use std::collections::HashMap;

use super::{Interfaces, SupervisorError};
use crate::rules::Rule;
use crate::sys::udp_socket::{EgressAddress, open_egress};
use crate::worker::egress::Egress;

/// Send buffer asked for, in bytes: some 4,000 small datagrams that a device has not sent yet.
const SEND_BUFFER: usize = 4 << 20;

/// Opens the sockets that `rules` send through. Rules with the same output share one. Without `gso` each datagram is
/// sent by itself.
pub(super) fn open(
    rules: &[Rule],
    gso: bool,
    interfaces: &mut Interfaces,
) -> Result<Egress, SupervisorError> {
    let mut egress = Egress::default();
    let mut places = HashMap::new();
    let mut smallest = SEND_BUFFER;
    for rule in rules {
        let mut route = Vec::with_capacity(rule.outputs.len());
        for output in &rule.outputs {
            let interface = interfaces.find(&output.interface, rule)?;
            let address = EgressAddress {
                destination: output.destination(),
                interface: interface.name,
                interface_index: interface.index,
                ttl: output.ttl,
            };
            let place = if let Some(place) = places.get(&address) {
                *place
            } else {
                let failed = |error| SupervisorError::Output {
                    rule: rule.name.clone(),
                    output: output.to_string(),
                    error,
                };
                let (socket, obtained) = open_egress(&address, SEND_BUFFER).map_err(failed)?;
                smallest = smallest.min(obtained);
                let place = egress.add_output(output.to_string(), socket, gso);
                places.insert(address, place);
                place
            };
            route.push(place);
        }
        egress.add_rule(route);
    }
    if smallest < SEND_BUFFER {
        tracing::warn!(
            "send buffers are {smallest} bytes, {SEND_BUFFER} were asked for: bursts can be lost; \
             grant CAP_NET_ADMIN, or raise the limit: sysctl -w net.core.wmem_max={SEND_BUFFER}"
        );
    }
    Ok(egress)
}
